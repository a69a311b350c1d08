"""What a table or a plot shows: of which runs, which methods and metrics, and how numbers are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from vidattr_bench import spec
from vidattr_bench.errors import DataError, PluginError, did_you_mean
from vidattr_bench.summary import Facts

Subset = Literal["all", "correct", "shared"]
Uncertainty = Literal["interval", "plusminus", "none"]
_TELLING = ("stream", "split", "target", "seed", "weights", "clips", "precision", "input")
_OF_THE_SUBJECT = ("dataset", "dataset_code", "data", "split", "input", "classes", "limit")
_OF_THE_MODEL = ("model", "model_code", "weights", "normalisation", "classes", "input")


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """One run in a table.

    Attributes:
        name: what tells it from the other runs of the table.
        rows: its summary, one row a (method, metric, subset).
        facts: what its provenance declares.
    """

    name: str
    rows: pd.DataFrame
    facts: Facts


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is shown, and how.

    Attributes:
        metrics: row labels, names or families, in the order of the columns; none: all, in blocks by family.
        methods: row labels or names, in the order of the rows; none: all, by family, the best of a family first.
        subset: the clips of every column; none: all, localisation on the correctly classified ones too.
        mean: whether means are over clips or over classes.
        uncertainty: the interval in brackets, half its width behind a plus-minus sign, or nothing.
        decimals: of every number; none: what the column's largest needs, three as a rule.

    Raises:
        DataError: a negative number of decimals.
    """

    metrics: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    subset: Subset | None = None
    mean: Literal["clip", "class"] = "clip"
    uncertainty: Uncertainty = "interval"
    decimals: int | None = None

    def __post_init__(self) -> None:
        if self.decimals is not None and self.decimals < 0:
            raise DataError(f"decimals={self.decimals}: a number has 0 decimals or more")


def pick(
    given: Sequence[str], known: Mapping[str, Facts], kind: str, presets: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """The labels that `given` names, in its order, each once; all where nothing is given.

    A label is named by itself, whatever the order of its options; else all labels by their plug-in, `srg`, by their
    family, `localisation`, or by one of `presets`, which maps names to labels; `all` is every one.

    Raises:
        DataError: a name that no label goes by, with the nearest known ones.
    """
    found: dict[str, None] = {}
    for name in given or ("all",):
        labels = _named(name, known) or [label for label in (presets or {}).get(name, ()) if label in known]
        if not labels:
            families = {str(fact["family"]) for fact in known.values() if fact.get("family")}
            near = did_you_mean(name, {*known, *families, *(presets or {})})
            raise DataError(f"no run here holds the {kind} {name!r}; {near}")
        found.update(dict.fromkeys(labels))
    return list(found)


def _named(name: str, known: Mapping[str, Facts]) -> list[str]:
    if name == "all":
        return list(known)
    if name in known:
        return [name]
    wanted = _parsed(name)
    equal = [label for label in known if wanted is not None and _parsed(label) == wanted]
    kin = [label for label in known if (parsed := _parsed(label)) is not None and parsed.name == name]
    return equal or kin or [label for label, fact in known.items() if fact.get("family") == name]


def _parsed(text: str) -> spec.Spec | None:
    try:
        return spec.parse(text)
    except PluginError:
        return None


def together(runs: Iterable[Facts], kind: str) -> dict[str, Facts]:
    """The declared facts of the methods or metrics of all runs by label, those of the first run that has it."""
    found: dict[str, Facts] = {}
    for facts in runs:
        for label, fact in facts.get(kind, {}).items():
            found.setdefault(label, fact)
    return found


def presets_of(runs: Iterable[Facts]) -> dict[str, list[str]]:
    """The presets of metrics that any of the runs holds as a whole, with the labels of their metrics."""
    found: dict[str, list[str]] = {}
    for facts in runs:
        found = {**facts.get("presets", {}), **found}
    return found


def run_names(runs: Sequence[Facts], folders: Sequence[str]) -> list[str]:
    """A name a run: data set and model, and whatever else is needed to tell them apart; at last the folder."""
    names = [f"{facts.get('dataset', '')}, {facts.get('model', '')}" for facts in runs]
    for key in _TELLING:
        values = [_short(_setting(facts, key)) for facts in runs]
        alike = {name: {v for n, v in zip(names, values, strict=True) if n == name} for name in names}
        names = [
            f"{name}, {value if key == 'clips' else f'{key} {value}'}" if len(alike[name]) > 1 else name
            for name, value in zip(names, values, strict=True)
        ]
    return [f"{name}, {folder}" if names.count(name) > 1 else name for name, folder in zip(names, folders, strict=True)]


def differences(runs: Sequence[Facts], shown: Collection[str] | None = None) -> Iterator[str]:
    """What makes numbers of these runs incomparable, beside that they are of other clips or another model.

    Of methods and metrics, those whose labels are `shown`; all by default.
    """
    if len(runs) < 2:
        return
    natural = {"batch_size"}
    if len({str(facts.get("dataset")) + str(facts.get("split")) for facts in runs}) > 1:
        natural.update(_OF_THE_SUBJECT)
    if len({str(facts.get("model")) for facts in runs}) > 1:
        natural.update(_OF_THE_MODEL)
    keys = dict.fromkeys(key for facts in runs for key in facts.get("depends_on", {}) if key not in natural)
    for key in keys:
        values = list(dict.fromkeys(_short(_setting(facts, key)) for facts in runs))
        if len(values) > 1:
            yield f"{key.replace('_', ' ')} ({' or '.join(values)})"
    for kind in ("methods", "metrics"):
        labels = [label for label in together(runs, kind) if shown is None or label in shown]
        labels = [label for label in labels if len(_versions(runs, kind, label)) > 1]
        if labels:
            yield f"the code of {', '.join(labels)}"


def _versions(runs: Sequence[Facts], kind: str, label: str) -> set[str]:
    return {str(facts[kind][label].get("version")) for facts in runs if label in facts.get(kind, {})}


def _setting(facts: Facts, key: str) -> Any:
    if key == "clips":
        return f"{facts.get('clips', {}).get('planned', 0)} clips"
    if key == "stream":
        return facts.get("stream") or "all"
    return facts.get("depends_on", {}).get(key, facts.get(key, ""))


def _short(value: Any) -> str:
    """A setting in a few characters: of a hash the first eight."""
    text = str(value)
    is_hash = len(text) >= 16 and all(char in "0123456789abcdef" for char in text)
    return text[:8] if is_hash else text if len(text) <= 40 else f"{text[:37]}..."
