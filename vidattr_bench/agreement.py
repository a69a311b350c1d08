"""Charts that compare metrics: how far they agree with each other, and clips about the order of methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from vidattr_bench.charts import CONTROL, LABEL, family_of
from vidattr_bench.comparisons import reliability_table
from vidattr_bench.figures import GREY, save, short, theme
from vidattr_bench.sheets import sheet
from vidattr_bench.summary import Facts, metric_facts

_DARK = 0.7  # a correlation whose cell needs white print
_MEASURES = {
    "krippendorff_alpha": ("Krippendorff's alpha", "o"),
    "li_alpha": ("Li's alpha", "^"),
    "split_half": ("split-half correlation", "s"),
    "discrimination": ("share of clips on which random wins (less is better)", "x"),
}


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
    return save(_heat_map(table, labels, f"{len(methods)} methods", f"up to {clips} clips"), folder / "correlation")


def _oriented(scores: pd.DataFrame, metric: str, facts: Facts) -> pd.DataFrame | None:
    """Values (clips, informed methods), more being better; None for a metric without direction."""
    higher = metric_facts(facts).get(metric, {}).get("higher_is_better")
    if higher is None or metric not in set(scores["metric"]):
        return None
    value = sheet(scores, metric, facts).value
    return (1 if higher else -1) * value[[m for m in map(str, value) if family_of(facts, m) != CONTROL]]


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
    found = np.eye(len(values))
    for i in range(len(values)):
        for j in range(i):
            a, b = values[i].align(values[j], join="inner", axis=0)
            both = a.notna() & b.notna()
            a, b = (value.where(both).rank(axis=1) for value in (a, b))
            found[i, j] = found[j, i] = a.corrwith(b, axis=1).mean()
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
        for number in axes.texts:
            number.set_color("white" if abs(float(number.get_text())) > _DARK else "0.1")
        names = [short(label, LABEL) for label in labels]
        figure.axes[-1].tick_params(labelsize=7)
        axes.set_xticks(np.arange(n) + 0.5, names, rotation=90, fontsize=small)
        axes.set_yticks(np.arange(n) + 0.5, names, rotation=0, fontsize=small)
        axes.tick_params(length=0)
        title = f"Spearman's rho of the means of {methods} (above the diagonal)\nand within a clip, mean over {clips}"
        axes.set_title(f"{title} (below)", fontsize=8, loc="left")
    return figure


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
        axes.set_yticks(range(len(table)), [short(metric, LABEL) for metric in table["metric"]], fontsize=7)
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
