"""Charts that compare methods: differences to chance, ranks, quality against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from vidattr_bench.families import METHOD_FAMILIES
from vidattr_bench.figures import family_style, save, short, theme
from vidattr_bench.sheets import sheet
from vidattr_bench.statistics import Interval, cluster_intervals, rank_intervals
from vidattr_bench.summary import Facts, metric_facts
from vidattr_bench.text import printable, slug

PER_PAGE = 34  # methods that stand below each other
LABEL = 44  # characters of a label
CONTROL = "control"
_CALLS = {"forwards", "backwards"}


def draw_forest(scores: pd.DataFrame, metric: str, facts: Facts, folder: Path, *, reference: str = "") -> list[Path]:
    """Paired difference of every method to `reference`, the chance control by default, with its 95 % interval.

    Sorted, the best at the top; hollow where the interval holds zero. Returns the files, none without a reference.
    """
    value, _, groups = sheet(scores, metric, facts)
    roles = facts.get("methods", {})
    reference = reference or next((m for m in map(str, value) if roles.get(m, {}).get("is_chance")), "")
    if reference not in value or value.shape[1] < 2:
        return []
    others = value.drop(columns=reference).dropna(axis=1, how="all")
    found = cluster_intervals(others.sub(value[reference], axis=0).to_numpy(float), groups)
    intervals = _sorted(dict(zip(map(str, others), found, strict=True)), facts, metric)
    title = f"{metric}: difference to {reference}"
    detail = f"mean over {_counts(found)}, 95 % interval; hollow: holds zero"
    text = (title, detail, _better(metric, facts))
    return _dots(intervals, facts, text, folder / f"forest-{slug(metric)}")


def draw_ranks(scores: pd.DataFrame, metric: str, facts: Facts, folder: Path) -> list[Path]:
    """Rank of every informed method with its 95 % bootstrap interval; returns the files, none for one method."""
    value, _, groups = sheet(scores, metric, facts)
    informed = [m for m in map(str, value) if family_of(facts, m) != CONTROL and value[m].notna().any()]
    higher = metric_facts(facts).get(metric, {}).get("higher_is_better")
    if len(informed) < 2 or higher is None:
        return []
    found = rank_intervals(value[informed].to_numpy(float), groups, higher_is_better=higher)
    pairs = sorted(zip(informed, found, strict=True), key=lambda pair: _last_if_nan(pair[1].mean))
    text = (f"{metric}: rank of {len(informed)} methods", f"over {_counts(found)}, 95 % interval", "rank (1 is best)")
    return _dots(dict(pairs), facts, text, folder / f"ranks-{slug(metric)}", ranks=len(informed))


def _counts(found: Sequence[Interval]) -> str:
    clips, groups = (max((getattr(i, name) for i in found), default=0) for name in ("clips", "groups"))
    return f"{clips} clips in {groups} groups"


def _better(metric: str, facts: Facts) -> str:
    higher = metric_facts(facts).get(metric, {}).get("higher_is_better")
    return {True: "difference (right is better)", False: "difference (left is better)"}.get(higher, "difference")


def family_of(facts: Facts, method: str) -> str:
    """The family that a method declares; of one that never looks at the model, that of controls."""
    fact = facts.get("methods", {}).get(method, {})
    return str(fact.get("family", "other")) if fact.get("informed", True) else CONTROL


def _sorted(found: Mapping[str, Interval], facts: Facts, metric: str) -> dict[str, Interval]:
    sign = -1 if metric_facts(facts).get(metric, {}).get("higher_is_better") is not False else 1
    return dict(sorted(found.items(), key=lambda pair: _last_if_nan(sign * pair[1].mean)))


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _dots(
    intervals: Mapping[str, Interval], facts: Facts, text: tuple[str, str, str], stem: Path, *, ranks: int = 0
) -> list[Path]:
    """Dots with intervals below each other, on as many pages as it takes, all of one scale.

    That of differences shows zero; that of `ranks`, where they are so many, begins at 1.
    """
    items = list(intervals.items())
    limits = [limit for _, i in items for limit in (i.low, i.high, i.mean) if math.isfinite(limit)]
    if not limits:
        return []
    pages = math.ceil(len(items) / PER_PAGE)
    size = math.ceil(len(items) / pages)
    margin = 0.04 * ((max(limits) - min(limits)) or 1.0)
    edge = 0.5 + 0.01 * ranks
    scale = (1 - edge, ranks + edge) if ranks else (min(limits) - margin, max(limits) + margin)
    files: list[Path] = []
    for page in range(pages):
        part = dict(items[page * size : (page + 1) * size])
        title, detail, label = text
        number = f" ({page + 1} of {pages})" if pages > 1 else ""
        with theme():
            figure = Figure(figsize=(5.2, 1.05 + 0.165 * len(part)), layout="constrained")
            axes = figure.subplots()
            _draw_intervals(axes, part, facts, hollow_at_zero=not ranks)
            axes.set_xlim(scale)
            _draw_scale(axes, ranks)
            axes.set_xlabel(printable(label), fontsize=8)
            axes.set_title(printable(title + number), fontsize=9, loc="left")
            family_legend(figure, [family_of(facts, method) for method in intervals], title=printable(detail))
        files += save(figure, stem.with_name(stem.name + (f"-{page + 1}" if page else "")))
    return files


def _draw_intervals(axes: Axes, part: Mapping[str, Interval], facts: Facts, *, hollow_at_zero: bool) -> None:
    for at, (method, interval) in enumerate(part.items()):
        style = family_style(family_of(facts, method))
        axes.plot([interval.low, interval.high], [at, at], color=style["color"], linewidth=1.2, solid_capstyle="butt")
        if hollow_at_zero and not (interval.low > 0 or interval.high < 0):
            style = {**style, "markerfacecolor": "white"}
        axes.plot([interval.mean], [at], markersize=4.2, linestyle="none", **style)
    axes.set_yticks(range(len(part)), [short(method, LABEL) for method in part], fontsize=6.5)
    axes.set_ylim(len(part) - 0.4, -0.6)
    axes.tick_params(left=False)
    sns.despine(ax=axes, left=True)


def _draw_scale(axes: Axes, ranks: int) -> None:
    if ranks:
        axes.set_xticks(_rank_ticks(ranks))
    else:
        axes.axvline(0, color="0.3", linestyle=":", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(axis="x", color="0.9", linewidth=0.6)


def _rank_ticks(ranks: int) -> list[int]:
    """Rank 1 and round ranks, eight or so."""
    step = next((step for step in (1, 2, 5, 10, 20) if ranks <= 8 * step), 50)
    return sorted({1, *range(step, ranks + 1, step)})


def family_legend(figure: Figure, families: Sequence[str], extra: Sequence[Line2D] = (), title: str = "") -> None:
    """What markers mean, below the axes of a figure, under `title`, with `extra` entries at the end."""
    handles = [
        Line2D([], [], linestyle="none", markersize=4.5, label=family, **family_style(family))
        for family in sorted(set(families), key=_family_place)
    ]
    figure.legend(
        handles=[*handles, *extra], loc="outside lower center", ncols=3, fontsize=7, title=title, title_fontsize=7
    )


def _family_place(family: str) -> int:
    return METHOD_FAMILIES.index(family) if family in METHOD_FAMILIES else len(METHOD_FAMILIES)


def draw_cost(summary: pd.DataFrame, metric: str, facts: Facts, folder: Path) -> list[Path]:
    """Mean of a metric against clips sent through the network, forward and backward, on a logarithmic axis.

    The line joins the methods that no other one beats in both; they are named. Controls, which send nothing, stand at 0
    on the left edge. Returns the files, none where costs are unknown.
    """
    points = _cost_points(summary, metric, facts)
    if points.empty or not (points["cost"] > 0).any():
        return []
    direction = -1 if metric_facts(facts).get(metric, {}).get("higher_is_better") is False else 1
    front = _pareto(points[points["family"] != CONTROL], direction)
    with theme():
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        edge = points.loc[points["cost"] > 0, "cost"].min() / 2.5
        for family, part in points.groupby("family", sort=False):
            x = part["cost"].where(part["cost"] > 0, edge)
            axes.plot(x, part["mean"], linestyle="none", markersize=4.5, zorder=3, **family_style(str(family)))
        ends = ([*front["cost"], points["cost"].max()], [*front["mean"], *front["mean"].tail(1)])
        axes.step(*ends, where="post", color="0.2", linewidth=0.9, zorder=2)
        handles = [_numbered(axes, at, row) for at, row in enumerate(front.itertuples(), start=1)]
        axes.set_xscale("log")
        _draw_calls(axes, points["cost"], edge)
        axes.tick_params(labelsize=7.5)
        axes.set_xlabel("clips sent forward + backward for one map", fontsize=8)
        arrow = "↑" if direction > 0 else "↓"
        axes.set_ylabel(printable(f"{metric} {arrow}"), fontsize=8)
        axes.grid(color="0.92", linewidth=0.6)
        sns.despine(ax=axes)
        family_legend(figure, list(points["family"]), handles)
    return save(figure, folder / f"cost-{slug(metric)}")


def _draw_calls(axes: Axes, cost: pd.Series, edge: float) -> None:
    """Ticks at powers of ten, none finer below the cheapest method, and one for those at the edge that cost nothing."""
    paid = cost[cost > 0]
    powers = range(math.ceil(math.log10(paid.min())), math.floor(math.log10(paid.max())) + 1)
    decades = [10.0**power for power in powers]
    free = [edge] if (cost == 0).any() else []
    axes.set_xticks([*free, *decades], ["0" for _ in free] + [f"{decade:g}" for decade in decades])
    finer = [step * decade / 10 for decade in [*decades, 10 * max(decades, default=1)] for step in range(2, 10)]
    axes.set_xticks([value for value in finer if paid.min() <= value <= paid.max()], minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _cost_points(summary: pd.DataFrame, metric: str, facts: Facts) -> pd.DataFrame:
    means = summary[summary["subset"] == "all"].pivot_table(index="method", columns="metric", values="mean")
    if metric not in means or not _CALLS.issubset(means):
        return pd.DataFrame(columns=["mean", "cost", "family"])
    points = pd.DataFrame({"mean": means[metric], "cost": means[sorted(_CALLS)].sum(axis=1, skipna=False)}).dropna()
    return points.assign(family=[family_of(facts, str(method)) for method in points.index])


def _pareto(points: pd.DataFrame, direction: int) -> pd.DataFrame:
    """The methods that no other one beats in mean at no more cost, by cost."""
    ordered = points.assign(better=-direction * points["mean"]).sort_values(["cost", "better"])
    best = (-ordered["better"]).cummax()
    is_first = best.diff().fillna(1) > 0
    return ordered[is_first]


def _numbered(axes: Axes, number: int, row: Any) -> Line2D:
    """Write a number beside a point, and give the entry of the legend that says whose it is."""
    axes.annotate(str(number), (row.cost, row.mean), xytext=(3, 3), textcoords="offset points", fontsize=7)
    return Line2D([], [], linestyle="none", label=f"{number}  {short(row.Index)}")
