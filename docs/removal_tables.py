"""The tables of docs/does_removal_mislead.md, written from docs/does_removal_mislead between the page's markers.

python docs/removal_tables.py
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from vidattr_bench.statistics import cluster_intervals

RESULTS = Path(__file__).with_name("does_removal_mislead")
PAGE = Path(__file__).with_name("does_removal_mislead.md")
METRICS = {"blur3d": "SRG, blur3d", "freeze": "SRG, freeze", "roc_auc": "roc_auc"}
PLAIN = ("0", "1", "2")
RESAMPLES = 10_000
Array = NDArray[np.float64]


def scores(explained: str, scorer: str, metric: str) -> pd.DataFrame:
    """Values of clips (rows) and methods (columns): maps of one network, curves of another."""
    rows = pd.read_csv(RESULTS / f"maps-{explained}-curves-{scorer}.csv")
    return rows.pivot_table(index="clip", columns="method", values=metric, sort=False)


def kendall(a: Array, b: Array) -> Array:
    """Kendall's tau-a of every row of two arrays (R, M)."""
    i, j = np.triu_indices(a.shape[1], 1)
    tau: Array = (np.sign(a[:, i] - a[:, j]) * np.sign(b[:, i] - b[:, j])).mean(1)
    return tau


def spearman(a: Array, b: Array) -> Array:
    """Spearman's rho of every row of two arrays (R, M)."""
    ranks = [stats.rankdata(x, axis=1) for x in (a, b)]
    centred = [x - x.mean(1, keepdims=True) for x in ranks]
    rho: Array = (centred[0] * centred[1]).sum(1) / np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    return rho


def resampled(values: Array, weights: NDArray[np.int64]) -> Array:
    """Means (R, M) over the defined ones of clips drawn `weights` (R, N) times, of values (N, M)."""
    means: Array = (weights @ np.nan_to_num(values)) / (weights @ np.isfinite(values))
    return means


def draws(clips: int) -> NDArray[np.int64]:
    """How often each of RESAMPLES samples with replacement holds each clip (a group of its own): (R, N)."""
    return np.random.default_rng(0).multinomial(clips, np.full(clips, 1 / clips), RESAMPLES)


def agreement(a: pd.DataFrame, b: pd.DataFrame, measure: Callable[[Array, Array], Array]) -> str:
    """Rank correlation of two rankings of methods by their means, with its percentile interval over the same clips."""
    return _percentiles(*_correlations(a, b, measure))


def contrast(a: pd.DataFrame, b: pd.DataFrame, c: pd.DataFrame, measure: Callable[[Array, Array], Array]) -> str:
    """The rank correlation of a and b minus that of a and c, with its percentile interval over the same clips."""
    (found, sample), (other, samples) = _correlations(a, b, measure), _correlations(a, c, measure)
    return _percentiles(found - other, sample - samples)


def _correlations(a: pd.DataFrame, b: pd.DataFrame, measure: Callable[[Array, Array], Array]) -> tuple[float, Array]:
    """The rank correlation on the clips, and on each of RESAMPLES samples of them."""
    b, weights = b.loc[a.index, a.columns], draws(len(a))
    (found,) = measure(a.mean().to_numpy()[None], b.mean().to_numpy()[None])
    return float(found), measure(resampled(a.to_numpy(), weights), resampled(b.to_numpy(), weights))


def _percentiles(found: float, sample: Array) -> str:
    return f"{found:.2f} [{np.quantile(sample, 0.025):.2f}, {np.quantile(sample, 0.975):.2f}]"


def halves(a: pd.DataFrame) -> str:
    """Mean Kendall's tau between the rankings by one random half of the clips and by the other."""
    rng, n = np.random.default_rng(0), len(a)
    first = np.stack([rng.permutation(n) < n // 2 for _ in range(1000)]).astype(np.int64)
    return f"{kendall(resampled(a.to_numpy(), first), resampled(a.to_numpy(), 1 - first)).mean():.2f}"


def differences(a: pd.DataFrame) -> pd.DataFrame:
    """For every pair of methods the sign of their mean difference where its 95 % interval excludes 0, else 0."""
    pairs = list(itertools.combinations(a.columns, 2))
    matrix = np.stack([(a[x] - a[y]).to_numpy() for x, y in pairs], axis=1)
    intervals = cluster_intervals(matrix, list(a.index))
    signs = [int(found.low > 0) - int(found.high < 0) for found in intervals]
    return pd.DataFrame({"sign": signs, "mean": [found.mean for found in intervals]}, index=pd.Index(pairs))


def cell(interval: Any) -> str:
    """A mean with its interval."""
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def means(columns: dict[str, pd.DataFrame], by: str) -> list[str]:
    """A row a method, best first by one column: mean, interval and rank in every column."""
    cells = {}
    for name, values in columns.items():
        intervals = cluster_intervals(values.to_numpy(), list(values.index))
        ranks = stats.rankdata([-found.mean for found in intervals], method="min").astype(int)
        cells[name] = dict(zip(values.columns, zip(intervals, ranks, strict=True), strict=True))
    order = sorted(cells[by], key=lambda method: cells[by][method][1])
    rows = [
        [method, *(f"{cell(cells[name][method][0])} ({cells[name][method][1]})" for name in columns)]
        for method in order
    ]
    return table(["method", *columns], rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def twin_means(substrate: str) -> list[str]:
    """The maps of tiny3d, scored by three networks."""
    scorers = {"tiny3d itself": "0", "its masked twin": "twin", "tiny3d:seed=1": "1"}
    return means({f"by {name}": scores("0", scorer, substrate) for name, scorer in scorers.items()}, "by tiny3d itself")


def twin_agreement() -> list[str]:
    """How far other networks' curves rank the same maps as tiny3d's own do."""
    rows = []
    for substrate in ("blur3d", "freeze"):
        own = scores("0", "0", substrate)
        rows.append([METRICS[substrate], "itself, other half of the clips", halves(own), "", ""])
        others = {"its masked twin": scores("0", "twin", substrate), "tiny3d:seed=1": scores("0", "1", substrate)}
        for name, other in others.items():
            found = [agreement(own, other, measure) for measure in (kendall, spearman)]
            rows.append([METRICS[substrate], name, *found, opposed(own, other)])
        found = [contrast(own, *others.values(), measure) for measure in (kendall, spearman)]
        rows.append([METRICS[substrate], "the twin minus seed=1", *found, ""])
    return table(
        ["metric", "curves of tiny3d and of", "Kendall's tau", "Spearman's rho", "pairs in opposite order"], rows
    )


def opposed(a: pd.DataFrame, b: pd.DataFrame) -> str:
    """How many pairs of methods are told apart by both, and how many of these in opposite order."""
    signs = differences(a)["sign"] * differences(b.loc[a.index, a.columns])["sign"]
    against = [f"{x} / {y}" for (x, y), sign in signs.items() if sign < 0]
    return f"{len(against)} of {int((signs != 0).sum())}" + (f": {'; '.join(against)}" if against else "")


def network_means(metric: str) -> list[str]:
    """Every plain network's maps by its own curves."""
    return means({name: scores(name, name, metric).rename_axis(None) for name in PLAIN}, "0")


def network_agreement() -> list[str]:
    """Rank correlations between the networks, and what becomes of the pairs of methods."""
    rows = []
    for metric, title in METRICS.items():
        own = {name: scores(name, name, metric) for name in PLAIN}
        for a, b in itertools.combinations(PLAIN, 2):
            found = [agreement(own[a], _same_clips(own[b], own[a]), measure) for measure in (kendall, spearman)]
            rows.append([title, f"{a} and {b}", *found])
    return table(["metric", "networks", "Kendall's tau", "Spearman's rho"], rows)


def _same_clips(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    return a.loc[b.index, b.columns]


def survival() -> list[str]:
    """Of all pairs of methods: told apart on seed 0, and what the other networks say."""
    rows = []
    for metric, title in METRICS.items():
        signs = pd.concat([differences(_ordered(name, metric))["sign"].rename(name) for name in PLAIN], axis=1)
        first = signs[signs["0"] != 0]
        same = first["1"].eq(first["0"]) & first["2"].eq(first["0"])
        against = first["1"].eq(-first["0"]) | first["2"].eq(-first["0"])
        counts = [len(signs), len(first), int(same.sum()), int((~same & ~against).sum()), int(against.sum())]
        rows.append([title, *map(str, counts)])
    header = [
        "metric",
        "pairs",
        "told apart on seed 0",
        "so on all three",
        "not told apart on another",
        "opposite on another",
    ]
    return table(header, rows)


def _ordered(name: str, metric: str) -> pd.DataFrame:
    return _same_clips(scores(name, name, metric), scores("0", "0", metric))


def rates() -> list[str]:
    """On how many test clips the label is still predicted."""
    found = pd.read_csv(RESULTS / "rates.csv", dtype={"network": str})
    wide = found.pivot_table(index=["removed", "substrate"], columns="network", values="sum", sort=False)
    rows = [
        [what, by, *(f"{count:.0f}" for count in row)]
        for (what, by), row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return table(["removed", "substrate", *wide.columns], rows)


def retraining() -> list[str]:
    """Accuracy after retraining, a row a method and mode, a column a share; the mean over the seeds done."""
    found = pd.read_csv(RESULTS / "retraining.csv")
    grouped = found[found["mode"] != "clean"].groupby(["mode", "method", "share"], sort=False)["accuracy"]
    joined = grouped.agg(lambda values: " / ".join(f"{value:.3f}" for value in values)).reset_index()
    cells = joined.pivot_table("accuracy", ["mode", "method"], "share", aggfunc="first", sort=False).fillna("-")
    rows = [[mode, method, *row] for (mode, method), row in zip(cells.index, cells.to_numpy(), strict=True)]
    return table(["mode", "method", *map(str, cells.columns)], rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    "twin agreement": twin_agreement,
    "twin blur3d": lambda: twin_means("blur3d"),
    "twin freeze": lambda: twin_means("freeze"),
    "networks blur3d": lambda: network_means("blur3d"),
    "networks freeze": lambda: network_means("freeze"),
    "networks roc_auc": lambda: network_means("roc_auc"),
    "network agreement": network_agreement,
    "survival": survival,
    "rates": rates,
    "retraining": retraining,
}


def main() -> None:
    """Write every table anew where the page has its markers."""
    page = PAGE.read_text()
    for name, make in TABLES.items():
        block = "\n".join([f"<!-- {name} -->", *make(), "<!-- end -->"])
        page = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, block=block: block, page, flags=re.DOTALL)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
