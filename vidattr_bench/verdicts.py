"""A comparison for the terminal, Markdown (a pull request), JUnit XML (CI) and JSON (programs)."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vidattr_bench import text
from vidattr_bench.compare import Comparison
from vidattr_bench.pairing import CellVerdict

JSON_FORMAT = 1
_COLOURS = {"regressed": "red", "missing": "red", "inconclusive": "yellow", "improved": "green", "pass": ""}
_ORDER = ("regressed", "missing", "inconclusive", "improved", "pass", "reported", "added", "empty")
_LISTED = ("regressed", "missing", "inconclusive", "improved")
_HEADS = ("verdict", "method", "metric", "reference", "new", "change", "95 % interval", "margin", "note")
_ADVICE = {
    "pass": "Nothing got worse by its margin or more.",
    "regressed": "Mend it, or accept it with --force and a note that says why.",
    "inconclusive": "Too few clips to tell a loss of the margin from none: more clips or a wider margin decide it.",
    "improved": "Accept the new run as reference, so that later ones are held to it.",
}
_TABLE = 15_000  # characters of one of the four tables of a comment: GitHub refuses one of over 65 536
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def headline(comparison: Comparison) -> str:
    """The verdict and the number of cells of each kind, in one line."""
    counts = comparison.counts
    why = " by drift" if comparison.drifted and comparison.own_verdict != "regressed" else ""
    return f"{comparison.verdict}{why}: " + ", ".join(f"{counts[kind]} {kind}" for kind in _ORDER if kind in counts)


def console(comparison: Comparison, *, everything: bool = False) -> RenderableType:
    """What a terminal shows: the cells that did not pass (or everything), notes, drift, and what to do."""
    cells = _chosen(comparison, everything)
    lines: list[RenderableType] = [Text(_compared(comparison), style="dim")]
    lines += [_rich_table(cells, "")] if cells else []
    lines += [Text(text.printable(f"Note: {note}"), style="dim") for note in comparison.notes]
    if comparison.drift is not None:
        drifted = _chosen(comparison.drift, everything)
        lines.append(Text(f"Drift from the anchored run: {headline(comparison.drift)}", style="bold"))
        lines += [_rich_table(drifted, "drift")] if drifted else []
    colour = _COLOURS[comparison.verdict]
    lines += [Text(headline(comparison), style=f"bold {colour}".strip()), Text(_ADVICE[comparison.verdict])]
    return Group(*lines)


def _compared(comparison: Comparison) -> str:
    return text.printable(f"{comparison.new} against {comparison.reference}")


def _chosen(comparison: Comparison, everything: bool) -> list[CellVerdict]:
    """The cells to list, worst first."""
    listed = _ORDER if everything else _LISTED
    cells = [cell for cell in comparison.cells if cell.verdict in listed]
    return sorted(cells, key=lambda cell: _ORDER.index(cell.verdict))


def _rich_table(cells: list[CellVerdict], title: str) -> Table:
    table = Table(title=title or None, box=box.HORIZONTALS, pad_edge=False)
    for head in _HEADS:
        table.add_column(head, overflow="fold", justify="right" if head in _HEADS[3:8] else "left")
    for cell in cells:
        words = [Text(text.printable(word)) for word in _row(cell)]
        words[0].stylize(_COLOURS.get(cell.verdict, "dim"))
        table.add_row(*words)
    return table


def _row(cell: CellVerdict) -> tuple[str, ...]:
    """The cell under `_HEADS`, as text that is safe nowhere yet."""
    interval = "" if math.isnan(cell.low) else f"[{cell.low:+.3f}, {cell.high:+.3f}]"
    margin = "" if math.isnan(cell.margin) else f"{cell.margin:g}"
    numbers = (_number(cell.reference), _number(cell.new), _number(cell.difference, "+"))
    return (cell.verdict, cell.method, cell.metric, *numbers, interval, margin, remark(cell))


def _number(value: float, sign: str = "") -> str:
    if math.isnan(value):
        return ""
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.3f}"


def remark(cell: CellVerdict) -> str:
    """What the numbers do not say: how many clips would decide, lost clips, and the p that decided."""
    parts = [cell.note] if cell.note else []
    if cell.verdict == "inconclusive":
        parts.append(f"{_needed(cell)} (there are {cell.clips} in {cell.groups} group{'s' * (cell.groups != 1)})")
    if cell.verdict in ("regressed", "improved") and not math.isnan(cell.p_regressed):
        p = cell.p_regressed if cell.verdict == "regressed" else cell.p_improved
        parts.append(f"adjusted p = {p:.2g}")
    return "; ".join(parts)


def _needed(cell: CellVerdict) -> str:
    if cell.groups < 2:
        return "one group has no standard error: only clips of other groups decide it"
    if cell.more is None:
        return "the difference lies too near to the margin"
    return f"about {float(f'{cell.more:.2g}'):.0f} more clips decide it"


def markdown(comparison: Comparison) -> str:
    """A comment for a pull request: the verdict, the cells that did not pass, and all others folded away."""
    parts = [f"### Attribution quality: {text.markdown(headline(comparison))}", _ADVICE[comparison.verdict]]
    parts += _markdown_cells(comparison)
    if comparison.drift is not None:
        parts.append(f"**Drift from the anchored run: {text.markdown(headline(comparison.drift))}**")
        parts += _markdown_cells(comparison.drift)
    parts += [f"- {text.markdown(note)}" for note in comparison.notes]
    parts.append(f"<sub>{text.markdown(_compared(comparison))}; change = new - reference, more is better</sub>")
    return "\n\n".join(parts) + "\n"


def _markdown_cells(comparison: Comparison) -> Iterator[str]:
    cells = _chosen(comparison, everything=False)
    rest = [cell for cell in _chosen(comparison, everything=True) if cell not in cells]
    if cells:
        yield _markdown_table(cells)
    if rest:
        yield f"<details><summary>{len(rest)} other cells</summary>\n\n{_markdown_table(rest)}\n\n</details>"


def _markdown_table(cells: list[CellVerdict]) -> str:
    lines = [_HEADS, tuple("--:" if head in _HEADS[3:8] else ":--" for head in _HEADS)]
    lines += [tuple(map(text.markdown, _row(cell))) for cell in cells]
    written = [f"| {' | '.join(words)} |" for words in lines]
    fit = sum(length <= _TABLE for length in itertools.accumulate(len(line) + 1 for line in written))
    more = [f"\n{len(written) - fit} more rows are in the JSON"] if fit < len(written) else []
    return "\n".join([*written[:fit], *more])


def junit(comparison: Comparison) -> str:
    """JUnit XML: a test case a cell, named by metric in the class of its method; drift is a suite of its own.

    Regressed and missing cells are failures; inconclusive ones, and those that are not gated, are skipped with a
    message; improved ones pass and say so in system-out.
    """
    root = ElementTree.Element("testsuites", name="vidattr_bench compare")
    _junit_suite(root, "compare", comparison)
    if comparison.drift is not None:
        _junit_suite(root, "drift", comparison.drift)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _junit_suite(root: ElementTree.Element, name: str, comparison: Comparison) -> None:
    cases = [_junit_case(name, cell) for cell in comparison.cells]
    counts = {f"{kind}s": sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error")}
    skipped = sum(case.find("skipped") is not None for case in cases)
    attributes = {"tests": len(cases), **counts, "skipped": skipped, "time": 0}
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **{k: str(v) for k, v in attributes.items()}})
    suite.extend(cases)


def _junit_case(suite: str, cell: CellVerdict) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=_xml(f"{suite}.{cell.method}"), name=_xml(cell.metric), time="0")
    said = _xml(sentence(cell))
    if cell.verdict in ("regressed", "missing"):
        ElementTree.SubElement(case, "failure", message=said, type=cell.verdict).text = said
    elif cell.verdict in ("inconclusive", "reported", "added", "empty"):
        ElementTree.SubElement(case, "skipped", message=said)
    else:
        ElementTree.SubElement(case, "system-out").text = said
    return case


def _xml(words: str) -> str:
    """Text without the characters that XML cannot hold at all; ElementTree escapes the rest."""
    return _NOT_IN_XML.sub("?", text.printable(words))


def sentence(cell: CellVerdict) -> str:
    """A cell in one line of prose."""
    said = f"{cell.verdict}: {cell.metric} of {cell.method}"
    if not math.isnan(cell.difference):
        interval = "" if math.isnan(cell.low) else f", 95 % interval {cell.low:+.4f} to {cell.high:+.4f}"
        margin = "" if math.isnan(cell.margin) else f", margin {cell.margin:g}"
        said += f" changed by {cell.difference:+.4f} ({cell.reference:.4f} -> {cell.new:.4f}{interval}{margin})"
    return f"{said}; {remark(cell)}" if remark(cell) else said


def as_json(comparison: Comparison) -> str:
    """The comparison for programs; docs/regression_tracking.md documents the fields, `format` changes if they do."""
    return json.dumps({"format": JSON_FORMAT, **_plain(comparison)}, indent=1, ensure_ascii=False) + "\n"


def _plain(comparison: Comparison) -> dict[str, Any]:
    return {
        "verdict": comparison.verdict,
        "exit_status": comparison.exit_status,
        "reference": comparison.reference,
        "new": comparison.new,
        "counts": comparison.counts,
        "notes": list(comparison.notes),
        "cells": [{k: _finite(v) for k, v in dataclasses.asdict(cell).items()} for cell in comparison.cells],
        "drift": None if comparison.drift is None else _plain(comparison.drift),
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
