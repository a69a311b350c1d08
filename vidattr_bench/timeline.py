"""The accepted runs over time: a table of what moved, and a plot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vidattr_bench import history, text
from vidattr_bench.errors import RunError, did_you_mean

_STILL = 5e-4  # a mean that moved less shows no other third decimal
_COLOURED = 8
_NOISY = ("seconds", "peak_memory")
_MARKERS = "os^DvPX*"
_COLUMNS = 3
_TICKS = 3  # dates that fit below a panel
Entry = Mapping[str, Any]


def chosen(entries: Sequence[Entry], methods: Sequence[str] = (), metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Means of the chosen methods and metrics (of all by default), a column an accepted run.

    Raises:
        RunError: the history holds no such method or metric.
    """
    table = history.means(list(entries)).pivot_table(
        index=["method", "metric"], columns="entry", values="mean", sort=False
    )
    for names, level in ((methods, "method"), (metrics, "metric")):
        known = table.index.get_level_values(level)
        for name in names:
            if name not in known:
                raise RunError(f"the history holds no {level} {name!r}; {did_you_mean(name, set(known))}")
        if names:
            table = table[table.index.get_level_values(level).isin(names)]
    return table.reindex(columns=range(len(entries)))


def starts(entries: Sequence[Entry]) -> list[int]:
    """The entries that could not be compared with the one before, so that no mean may be carried across them."""
    return [at for at, entry in enumerate(entries) if at == 0 or entry.get("verdict") in history.NOT_COMPARED]


def origin(entries: Sequence[Entry]) -> int:
    """Which entry drift is measured from: the last anchored one since the last start, else that start."""
    start = starts(entries)[-1]
    return max((at for at, entry in enumerate(entries) if at >= start and entry.get("anchor")), default=start)


def console(entries: Sequence[Entry], table: pd.DataFrame, *, everything: bool) -> RenderableType:
    """The accepted runs, then the means that moved since the anchored one (or everything)."""
    start = origin(entries)
    drift = table.iloc[:, -1] - table[start]
    shown = table if everything else table[~(drift.abs() < _STILL)]
    parts: list[RenderableType] = [_runs(entries), Text()]
    parts += [_moved(shown, drift, start)] if len(shown) else []
    if len(table) > len(shown):
        moved = f"{len(table) - len(shown)} means have not moved by {_STILL:g} since run {start} (--all shows them)"
        parts.append(Text(moved, style="dim"))
    return Group(*parts)


def _runs(entries: Sequence[Entry]) -> Table:
    table = Table(title="accepted runs", title_justify="left", box=box.HORIZONTALS, pad_edge=False)
    for head in ("", "date", "run", "commit", "version", "clips", "verdict", "note"):
        table.add_column(head, overflow="fold")
    for at, entry in enumerate(entries):
        version = entry.get("versions", {}).get("vidattr_bench", "")
        verdict = f"{entry.get('verdict', '')}{' (anchor)' if entry.get('anchor') else ''}"
        source = (entry.get("date", ""), entry["run"], str(entry.get("commit", ""))[:10], version)
        words = (at, *source, entry.get("clips", ""), verdict, entry.get("note", ""))
        table.add_row(*(Text(text.printable(word)) for word in words))
    return table


def _moved(table: pd.DataFrame, drift: pd.Series, start: int) -> Table:
    shown = Table(title="means", title_justify="left", box=box.HORIZONTALS, pad_edge=False)
    last = len(table.columns) - 1
    columns = list(dict.fromkeys([start, *([last - 1] if last - 1 > start else []), last]))
    for head in ("method", "metric", *(f"run {at}" for at in columns), f"since run {start}"):
        shown.add_column(head, overflow="fold", justify="left" if head in ("method", "metric") else "right")
    labelled = table[columns].assign(drift=drift).reset_index()
    for method, metric, *numbers in labelled.itertuples(index=False):
        words = [*map(_number, numbers[:-1]), _number(numbers[-1], "+")]
        shown.add_row(*(Text(text.printable(word)) for word in (method, metric, *words)))
    return shown


def _number(value: float, sign: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{sign}.3f}" if abs(value) < 1000 else f"{value:{sign},.0f}"


def draw(entries: Sequence[Entry], table: pd.DataFrame, path: Path) -> Path:
    """Draw the means over accepted runs, a panel a metric; the eight methods that moved most are coloured.

    A vertical line is the run that drift is measured from; a line ends where runs could not be compared. The file's
    ending says what is written: .png, .pdf, .svg.

    Raises:
        RunError: the ending is none of those, or the file cannot be written.
    """
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise RunError(f"{path}: a plot is written as .png, .pdf or .svg, not {path.suffix or 'without an ending'}")
    with mpl.rc_context(), sns.axes_style("ticks"), sns.plotting_context("paper"):
        mpl.rcParams.update({"text.parse_math": False, "pdf.fonttype": 42, "legend.frameon": False})
        figure = _figure(entries, table)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=200)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _figure(entries: Sequence[Entry], table: pd.DataFrame) -> Figure:
    metrics = list(dict.fromkeys(table.index.get_level_values("metric")))
    columns = min(_COLUMNS, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(1.6 + 2.6 * columns, 0.6 + 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    styles, lines = _styles(table), {}
    for axes, metric in zip(panels, metrics, strict=False):
        means = table[table.index.get_level_values("metric") == metric].droplevel("metric")
        lines.update(_draw_metric(axes, means, styles, starts(entries)))
        axes.axvline(origin(entries), color="0.3", linestyle=":", linewidth=1)
        axes.set(title=text.printable(metric), xlabel="accepted run")
        ticks = range(0, len(entries), math.ceil(len(entries) / _TICKS))
        axes.set_xticks(ticks, [f"{at}\n{entries[at].get('date', '')}" for at in ticks])
        axes.tick_params(axis="x", labelsize=6, labelbottom=True)
        sns.despine(ax=axes)
    for axes in panels[len(metrics) :]:
        axes.remove()
    legend = figure.legend(list(lines.values()), ["-"] * len(lines), loc="outside right center", fontsize=7)
    for entry, label in zip(legend.get_texts(), lines, strict=True):
        entry.set_text(text.printable(label))
    return figure


def _styles(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A colour and a marker for the methods that moved most, relative to the spread of each metric; grey for others.

    Seconds and memory move by noise, and count only where nothing else is drawn.
    """
    methods = table.index.unique("method")
    steady = table[~table.index.get_level_values("metric").isin(_NOISY)]
    table = table if steady.empty else steady
    spread = table.groupby(level="metric").transform(lambda column: column.max() - column.min()).max(axis=1)
    moved = ((table.max(axis=1) - table.min(axis=1)) / spread.where(spread > 0, 1.0)).groupby(level="method").max()
    ranked = moved.reindex(methods, fill_value=0.0).sort_values(ascending=False, kind="stable").index
    palette = [colour for at, colour in enumerate(sns.color_palette("colorblind", 10)) if at not in (7, 8)]
    grey: dict[str, Any] = {"color": "0.8", "linewidth": 0.8, "marker": ".", "markersize": 2, "zorder": 1}
    return {
        method: {"color": palette[at], "marker": _MARKERS[at], "markersize": 4, "zorder": 2} if at < _COLOURED else grey
        for at, method in enumerate(ranked)
    }


def _draw_metric(
    axes: Axes, table: pd.DataFrame, styles: Mapping[str, dict[str, Any]], begins: Sequence[int]
) -> dict[str, Any]:
    """Draw a line a method, broken where `begins` says; returns the coloured ones by label."""
    lines = {}
    for method, values in table.iterrows():
        style = styles[str(method)]
        for first, stop in itertools.pairwise([*begins, len(values)]):
            (line,) = axes.plot(values.index[first:stop], values.to_numpy(float)[first:stop], **style)
        if style["zorder"] > 1:
            lines[str(method)] = line
    return lines
