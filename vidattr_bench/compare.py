"""A new run against the accepted one: every cell paired by clip, and a verdict each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vidattr_bench import comparable
from vidattr_bench import margins as margin_files
from vidattr_bench.comparable import NotComparableError, RunData
from vidattr_bench.margins import Margins
from vidattr_bench.pairing import CellVerdict, Pairs, decide
from vidattr_bench.summary import COST_FACTS, attribution_costs, metric_facts, per_clip

EXIT_STATUS = {"pass": 0, "regressed": 1, "improved": 3, "inconclusive": 4}
MISSING = ("methods", "metrics", "clips")
ANCHORS = "anchor"
_WORST_FIRST = ("regressed", "inconclusive", "improved", "pass")
_KEY = ["method", "metric", "clip"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        reference: folder, commit and version of the accepted run.
        new: those of the new one.
        cells: a verdict each, in the order of the reference.
        notes: what differs between the runs and may, and what was left out.
        drift: the same against the anchored run, where there is one.
    """

    reference: str
    new: str
    cells: tuple[CellVerdict, ...]
    notes: tuple[str, ...] = ()
    drift: Comparison | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Cells by verdict."""
        return dict(Counter(cell.verdict for cell in self.cells))

    @property
    def own_verdict(self) -> str:
        """The verdict of the cells, whatever drifted: regressed outranks inconclusive outranks improved."""
        found = {"regressed" if cell.verdict == "missing" else cell.verdict for cell in self.cells}
        return next((verdict for verdict in _WORST_FIRST if verdict in found), "pass")

    @property
    def drifted(self) -> bool:
        """Whether it got worse than the anchored run."""
        return self.drift is not None and self.drift.verdict == "regressed"

    @property
    def verdict(self) -> str:
        """The verdict of the whole: that of the cells, and drift can only regress it."""
        return "regressed" if self.drifted else self.own_verdict

    @property
    def exit_status(self) -> int:
        """0 pass, 1 regressed, 3 improved, 4 inconclusive."""
        return EXIT_STATUS[self.verdict]

    def frame(self) -> pd.DataFrame:
        """One row a cell, columns as the attributes of `CellVerdict`."""
        return pd.DataFrame([dataclasses.asdict(cell) for cell in self.cells])


def compare(
    reference: Path,
    new: Path,
    *,
    margins: Path | Mapping[str, Any] | None = None,
    allow_missing: Collection[str] = (),
    anchor: Path | None = None,
) -> Comparison:
    """Compare two run folders, and the new one with the anchored run beside the reference.

    Args:
        reference: folder of the accepted run.
        new: folder of the new run.
        margins: a file or what it holds; by default the margins.yaml beside the reference or above it.
        allow_missing: of what the new run may hold only a part: methods, metrics, clips.
        anchor: folder of the anchored run; by default `anchor/<name>` beside the reference, where that exists.

    Raises:
        NotComparableError: the runs differ in clips, weights, targets, classes or settings.
        RunError: a folder or the file of margins cannot be used.
    """
    old, now = comparable.load(reference), comparable.load(new)
    chosen = _margins(margins, reference, (old, now))
    found = compare_runs(old, now, chosen, allow_missing)
    beside = anchor or reference.absolute().parent / ANCHORS / reference.absolute().name
    if anchor is None and not (beside / "provenance.json").is_file():
        return found
    try:
        drift = compare_runs(comparable.load(beside), now, chosen, MISSING)
    except NotComparableError as error:
        return dataclasses.replace(found, notes=(*found.notes, f"drift is not known: {error}"))
    return dataclasses.replace(found, drift=drift)


def _margins(given: Path | Mapping[str, Any] | None, reference: Path, runs: tuple[RunData, RunData]) -> Margins:
    facts = [run.facts for run in runs]
    if isinstance(given, Mapping):  # of a test that states its own
        return margin_files.parse(dict(given), "margins", facts)
    return margin_files.read(given or margin_files.find(reference), facts)


def compare_runs(old: RunData, new: RunData, margins: Margins, allow_missing: Collection[str] = ()) -> Comparison:
    """The verdicts of one pair of runs; see `compare`."""
    facts = {**metric_facts(new.facts), **metric_facts(old.facts)}
    notes = [*comparable.check(old, new, allow_missing), *margins.unused(facts)]
    before, after = _long(old), _long(new)
    _check_complete(old, before, after, allow_missing)
    groups = old.clips["group"]
    pairs = before.merge(after, on=_KEY, suffixes=("_old", "_new"))
    cells = [_cell(part, margins, facts, groups) for _, part in pairs.groupby(["method", "metric"], sort=False)]
    gone = _gone(before, after)
    left_out = [pair for pair, lacks in gone.items() if lacks <= set(allow_missing)]
    absent = (_absent(*pair, lacks, margins, facts) for pair, lacks in gone.items() if pair not in left_out)
    added = (CellVerdict(*pair, "added") for pair in sorted(_pairs(after) - _pairs(before)))
    verdicts = [*decide(cells), *absent, *added]
    _check_gated(old, new, verdicts)
    order = {pair: at for at, pair in enumerate(dict.fromkeys(zip(before["method"], before["metric"], strict=True)))}
    verdicts.sort(key=lambda cell: order.get((cell.method, cell.metric), len(order)))
    if left_out:
        notes.append(f"{len(left_out)} cells of the reference are not in the new run and were left out, as asked for")
    return Comparison(old.name, new.name, tuple(verdicts), tuple(notes))


def _cell(part: pd.DataFrame, margins: Margins, facts: Mapping[str, Any], groups: pd.Series) -> Pairs:
    method, metric = str(part["method"].iloc[0]), str(part["metric"].iloc[0])
    fact = facts.get(metric, {})
    return Pairs(method, metric, part, margins.of(metric, fact), fact, groups)


def _gone(before: pd.DataFrame, after: pd.DataFrame) -> dict[tuple[str, str], set[str]]:
    """The cells without a row in the new run, and what it lacks altogether: their method, their metric or neither.

    Neither can be asked for only by naming both, since nothing of such a cell is left to compare.
    """
    has = {"methods": set(after["method"]), "metrics": set(after["metric"])}
    cells = sorted(_pairs(before) - _pairs(after))
    lacks = {cell: {kind for kind, name in zip(has, cell, strict=True) if name not in has[kind]} for cell in cells}
    return {cell: kinds or set(has) for cell, kinds in lacks.items()}


def _absent(method: str, metric: str, lacks: set[str], margins: Margins, facts: Mapping[str, Any]) -> CellVerdict:
    """The verdict of a cell that the new run ought to hold: `missing`, where it is gated."""
    gated = margins.of(metric, facts.get(metric, {})).rule != "report"
    what = f"such {min(lacks).removesuffix('s')}" if len(lacks) == 1 else "row of it"
    return CellVerdict(method, metric, "missing" if gated else "reported", note=f"the new run has no {what}")


def _check_gated(old: RunData, new: RunData, cells: Collection[CellVerdict]) -> None:
    """Raise where no cell is held to anything, or no score is shared: what is misspelt or new alone would pass."""
    gated = {cell.verdict for cell in cells} & {*_WORST_FIRST, "missing"}
    shared = {cell.metric for cell in cells if cell.verdict not in ("added", "empty")} - set(COST_FACTS)
    if not gated or not shared:
        kinds = (", ".join(sorted(set(new.scores[kind]))[:5]) for kind in ("method", "metric"))
        raise NotComparableError(
            f"{new.folder} and {old.folder} share no score that is gated (new: {'; '.join(kinds)}); run methods and "
            "metrics that the reference holds, by the same labels, or accept a run with these first"
        )


def _check_complete(run: RunData, before: pd.DataFrame, after: pd.DataFrame, allow_missing: Collection[str]) -> None:
    """Raise where the new run lacks rows of a method and a metric it has: it was stopped, or its sample is smaller."""
    if "clips" in allow_missing:
        return
    scored = before[~before["metric"].isin(set(COST_FACTS))]  # a map that failed costs nothing
    wanted = scored[scored["method"].isin(set(after["method"])) & scored["metric"].isin(set(after["metric"]))]
    owed = pd.MultiIndex.from_frame(wanted[_KEY]).difference(pd.MultiIndex.from_frame(after[_KEY]))
    if len(owed):
        method, metric, clip = owed[0]
        raise NotComparableError(
            f"the new run lacks {len(owed)} rows that {run.folder} holds, first {method}, {metric}, clip {clip}: "
            "continue it with `run --config` and its run.yaml (with the reference's --sample), or compare what there "
            "is with --allow-missing clips"
        )


def _long(run: RunData) -> pd.DataFrame:
    """One row a (method, metric, clip) with value, status and reason; costs are those of one attribution."""
    scores = per_clip(run.scores)
    costs = attribution_costs(run.scores, run.costs, run.facts).assign(status="ok", reason="")
    return pd.concat([scores.drop(columns="chance"), costs.dropna(subset="value")], ignore_index=True)


def _pairs(table: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(table["method"], table["metric"], strict=True))
