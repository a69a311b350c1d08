"""Charts that compare methods and metrics: differences, ranks, agreement of metrics, cost, reliability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vidattr_bench.comparisons import reliability_table
from vidattr_bench.families import METHOD_FAMILIES
from vidattr_bench.figures import GREY, family_style, save, short, theme
from vidattr_bench.sheets import sheet
from vidattr_bench.statistics import Interval, cluster_intervals, rank_intervals
from vidattr_bench.summary import Facts, metric_facts
from vidattr_bench.text import printable, slug

_PER_PAGE = 34  # methods that stand below each other
_LABEL = 44  # characters of a label
_CONTROL = "control"
_MEASURES = {
    "krippendorff_alpha": ("Krippendorff's alpha", "o"),
    "li_alpha": ("Li's alpha", "^"),
    "split_half": ("split-half correlation", "s"),
    "discrimination": ("share of clips on which random wins", "x"),
}


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
    return _dots(
        intervals, facts, (title, detail, _better(metric, facts)), folder / f"forest-{slug(metric)}", zero=True
    )


def draw_ranks(scores: pd.DataFrame, metric: str, facts: Facts, folder: Path) -> list[Path]:
    """Rank of every informed method with its 95 % bootstrap interval; returns the files, none for one method."""
    value, _, groups = sheet(scores, metric, facts)
    informed = [m for m in map(str, value) if _family(facts, m) != _CONTROL and value[m].notna().any()]
    higher = metric_facts(facts).get(metric, {}).get("higher_is_better")
    if len(informed) < 2 or higher is None:
        return []
    found = rank_intervals(value[informed].to_numpy(float), groups, higher_is_better=higher)
    pairs = sorted(zip(informed, found, strict=True), key=lambda pair: _last_if_nan(pair[1].mean))
    text = (f"{metric}: rank of {len(informed)} methods", f"over {_counts(found)}, 95 % interval", "rank (1 is best)")
    return _dots(dict(pairs), facts, text, folder / f"ranks-{slug(metric)}", zero=False)


def _counts(found: Sequence[Interval]) -> str:
    clips, groups = (max((getattr(i, name) for i in found), default=0) for name in ("clips", "groups"))
    return f"{clips} clips in {groups} groups"


def _better(metric: str, facts: Facts) -> str:
    higher = metric_facts(facts).get(metric, {}).get("higher_is_better")
    return {True: "difference (right is better)", False: "difference (left is better)"}.get(higher, "difference")


def _family(facts: Facts, method: str) -> str:
    fact = facts.get("methods", {}).get(method, {})
    return str(fact.get("family", "other")) if fact.get("informed", True) else _CONTROL


def _sorted(found: Mapping[str, Interval], facts: Facts, metric: str) -> dict[str, Interval]:
    sign = -1 if metric_facts(facts).get(metric, {}).get("higher_is_better") is not False else 1
    return dict(sorted(found.items(), key=lambda pair: _last_if_nan(sign * pair[1].mean)))


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _dots(
    intervals: Mapping[str, Interval], facts: Facts, text: tuple[str, str, str], stem: Path, *, zero: bool
) -> list[Path]:
    """Dots with intervals below each other, on as many pages as it takes, all of one scale."""
    items = list(intervals.items())
    limits = [limit for _, i in items for limit in (i.low, i.high, i.mean) if math.isfinite(limit)]
    if not limits:
        return []
    pages = math.ceil(len(items) / _PER_PAGE)
    size = math.ceil(len(items) / pages)
    margin = 0.04 * ((max(limits) - min(limits)) or 1.0)
    files: list[Path] = []
    for page in range(pages):
        part = dict(items[page * size : (page + 1) * size])
        title, detail, label = text
        number = f" ({page + 1} of {pages})" if pages > 1 else ""
        with theme():
            figure = Figure(figsize=(5.2, 1.05 + 0.165 * len(part)), layout="constrained")
            axes = figure.subplots()
            _draw_intervals(axes, part, facts, zero=zero)
            axes.set_xlim(min(limits) - margin, max(limits) + margin)
            figure.supxlabel(f"{printable(label)}\n{printable(detail)}", fontsize=7.5)
            axes.set_title(printable(title + number), fontsize=9, loc="left")
            _family_legend(figure, [_family(facts, method) for method in intervals])
        files += save(figure, stem.with_name(stem.name + (f"-{page + 1}" if page else "")))
    return files


def _draw_intervals(axes: Axes, part: Mapping[str, Interval], facts: Facts, *, zero: bool) -> None:
    for at, (method, interval) in enumerate(part.items()):
        style = family_style(_family(facts, method))
        axes.plot([interval.low, interval.high], [at, at], color=style["color"], linewidth=1.2, solid_capstyle="butt")
        if zero and not (interval.low > 0 or interval.high < 0):
            style = {**style, "markerfacecolor": "white"}
        axes.plot([interval.mean], [at], markersize=4.2, linestyle="none", **style)
    if zero:
        axes.axvline(0, color="0.3", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(part)), [short(method, _LABEL) for method in part], fontsize=6.5)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_ylim(len(part) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=not zero))
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.tick_params(left=False)
    sns.despine(ax=axes, left=True)


def _family_legend(figure: Figure, families: Sequence[str], extra: Sequence[Line2D] = ()) -> None:
    handles = [
        Line2D([], [], linestyle="none", markersize=4.5, label=family, **family_style(family))
        for family in sorted(set(families), key=_family_place)
    ]
    figure.legend(handles=[*handles, *extra], loc="outside lower center", ncols=3, fontsize=7)


def _family_place(family: str) -> int:
    return METHOD_FAMILIES.index(family) if family in METHOD_FAMILIES else len(METHOD_FAMILIES)


def draw_correlation(scores: pd.DataFrame, metrics: Sequence[str], facts: Facts, folder: Path) -> list[Path]:
    """How far metrics rank informed methods alike: Spearman's correlation, metrics turned so that more is better.

    Above the diagonal that of the methods' means, below it the mean over clips of that within a clip. Metrics stand in
    the order of average linkage on 1 - correlation of means. Returns the files, none for fewer than two metrics that
    have a direction or three methods that all of them are defined for.
    """
    oriented = {metric: value for metric in metrics if (value := _oriented(scores, metric, facts)) is not None}
    methods = [m for m in facts.get("methods", {}) if all(m in v and v[m].notna().any() for v in oriented.values())]
    oriented = {metric: value[methods] for metric, value in oriented.items()}
    means = pd.DataFrame({metric: value.mean() for metric, value in oriented.items()})
    means = means.loc[:, means.std() > 0]
    if means.shape[1] < 2 or len(methods) < 3:
        return []
    over_methods = means.corr("spearman")
    order = _clustered(over_methods.to_numpy())
    labels = [over_methods.index[at] for at in order]
    table = _triangles(over_methods.loc[labels, labels].to_numpy(), _within([oriented[m] for m in labels]))
    clips = max(len(value.dropna(how="all")) for value in oriented.values())
    return save(_heat_map(table, labels, f"{len(methods)} methods", f"{clips} clips"), folder / "correlation")


def _oriented(scores: pd.DataFrame, metric: str, facts: Facts) -> pd.DataFrame | None:
    """Values (clips, informed methods), more being better; None for a metric without direction."""
    higher = metric_facts(facts).get(metric, {}).get("higher_is_better")
    if higher is None or metric not in set(scores["metric"]):
        return None
    value = sheet(scores, metric, facts).value
    return (1 if higher else -1) * value[[m for m in map(str, value) if _family(facts, m) != _CONTROL]]


def _clustered(correlation: np.ndarray[Any, Any]) -> list[int]:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = np.clip(1 - np.nan_to_num(correlation), 0, 2)
    np.fill_diagonal(distance, 0)
    return [
        int(at) for at in leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))
    ]


def _within(values: Sequence[pd.DataFrame]) -> np.ndarray[Any, Any]:
    """Mean over clips of Spearman's correlation over methods, of every pair of metrics, where both vary."""
    ranks = [value.rank(axis=1) for value in values]
    found = np.eye(len(ranks))
    for i in range(len(ranks)):
        for j in range(i):
            a, b = ranks[i].align(ranks[j], join="inner", axis=0)
            both = a.notna() & b.notna()
            found[i, j] = found[j, i] = a.where(both).corrwith(b.where(both), axis=1).mean()
    return found


def _triangles(upper: np.ndarray[Any, Any], lower: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.triu(upper, 1) + np.tril(lower, -1) + np.diag(np.full(len(upper), np.nan))


def _heat_map(table: np.ndarray[Any, Any], labels: Sequence[str], methods: str, clips: str) -> Figure:
    n = len(labels)
    cell, small = (0.36, 7.0) if n <= 16 else (0.2, 5.5)
    with theme():
        figure = Figure(figsize=(2.6 + cell * n, 2.2 + cell * n), layout="constrained")
        axes = figure.subplots()
        sns.heatmap(
            table,
            ax=axes,
            vmin=-1,
            vmax=1,
            cmap="vlag",
            square=True,
            annot=n <= 16,
            fmt=".2f",
            annot_kws={"fontsize": 6.5},
            linewidths=0.5,
            cbar_kws={"shrink": 0.6},
        )
        names = [short(label, _LABEL) for label in labels]
        figure.axes[-1].tick_params(labelsize=7)
        axes.set_xticks(np.arange(n) + 0.5, names, rotation=90, fontsize=small)
        axes.set_yticks(np.arange(n) + 0.5, names, rotation=0, fontsize=small)
        axes.tick_params(length=0)
        title = f"Spearman's rho of the means of {methods} (above the diagonal)\nand within a clip, mean over {clips}"
        axes.set_title(f"{title} (below)", fontsize=8, loc="left")
    return figure


def draw_cost(summary: pd.DataFrame, metric: str, facts: Facts, folder: Path) -> list[Path]:
    """Mean of a metric against clips sent through the network, forward and backward, on a logarithmic axis.

    The line joins the methods that no other one beats in both; they are named. Controls, which send nothing, stand at
    the left edge. Returns the files, none where costs are unknown.
    """
    points = _cost_points(summary, metric, facts)
    if points.empty or not (points["cost"] > 0).any():
        return []
    direction = -1 if metric_facts(facts).get(metric, {}).get("higher_is_better") is False else 1
    front = _pareto(points[points["family"] != _CONTROL], direction)
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
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(labelsize=7.5)
        axes.set_xlabel("clips sent through the network for one map, forward + backward (controls: none)", fontsize=8)
        arrow = "↑" if direction > 0 else "↓"
        axes.set_ylabel(printable(f"{metric} {arrow}"), fontsize=8)
        axes.grid(color="0.92", linewidth=0.6)
        sns.despine(ax=axes)
        _family_legend(figure, list(points["family"]), handles)
    return save(figure, folder / f"cost-{slug(metric)}")


def _cost_points(summary: pd.DataFrame, metric: str, facts: Facts) -> pd.DataFrame:
    means = summary[summary["subset"] == "all"].pivot_table(index="method", columns="metric", values="mean")
    if metric not in means or not {"forwards", "backwards"} <= set(means):
        return pd.DataFrame(columns=["mean", "cost", "family"])
    points = pd.DataFrame({"mean": means[metric], "cost": means["forwards"] + means["backwards"]}).dropna()
    return points.assign(family=[_family(facts, str(method)) for method in points.index])


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


def draw_reliability(scores: pd.DataFrame, metrics: Sequence[str], facts: Facts, folder: Path) -> list[Path]:
    """How far clips agree on the order of methods, and halves of the clips, on every metric that has a direction."""
    known = {metric: fact for metric, fact in facts.get("metrics", {}).items() if metric in metrics}
    table = reliability_table(scores[scores["metric"].isin(known)], {**facts, "metrics": known})
    table = table.dropna(subset=list(_MEASURES), how="all").sort_values("krippendorff_alpha", ascending=False)
    if table.empty:
        return []
    with theme():
        figure = Figure(figsize=(5.2, 1.5 + 0.19 * len(table)), layout="constrained")
        axes = figure.subplots()
        for (column, (label, marker)), colour in zip(_MEASURES.items(), sns.color_palette("colorblind"), strict=False):
            axes.plot(
                table[column], range(len(table)), marker, color=colour, markersize=4.5, label=label, clip_on=False
            )
        axes.axvline(0, color=GREY, linestyle=":", linewidth=1)
        axes.set_yticks(range(len(table)), [short(metric, _LABEL) for metric in table["metric"]], fontsize=7)
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.set_xlim(min(-0.05, float(np.nanmin(table[list(_MEASURES)].to_numpy(float))) - 0.05), 1.02)
        axes.grid(color="0.92", linewidth=0.6)
        methods, clips = int(table["methods"].max()), int(table["clips"].max())
        axes.set_xlabel(f"agreement on {methods} methods, up to {clips} clips (1: full; alpha 0: chance)", fontsize=8)
        axes.tick_params(left=False)
        axes.tick_params(axis="x", labelsize=7.5)
        sns.despine(ax=axes, left=True)
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return save(figure, folder / "reliability")
