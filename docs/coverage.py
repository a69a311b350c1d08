"""How often the intervals and tests of `vidattr_bench.statistics` are right, on simulated scores of known truth.

Rewrites the tables of docs/statistics.md: `OMP_NUM_THREADS=1 python docs/coverage.py`, some minutes on one core.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vidattr_bench.resampling import draws, group_sums
from vidattr_bench.statistics import (
    Interval,
    class_means,
    cluster_intervals,
    holm,
    sign_flip_max_t,
    sign_flip_ps,
    tied_with_best,
)

Array = NDArray[np.float64]
GROUPS = (6, 12, 24, 40, 80, 168)
PAGE = Path(__file__).with_name("statistics.md")
_NODES = np.linspace(-12, 12, 200_001)
_WEIGHTS = stats.norm.pdf(_NODES) * (_NODES[1] - _NODES[0])
_SAME_GROUP = 0.5  # correlation of two clips of a group, before the marginal is made
_SAME_CLIP = 0.5  # correlation of two methods on a clip, before the marginal is made
_WORSE = 0.5  # by how much the second method is shifted, before the marginal is made


class Margin(NamedTuple):
    """How scores are distributed: a function of a standard normal number."""

    name: str
    make: Callable[[Array], Array]

    def mean(self, shift: float = 0.0) -> float:
        """Expectation of make(z + shift), by quadrature."""
        return float(self.make(_NODES + shift) @ _WEIGHTS)


MARGINS = (
    Margin("normal", lambda z: z),
    Margin("log-normal", lambda z: np.exp(z / 2)),
    Margin("heavy log-normal", np.exp),
    Margin("at a bound", lambda z: np.clip(1.6 * stats.norm.cdf(z - 1) - 0.3, 0, 1)),
)


class Scores(NamedTuple):
    """Simulated scores: numbers before the margin is made (N, K), and group and class of each clip (N,)."""

    z: Array
    groups: NDArray[np.intp]
    classes: NDArray[np.intp]


def simulate(generator: np.random.Generator, groups: int, columns: int, crossed: bool = False) -> Scores:
    """Clips of so many groups of unequal size (log-normal, mean about 5), in classes of 4 groups, or across groups."""
    sizes = np.maximum(1, np.round(generator.lognormal(1.3, 0.7, groups))).astype(np.intp)
    codes = np.repeat(np.arange(groups), sizes)
    classes = generator.integers(max(groups // 4, 2), size=len(codes)) if crossed else codes // 4
    shared = np.sqrt(_SAME_GROUP) * generator.normal(size=(groups, columns))[codes]
    own = np.sqrt(1 - _SAME_GROUP) * generator.normal(size=(len(codes), columns))
    return Scores(shared + own, codes, classes)


class Case(NamedTuple):
    """Values (N, K), what their estimate aims at, and how clips hang together."""

    values: Array
    truth: float
    scores: Scores


def mean_case(generator: np.random.Generator, groups: int, columns: int, margin: Margin) -> Case:
    """Scores of one method."""
    scores = simulate(generator, groups, columns)
    return Case(margin.make(scores.z), margin.mean(), scores)


def paired_case(generator: np.random.Generator, groups: int, columns: int, margin: Margin) -> Case:
    """Differences of two methods on the same clips, the second worse on average."""
    scores = simulate(generator, groups, 2 * columns)
    first, other = np.hsplit(scores.z, 2)
    second = _SAME_CLIP * first + np.sqrt(1 - _SAME_CLIP**2) * other
    return Case(margin.make(first) - margin.make(second - _WORSE), margin.mean() - margin.mean(-_WORSE), scores)


def class_case(generator: np.random.Generator, groups: int, columns: int, margin: Margin, crossed: bool) -> Case:
    """Scores whose level depends on the class."""
    scores = simulate(generator, groups, columns, crossed)
    present, index = np.unique(scores.classes, return_inverse=True)
    levels = np.linspace(-0.5, 0.5, len(present))
    truth = float(np.mean([margin.mean(level) for level in levels]))
    return Case(margin.make(scores.z + levels[index, None]), truth, scores._replace(classes=index))


def nested_case(generator: np.random.Generator, groups: int, columns: int, margin: Margin) -> Case:
    """Classes of four groups each, as on UCF101."""
    return class_case(generator, groups, columns, margin, crossed=False)


def crossed_case(generator: np.random.Generator, groups: int, columns: int, margin: Margin) -> Case:
    """Classes that have nothing to do with groups, as on EPIC."""
    return class_case(generator, groups, columns, margin, crossed=True)


Estimator = Callable[[Case, int, int], list[Interval]]


def studentised(case: Case, resamples: int, seed: int) -> list[Interval]:
    """Ours, of means."""
    return cluster_intervals(case.values, case.scores.groups, resamples=resamples, seed=seed)


def studentised_classes(case: Case, resamples: int, seed: int) -> list[Interval]:
    """Ours, of class means."""
    return class_means(case.values, case.scores.classes, case.scores.groups, resamples=resamples, seed=seed)


def percentile(case: Case, resamples: int, seed: int) -> Array:
    """Limits (2, K) of the percentile cluster bootstrap of the mean over classes of class means; of one class, a mean.

    A class without clips in a resample is left out of it.
    """
    groups, classes = case.scores.groups, case.scores.classes
    sums = [group_sums(np.where(classes[:, None] == c, case.values, 0.0), groups) for c in np.unique(classes)]
    sizes = [group_sums((classes[:, None] == c).astype(float), groups) for c in np.unique(classes)]
    parts = []
    for chunk in draws(len(sums[0]), resamples, seed):
        means = [
            np.divide(chunk @ s, n, out=np.full((len(chunk), s.shape[1]), np.nan), where=n > 0)
            for s, size in zip(sums, sizes, strict=True)
            for n in [chunk @ size]
        ]
        parts.append(np.nanmean(means, axis=0))
    return np.quantile(np.concatenate(parts), [0.025, 0.975], axis=0)


def naive(case: Case) -> Array:
    """Limits (2, K) of the t interval that takes clips for independent, of the mean over classes of class means."""
    parts = [case.values[case.scores.classes == c] for c in np.unique(case.scores.classes)]
    centre = np.mean([part.mean(0) for part in parts], axis=0)
    variances = [part.var(0, ddof=1) / len(part) for part in parts if len(part) > 1]
    error = np.sqrt(np.sum(variances, axis=0)) / len(parts)
    reach = stats.t.ppf(0.975, len(case.values) - len(parts)) * error
    return np.stack([centre - reach, centre + reach])


def covered(limits: Array, truth: float) -> NDArray[np.bool_]:
    """Whether each interval (2, K) holds the truth."""
    held: NDArray[np.bool_] = (limits[0] <= truth) & (truth <= limits[1])
    return held


CASES: dict[str, tuple[Callable[[np.random.Generator, int, int, Margin], Case], Estimator]] = {
    "mean": (mean_case, studentised),
    "paired difference": (paired_case, studentised),
    "class mean, groups nested in classes": (nested_case, studentised_classes),
    "class mean, groups across classes": (crossed_case, studentised_classes),
}


def coverage(what: str, groups: int, margin: Margin, *, simulations: int = 2000, resamples: int = 2000) -> Array:
    """Shares of simulations in which the studentised, the percentile and the naive 95 % interval hold the truth.

    Every hundred simulations have sizes of groups, and draws, of their own.
    """
    make, estimate = CASES[what]
    held = []
    for batch in range(simulations // 100):
        case = make(np.random.default_rng([groups, batch, len(margin.name)]), groups, 100, margin)
        ours = np.array([(i.low, i.high) for i in estimate(case, resamples, batch)]).T
        if estimate is studentised:
            case = case._replace(scores=case.scores._replace(classes=np.zeros_like(case.scores.groups)))
        held.append(
            [covered(limits, case.truth).mean() for limits in (ours, percentile(case, resamples, batch), naive(case))]
        )
    return np.mean(held, axis=0)


def coverage_tables() -> Iterator[str]:
    """One table an estimate: a row a distribution and interval, a column a number of groups."""
    for what in CASES:
        yield f"\n**{what}**\n"
        yield table_head("scores, interval", GROUPS)
        for margin in MARGINS:
            shares = np.array([coverage(what, groups, margin) for groups in GROUPS])
            for name, row in zip(("studentised", "percentile", "naive"), shares.T, strict=True):
                yield f"| {margin.name}, {name} | " + " | ".join(f"{100 * share:.1f}" for share in row) + " |"


def table_head(first: str, columns: tuple[int, ...]) -> str:
    """Head of a Markdown table."""
    return f"| {first} | " + " | ".join(map(str, columns)) + " |\n|:--|" + "--:|" * len(columns)


def flip_errors(groups: int, margin: Margin, *, simulations: int = 2000) -> float:
    """How often the sign-flip test rejects, at 5 %, that differences with mean 0 have mean 0."""
    rejected = []
    for batch in range(simulations // 100):
        scores = simulate(np.random.default_rng([groups, batch, 7]), groups, 100)
        values = margin.make(scores.z) - margin.mean()
        rejected.append(sign_flip_ps(values, scores.groups, flips=4095, seed=batch) <= 0.05)
    return float(np.mean(rejected))


def family_errors(groups: int, margin: Margin, *, methods: int = 10, simulations: int = 1000) -> Array:
    """How often any of equally good methods is told from the best: three ways.

    By `tied_with_best`, by max-T over all pairs, and by Holm over the comparisons with the best alone.
    """
    first, second = np.triu_indices(methods, 1)
    errors = []
    for run in range(simulations):
        scores = simulate(np.random.default_rng([groups, run, 11]), groups, methods + 1)
        values = margin.make(np.sqrt(0.5) * (scores.z[:, :methods] + scores.z[:, methods:]))
        options = {"flips": 4095, "seed": run}
        best, tied = tied_with_best(values, scores.groups, higher_is_better=True, **options)
        pairs = sign_flip_max_t(values[:, first] - values[:, second], scores.groups, **options)
        others = np.delete(values[:, [best]] - values, best, axis=1)
        nine = holm(sign_flip_ps(others, scores.groups, **options))
        errors.append([not tied.all(), pairs.min() <= 0.05, nine.min() <= 0.05])
    return np.mean(errors, axis=0)


def error_tables() -> Iterator[str]:
    """False alarms of the tests, a row a distribution, a column a number of groups."""
    yield table_head("sign-flip test, 5 %", GROUPS)
    for margin in MARGINS:
        yield f"| {margin.name} | " + " | ".join(f"{100 * flip_errors(g, margin):.1f}" for g in GROUPS) + " |"
    yield ""
    yield table_head("ten equal methods, any told apart", GROUPS)
    for margin in MARGINS:
        shares = np.array([family_errors(g, margin) for g in GROUPS])
        names = (
            "Holm over all 45 pairs (`tied_with_best`)",
            "max-T over all 45 pairs",
            "Holm over the 9 pairs with the best",
        )
        for name, row in zip(names, shares.T, strict=True):
            yield f"| {margin.name}, {name} | " + " | ".join(f"{100 * share:.1f}" for share in row) + " |"


def main() -> None:
    """Write both sets of tables between their marks on the page."""
    text = PAGE.read_text()
    for mark, lines in (("coverage", coverage_tables()), ("errors", error_tables())):
        body = "\n".join(lines).strip()
        pattern = rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)"
        text = re.sub(pattern, lambda m, body=body: f"{m[1]}{body}{m[2]}", text, flags=re.S)
        sys.stdout.write(body + "\n\n")
        sys.stdout.flush()
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
