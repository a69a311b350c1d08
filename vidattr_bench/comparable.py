"""Whether two runs asked the same question: what must agree before their scores may be compared, and what need not."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vidattr_bench import spec
from vidattr_bench.errors import PluginError, RunError
from vidattr_bench.store import Store, open_run

# Fields of provenance.json's depends_on, with the reason why two runs must agree on them.
MUST_AGREE = {
    "dataset": "other options are other clips",
    "data": "the annotation and the files of the clips",
    "split": "another list of clips",
    "input": "other frames, another size or crop",
    "model": "another network is another question",
    "weights": "another network is another question",
    "normalisation": "other numbers reach the network",
    "classes": "which logit is explained",
    "stream": "which stream of the clips is explained",
    "target": "which class is explained",
    "precision": "rounding of half precision is larger than a margin should be",
}
# Those that may differ, with the reason; what differs is noted beside the verdicts.
MAY_DIFFER = {
    "dataset_code": "a refactoring must pass; clips, labels, targets and predictions are compared one by one instead",
    "model_code": "a refactoring must pass; weights and predictions are compared instead",
    "engine": "the harness that the gate guards",
    "seed": "draws are averaged within a clip, and another seed must not change a verdict",
    "limit": "the clips themselves are compared",
    "batch_size": "no row depends on it",
    "device": "rows agree within rounding",
}
_VERSION = "version of "  # of Python or a library: an upgrade is what the gate is for
_FLIPPED = 0.01  # share of predictions that rounding of another device may tip
_SHOWN = 5


class NotComparableError(RunError):
    """Two runs that ask different questions; the message names every difference."""


@dataclasses.dataclass(frozen=True)
class RunData:
    """A run folder as the gate reads it: scores, costs and provenance, each once."""

    folder: Path
    scores: pd.DataFrame
    costs: pd.DataFrame
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Folder, commit and version in one line."""
        commit = str(self.facts.get("git_commit") or "no commit")[:12]
        return f"{self.folder} ({commit}, vidattr_bench {self.facts.get('versions', {}).get('vidattr_bench', '?')})"

    @property
    def clips(self) -> pd.DataFrame:
        """Group, label, target and prediction of every clip, indexed by clip."""
        known = self.scores.dropna(subset=["prediction"])
        first = known.groupby("clip")[["group", "label", "target", "prediction"]].first()
        return first.reindex(sorted(self.scores["clip"].unique()))


def load(folder: Path) -> RunData:
    """Read a run folder, the hashes of its parts checked.

    Raises:
        RunError: it holds no run, no score, or a damaged part.
    """
    store: Store = open_run(folder)
    scores = store.scores()
    if scores.empty:
        raise RunError(f"{folder} holds a run without scores; continue it with run --config {folder / 'run.yaml'}")
    return RunData(folder, scores, store.costs(), store.provenance())


def check(reference: RunData, new: RunData, allow_missing: Collection[str] = ()) -> list[str]:
    """Notes on what differs and may.

    Args:
        reference: the accepted run.
        new: today's run.
        allow_missing: with "clips", the new run may hold only some of the clips.

    Raises:
        NotComparableError: they differ in what must agree; every difference is named.
    """
    differences = [*_settings(reference, new), *_clips(reference, new, "clips" in allow_missing)]
    differences += _directions(reference, new)
    if differences:
        lines = "\n".join(f"  - {line}" for line in differences)
        raise NotComparableError(
            f"{new.folder} cannot be compared with {reference.folder}:\n{lines}\n"
            "Run again with the reference's settings (its run.yaml holds them), or accept a reference of these"
        )
    return [*_code(reference, new), *_predictions(reference, new)]


def _settings(reference: RunData, new: RunData) -> Iterator[str]:
    """Fields that must agree and do not; a field that neither table knows must agree."""
    old, now = (run.facts.get("depends_on", {}) for run in (reference, new))
    for key in sorted({*old, *now}):
        if key in MAY_DIFFER or key.startswith(_VERSION) or old.get(key) == now.get(key):
            continue
        if key in ("dataset", "model") and _only_new_options(reference, new, key):
            continue
        why = f" ({MUST_AGREE[key]})" if key in MUST_AGREE else ""
        yield f"{key}: {_difference(old.get(key), now.get(key))}{why}"


def _only_new_options(reference: RunData, new: RunData, key: str) -> bool:
    """Whether two full specs differ only in options that one version of the plug-in lacks, left at their defaults."""
    runs = (reference, new)
    try:
        full = [spec.parse(str(run.facts.get("depends_on", {}).get(key))) for run in runs]
        given = [spec.parse(str(run.facts.get(key))) for run in runs]  # the row label omits defaults
    except PluginError:
        return False
    if full[0].name != full[1].name:
        return False
    changed = [o for o in {*full[0].options, *full[1].options} if full[0].options.get(o) != full[1].options.get(o)]
    return all(
        any(o not in whole.options for whole in full) and all(o not in label.options for label in given)
        for o in changed
    )


def _difference(old: Any, now: Any) -> str:
    """Both values; of two specs of one plug-in only the options that differ."""
    try:
        first, second = spec.parse(str(old)), spec.parse(str(now))
    except PluginError:
        return f"{old} in the reference, {now} in the new run"
    keys = sorted({*first.options, *second.options})
    changed = [key for key in keys if first.options.get(key) != second.options.get(key)]
    if first.name != second.name or not changed:
        return f"{old} in the reference, {now} in the new run"
    return "; ".join(
        f"{key}={first.options.get(key)} in the reference, {key}={second.options.get(key)} in the new run"
        for key in changed
    )


def _clips(reference: RunData, new: RunData, allow_missing: bool) -> Iterator[str]:
    old, now = reference.clips, new.clips
    lost, added = old.index.difference(now.index), now.index.difference(old.index)
    if len(added):
        yield f"clips that only the new run holds: {_some(added)}"
    if len(lost) and not (allow_missing and len(now)):
        yield f"clips that only the reference holds: {_some(lost)}; --allow-missing clips compares the others"
    both = old.index.intersection(now.index)
    for column, what in (("label", "label"), ("group", "group"), ("target", "target")):
        other = _unequal(old.loc[both, column], now.loc[both, column])
        if len(other):
            yield f"clips with another {what}: {_some(other)}"
    flipped = _unequal(old.loc[both, "prediction"], now.loc[both, "prediction"])
    if len(flipped) > _FLIPPED * len(both):
        yield f"clips with another prediction, so that pixels or network are not the same: {_some(flipped)}"


def _unequal(old: pd.Series, now: pd.Series) -> pd.Index:
    """Clips on which both are known and differ."""
    return old.index[old.notna() & now.notna() & (old != now)]


def _some(clips: pd.Index) -> str:
    more = f" and {len(clips) - _SHOWN} more" if len(clips) > _SHOWN else ""
    return ", ".join(map(str, clips[:_SHOWN])) + more


def _directions(reference: RunData, new: RunData) -> Iterator[str]:
    old, now = (run.facts.get("metrics", {}) for run in (reference, new))
    for metric in sorted(old.keys() & now.keys()):
        for field in ("higher_is_better", "units"):
            if old[metric].get(field) != now[metric].get(field):
                yield f"{field} of {metric}: {old[metric].get(field)} in the reference, {now[metric].get(field)} now"


def _code(reference: RunData, new: RunData) -> Iterator[str]:
    """What else differs: settings and versions, then the code of methods and metrics."""
    old, now = (run.facts.get("depends_on", {}) for run in (reference, new))
    for key in [*MAY_DIFFER, *sorted(key for key in {*old, *now} if key.startswith(_VERSION))]:
        if old.get(key) != now.get(key):
            yield f"{key}: {old.get(key)} in the reference, {now.get(key)} in the new run"
    for kind in ("methods", "metrics"):
        before, after = (run.facts.get(kind, {}) for run in (reference, new))
        both = [name for name in before if name in after]
        changed = [name for name in both if before[name].get("version") != after[name].get("version")]
        if changed:
            yield f"code of {len(changed)} {kind} changed: {_some(pd.Index(changed))}"


def _predictions(reference: RunData, new: RunData) -> Iterator[str]:
    old, now = reference.clips, new.clips
    both = old.index.intersection(now.index)
    flipped = _unequal(old.loc[both, "prediction"], now.loc[both, "prediction"])
    if len(flipped):
        yield f"the prediction of these clips differs, as rounding can make it: {_some(flipped)}"
