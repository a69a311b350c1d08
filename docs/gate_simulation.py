"""The regression gate on simulated runs whose truth is known: writes docs/gate_simulation.md.

Run `python docs/gate_simulation.py`. A family is 20 methods x 10 metrics, 200 cells. The difference of a cell on a
clip is its true change plus noise of unit variance, a sum of what a group shares, a clip shares, a method shares,
and the cell's own part, so that clips of a group, metrics of a method and methods on a clip are correlated.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidattr_bench import gate
from vidattr_bench.differences import holm, sign_flip_step_down
from vidattr_bench.resampling import group_sums

Array = NDArray[np.float64]
METHODS, METRICS = 20, 10
CELLS = METHODS * METRICS
FLIPS = 1000  # of the gate's 10 000, which find hardly more and take ten times as long
RULES: dict[str, Callable[[Array, NDArray[np.intp], Array], Array]] = {}


@dataclasses.dataclass(frozen=True)
class World:
    """Where differences come from.

    Attributes:
        groups: number of groups.
        sizes: clips of a group: one, equal (4) or unequal (1 to 7).
        shape: distribution of the noise: normal, or skewed (a few clips lose much).
    """

    groups: int = 40
    sizes: str = "one"
    shape: str = "normal"

    def codes(self, generator: np.random.Generator) -> NDArray[np.intp]:
        """Group of every clip."""
        each = {"one": np.ones(self.groups, int), "equal": np.full(self.groups, 4)}
        return np.repeat(np.arange(self.groups), each.get(self.sizes, generator.integers(1, 8, self.groups)))

    def noise(self, generator: np.random.Generator, codes: NDArray[np.intp]) -> Array:
        """Noise (clips, cells) of unit variance: a fifth each by group, by clip, by method; the rest alone."""
        clips = len(codes)
        by_group = self._draw(generator, (self.groups, METHODS, 1))[codes]
        by_clip = self._draw(generator, (clips, 1, 1))
        by_method = self._draw(generator, (clips, METHODS, 1))
        alone = self._draw(generator, (clips, METHODS, METRICS))
        mixed: Array = np.sqrt(0.2) * (by_group + by_clip + by_method) + np.sqrt(0.4) * alone
        return mixed.reshape(clips, CELLS)

    def _draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        if self.shape == "normal":
            return generator.standard_normal(shape)
        return 1 - generator.standard_exponential(shape)

    def error(self, repeats: int = 100) -> float:
        """The true standard error of a cell's mean."""
        generator = np.random.default_rng([7, self.groups])
        means = [self.noise(generator, self.codes(generator)).mean(0) for _ in range(repeats)]
        return float(np.sqrt(np.mean(np.square(means))))


def student(d: Array, codes: NDArray[np.intp], border: Array) -> Array:
    """One-sided p of the gate's own t test: is the mean below the border?"""
    below: Array = gate.p_values(gate.cluster_means(d, codes), -border)[0]
    return below


def bootstrap(d: Array, codes: NDArray[np.intp], border: Array, resamples: int = 4000) -> Array:
    """The same question put to the studentised cluster bootstrap."""
    paired = gate.cluster_means(d, codes)
    residuals = group_sums(d - paired.mean, codes)
    sizes = group_sums(np.ones((len(d), 1)), codes)
    generator = np.random.default_rng(len(sizes))
    weights = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), resamples).astype(float)
    clips = weights @ sizes
    shift = weights @ residuals / clips
    squares = weights @ residuals**2 - 2 * shift * (weights @ (residuals * sizes)) + shift**2 * (weights @ sizes**2)
    error = np.sqrt(len(sizes) / (len(sizes) - 1) * np.maximum(squares, 1e-300)) / clips
    observed = (paired.mean - border) / paired.error
    below: Array = (1 + (shift / error <= observed).sum(0)) / (1 + resamples)
    return below


def sign_flip(d: Array, codes: NDArray[np.intp], border: Array, flips: int = 4000) -> Array:
    """The same question put to sign flips of whole groups around the border, studentised."""
    residuals = group_sums(d - border, codes)
    signs = np.random.default_rng(len(residuals)).choice([-1.0, 1.0], (flips, len(residuals)))
    total, squares = residuals.sum(0), (residuals**2).sum(0)
    flipped = signs @ residuals
    spread = np.sqrt(np.maximum(squares - flipped**2 / len(residuals), 1e-300))
    observed = total / np.sqrt(np.maximum(squares - total**2 / len(residuals), 1e-300))
    below: Array = (1 + (flipped / spread <= observed).sum(0)) / (1 + flips)
    return below


RULES.update({"t": student, "bootstrap": bootstrap, "sign flip": sign_flip})


def level_of_rules(repeats: int, worlds: list[World]) -> Iterator[dict[str, object]]:
    """How often each rule calls a cell that lost exactly the margin regressed: alone, and any of the 200 with Holm."""
    for world in worlds:
        alone, family = dict.fromkeys(RULES, 0.0), dict.fromkeys(RULES, 0.0)
        for repeat in range(repeats):
            generator = np.random.default_rng([1, repeat])
            codes = world.codes(generator)
            d = world.noise(generator, codes) - 1.0
            for name, rule in RULES.items():
                p = rule(d, codes, np.full(CELLS, -1.0))
                alone[name] += float((p <= gate.LEVEL).mean()) / repeats
                family[name] += float(p.min() * CELLS <= gate.LEVEL) / repeats
        yield {
            **dataclasses.asdict(world),
            **{f"{n}, alone": alone[n] for n in RULES},
            **{f"{n}, family": family[n] for n in RULES},
        }


def false_alarms(repeats: int, worlds: list[World], ratios: tuple[float, ...]) -> Iterator[dict[str, object]]:
    """Share of runs in which any of 200 unchanged cells is called regressed, or improved, and in which all pass."""
    for world in worlds:
        error = world.error()
        for ratio in ratios:
            counts = {"regressed": 0.0, "improved": 0.0, "all pass": 0.0}
            for repeat in range(repeats):
                generator = np.random.default_rng([2, repeat])
                codes = world.codes(generator)
                found = verdicts(world.noise(generator, codes) / error / ratio, codes)
                counts["regressed"] += float((found == "regressed").any()) / repeats
                counts["improved"] += float((found == "improved").any()) / repeats
                counts["all pass"] += float((found == "pass").all()) / repeats
            yield {**dataclasses.asdict(world), "margin/error": ratio, **counts}


def power(repeats: int, worlds: list[World], ratios: tuple[float, ...]) -> Iterator[dict[str, object]]:
    """Share of the ten cells of a method that lost twice the margin which are called regressed.

    The other 19 methods are unchanged, their differences noise as where the seed changed. `error under margin/4.8`
    counts only the cells whose estimated standard error is that small.
    """
    for world in worlds:
        error = world.error()
        for ratio in ratios:
            found, small = [], []
            for repeat in range(repeats):
                generator = np.random.default_rng([3, repeat])
                codes = world.codes(generator)
                d = world.noise(generator, codes) / error / ratio
                d[:, :METRICS] -= 2
                found += list(_max_t(d, codes)[:METRICS] <= gate.LEVEL)
                small += list(gate.cluster_means(d, codes).error[:METRICS] < 1 / 4.8)
            hits, narrow = np.array(found), np.array(small)
            share = float(hits[narrow].mean()) if narrow.any() else np.nan
            yield {
                **dataclasses.asdict(world),
                "margin/error": ratio,
                "found": float(hits.mean()),
                "error under margin/4.8": share,
            }


def corrections(repeats: int, worlds: list[World]) -> Iterator[dict[str, object]]:
    """The gate's step-down max-T beside Student's t with Holm, at a true standard error of margin/4.8.

    `found` is the share of a method's ten cells that lost twice the margin and are called regressed, the other 190
    noise; `of 10` the same where those are equal, as where one method's code changed. In `wrong` every cell lost
    exactly the margin, the worst case: the share of runs in which any is called regressed, or any passes.
    """
    for world in worlds:
        scale = 1 / world.error() / 4.8
        sums: dict[str, float] = {}
        for repeat in range(repeats):
            generator = np.random.default_rng([5, repeat])
            codes = world.codes(generator)
            noise = world.noise(generator, codes) * scale
            lost = noise - 2 * (np.arange(CELLS) < METRICS)
            for name, rule in (("max-T", _max_t), ("Holm", _holm)):
                shares = {
                    "found": (rule(lost, codes)[:METRICS] <= gate.LEVEL).mean(),
                    "found of 10": (rule(lost[:, :METRICS], codes) <= gate.LEVEL).mean(),
                    "wrong regressed": (rule(noise - 1, codes) <= gate.LEVEL).any(),
                    "wrong pass": (rule(-1 - noise, codes) <= gate.LEVEL).any(),
                }
                for what, share in shares.items():
                    sums[f"{name}, {what}"] = sums.get(f"{name}, {what}", 0.0) + float(share) / repeats
        yield {**dataclasses.asdict(world), **dict(sorted(sums.items(), key=lambda item: item[0].split(", ")[1]))}


def _max_t(d: Array, codes: NDArray[np.intp]) -> Array:
    """The gate's adjusted p (K,) of regressed, of cells whose margin is 1; of pass, where d is turned round at -1."""
    return sign_flip_step_down(-1 - d, codes, flips=FLIPS)


def _holm(d: Array, codes: NDArray[np.intp]) -> Array:
    """The same by Student's t with Holm, which know of no correlation."""
    return holm(student(d, codes, np.full(d.shape[1], -1.0)))


def verdicts(d: Array, codes: NDArray[np.intp]) -> NDArray[np.str_]:
    """The gate's verdicts of cells whose margin is 1."""
    adjusted = gate.adjusted_p(d, codes, gate.cluster_means(d, codes), np.ones(d.shape[1]), FLIPS)
    return gate.verdicts(adjusted)


def seeds(repeats: int, draws: int = 5, clips: int = 40) -> dict[str, object]:
    """False alarms where only the seed of stochastic methods changes: both runs average draws of the same clips.

    The draws' spread on a clip is what RISE's is of SRG on planted clips, .05; the margin .02.
    """
    alarms = 0.0
    for repeat in range(repeats):
        generator = np.random.default_rng([4, repeat])
        d = 0.05 * generator.standard_normal((2, draws, clips, CELLS)).mean(1)
        found = verdicts((d[1] - d[0]) / 0.02, np.arange(clips))
        alarms += ("regressed" in found or "improved" in found) / repeats
    return {"repeats": repeats, "draws": draws, "clips": clips, "false alarms": alarms}


def table(rows: list[dict[str, object]]) -> str:
    """Rows as a Markdown table."""
    heads = list(rows[0])
    lines = [heads, ["--:"] * len(heads)]
    lines += [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def required_ratios() -> list[dict[str, object]]:
    """Margin over standard error at which a cell is decided with 90 % power as the first of so many, by t with Holm.

    The hint how many more clips decide a cell is made of these.
    """
    return [
        {"groups": g, **{f"of {cells}": 1 / gate.needed_error(1.0, g - 1, cells) for cells in (CELLS, METRICS, 1)}}
        for g in (10, 20, 40, 100, 168, 1000)
    ]


def main() -> None:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    n = parser.parse_args().repeats
    few = [World(12, "unequal"), World(40), World(40, "one", "skewed"), World(40, "unequal")]
    many = [World(40), World(40, "unequal", "skewed"), World(168, "unequal")]
    with ProcessPoolExecutor() as pool:
        level = pool.submit(_listed, level_of_rules, max(n // 4, 1), few)
        alarms = [pool.submit(_listed, false_alarms, n, [world], (1.0, 4.8)) for world in many]
        found = [pool.submit(_listed, power, n, [world], (4.8, 5.1, 6.0)) for world in many]
        both = [pool.submit(_listed, corrections, n, [world]) for world in [World(6), World(12, "unequal"), *many]]
    rows = [[row for part in parts for row in part.result()] for parts in ([level], alarms, found, both)]
    parts = [
        "# The gate on simulated runs",
        f"Written by `python docs/gate_simulation.py --repeats {n}`; docs/regression_tracking.md says what follows.",
        *("## Which test", _text(level_of_rules), table(rows[0])),
        *("## False alarms", _text(false_alarms), table(rows[1]), _text(seeds), table([seeds(n)])),
        *("## Power", _text(power), table(rows[2]), _text(required_ratios), table(required_ratios())),
        *("## Beside Student's t with Holm", _text(corrections), table(rows[3])),
    ]
    (Path(__file__).parent / "gate_simulation.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _listed(simulation: Callable[..., Iterator[dict[str, object]]], *arguments: object) -> list[dict[str, object]]:
    return list(simulation(*arguments))


def _text(function: Callable[..., object]) -> str:
    return " ".join((function.__doc__ or "").split())


if __name__ == "__main__":
    main()
