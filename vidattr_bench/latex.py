r"""A grid as LaTeX: one booktabs table a block, mean and interval in columns of their own, notes after the last.

The document needs `\usepackage{booktabs}` and, for letters beyond ASCII, `\usepackage[T1]{fontenc}`.
"""

from __future__ import annotations

from collections.abc import Iterator

from vidattr_bench.cells import Cell, Header
from vidattr_bench.grid import Block, Grid, Line
from vidattr_bench.text import tex

_ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}


def document(grid: Grid) -> str:
    """The tables of a grid, for a paper to read in."""
    tables = [_table(grid, block, number) for number, block in enumerate(grid.blocks, start=1)]
    return "% \\usepackage[T1]{fontenc}  \\usepackage{booktabs}\n" + "\n\n".join([*tables, *_notes(grid)]) + "\n"


def _table(grid: Grid, block: Block, number: int) -> str:
    lines = [
        r"\begin{table}[tbp]",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{tex(block.title)}. {tex(grid.caption)}}}",
        rf"\label{{tab:vidattr-{number}}}",
        rf"\begin{{tabular}}{{l{'r@{ }l' * len(block.headers)}}}",
        r"\toprule",
        *_header(block.headers),
        r"\midrule",
        *_body(block.lines),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _header(headers: tuple[Header, ...]) -> Iterator[str]:
    titles = [rf"\multicolumn{{2}}{{c}}{{{tex(header.title)}{_ARROWS[header.direction]}}}" for header in headers]
    details = [rf"\multicolumn{{2}}{{c}}{{\scriptsize {tex(header.detail)}}}" for header in headers]
    yield " & ".join(["method", *titles]) + r" \\"
    yield " & ".join(["", *details]) + r" \\"


def _body(lines: tuple[Line, ...]) -> Iterator[str]:
    previous = lines[0].kind if lines else ""
    for line in lines:
        if line.kind != previous:
            yield r"\midrule"
        previous = line.kind
        label = rf"\emph{{{tex(line.label)}}}" if line.kind == "chance" else rf"\texttt{{{tex(line.label)}}}"
        yield " & ".join([label, *map(_cell, line.cells)]) + r" \\"


def _cell(cell: Cell) -> str:
    marks = ("*" if cell.beats_chance else "") + cell.note
    raised = rf"\textsuperscript{{{marks}}}" if marks else ""
    mean = rf"\textbf{{{_number(cell.mean)}}}" if cell.is_best else _number(cell.mean)
    interval = rf"{{\scriptsize {_number(cell.interval)}}}" if cell.interval else ""
    return f"{mean}{raised} & {interval}".rstrip()


def _number(value: str) -> str:
    return tex(value).replace("-", "$-$")


def _notes(grid: Grid) -> Iterator[str]:
    notes = [rf"\textsuperscript{{{mark}}}~{tex(note)}" for mark, note in grid.notes]
    notes += [tex(line) for line in grid.legend]
    notes += [rf"\textbf{{Warning:}} {tex(line)}" for line in grid.warnings]
    yield "{\\footnotesize\\noindent\n" + "\\par\\noindent\n".join(notes) + "\\par}"
