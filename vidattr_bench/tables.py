"""Tables of a run for the terminal, Markdown, LaTeX and HTML: all draw the same grid."""

from __future__ import annotations

import dataclasses

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from vidattr_bench import latex as _latex
from vidattr_bench import text
from vidattr_bench.cells import Cell
from vidattr_bench.grid import Block, label_width, layout
from vidattr_bench.summary import COLUMNS, Facts, summarise

__all__ = ["console", "csv", "html", "latex", "markdown", "summarise"]
_ARROWS = {1: "↑", -1: "↓", 0: ""}


def csv(summary: pd.DataFrame) -> str:
    """The summary as comma-separated values, ten digits a number, so that equal results are equal bytes."""
    return str(summary.to_csv(index=False, columns=COLUMNS, float_format="%.10g", lineterminator="\n"))


def console(summary: pd.DataFrame, facts: Facts) -> RenderableType:
    """Tables for a terminal, one below the other, as wide as the console that prints them."""
    return _Tables(summary, facts)


@dataclasses.dataclass(frozen=True)
class _Tables:
    """A summary that lays itself out when a console asks for it."""

    summary: pd.DataFrame
    facts: Facts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        grid = layout(self.summary, self.facts, width)
        yield Text(text.printable(grid.caption), style="bold")
        for block in grid.blocks:
            yield Text()
            yield _rich_table(block, width)
        yield Text()
        yield from (Text(text.printable(f"({mark}) {note}"), style="dim") for mark, note in grid.notes)
        yield from (Text(text.printable(line), style="dim") for line in grid.legend)
        yield from (Text(text.printable(f"Warning: {line}"), style="yellow") for line in grid.warnings)


def latex(summary: pd.DataFrame, facts: Facts) -> str:
    """Tables in LaTeX; see `vidattr_bench.latex` for the packages they need."""
    return _latex.document(layout(summary, facts))


def _rich_table(block: Block, width: int) -> Table:
    table = Table(
        title=Text(text.printable(block.title), style="bold"), title_justify="left", box=box.HORIZONTALS, pad_edge=False
    )
    table.add_column("method", overflow="fold", max_width=label_width([line.label for line in block.lines], width))
    for column in block.headers:
        title = f"{column.title} {_ARROWS[column.direction]}".strip()
        header = Text.assemble(text.printable(title), "\n", (text.printable(column.detail), "dim"))
        table.add_column(header, no_wrap=True)
    widths = [_widths([line.cells[at] for line in block.lines]) for at in range(len(block.headers))]
    for above, line in zip([None, *block.lines], block.lines, strict=False):
        if above is not None and above.kind != line.kind:
            table.add_section()
        label = Text(text.printable(line.label), style="italic" if line.kind == "chance" else "")
        table.add_row(label, *(_rich_cell(cell, w) for cell, w in zip(line.cells, widths, strict=True)))
    return table


def _widths(cells: list[Cell]) -> tuple[int, int]:
    """Characters of the means beside an interval, and of the intervals."""
    numbers = [cell for cell in cells if cell.interval] or cells
    return max(len(cell.mean) for cell in numbers), max(len(cell.interval) for cell in cells)


def _rich_cell(cell: Cell, widths: tuple[int, int]) -> Text:
    mean, interval = widths
    note = f"({cell.note})" if cell.note else ""
    star = "*" if cell.beats_chance else " "
    rest = f" {cell.interval.ljust(interval)} {note}" if cell.interval else note
    return Text.assemble((cell.mean.rjust(mean), "bold" if cell.is_best else ""), star, (rest.rstrip(), "dim"))


def markdown(summary: pd.DataFrame, facts: Facts) -> str:
    """Tables in GitHub Markdown; controls are in italics."""
    grid = layout(summary, facts)
    parts = [text.markdown(grid.caption)]
    parts += [f"**Warning:** {text.markdown(line)}" for line in grid.warnings]
    parts += [f"### {text.markdown(block.title)}\n\n{_markdown_table(block)}" for block in grid.blocks]
    parts += [f"<sup>{mark}</sup> {text.markdown(note)}" for mark, note in grid.notes]
    parts += [text.markdown(line).replace("Below the rule", "In italics") for line in grid.legend]
    return "\n\n".join(parts) + "\n"


def _markdown_table(block: Block) -> str:
    heads = [f"{text.markdown(c.title)} {_ARROWS[c.direction]}<br>{text.markdown(c.detail)}" for c in block.headers]
    lines = [["method", *heads], [":--", *("--:" for _ in heads)]]
    for line in block.lines:
        label = text.markdown(line.label)
        lines.append([label if line.kind == "method" else f"*{label}*", *map(_markdown_cell, line.cells)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown_cell(cell: Cell) -> str:
    mean = f"**{cell.mean}**" if cell.is_best else cell.mean
    note = f"<sup>{cell.note}</sup>" if cell.note else ""
    star = r"\*" if cell.beats_chance else ""
    return f"{mean}{star}{note} {cell.interval}".rstrip()


def html(summary: pd.DataFrame, facts: Facts) -> str:
    """Tables as a fragment of HTML without style; classes: best, control, chance, interval, notes, warning."""
    grid = layout(summary, facts)
    parts = [f"<p>{text.html(grid.caption)}</p>"]
    parts += [f'<p class="warning">{text.html(line)}</p>' for line in grid.warnings]
    parts += [_html_table(block) for block in grid.blocks]
    parts += [f'<p class="notes"><sup>{mark}</sup> {text.html(note)}</p>' for mark, note in grid.notes]
    parts += [f'<p class="notes">{text.html(line)}</p>' for line in grid.legend]
    return "\n".join(parts) + "\n"


def _html_table(block: Block) -> str:
    heads = [
        f"<th>{text.html(column.title)} {_ARROWS[column.direction]}<br><small>{text.html(column.detail)}</small></th>"
        for column in block.headers
    ]
    rows = [
        f'<tr class="{line.kind}"><th>{text.html(line.label)}</th>{"".join(map(_html_cell, line.cells))}</tr>'
        for line in block.lines
    ]
    head = f"<thead><tr><th>method</th>{''.join(heads)}</tr></thead>"
    caption = f"<caption>{text.html(block.title)}</caption>"
    return "\n".join(["<table>", caption, head, "<tbody>", *rows, "</tbody>", "</table>"])


def _html_cell(cell: Cell) -> str:
    mean = f"<b>{text.html(cell.mean)}</b>" if cell.is_best else text.html(cell.mean)
    note = f"<sup>{cell.note}</sup>" if cell.note else ""
    interval = f' <span class="interval">{text.html(cell.interval)}</span>' if cell.interval else ""
    return f"<td>{mean}{'*' if cell.beats_chance else ''}{note}{interval}</td>"
