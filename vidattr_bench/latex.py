r"""A grid as LaTeX: booktabs tables, means in siunitx's S columns, beside them a column of marks and one of intervals.

The document needs `\usepackage{booktabs,siunitx,longtable}` and, for letters beyond ASCII, `\usepackage[T1]{fontenc}`.
A table that is too tall for a page is a longtable, which needs a document of one column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vidattr_bench.cells import ABSENT, Cell, Header
from vidattr_bench.grid import Block, Grid, Line
from vidattr_bench.text import slug, tex

_ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}
_PREAMBLE = r"""% \usepackage[T1]{fontenc}
% \usepackage{booktabs,siunitx,longtable}"""
_TALL = 45  # lines that a float holds at most
_LONG = 32  # characters of a label on one line
_PARTS = 3  # columns of a metric: means, marks, intervals
_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?")


def document(grid: Grid, name: str) -> str:
    r"""The tables of a grid, for a paper to read in; the first carries what all have in common.

    They are \label{tab:name-1}, \label{tab:name-2} and so on: files of different names can stand in one paper.
    """
    tables = [_table(grid, block, f"tab:{slug(name)}", number) for number, block in enumerate(grid.blocks, start=1)]
    return "\n\n".join([_PREAMBLE, *tables]) + "\n"


def _table(grid: Grid, block: Block, name: str, number: int) -> str:
    body = [*_header(block), r"\midrule", *_body(block)]
    columns = "l" + "".join(_columns([line.cells[at] for line in block.lines]) for at in range(len(block.headers)))
    caption = rf"\caption{{{_caption(grid, block, name, number)}}}\label{{{name}-{number}}}"
    notes = list(_notes(grid, block, number))
    font = r"\centering\small\setlength{\tabcolsep}{3pt}\setlength{\abovecaptionskip}{0pt}"
    font += r"\setlength{\belowcaptionskip}{4pt}"
    font += "\n\\sisetup{detect-weight=true,group-digits=integer,group-minimum-digits=4,group-separator={,}}"
    write = _long if len(block.lines) > _TALL else _float
    return "\n".join(write(font, caption, columns, body, notes))


def _float(font: str, caption: str, columns: str, body: list[str], notes: list[str]) -> Iterator[str]:
    yield from (r"\begin{table}[tbp]", font, caption, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body)
    yield from (r"\bottomrule", r"\end{tabular}")
    yield from (r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize", _joined(notes), r"\end{minipage}")
    yield r"\end{table}"


def _long(font: str, caption: str, columns: str, body: list[str], notes: list[str]) -> Iterator[str]:
    """A table across pages, its header repeated."""
    at = body.index(r"\midrule")
    head, rows = body[: at + 1], body[at + 1 :]
    yield from ("{" + font, r"\setlength{\LTcapwidth}{\linewidth}", rf"\begin{{longtable}}{{{columns}}}")
    yield from (rf"{caption} \\", r"\toprule", *head, r"\endfirsthead", r"\toprule", *head, r"\endhead")
    yield from (r"\bottomrule", r"\endfoot", *rows, r"\end{longtable}")
    yield from (r"\par\noindent\footnotesize\raggedright", _joined(notes), r"\par}")


def _joined(notes: list[str]) -> str:
    return "\\par\\noindent\n".join(notes)


def _caption(grid: Grid, block: Block, name: str, number: int) -> str:
    title = f"{tex(block.title)}. " if block.title else ""
    shared = _prose(grid.caption) if number == 1 else rf"Data, marks and intervals as in Table~\ref{{{name}-1}}."
    return " ".join([f"{title}{shared}", *map(_prose, block.details)])


def _columns(cells: list[Cell]) -> str:
    """An S column as wide as the means of a column need, and those of marks and intervals."""
    numbers = [cell.mean.replace(",", "").lstrip("-").partition(".") for cell in cells if _NUMBER.fullmatch(cell.mean)]
    whole = max((len(number[0]) for number in numbers), default=1)
    decimals = max((len(number[2]) for number in numbers), default=0)
    sign = "-" if any(cell.mean.startswith("-") for cell in cells) else ""
    return rf"S[table-format={sign}{whole}.{decimals}]@{{}}l@{{\,}}l"


def _header(block: Block) -> Iterator[str]:
    runs = block.runs()
    if any(name for name, _ in runs):
        names = [rf"\multicolumn{{{_PARTS * span}}}{{c}}{{{tex(name)}}}" for name, span in runs]
        yield " & ".join(["", *names]) + r" \\"
        yield from _rules([span for _, span in runs])
    yield " & ".join(["method", *map(_title, block.headers)]) + r" \\"
    details = [rf"\multicolumn{{{_PARTS}}}{{c}}{{\scriptsize {tex(header.detail)}}}" for header in block.headers]
    yield " & ".join(["", *details]) + r" \\"


def _rules(spans: list[int]) -> Iterator[str]:
    """A line below the name of each run."""
    start = 2
    for span in spans:
        yield rf"\cmidrule(lr){{{start}-{start + _PARTS * span - 1}}}"
        start += _PARTS * span


def _title(header: Header) -> str:
    return rf"\multicolumn{{{_PARTS}}}{{c}}{{{tex(header.title)}{_ARROWS[header.direction]}}}"


def _body(block: Block) -> Iterator[str]:
    previous = ""
    for family, lines in block.parts():
        if previous:
            yield r"\midrule" if previous != lines[0].kind else r"\addlinespace"
        if family:
            yield rf"\multicolumn{{{1 + _PARTS * len(block.headers)}}}{{l}}{{\emph{{{tex(family)}}}}} \\*"
        for line in lines:
            yield " & ".join([_label(line), *map(_cell, line.cells)]) + r" \\"
        previous = lines[0].kind


def _label(line: Line) -> str:
    """The label of a row; the options of a long one stand below its name, in smaller type."""
    if line.kind == "chance":
        return rf"\emph{{{tex(line.label)}}}"
    name, colon, options = line.label.partition(":")
    if len(line.label) <= _LONG or not options:
        return rf"\texttt{{{tex(line.label)}}}"
    rows = [rf"\quad\scriptsize\texttt{{{tex(part)}}}" for part in _wrapped(options, _LONG)]
    return r"\begin{tabular}[t]{@{}l@{}}" + r" \\ ".join([rf"\texttt{{{tex(name + colon)}}}", *rows]) + r"\end{tabular}"


def _wrapped(options: str, width: int) -> list[str]:
    """Options in lines of at most `width` characters, broken behind commas, else anywhere."""
    rows = [""]
    for part in re.findall(r"[^,]*,?", options):
        for piece in (part[start : start + width] for start in range(0, len(part), width)):
            if len(rows[-1]) + len(piece) > width:
                rows.append("")
            rows[-1] += piece
    return rows


def _cell(cell: Cell) -> str:
    marks = ("{*}" if cell.beats_chance else "") + (r"\textdagger{}" if cell.is_tied else "") + cell.note
    raised = rf"\textsuperscript{{{marks}}}" if marks else ""
    interval = rf"{{\scriptsize {_text(cell.interval)}}}" if cell.interval else ""
    return " & ".join([_mean(cell), raised, interval])


def _mean(cell: Cell) -> str:
    """A mean as siunitx reads it; words in braces."""
    if not _NUMBER.fullmatch(cell.mean):
        return f"{{{_text(cell.mean)}}}" if cell.mean else ""
    return (r"\bfseries " if cell.is_best else "") + cell.mean.replace(",", "")


def _text(value: str) -> str:
    return tex(value).replace("-", "$-$").replace("±", r"$\pm$").replace(ABSENT, r"\textendash{}")


def _notes(grid: Grid, block: Block, number: int) -> Iterator[str]:
    """The notes that the block's cells refer to, and behind the first block how to read all of them."""
    marks = block.marks()
    yield from (rf"\textsuperscript{{{mark}}}~{_prose(note)}" for mark, note in grid.notes if mark in marks)
    if number == 1:
        yield from (_prose(line) for line in grid.legend)
        yield from (rf"\textbf{{Warning:}} {_prose(line)}" for line in grid.warnings)


def _prose(line: str) -> str:
    """A sentence; the hyphen before a number is a minus sign."""
    text = re.sub(r"(?<!\w)-(?=\d)", "$-$", tex(line))
    return text.replace("±", r"$\pm$").replace("†", r"\textdagger{}").replace(ABSENT, r"\textendash{}")
