"""What stands around a table: which data, which settings, how means, intervals, marks and tests are to be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from vidattr_bench import spec
from vidattr_bench.cells import ABSENT, Header, split_substrate
from vidattr_bench.errors import PluginError
from vidattr_bench.selection import Choice, RunSummary, differences, presets_of
from vidattr_bench.summary import ALPHA, COST_FACTS, RESAMPLES, Facts

if TYPE_CHECKING:
    from vidattr_bench.grid import Block

FEW_GROUPS = 40
_STATUSES = ["defined", "undefined", "failed", "not_applicable"]


def caption(runs: Sequence[RunSummary], metrics: Iterable[str] = ()) -> str:
    """Data, model, weights, target, seed and sample sizes of every run, and the preset that `metrics` are, if any."""
    if not runs:
        return "No run."
    texts = [_subject(run) for run in runs]
    if len(runs) > 1:
        texts = [f"({number}) {text}" for number, text in enumerate(texts, start=1)]
    return " ".join([*texts, *_preset(runs, metrics)])


def _preset(runs: Sequence[RunSummary], metrics: Iterable[str]) -> Iterator[str]:
    """The name of the preset that has exactly these metrics, those of cost aside."""
    shown = set(metrics) - set(COST_FACTS)
    for name, labels in presets_of(run.facts for run in runs).items():
        if shown and shown == set(labels) - set(COST_FACTS):
            yield f"Metrics: the preset {name}."
            return


def _subject(run: RunSummary) -> str:
    facts, (clips, groups) = run.facts, size(run.rows)
    weights = str(facts.get("depends_on", {}).get("weights", ""))[:8]
    parts = [
        f"{facts.get('dataset', '')}{', split ' + str(facts['split']) if facts.get('split') else ''}",
        f"model {facts.get('model', '')}{f' (weights {weights})' if weights else ''}",
        *([f"stream {facts['stream']}"] if facts.get("stream") else []),
        f"target {facts.get('target', '')}",
        f"seed {facts.get('seed', '')}",
    ]
    return f"{'; '.join(parts)}. {clips} clips in {groups} groups."


def size(summary: pd.DataFrame) -> tuple[int, int]:
    """Clips scored, and the groups they come from."""
    everything = summary[summary["subset"] == "all"]
    if everything.empty:
        return 0, 0
    return int(everything[_STATUSES].sum(axis=1).max()), int(everything["groups"].max())


def details(headers: Sequence[Header]) -> Iterator[str]:
    """Units and settings of the metrics of a block, metrics of the same together."""
    facts = {header.title: header.fact for header in headers if header.fact.get("family") != "cost"}
    units = _alike((title, str(fact.get("units", ""))) for title, fact in facts.items())
    if units:
        yield f"Units. {units}."
    settings = _alike((title, _settings(fact)) for title, fact in facts.items())
    if settings:
        yield f"Settings. {settings}."
    again = [title for title, fact in facts.items() if fact.get("explains")]
    if again:
        yield f"Measured on a sample of clips, which are explained again: {', '.join(again)}."


def _alike(pairs: Iterable[tuple[str, str]]) -> str:
    """Texts with the titles they belong to: `deletion, insertion: mean score of the target`."""
    titles: dict[str, list[str]] = {}
    for title, text in pairs:
        if text:
            titles.setdefault(text, []).append(title)
    return "; ".join(f"{', '.join(of)}: {text}" for text, of in titles.items())


def _settings(fact: Mapping[str, Any]) -> str:
    """Every option of a metric but its substrate, which stands elsewhere."""
    try:
        options = spec.parse(str(fact.get("spec", ""))).options
    except PluginError:
        return ""
    return ", ".join(f"{key} {value}" for key, value in options.items() if key != "substrate")


def legend(blocks: Sequence[Block], methods: Mapping[str, Facts], choice: Choice) -> Iterator[str]:
    """How to read the cells that are there."""
    cells = [cell for block in blocks for line in block.lines for cell in line.cells]
    yield _means(choice)
    if any(cell.is_tied for cell in cells):
        yield (
            "† not significantly worse than the best of its column (paired sign-flip permutation test over groups of "
            f"clips on the clips that all share, Holm-corrected over all pairs of methods, alpha {ALPHA:g}"
            f"{', of means over clips' if choice.mean == 'class' else ''}{_tested(blocks)})."
        )
    chance = next((method for method, fact in methods.items() if fact.get("is_chance")), "the chance control")
    if any(cell.beats_chance for cell in cells):
        yield (
            f"* better than {chance}: the 95 % interval of the paired difference lies on the better side of zero "
            "(one interval a cell, not corrected for their number)."
        )
    if any(not fact.get("informed", True) for fact in methods.values()):
        oracle = "; the oracle sees the truth" if any(fact.get("needs_truth") for fact in methods.values()) else ""
        yield f"Below the rule: controls, which never look at the model{oracle}."
    for method, fact in methods.items():
        if fact.get("draws", 1) > 1:
            yield f"{method}: the mean of {fact['draws']} draws a clip."
    headers = [header for block in blocks for header in block.headers]
    if any(split_substrate(header.metric, header.fact)[1] for header in headers):
        yield "Units of the removal order with equal relevance stand in an order drawn from the seed."
    if any(", shared clips" in block.title for block in blocks) or choice.subset == "shared":
        yield "Shared clips: those on which every method that has a value at all has one."
    if any(cell.mean == ABSENT for cell in cells):
        yield f"{ABSENT} not measured."


def _tested(blocks: Sequence[Block]) -> str:
    """The columns in which ties were looked for, where those are not all."""
    headers = [header for block in blocks for header in block.headers if header.direction]
    tested = dict.fromkeys(header.metric for header in headers if header.is_tested)
    untested = any(not header.is_tested and header.fact.get("family") != "cost" for header in headers)
    return f"; tested for {', '.join(tested)}" if untested else ""


def _means(choice: Choice) -> str:
    over = "clips" if choice.mean == "clip" else "classes, of the means over the clips of a class"
    how = f"studentised bootstrap over groups of clips, {RESAMPLES:,} resamples"
    spread = {
        "interval": f" [95 % interval: {how}]",
        "plusminus": f" ± half the width of the 95 % interval ({how})",
        "none": "",
    }[choice.uncertainty]
    return f"Mean over {over}{spread}; bold: the best method."


def warnings(runs: Sequence[RunSummary], blocks: Sequence[Block]) -> Iterator[str]:
    """What a reader must know before believing a number."""
    for run in runs:
        where = f"{run.name}: " if len(runs) > 1 else ""
        yield from (f"{where}{text}" for text in _warnings_of(run))
    yield from dict.fromkeys(_small_columns(runs, blocks))
    shown = {line.label for block in blocks for line in block.lines}
    shown |= {header.metric for block in blocks for header in block.headers}
    different = list(differences([run.facts for run in runs], shown))
    if different:
        yield f"the runs also differ in {'; '.join(different)}: their numbers are not comparable where that matters."


def _warnings_of(run: RunSummary) -> Iterator[str]:
    groups = size(run.rows)[1]
    if groups < 2:
        yield "fewer than two groups of clips: no interval can be given."
    elif groups < FEW_GROUPS:
        yield f"{groups} groups of clips are fewer than {FEW_GROUPS}: intervals may be too narrow."
    clips = run.facts.get("clips", {})
    for kind, words in (("missing", "not on disk, and left out"), ("unreadable", "unreadable, and counted as failed")):
        if clips.get(kind):
            yield f"{clips[kind]} clips of the split are {words}."


def _small_columns(runs: Sequence[RunSummary], blocks: Sequence[Block]) -> Iterator[str]:
    """Columns over far fewer groups than the run has."""
    shown = {header.metric for block in blocks for header in block.headers}
    for run in runs:
        overall = size(run.rows)[1]
        rows = run.rows[run.rows["subset"].eq("all") & run.rows["metric"].isin(shown) & run.rows["clips"].gt(0)]
        groups = rows.groupby("metric", sort=False)["groups"].max()
        few = sorted(groups[(groups < FEW_GROUPS) & (groups * 2 <= overall)].unique())
        for number in few:
            yield f"columns over {number} groups of clips are far too small a sample for conclusions."
