"""Summaries of runs laid out for reading: blocks of columns, sorted lines, notes; what every renderer draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vidattr_bench import captions, quantities
from vidattr_bench.cells import Cell, Column, Header, direction, split_substrate
from vidattr_bench.families import METHOD_FAMILIES
from vidattr_bench.selection import Choice, RunSummary, pick, together
from vidattr_bench.summary import Facts, metric_facts

_GAP = 3


@dataclasses.dataclass(frozen=True)
class Line:
    """A method's cells.

    Attributes:
        label: its row label.
        kind: method, control or chance (the level that a map without knowledge is expected at).
        cells: one a column.
        family: the heading it stands under; empty where rows are not grouped.
    """

    label: str
    kind: str
    cells: tuple[Cell, ...]
    family: str = ""


@dataclasses.dataclass(frozen=True)
class Block:
    """A table narrow enough to print; `details` say in which units and settings its columns are."""

    title: str
    headers: tuple[Header, ...]
    lines: tuple[Line, ...]
    details: tuple[str, ...] = ()

    def parts(self) -> Iterator[tuple[str, list[Line]]]:
        """Lines that stand together under one heading, empty for those of no family, of controls and of chance."""
        part: list[Line] = []
        for line in self.lines:
            if part and (line.kind, line.family) != (part[-1].kind, part[-1].family):
                yield part[-1].family, part
                part = []
            part.append(line)
        if part:
            yield part[-1].family, part

    def runs(self) -> list[tuple[str, int]]:
        """The names of the runs above the columns, each with how many columns it spans."""
        spans: list[tuple[str, int]] = []
        for header in self.headers:
            if spans and spans[-1][0] == header.run:
                spans[-1] = (header.run, spans[-1][1] + 1)
            else:
                spans.append((header.run, 1))
        return spans

    def marks(self) -> set[str]:
        """The letters of the notes that its cells bear."""
        return {cell.note for line in self.lines for cell in line.cells if cell.note}


@dataclasses.dataclass(frozen=True)
class Grid:
    """Whole summaries; `notes` are pairs of letter and text."""

    caption: str
    blocks: tuple[Block, ...]
    notes: tuple[tuple[str, str], ...]
    legend: tuple[str, ...]
    warnings: tuple[str, ...]


def layout(runs: Sequence[RunSummary], choice: Choice | None = None, width: int = 110) -> Grid:
    """Lay out summaries in blocks of about `width` characters, columns of one run beside those of the next.

    Where no metric is chosen, a block holds one family and substrate, localisation stands on all clips and on the
    correctly classified ones, and where methods are defined on different clips, a block follows on those they share.
    Methods stand by family, in the order of the first faithfulness metric, controls below them.

    Raises:
        DataError: a metric or method is chosen that no run holds.
    """
    choice = choice or Choice()
    table = _Table(runs, choice, width)
    blocks = tuple(table.blocks())
    notes = tuple((mark, text) for text, mark in table.marks.items())
    shown = {line.label for block in blocks for line in block.lines}
    legend = tuple(captions.legend(blocks, {m: f for m, f in table.methods.items() if m in shown}, choice))
    measured = [metric for metric, fact in table.metrics.items() if fact.get("family") != quantities.FAMILY]
    return Grid(captions.caption(runs, measured), blocks, notes, legend, tuple(captions.warnings(runs, blocks)))


class _Table:
    """The rows of all summaries by run, method, metric and subset, and the letters given to notes so far."""

    def __init__(self, runs: Sequence[RunSummary], choice: Choice, width: int) -> None:
        self.runs, self.choice = runs, choice
        self.rows: dict[tuple[str, str, str, str], Any] = {
            (run.name, row["method"], row["metric"], row["subset"]): row
            for run in runs
            for row in run.rows.to_dict("records")
        }
        self.metrics = self._metrics()
        declared = together([run.facts for run in runs], "methods")
        found = dict.fromkeys(method for run in runs for method in run.rows["method"])
        known = {method: declared.get(method, {}) for method in found}
        chosen = pick(choice.methods, known, "method") if known else []
        self.methods: dict[str, Facts] = {method: known[method] for method in chosen}
        self.informed = {method for method, fact in self.methods.items() if fact.get("informed", True)}
        self.marks: dict[str, str] = {}
        self.order = self._sorted()
        self.room = width - label_width(self.order, width) - _GAP

    def _metrics(self) -> dict[str, Facts]:
        """The chosen metrics in order, with what is declared about them."""
        found = dict.fromkeys(metric for run in self.runs for metric in run.rows["metric"])
        declared: dict[str, Facts] = {}
        for run in self.runs:
            declared = {**metric_facts(run.facts), **declared}
        known = {m: declared.get(m, {}) for m in [*(m for m in declared if m in found), *found]}
        chosen = pick(self.choice.metrics, known, "metric") if known else []
        return {metric: known[metric] for metric in chosen}

    def _sorted(self) -> list[str]:
        """Methods by family, then controls, each by the primary metric; as they are chosen, where they are."""
        sign = direction(self.metrics.get(self._primary(), {})) or 1

        def key(method: str) -> tuple[bool, int, float]:
            mean = self._mean(method)
            place = _family_rank(self.methods[method]) if method in self.informed else 0
            return method not in self.informed, place, math.inf if math.isnan(mean) else -sign * mean

        if self.choice.methods:
            return sorted(self.methods, key=lambda method: method not in self.informed)
        return sorted(self.methods, key=key)

    def _primary(self) -> str:
        """The metric that rows are sorted by: the first that is chosen, or the first of faithfulness."""
        faithful = [metric for metric, fact in self.metrics.items() if fact.get("family") == "faithfulness"]
        return next(iter([*([] if self.choice.metrics else faithful), *self.metrics]), "")

    def _mean(self, method: str) -> float:
        """The mean of a method on the primary metric, in the first run that has one."""
        rows = [self.rows.get((run.name, method, self._primary(), "all"), {}) for run in self.runs]
        return next((row["mean"] for row in rows if not math.isnan(row.get("mean", math.nan))), math.nan)

    def blocks(self) -> Iterator[Block]:
        """All blocks, those of cost last."""
        if self.choice.metrics:
            runs = [self._columns(self.metrics, self._subset(), run=run) for run in self.runs]
            yield from self._packed("", [part for columns in runs for part in self._undivided(columns)])
            return
        for title, metrics in sorted(self._sections().items(), key=lambda section: section[0] == "Cost"):
            subsets = ("all", "correct") if title.startswith("Localisation") else ("all",)
            subsets = (self.choice.subset,) if self.choice.subset else subsets
            yield from self._packed(title, [self._columns([m], *subsets, run=r) for r in self.runs for m in metrics])
            if not self.choice.subset and title != "Cost":
                unequal = [m for m in metrics if any(self._is_unequal(run, m) for run in self.runs)]
                yield from self._packed(f"{title}, shared clips", [[c] for c in self._columns(unequal, "shared")])

    def _undivided(self, columns: list[Column]) -> list[list[Column]]:
        """The columns of a run as one part where a block has room for them, else each for itself."""
        width = sum(_Drawn(column, self.order, with_substrate=True).width for column in columns)
        return [columns] if width <= self.room else [[column] for column in columns]

    def _subset(self) -> str:
        return self.choice.subset or "all"

    def _sections(self) -> dict[str, list[str]]:
        """Metrics by family and substrate, under a title."""
        sections: dict[str, list[str]] = {}
        for metric, fact in self.metrics.items():
            family = str(fact.get("family") or "other").capitalize()
            substrate = split_substrate(metric, fact)[1]
            sections.setdefault(f"{family}, substrate {substrate}" if substrate else family, []).append(metric)
        return sections

    def _is_unequal(self, run: RunSummary, metric: str) -> bool:
        """Whether methods are defined on different numbers of clips, or all on more clips than they share."""
        subsets = ("all", "shared")
        rows = {s: [self.rows.get((run.name, m, metric, s), {}).get("clips", 0) for m in self.order] for s in subsets}
        return len({*rows["all"], *rows["shared"]} - {0}) > 1

    def _columns(self, metrics: Iterable[str], *subsets: str, run: RunSummary | None = None) -> list[Column]:
        """The columns of these metrics and subsets, of one run or of all, those of a run together."""
        runs = self.runs if run is None else [run]
        keys = [(run.name, metric, subset) for run in runs for metric in metrics for subset in subsets]
        rows = {key: self._rows_of(*key) for key in keys}
        return [
            Column(key, rows[key], self.metrics[key[1]], self.informed, self._note, self.choice)
            for key in keys
            if rows[key]
        ]

    def _rows_of(self, run: str, metric: str, subset: str) -> dict[str, Any]:
        keys = {method: (run, method, metric, subset) for method in self.order}
        return {method: self.rows[key] for method, key in keys.items() if key in self.rows}

    def _note(self, text: str) -> str:
        """The letter of a note, the same for the same text."""
        return self.marks.setdefault(text, _letter(len(self.marks)))

    def _packed(self, title: str, columns: Sequence[Sequence[Column]]) -> Iterator[Block]:
        """As many columns a block as there is room for; those of one metric stay together."""
        parts: list[list[_Drawn]] = []
        for group in filter(None, columns):
            drawn = [_Drawn(column, self.order, with_substrate=not title) for column in group]
            if not parts or sum(column.width for column in [*parts[-1], *drawn]) > self.room:
                parts.append([])
            parts[-1] += drawn
        for number, part in enumerate(parts):
            yield self._block((f"{title}, continued" if title else "Continued") if number else title, part)

    def _block(self, title: str, drawn: Sequence[_Drawn]) -> Block:
        families = self._families()
        lines = [
            Line(
                method,
                "method" if method in self.informed else "control",
                tuple(column.cells[at] for column in drawn),
                families.get(method, ""),
            )
            for at, method in enumerate(self.order)
        ]
        levels = tuple(column.chance for column in drawn)
        chance = [Line("chance level", "chance", levels)] if any(level.mean for level in levels) else []
        headers = tuple(column.header for column in drawn)
        if len(self.runs) == 1:
            headers = tuple(dataclasses.replace(header, run="") for header in headers)
        return Block(title, headers, (*lines, *chance), tuple(captions.details(headers)))

    def _families(self) -> Mapping[str, str]:
        """The family of every method that is no control, where there are several and rows are not in a chosen order."""
        families = {m: str(fact.get("family", "")) for m, fact in self.methods.items() if m in self.informed}
        if self.choice.methods or len(set(families.values())) < 2:
            return {}
        return {method: f"{family[:1].upper()}{family[1:]}" for method, family in families.items()}


def _family_rank(fact: Facts) -> int:
    family = fact.get("family", "other")
    return METHOD_FAMILIES.index(family) if family in METHOD_FAMILIES else METHOD_FAMILIES.index("other")


class _Drawn:
    """A column's header and cells, and how many characters they need when each part stands in a column of its own."""

    def __init__(self, column: Column, order: Sequence[str], *, with_substrate: bool) -> None:
        self.header, self.chance = column.header(with_substrate=with_substrate), column.chance()
        self.cells = [column.cell(method) for method in order]
        parts = [(len(cell.mean), len(cell.interval), len(cell.note)) for cell in self.cells]
        mean, interval, note = (max(sizes, default=0) for sizes in zip(*parts, strict=True))
        number = mean + len("*† ") + interval + (len(" ()") + note if note else 0)
        self.width = _GAP + max(number, len(self.header.title) + len(" ↑"), len(self.header.detail))


def label_width(labels: Iterable[str], width: int) -> int:
    """Characters for the column of labels: what they need, at most a third of the width."""
    return min(max(map(len, labels), default=0), width // 3)


def _letter(number: int) -> str:
    """The letters a to z, then aa, ab, and so on."""
    return ("" if number < 26 else _letter(number // 26 - 1)) + "abcdefghijklmnopqrstuvwxyz"[number % 26]
