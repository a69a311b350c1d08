"""Plots of a run for a paper: perturbation curves and an overview of the endpoints, as PNG and PDF."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from scipy.integrate import trapezoid

from vidattr_bench.cells import direction, split_substrate
from vidattr_bench.charts import LABEL, PER_PAGE, family_legend, family_of
from vidattr_bench.figures import GREY, family_style, save, short, theme
from vidattr_bench.statistics import cluster_intervals
from vidattr_bench.summary import Facts, metric_facts
from vidattr_bench.text import printable, slug

_GRID = np.linspace(0, 1, 33)
_PER_FIGURE = 8
_RESAMPLES = 2000
_DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvPX*"
_PANELS = {"morf": "Deletion: most relevant first", "lerf": "Insertion: most relevant first"}
_AXES = {"morf": "fraction removed", "lerf": "fraction inserted"}


def draw_curves(curves: pd.DataFrame, scores: pd.DataFrame, facts: Facts, folder: Path) -> list[Path]:
    """Draw deletion beside insertion, a figure for every unit and substrate and for at most eight methods.

    Insertion is the least-relevant-first curve read backwards. Curves are interpolated to 33 fractions, averaged over
    draws, then over clips; the band is the pointwise 95 % studentised cluster bootstrap interval. Controls are grey,
    dashed and without band, and stand in every figure. A method has the same colour everywhere; the legend is sorted by
    the area between the two curves.

    Args:
        curves: columns clip, method, unit, substrate, order, seed, fraction, score; points of several step counts lie
            on one curve.
        scores: columns clip and group tell which clips belong together.
        facts: which methods are controls.
        folder: where the files go.

    Returns:
        The files, PNG and PDF of every figure.
    """
    groups = scores.groupby("clip")["group"].first()
    files: list[Path] = []
    for (unit, substrate), part in curves.groupby(["unit", "substrate"], sort=True):
        means = _clip_curves(part)
        styles = _styles(_in_order(means, facts.get("methods", {})), facts)
        title = f"unit {unit}, substrate {substrate}; {_sample(means, groups)}"
        figures = [_curve_figure(means, groups, page, title) for page in _pages(styles)]
        top = max(figure.axes[0].get_ylim()[1] for figure in figures)
        for number, figure in enumerate(figures, start=1):
            figure.axes[0].set_ylim(0, top)
            name = f"curves-{slug(str(unit))}-{slug(str(substrate))}" + (f"-{number}" if number > 1 else "")
            files += save(figure, folder / name)
    return files


def _sample(means: Mapping[tuple[str, str], pd.DataFrame], groups: pd.Series) -> str:
    """What the means and bands of curves are over."""
    clips = max((frame.index for frame in means.values()), key=len)
    return f"mean over {len(clips)} clips in {groups.reindex(clips).nunique()} groups, band: pointwise 95 % interval"


def draw_overview(summary: pd.DataFrame, facts: Facts, folder: Path, *, metrics: Sequence[str] = ()) -> list[Path]:
    """Draw every method's mean and 95 % interval on `metrics`, a panel each, sorted by the first.

    By default the first metric of each family and substrate, those of cost left out. A dotted line is the chance level.
    Long lists take several pages of one scale. Returns the files: PNG and PDF of every page.
    """
    rows = summary[summary["subset"].eq("all") & summary["clips"].gt(0)]
    chosen = [metric for metric in metrics or _endpoints(rows, facts) if metric in set(rows["metric"])]
    if not chosen:
        return []
    rows = rows[rows["metric"].isin(chosen)]
    methods = _ranked(rows, chosen[0], facts, direction(metric_facts(facts).get(chosen[0], {})))
    pages = math.ceil(len(methods) / PER_PAGE)
    files: list[Path] = []
    for page in range(pages):
        part = methods[page * len(methods) // pages : (page + 1) * len(methods) // pages]
        figure = _overview_figure(rows, chosen, facts, part)
        files += save(figure, folder / ("overview" + (f"-{page + 1}" if page else "")))
    return files


def _clip_curves(curves: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """For every (method, order): a row a clip and a column a fraction of the common grid, averaged over draws."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = {}
    ordered = curves.sort_values("fraction", kind="stable")
    for key, curve in ordered.groupby(["method", "order", "clip", "seed"], sort=False):
        method, order, clip, _ = map(str, key)
        values = np.interp(_GRID, curve["fraction"].to_numpy(), curve["score"].to_numpy())
        found.setdefault((method, order), {}).setdefault(clip, []).append(values)
    return {
        key: pd.DataFrame({clip: np.mean(draws, axis=0) for clip, draws in clips.items()}, index=_GRID).T.sort_index()
        for key, clips in found.items()
    }


def _in_order(means: Mapping[tuple[str, str], Any], known: Any) -> list[str]:
    present = dict.fromkeys(method for method, _ in means)
    return [*(method for method in known if method in present), *(method for method in present if method not in known)]


def _styles(methods: Sequence[str], facts: Facts) -> dict[str, dict[str, Any]]:
    """Line styles: a colour and a marker for every method, grey dashes and a hollow marker for controls."""
    palette = [
        colour for at, colour in enumerate(sns.color_palette("colorblind", 10)) if at not in (7, 8)
    ]  # grey, yellow
    styles: dict[str, dict[str, Any]] = {}
    seen = {True: 0, False: 0}
    for method in methods:
        informed = bool(facts.get("methods", {}).get(method, {}).get("informed", True))
        at = seen[informed]
        seen[informed] += 1
        styles[method] = _informed_style(palette, at) if informed else _control_style(at)
    return styles


def _informed_style(palette: Sequence[Any], at: int) -> dict[str, Any]:
    marker = {"marker": _MARKERS[at % len(_MARKERS)], "markersize": 4, "markevery": (at % 4, 8), "markeredgewidth": 0}
    return {"color": palette[at % len(palette)], "linestyle": "-", "linewidth": 1.5, **marker}


def _control_style(at: int) -> dict[str, Any]:
    marker = {"marker": _MARKERS[at % len(_MARKERS)], "markersize": 3.5, "markevery": (at % 8, 8)}
    face = {"markerfacecolor": "white", "markeredgewidth": 0.8}
    return {"color": GREY, "linestyle": _DASHES[at % len(_DASHES)], "linewidth": 1.1, **marker, **face}


def _pages(styles: dict[str, dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    """At most eight informed methods at a time, each time with all controls."""
    informed = [method for method, style in styles.items() if style["color"] != GREY]
    controls = [method for method in styles if method not in informed]
    for start in range(0, max(len(informed), 1), _PER_FIGURE):
        yield {method: styles[method] for method in [*informed[start : start + _PER_FIGURE], *controls]}


def _curve_figure(
    means: Mapping[tuple[str, str], pd.DataFrame],
    groups: pd.Series,
    styles: Mapping[str, Mapping[str, Any]],
    title: str,
) -> Figure:
    with theme():
        figure = Figure(figsize=(7.2, 3.1), layout=ConstrainedLayoutEngine(wspace=0.06))
        left, right = figure.subplots(1, 2, sharey=True)
        lines: dict[str, Any] = {}
        ranked = sorted(styles, key=lambda method: (styles[method]["color"] == GREY, -_area_between(means, method)))
        for axes, order in ((left, "morf"), (right, "lerf")):
            for method in ranked:
                style = styles[method]
                if (method, order) in means:
                    lines[method] = _draw_band(axes, means[method, order], groups, style, backwards=order == "lerf")
            axes.set(title=_PANELS[order], xlabel=_AXES[order], xlim=(0, 1))
            sns.despine(ax=axes)
        left.set_ylabel("probability of the target")
        left.set_ylim(bottom=0)
        figure.suptitle(printable(title), fontsize=9)
        _legend(figure, lines)
    return figure


def _area_between(means: Mapping[tuple[str, str], pd.DataFrame], method: str) -> float:
    """Area under the least-relevant-first curve less that under the most-relevant-first one; 0 where one is missing."""
    if (method, "morf") not in means or (method, "lerf") not in means:
        return 0.0
    return float(trapezoid((means[method, "lerf"].mean() - means[method, "morf"].mean()).to_numpy(), _GRID))


def _draw_band(
    axes: Axes, curves: pd.DataFrame, groups: pd.Series, style: Mapping[str, Any], *, backwards: bool
) -> Any:
    """A mean curve with its band; a curve by removed fraction is read `backwards` as one by inserted fraction."""
    values = curves.to_numpy()[:, ::-1] if backwards else curves.to_numpy()
    intervals = cluster_intervals(values, groups.reindex(curves.index).tolist(), resamples=_RESAMPLES)
    mean, low, high = (
        np.array([getattr(interval, name) for interval in intervals]) for name in ("mean", "low", "high")
    )
    is_control = style["color"] == GREY
    if not is_control:
        axes.fill_between(_GRID, low, high, color=style["color"], alpha=0.12, linewidth=0)
    return axes.plot(_GRID, mean, zorder=2 if is_control else 3, **style)[0]


def _legend(figure: Figure, lines: Mapping[str, Any]) -> None:
    """A legend whose labels are text as it stands: none is left out for a leading underscore."""
    legend = figure.legend(list(lines.values()), ["-"] * len(lines), loc="outside right center", fontsize=7.5)
    for entry, label in zip(legend.get_texts(), lines, strict=True):
        entry.set_text(short(label))


def _endpoints(summary: pd.DataFrame, facts: Facts) -> list[str]:
    """The first metric of each family and substrate, without cost."""
    return first_of_each(set(summary["metric"]), facts)


def first_of_each(present: Collection[str], facts: Facts) -> list[str]:
    """Of the metrics present the first of each family and substrate, without cost."""
    first: dict[tuple[Any, str], str] = {}
    for metric, fact in metric_facts(facts).items():
        if metric in present and fact.get("family") != "cost":
            first.setdefault((fact.get("family"), split_substrate(metric, fact)[1]), metric)
    return list(first.values())


def _overview_figure(rows: pd.DataFrame, metrics: Sequence[str], facts: Facts, methods: Sequence[str]) -> Figure:
    with theme():
        size = (2.0 + 1.75 * len(metrics), 1.2 + 0.165 * len(methods))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            part = rows[rows["metric"] == metric].set_index("method")
            _draw_dots(axes, part.reindex(list(methods)), facts)
            axes.set_xlim(_scale(part))
            arrow = {1: " ↑", -1: " ↓", 0: ""}[direction(metric_facts(facts).get(metric, {}))]
            axes.set_title(printable(short(metric, LABEL)) + arrow, fontsize=8)
        panels[0].set_yticks(range(len(methods)), [short(method, LABEL) for method in methods], fontsize=6.5)
        panels[0].set_ylim(len(methods) - 0.4, -0.6)
        title = f"mean over {int(rows['clips'].max())} clips at most, 95 % interval; dotted: chance level"
        family_legend(figure, [family_of(facts, str(method)) for method in rows["method"].unique()], title=title)
    return figure


def _scale(part: pd.DataFrame) -> tuple[float, float]:
    """Limits of an axis that holds all numbers of a metric."""
    numbers = part[["mean", "low", "high", "chance"]].to_numpy(float)
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    margin = 0.04 * ((high - low) or 1.0)
    return low - margin, high + margin


def _ranked(rows: pd.DataFrame, metric: str, facts: Facts, sign: int) -> list[str]:
    """Methods from best to worst, then controls alike."""
    means = rows[rows["metric"] == metric].set_index("method")["mean"]

    def key(method: str) -> tuple[bool, float]:
        mean = float(means.get(method, math.nan))
        informed = facts.get("methods", {}).get(method, {}).get("informed", True)
        return not informed, math.inf if math.isnan(mean) else -(sign or 1) * mean

    return sorted(dict.fromkeys(rows["method"]), key=key)


def _draw_dots(axes: Axes, part: pd.DataFrame, facts: Facts) -> None:
    for at, (method, mean, low, high) in enumerate(part[["mean", "low", "high"]].itertuples()):
        style = family_style(family_of(facts, str(method)))
        axes.plot([low, high], [at, at], color=style["color"], linewidth=1.2, solid_capstyle="butt")
        axes.plot([mean], [at], markersize=4.2, linestyle="none", **style)
    chance = part["chance"].dropna()
    if len(chance):
        axes.axvline(float(chance.median()), color="0.3", linestyle=":", linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.tick_params(left=False)
    axes.tick_params(axis="x", labelsize=7.5)
    sns.despine(ax=axes, left=True)
