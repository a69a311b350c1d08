"""Tables of runs for the terminal, Markdown, LaTeX, HTML and as comma-separated values: all draw the same grid."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from vidattr_bench import latex, styled, text
from vidattr_bench.cells import Cell
from vidattr_bench.grid import Block, Grid, Line, label_width, layout
from vidattr_bench.selection import Choice, RunSummary, pick, together
from vidattr_bench.styled import ARROWS
from vidattr_bench.summary import COLUMNS, metric_facts, summarise

__all__ = ["FORMATS", "console", "csv", "markdown", "render", "summarise", "tidy"]
_SHOWN = 20  # metrics that a terminal shows unasked
_WIDE = 100_000
_WIDTHS = {"latex": 100}  # characters that fit a line of the article class
FORMATS = ("console", "latex", "markdown", "csv", "html")


def render(runs: Sequence[RunSummary], style: str, choice: Choice, name: str = "vidattr") -> str:
    """Tables of runs as a whole file, in one of `FORMATS`; `name` begins the labels that LaTeX refers to.

    Raises:
        DataError: a metric or method is chosen that no run holds.
    """
    if style == "csv":
        return tidy(runs, choice)
    if style == "console":
        return _plain(runs, choice)
    wide = style == "html" and choice.metrics
    grid = layout(runs, choice, _WIDE if wide else _WIDTHS.get(style, 110))
    return latex.document(grid, name) if style == "latex" else {"markdown": markdown, "html": styled.page}[style](grid)


def _plain(runs: Sequence[RunSummary], choice: Choice) -> str:
    page = Console(width=112, file=io.StringIO(), color_system=None)
    page.print(console(runs, choice))
    return str(page.file.getvalue())  # type: ignore[attr-defined]


def csv(table: pd.DataFrame, columns: Sequence[str] = COLUMNS) -> str:
    """A summary as comma-separated values, ten digits a number, so that equal results are equal bytes."""
    return str(table.to_csv(index=False, columns=list(columns), float_format="%.10g", lineterminator="\n"))


def tidy(runs: Sequence[RunSummary], choice: Choice) -> str:
    """The chosen rows of all runs as comma-separated values: a line a number, in ten digits, with where it is from."""
    parts = [_tidy_rows(run, choice) for run in runs]
    rows = pd.concat(parts, ignore_index=True)
    known = {m: f for run in reversed(runs) for m, f in metric_facts(run.facts).items()}
    metrics = pick(choice.metrics, {m: known.get(m, {}) for m in dict.fromkeys(rows["metric"])}, "metric")
    declared = together([run.facts for run in runs], "methods")
    methods = pick(choice.methods, {m: declared.get(m, {}) for m in dict.fromkeys(rows["method"])}, "method")
    rows = rows[rows["metric"].isin(metrics) & rows["method"].isin(methods)]
    order = [rows["metric"].map(metrics.index), rows["method"].map(methods.index)]
    rows = rows.assign(_metric=order[0], _method=order[1]).sort_values(["_metric", "_method"], kind="stable")
    return str(rows.drop(columns=["_metric", "_method"]).to_csv(index=False, float_format="%.10g", lineterminator="\n"))


def _tidy_rows(run: RunSummary, choice: Choice) -> pd.DataFrame:
    rows = run.rows if choice.subset is None else run.rows[run.rows["subset"] == choice.subset]
    facts, metrics, methods = run.facts, metric_facts(run.facts), run.facts.get("methods", {})
    where = {key: facts.get(key, "") for key in ("dataset", "split", "model", "stream", "target", "seed")}
    where["weights"] = facts.get("depends_on", {}).get("weights", "")
    about = {
        "method_family": rows["method"].map(lambda label: methods.get(label, {}).get("family", "")),
        "metric_family": rows["metric"].map(lambda label: metrics.get(label, {}).get("family", "")),
        "higher_is_better": rows["metric"].map(lambda label: metrics.get(label, {}).get("higher_is_better")),
        "units": rows["metric"].map(lambda label: metrics.get(label, {}).get("units", "")),
    }
    left = pd.DataFrame({"run": run.name, **where}, index=rows.index)
    return pd.concat([left, rows[COLUMNS].assign(mean_over=choice.mean, **about)], axis=1)


def console(runs: Sequence[RunSummary], choice: Choice | None = None) -> RenderableType:
    """Tables for a terminal, one below the other, as wide as the console that prints them.

    Where nothing is chosen and there are many metrics, it shows the first of every family and names the others.
    """
    return _Tables(runs, choice or Choice())


@dataclasses.dataclass(frozen=True)
class _Tables:
    """Summaries that lay themselves out when a console asks for it."""

    runs: Sequence[RunSummary]
    choice: Choice

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        grid = layout(self.runs, self.choice, width)
        shown = grid.blocks if self.choice.metrics else _first_of_each_family(grid.blocks)
        marks = {mark for block in shown for mark in block.marks()}
        yield Text(text.printable(grid.caption), style="bold")
        for block in shown:
            yield Text()
            yield _rich_table(block, width)
            yield from (Text(text.printable(line), style="dim") for line in block.details)
        yield Text()
        yield from (Text(text.printable(f"({mark}) {note}"), style="dim") for mark, note in grid.notes if mark in marks)
        yield from (Text(text.printable(line), style="dim") for line in grid.legend)
        yield from (Text(text.printable(f"Warning: {line}"), style="yellow") for line in grid.warnings)
        if len(shown) < len(grid.blocks):
            titles = ", ".join(
                dict.fromkeys(b.title.removesuffix(", continued") for b in grid.blocks if b not in shown)
            )
            yield Text(text.printable(f"Not shown (`table RUN --metrics all`, summary.md): {titles}."), style="dim")


def _first_of_each_family(blocks: Sequence[Block]) -> Sequence[Block]:
    """All blocks where metrics are few; else the first of every family of metrics, and all on primary endpoints."""
    if len({header.metric for block in blocks for header in block.headers}) <= _SHOWN:
        return blocks
    first: dict[str, Block] = {}
    for block in blocks:
        first.setdefault(block.title.partition(",")[0], block)
    return [b for b in blocks if b in first.values() or any(header.fact.get("primary") for header in b.headers)]


def _rich_table(block: Block, width: int) -> Table:
    title = Text(text.printable(block.title), style="bold") if block.title else None
    table = Table(title=title, title_justify="left", box=box.HORIZONTALS, pad_edge=False)
    table.add_column("method", overflow="fold", max_width=label_width([line.label for line in block.lines], width))
    for column in block.headers:
        title_line = f"{column.title} {ARROWS[column.direction]}".strip()
        run = Text(text.printable(f"{column.run}\n")) if column.run else Text()
        header = Text.assemble(run, text.printable(title_line), "\n", (text.printable(column.detail), "dim"))
        table.add_column(header, no_wrap=not column.run)
    widths = [_widths([line.cells[at] for line in block.lines]) for at in range(len(block.headers))]
    previous: Line | None = None
    for family, lines in block.parts():
        if previous is not None and previous.kind != lines[0].kind:
            table.add_section()
        if family:
            table.add_row(Text(text.printable(family), style="dim"))
        for line in lines:
            label = Text(text.printable(line.label), style="italic" if line.kind == "chance" else "")
            table.add_row(label, *(_rich_cell(cell, w) for cell, w in zip(line.cells, widths, strict=True)))
        previous = lines[-1]
    return table


def _widths(cells: list[Cell]) -> tuple[int, int]:
    """Characters of the means beside an interval, and of the intervals."""
    numbers = [cell for cell in cells if cell.interval] or cells
    return max(len(cell.mean) for cell in numbers), max(len(cell.interval) for cell in cells)


def _rich_cell(cell: Cell, widths: tuple[int, int]) -> Text:
    mean, interval = widths
    note = f"({cell.note})" if cell.note else ""
    marks = f"{'*' if cell.beats_chance else ''}{'†' if cell.is_tied else ''}".ljust(2)
    rest = f" {cell.interval.ljust(interval)} {note}" if cell.interval else note
    return Text.assemble((cell.mean.rjust(mean), "bold" if cell.is_best else ""), marks, (rest.rstrip(), "dim"))


def markdown(grid: Grid) -> str:
    """Tables in GitHub Markdown; families are in bold, controls in italics."""
    parts = [text.markdown(grid.caption)]
    parts += [f"**Warning:** {text.markdown(line)}" for line in grid.warnings]
    for block in grid.blocks:
        title = f"### {text.markdown(block.title)}\n\n" if block.title else ""
        parts.append(f"{title}{_markdown_table(block)}")
        parts += [text.markdown(line) for line in block.details]
    parts += [f"<sup>{mark}</sup> {text.markdown(note)}" for mark, note in grid.notes]
    parts += [text.markdown(line).replace("Below the rule", "In italics") for line in grid.legend]
    return "\n\n".join(parts) + "\n"


def _markdown_table(block: Block) -> str:
    heads = [
        f"{text.markdown(c.run)}{'<br>' if c.run else ''}"
        f"{text.markdown(c.title)} {ARROWS[c.direction]}<br>{text.markdown(c.detail)}"
        for c in block.headers
    ]
    lines = [["method", *heads], [":--", *("--:" for _ in heads)]]
    for family, part in block.parts():
        if family:
            lines.append([f"**{text.markdown(family)}**", *("" for _ in heads)])
        for line in part:
            label = text.markdown(line.label)
            lines.append([label if line.kind == "method" else f"*{label}*", *map(_markdown_cell, line.cells)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown_cell(cell: Cell) -> str:
    mean = f"**{cell.mean}**" if cell.is_best else cell.mean
    note = f"<sup>{cell.note}</sup>" if cell.note else ""
    star = (r"\*" if cell.beats_chance else "") + ("†" if cell.is_tied else "")
    return f"{mean}{star}{note} {cell.interval}".rstrip()
