"""One cell of two runs, paired by clip, and its verdict."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from vidattr_bench import gate
from vidattr_bench.cells import direction
from vidattr_bench.margins import Margin

_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class CellVerdict:
    """What became of one (method, metric).

    Attributes:
        method: row label of the method.
        metric: row label of the metric.
        verdict: regressed, inconclusive, improved or pass; missing (in the reference only, counts as regressed);
            reported (not gated); added (in the new run only); empty (no value in the reference).
        rule: test, exact or report.
        margin: what is tolerated, NaN where nothing is gated.
        reference: mean of the reference over the paired clips.
        new: mean of the new run over them.
        difference: new - reference, oriented so that more is better (as it is where neither direction is).
        error: its cluster standard error.
        low: lower limit of its unadjusted 95 % interval.
        high: upper limit.
        clips: paired clips.
        groups: groups they come from.
        p_regressed: p adjusted for the family, NaN where no test was made; p_pass and p_improved alike.
        more: about how many further clips would decide an inconclusive cell, None where no number would.
        note: what a reader must know beside the numbers: lost clips and their reasons.
    """

    method: str
    metric: str
    verdict: str
    rule: str = "report"
    margin: float = math.nan
    reference: float = math.nan
    new: float = math.nan
    difference: float = math.nan
    error: float = math.nan
    low: float = math.nan
    high: float = math.nan
    clips: int = 0
    groups: int = 0
    p_regressed: float = math.nan
    p_pass: float = math.nan
    p_improved: float = math.nan
    more: int | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """One cell before its verdict: a row a clip with value, status and reason in both runs."""

    method: str
    metric: str
    rows: pd.DataFrame
    margin: Margin
    fact: Mapping[str, Any]
    groups: pd.Series

    @property
    def paired(self) -> pd.DataFrame:
        """The clips on which both are defined."""
        return self.rows[self.rows["value_old"].notna() & self.rows["value_new"].notna()]

    def differences(self) -> pd.Series:
        """New - reference by clip, oriented so that more is better."""
        pairs = self.paired.set_index("clip")
        return (pairs["value_new"] - pairs["value_old"]) * (direction(self.fact) or 1)

    def lost(self) -> pd.DataFrame:
        """The clips on which only the reference is defined."""
        return self.rows[self.rows["value_old"].notna() & self.rows["value_new"].isna()]

    def lost_note(self) -> str:
        """How many clips lost their value and gained one, and why; empty where none did."""
        lost, gained = self.lost(), int((self.rows["value_old"].isna() & self.rows["value_new"].notna()).sum())
        counts = Counter(zip(lost["status_new"], lost["reason_new"], strict=True)).most_common(2)
        parts = [f"{count} clips are now {status.replace('_', ' ')}: {reason}" for (status, reason), count in counts]
        return "; ".join([*parts, *([f"{gained} clips are newly defined and not compared"] if gained else [])])

    def is_lost(self) -> bool:
        """Whether what the new run could not score is a regression by itself, whatever the others' mean."""
        lost, defined = self.lost(), int(self.rows["value_old"].notna().sum())
        broken = lost["status_new"].isin(["failed", "not_applicable"]).any()
        return bool(broken) or self.paired.empty or len(lost) > self.margin.lost * defined

    def base(self) -> dict[str, Any]:
        """What every verdict of the cell states, before any test."""
        pairs, difference = self.paired, self.differences()
        return {
            "method": self.method,
            "metric": self.metric,
            "rule": self.margin.rule,
            "margin": self.margin.margin,
            "reference": pairs["value_old"].mean(),
            "new": pairs["value_new"].mean(),
            "difference": difference.mean(),
            "clips": len(pairs),
            "groups": int(self.groups.reindex(pairs["clip"]).nunique()),
            "note": self.lost_note(),
        }

    def verdict(self) -> CellVerdict | None:
        """The verdict that needs no test; None where a test decides."""
        base = self.base()
        if self.margin.rule == "report":
            return CellVerdict(verdict="reported", **base)
        if self.rows["value_old"].isna().all():
            return CellVerdict(verdict="empty", **base)
        if self.is_lost():
            return CellVerdict(verdict="regressed", **base)
        return CellVerdict(verdict=self._exact(base), **base) if self.margin.rule == "exact" else None

    def _exact(self, base: Mapping[str, Any]) -> str:
        slack = self.margin.margin + _ROUNDING * max(1.0, abs(base["reference"]))
        return "regressed" if base["difference"] < -slack else "improved" if base["difference"] > slack else "pass"


def decide(cells: Sequence[Pairs]) -> Iterator[CellVerdict]:
    """A verdict a cell; those that a test decides are the families that are corrected."""
    known = {(cell.method, cell.metric): cell.verdict() for cell in cells}
    tested = [cell for cell in cells if known[cell.method, cell.metric] is None]
    yield from (verdict for verdict in known.values() if verdict is not None)
    if not tested:
        return
    table = pd.concat([cell.differences() for cell in tested], axis=1)
    groups = tested[0].groups.reindex(table.index).tolist()
    decisions = gate.decide(table.to_numpy(float), groups, [cell.margin.margin for cell in tested])
    for cell, decision in zip(tested, decisions, strict=True):
        p = dict(zip(("p_regressed", "p_pass", "p_improved"), decision.p, strict=True))
        fields = {
            name: getattr(decision, name) for name in ("difference", "error", "low", "high", "clips", "groups", "more")
        }
        yield CellVerdict(verdict=decision.verdict, **{**cell.base(), **fields, **p})
