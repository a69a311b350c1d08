"""A grid as HTML through pandas' Styler, every cell, heading and caption escaped."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from vidattr_bench.cells import Cell, Header
from vidattr_bench.grid import Block, Grid
from vidattr_bench.text import html

ARROWS = {1: "↑", -1: "↓", 0: ""}
_STYLES: list[Any] = [
    {"selector": "", "props": "border-collapse:collapse; font-variant-numeric:tabular-nums; margin-bottom:.5em"},
    {"selector": "caption", "props": "caption-side:top; text-align:left; font-weight:bold"},
    {"selector": "thead", "props": "border-top:2px solid; border-bottom:1px solid"},
    {"selector": "tbody", "props": "border-bottom:2px solid"},
    {"selector": "th, td", "props": "padding:.1em .7em; vertical-align:baseline"},
    {"selector": "th", "props": "text-align:left; font-weight:normal; vertical-align:bottom"},
    {"selector": "td, thead th.col_heading", "props": "text-align:right; white-space:nowrap"},
    {"selector": ".rule", "props": "border-top:1px solid"},
    {"selector": "th.family", "props": "font-weight:bold; padding-top:.4em"},
    {"selector": ".control, .chance", "props": "font-style:italic"},
    {"selector": ".interval, small", "props": "font-size:85%; color:#555"},
    {"selector": ".interval, .marks", "props": "display:inline-block; text-align:left"},
    {"selector": ".marks", "props": "width:1.6em"},
    {"selector": "sup", "props": "line-height:0"},
]


def page(grid: Grid) -> str:
    """A whole page."""
    style = "body { font-family:sans-serif; max-width:75em } .notes { margin:.2em 0; font-size:90% }"
    head = f'<meta charset="utf-8"><title>vidattr_bench</title><style>{style}</style>'
    body = f"<body>\n{fragment(grid)}</body>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n{body}\n</html>\n'


def fragment(grid: Grid) -> str:
    """What stands in the body; classes: method, control, chance, family, best, marks, interval, notes, warning."""
    parts = [f"<p>{html(grid.caption)}</p>"]
    parts += [f'<p class="warning">Warning: {html(line)}</p>' for line in grid.warnings]
    for number, block in enumerate(grid.blocks, start=1):
        parts.append(_table(block, f"vidattr-{number}"))
        parts += [f'<p class="notes">{html(line)}</p>' for line in block.details]
    parts += [f'<p class="notes"><sup>{mark}</sup> {html(note)}</p>' for mark, note in grid.notes]
    parts += [f'<p class="notes">{html(line)}</p>' for line in grid.legend]
    return "\n".join(parts) + "\n"


def _table(block: Block, identifier: str) -> str:
    labels, cells, classes = _rows(block)
    frame = pd.DataFrame(cells, dtype=object).rename_axis(columns="method")
    named = pd.DataFrame([[name] * len(block.headers) for name in classes])
    # Characters of the width of a digit: brackets, points and commas are narrower.
    widths = [max(len(row[at].interval) for row in cells) * 0.85 for at in range(len(block.headers))]
    styler = frame.style.format({at: partial(_cell, width=width) for at, width in enumerate(widths)})
    styler = styler.format_index(lambda at: html(labels[int(str(at))]), axis=0)
    styler = styler.format_index(lambda at: _heading(block.headers[int(str(at))]), axis=1)
    styler = styler.set_caption(html(block.title)) if block.title else styler
    styler = styler.set_td_classes(named).set_table_styles(_STYLES)
    return _with_row_classes(styler.to_html(table_uuid=identifier), classes)


def _rows(block: Block) -> tuple[list[str], list[list[Cell]], list[str]]:
    """Labels, cells and classes of all rows, families among them."""
    labels, cells, classes = [], [], []
    previous = ""
    for family, lines in block.parts():
        rule = " rule" if previous and previous != lines[0].kind else ""
        if family:
            labels.append(family)
            cells.append([Cell() for _ in block.headers])
            classes.append("family" + rule)
        for line in lines:
            labels.append(line.label)
            cells.append(list(line.cells))
            classes.append(line.kind + (rule if line is lines[0] and not family else ""))
        previous = lines[0].kind
    return labels, cells, classes


def _with_row_classes(table: str, classes: list[str]) -> str:
    """Styler gives classes to cells alone; the headings of rows get them here."""
    for at, name in enumerate(classes):
        table = table.replace(f'class="row_heading level0 row{at}"', f'class="row_heading level0 row{at} {name}"')
    return table


def _heading(header: Header) -> str:
    run = f"{html(header.run)}<br>" if header.run else ""
    return f"{run}{html(header.title)} {ARROWS[header.direction]}<br><small>{html(header.detail)}</small>"


def _cell(cell: Any, width: float) -> str:
    """Mean, marks and interval, the last two in boxes as wide as the column needs, so that means stand in line."""
    if not cell.mean:
        return ""
    mean = f'<b class="best">{html(cell.mean)}</b>' if cell.is_best else html(cell.mean)
    marks = ("*" if cell.beats_chance else "") + ("†" if cell.is_tied else "")
    marks += f"<sup>{cell.note}</sup>" if cell.note else ""
    marks = f'<span class="marks">{marks}</span>'
    interval = f' <span class="interval" style="width:{width:.1f}ch">{html(cell.interval)}</span>' if width else ""
    return f"{mean}{marks}{interval}"
