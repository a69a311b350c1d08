"""One column of a table: a metric on a subset of clips, its numbers formatted, its best cell and its notes found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from vidattr_bench import spec
from vidattr_bench.errors import PluginError
from vidattr_bench.selection import Choice

Row = Mapping[str, Any]
ABSENT = "\N{EN DASH}"
_WORDS = {"failed": "failed", "not_applicable": "n/a", "undefined": "undefined"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number with what surrounds it, as text that is safe nowhere yet.

    Attributes:
        mean: the formatted mean, or what stands in its place: n/a, failed, undefined, or nothing.
        interval: the limits in brackets, or half of what lies between them behind a plus-minus sign; empty where there
            are none or they equal the mean.
        note: the letter of a note: why there is no value, or why the mean is over fewer clips than others.
        is_best: the best mean of an informed method in its column.
        is_tied: not significantly worse than that.
        beats_chance: the interval of the paired difference to the chance control lies on the better side of zero.
    """

    mean: str = ""
    interval: str = ""
    note: str = ""
    is_best: bool = False
    is_tied: bool = False
    beats_chance: bool = False


@dataclasses.dataclass(frozen=True)
class Header:
    """A metric of a run on a subset of clips.

    Attributes:
        run: the name of the run, empty where a table holds one.
        metric: row label of the metric.
        title: what stands above the column.
        detail: what stands below that: substrate, clips, or the units of a cost.
        direction: 1 where higher is better, -1 where lower, 0 where neither.
        fact: what is declared about the metric.
        is_tested: whether ties with the best method were looked for.
    """

    run: str
    metric: str
    title: str
    detail: str
    direction: int
    fact: Mapping[str, Any]
    is_tested: bool = False


class Column:
    """The cells of one metric of one run on one subset.

    Args:
        key: run, metric and subset.
        rows: the summary's rows of that metric and subset by method.
        fact: what is declared about the metric.
        informed: the methods that are no controls.
        note: gives the letter of a note's text.
        choice: how numbers are written.
    """

    def __init__(
        self,
        key: tuple[str, str, str],
        rows: Mapping[str, Row],
        fact: Mapping[str, Any],
        informed: set[str],
        note: Callable[[str], str],
        choice: Choice,
    ) -> None:
        self.run, self.metric, self.subset = key
        self.rows, self.fact, self.note, self.choice = rows, fact, note, choice
        self.is_cost = fact.get("family") == "cost"
        self.direction = direction(fact)
        self.title, self.substrate = split_substrate(self.metric, fact)
        self.units = str(fact.get("units", ""))
        self.informed = informed
        self.scale = 2.0**-20 if self._in_bytes() else 1.0
        self.clips = max((row["clips"] for row in rows.values()), default=0)
        self.format = self._format()
        sign = 0 if self.is_cost else self.direction
        means = [sign * row["mean"] for method, row in rows.items() if method in informed and row["clips"]]
        best = sign * max(means) if means and sign else math.nan
        self.best = {method for method, row in rows.items() if method in informed and row["mean"] == best}

    def header(self, *, with_substrate: bool = False) -> Header:
        """What stands above the column."""
        units = ("MiB a clip" if self._in_bytes() else self.units).split(",")[0]
        parts = [self.substrate if with_substrate else "", self.subset, f"n={self.clips}"]
        detail = units if self.is_cost else ", ".join(filter(None, parts))
        is_tested = any(row["tied"] for row in self.rows.values())
        return Header(self.run, self.metric, self.title, detail, self.direction, self.fact, is_tested)

    def cell(self, method: str) -> Cell:
        """The cell of a method; an empty one where it has no row."""
        row = self.rows.get(method)
        if row is None:
            return Cell(ABSENT)
        if row["clips"] == 0:
            return self._without_value(row)
        is_best = method in self.best
        is_tied = bool(row["tied"]) and method in self.informed and not is_best
        mean = self.format(row["mean"])
        return Cell(mean, self._spread(row), self._partial_note(row), is_best, is_tied, self._beats_chance(row))

    def chance(self) -> Cell:
        """The chance level, as the method with most clips has it."""
        levels = [row for row in self.rows.values() if row["clips"] and not math.isnan(row["chance"])]
        return Cell(self.format(max(levels, key=lambda row: row["clips"])["chance"])) if levels else Cell()

    def _spread(self, row: Row) -> str:
        mean, low, high = (self.format(row[name]) for name in ("mean", "low", "high"))
        if self.choice.uncertainty == "none" or math.isnan(row["low"]) or low == high == mean:
            return ""
        if self.choice.uncertainty == "plusminus":
            return f"± {self._half(mean, row['high'] - row['low'])}"
        return f"[{low}, {high}]"

    def _half(self, mean: str, width: float) -> str:
        """Half a width to as many decimals as stand in the mean beside it."""
        return fixed(width * self.scale / 2, len(mean.partition(".")[2]))

    def _in_bytes(self) -> bool:
        return self.units.startswith("bytes")

    def _without_value(self, row: Row) -> Cell:
        status = next((status for status in _WORDS if row[status]), "")
        if not status:
            return Cell(ABSENT)
        text = f"{status.replace('_', ' ')}: {row['reason']}"
        return Cell(_WORDS[status], note=self.note(text) if row["reason"] else "")

    def _partial_note(self, row: Row) -> str:
        if row["clips"] == self.clips or self.is_cost:
            return ""
        status = next(status for status in (*_WORDS, "defined") if row[status])
        reason = f": {row['reason']}" if row["reason"] else ""
        return self.note(f"n={row['clips']}; {status.replace('_', ' ')} on {row[status]}{reason}")

    def _beats_chance(self, row: Row) -> bool:
        better = {1: row["difference_low"] > 0, -1: row["difference_high"] < 0}
        return bool(better.get(self.direction, False)) and not self.is_cost

    def _format(self) -> Callable[[float], str]:
        """How numbers are written: a column of costs with three digits each, any other with three decimals or so."""
        decimals = self.choice.decimals
        if self.is_cost and decimals is None:
            return lambda value: significant(value * self.scale)
        largest = max((abs(row["mean"]) for row in self.rows.values() if row["clips"]), default=1.0)
        magnitude = math.floor(math.log10(largest)) if largest else 0
        if decimals is None:
            decimals = 3 if 0.05 <= largest < 10 else min(max(2 - magnitude, 0), 6)
        return lambda value: fixed(value * self.scale, decimals)


def direction(fact: Mapping[str, Any]) -> int:
    """1 where higher is better, -1 where lower, 0 where neither."""
    higher = fact.get("higher_is_better")
    return 0 if higher is None else 1 if higher else -1


def fixed(value: float, decimals: int) -> str:
    """So many decimals, and no minus sign before a zero."""
    text = f"{value:.{decimals}f}"
    return text if float(text) else text.removeprefix("-")


def significant(value: float) -> str:
    """Three significant digits without exponent, whole numbers whole, thousands apart."""
    if not math.isfinite(value) or value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def split_substrate(metric: str, fact: Mapping[str, Any]) -> tuple[str, str]:
    """The label without its substrate, and the substrate: the label's option, else the declared one, else nothing."""
    declared = str(fact.get("substrate", ""))
    try:
        parsed = spec.parse(metric)
    except PluginError:
        return metric, declared
    options = dict(parsed.options)
    substrate = options.pop("substrate", declared)
    return spec.render(parsed.name, options), substrate
