"""A summary laid out for reading: blocks of columns, sorted lines, notes; what every renderer draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from vidattr_bench.cells import Cell, Column, Header, direction, split_substrate
from vidattr_bench.summary import Facts, metric_facts

FEW_GROUPS = 40
_GAP = 3
_STATUSES = ["defined", "undefined", "failed", "not_applicable"]


@dataclasses.dataclass(frozen=True)
class Line:
    """A method's cells; `kind` is method, control or chance (the level that a map without knowledge is expected at)."""

    label: str
    kind: str
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """A table narrow enough to print."""

    title: str
    headers: tuple[Header, ...]
    lines: tuple[Line, ...]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A whole summary; `notes` are pairs of letter and text."""

    caption: str
    blocks: tuple[Block, ...]
    notes: tuple[tuple[str, str], ...]
    legend: tuple[str, ...]
    warnings: tuple[str, ...]


def layout(summary: pd.DataFrame, facts: Facts, width: int = 110) -> Grid:
    """Lay out a summary in blocks of about `width` characters, one family and substrate a block.

    Methods stand in the order of the first faithfulness metric, controls below them. Localisation stands on all clips
    and on the correctly classified ones side by side. Where methods are defined on different clips, a block follows on
    the clips that they share.
    """
    table = _Table(summary, facts, width)
    return Grid(
        _caption(summary, facts),
        tuple(table.blocks()),
        tuple((mark, text) for text, mark in table.marks.items()),
        tuple(_legend(summary, facts)),
        tuple(_warnings(summary, facts)),
    )


class _Table:
    """The rows of a summary by method, metric and subset, and the letters given to notes so far."""

    def __init__(self, summary: pd.DataFrame, facts: Facts, width: int) -> None:
        records: list[Any] = summary.to_dict("records")
        self.rows = {(row["method"], row["metric"], row["subset"]): row for row in records}
        methods = facts.get("methods", {})
        present = list(dict.fromkeys(summary["method"]))
        self.informed = {method for method in present if methods.get(method, {}).get("informed", True)}
        known = metric_facts(facts)
        found = dict.fromkeys(summary["metric"])
        self.metrics = {m: known.get(m, {}) for m in [*(m for m in known if m in found), *found]}
        self.marks: dict[str, str] = {}
        self.order = self._sorted(present)
        self.room = width - label_width(present, width) - _GAP

    def _sorted(self, methods: Sequence[str]) -> list[str]:
        """Methods, then controls, each by the first faithfulness metric, those without a value last."""
        faithful = [metric for metric, fact in self.metrics.items() if fact.get("family") == "faithfulness"]
        primary = next(iter([*faithful, *self.metrics]), "")
        sign = direction(self.metrics.get(primary, {})) or 1

        def key(method: str) -> tuple[bool, float]:
            mean = self.rows.get((method, primary, "all"), {}).get("mean", math.nan)
            return method not in self.informed, math.inf if math.isnan(mean) else -sign * mean

        return sorted(methods, key=key)

    def blocks(self) -> Iterator[Block]:
        """All blocks, those of cost last."""
        for title, metrics in sorted(self._sections().items(), key=lambda section: section[0] == "Cost"):
            subsets = ("all", "correct") if title.startswith("Localisation") else ("all",)
            yield from self._packed(title, [[self._column(m, subset) for subset in subsets] for m in metrics])
            unequal = [] if title == "Cost" else [metric for metric in metrics if self._is_unequal(metric)]
            yield from self._packed(f"{title}, shared clips", [[self._column(m, "shared")] for m in unequal])

    def _sections(self) -> dict[str, list[str]]:
        """Metrics by family and substrate, under a title."""
        sections: dict[str, list[str]] = {}
        for metric, fact in self.metrics.items():
            family = str(fact.get("family") or "other").capitalize()
            substrate = split_substrate(metric, fact)[1]
            sections.setdefault(f"{family}, substrate {substrate}" if substrate else family, []).append(metric)
        return sections

    def _is_unequal(self, metric: str) -> bool:
        """Whether methods are defined on different numbers of clips, or all on more clips than they share."""
        rows = {s: [self.rows.get((m, metric, s), {}).get("clips", 0) for m in self.order] for s in ("all", "shared")}
        return len({*rows["all"], *rows["shared"]} - {0}) > 1

    def _column(self, metric: str, subset: str) -> Column:
        rows = {m: self.rows[m, metric, subset] for m in self.order if (m, metric, subset) in self.rows}
        return Column(metric, subset, rows, self.metrics[metric], self.informed, self._note)

    def _note(self, text: str) -> str:
        """The letter of a note, the same for the same text."""
        return self.marks.setdefault(text, _letter(len(self.marks)))

    def _packed(self, title: str, columns: Sequence[Sequence[Column]]) -> Iterator[Block]:
        """As many columns a block as there is room for; those of one metric stay together."""
        parts: list[list[_Drawn]] = []
        for together in columns:
            drawn = [_Drawn(column, self.order) for column in together]
            if not parts or sum(column.width for column in [*parts[-1], *drawn]) > self.room:
                parts.append([])
            parts[-1] += drawn
        for number, part in enumerate(parts):
            yield self._block(title if number == 0 else f"{title}, continued", part)

    def _block(self, title: str, drawn: Sequence[_Drawn]) -> Block:
        lines = [
            Line(
                method, "method" if method in self.informed else "control", tuple(column.cells[at] for column in drawn)
            )
            for at, method in enumerate(self.order)
        ]
        levels = tuple(column.chance for column in drawn)
        chance = [Line("chance level", "chance", levels)] if any(level.mean for level in levels) else []
        return Block(title, tuple(column.header for column in drawn), (*lines, *chance))


class _Drawn:
    """A column's header and cells, and how many characters they need when each part stands in a column of its own."""

    def __init__(self, column: Column, order: Sequence[str]) -> None:
        self.header, self.chance = column.header(), column.chance()
        self.cells = [column.cell(method) for method in order]
        parts = [(len(cell.mean), len(cell.interval), len(cell.note)) for cell in self.cells]
        mean, interval, note = (max(sizes, default=0) for sizes in zip(*parts, strict=True))
        number = mean + len("* ") + interval + (len(" ()") + note if note else 0)
        self.width = _GAP + max(number, len(self.header.title) + len(" ↑"), len(self.header.detail))


def label_width(labels: Iterable[str], width: int) -> int:
    """Characters for the column of labels: what they need, at most a third of the width."""
    return min(max(map(len, labels), default=0), width // 3)


def _letter(number: int) -> str:
    """The letters a to z, then aa, ab, and so on."""
    return ("" if number < 26 else _letter(number // 26 - 1)) + "abcdefghijklmnopqrstuvwxyz"[number % 26]


def _size(summary: pd.DataFrame) -> tuple[int, int]:
    """Clips scored, and the groups they come from."""
    everything = summary[summary["subset"] == "all"]
    if everything.empty:
        return 0, 0
    return int(everything[_STATUSES].sum(axis=1).max()), int(everything["groups"].max())


def _caption(summary: pd.DataFrame, facts: Facts) -> str:
    clips, groups = _size(summary)
    split = f", split {facts['split']}" if facts.get("split") else ""
    run = f"{facts.get('dataset', '')}{split}; model {facts.get('model', '')}; target {facts.get('target', '')}"
    return f"{run}; seed {facts.get('seed', '')}. {clips} clips in {groups} groups."


def _legend(summary: pd.DataFrame, facts: Facts) -> Iterator[str]:
    declared = facts.get("methods", {})
    present: dict[str, Any] = {m: declared.get(m, {}) for m in dict.fromkeys(summary["method"])}
    yield "Mean over clips [95 % interval: studentised bootstrap over groups of clips]; bold: the best method."
    chance = next((method for method, fact in present.items() if fact.get("is_chance")), None)
    if chance is not None:
        yield (
            f"* better than {chance}: the 95 % interval of the paired difference lies on the better side of zero "
            "(one interval a cell, not corrected for their number)."
        )
    if any(not fact.get("informed", True) for fact in present.values()):
        oracle = "; the oracle sees the truth" if any(fact.get("needs_truth") for fact in present.values()) else ""
        yield f"Below the rule: controls, which never look at the model{oracle}."
    for method, fact in present.items():
        if fact.get("draws", 1) > 1:
            yield f"{method}: the mean of {fact['draws']} draws a clip."
    if (summary["clips"] < summary["defined"]).any():
        yield "Shared clips: those on which every method that has a value at all has one."


def _warnings(summary: pd.DataFrame, facts: Facts) -> Iterator[str]:
    groups = _size(summary)[1]
    if groups < 2:
        yield "fewer than two groups of clips: no interval can be given."
    elif groups < FEW_GROUPS:
        yield f"{groups} groups of clips are fewer than {FEW_GROUPS}: intervals may be too narrow."
    clips = facts.get("clips", {})
    for kind, words in (("missing", "not on disk, and left out"), ("unreadable", "unreadable, and counted as failed")):
        if clips.get(kind):
            yield f"{clips[kind]} clips of the split are {words}."
