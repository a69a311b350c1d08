"""Margins of the regression gate: what a maintainer's file says of each metric."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from vidattr_bench import plugins, spec
from vidattr_bench.errors import PluginError, RunError, did_you_mean
from vidattr_bench.summary import COST_FACTS, metric_facts

NAME = "margins.yaml"
RULES = ("test", "exact", "report")
_FIELDS = {"margin", "rule", "reason", "lost"}
_PAGE = "docs/regression_tracking.md shows the format"


@dataclasses.dataclass(frozen=True)
class Margin:
    """How much worse a metric may get.

    Attributes:
        margin: change of the mean that is tolerated, in the metric's own units.
        reason: why this much.
        rule: test (a one-sided test on paired differences), exact (the mean itself, without noise) or report (never
            gated).
        lost: share of a cell's clips that may become undefined.
    """

    margin: float
    reason: str
    rule: str = "test"
    lost: float = 0.0


_COUNTED = Margin(0.0, "counted, without noise", rule="exact")
_NOISY = Margin(math.nan, "machines differ and are shared", rule="report")
_COSTS = {"forwards": _COUNTED, "backwards": _COUNTED, "seconds": _NOISY, "peak_memory": _NOISY}


@dataclasses.dataclass(frozen=True)
class Margins:
    """The margins of a file: by label, name or pattern of a metric, else by its family; costs need no entry."""

    source: str
    metrics: Mapping[str, Margin]
    families: Mapping[str, Margin]

    def of(self, label: str, fact: Mapping[str, Any]) -> Margin:
        """The margin of a metric: its label's, else its name's, else the first pattern's, else its family's.

        Metrics without a direction are only reported, whatever the file says.

        Raises:
            RunError: the file has none.
        """
        if fact.get("higher_is_better") is None:
            return Margin(math.nan, "neither direction is better", rule="report")
        pattern = next((key for key in self.metrics if "*" in key and fnmatchcase(label, key)), "")
        found = self.metrics.get(label) or self.metrics.get(_name(label)) or self.metrics.get(pattern)
        found = found or self.families.get(str(fact.get("family"))) or _COSTS.get(label)
        if found is None:
            raise RunError(
                f"{self.source}: no margin for the metric {label} (family {fact.get('family') or 'unknown'}); add an "
                f"entry under metrics, or its family under families ({_PAGE})"
            )
        return found

    def unused(self, labels: Collection[str]) -> list[str]:
        """A note for each entry with options that is the label of none of these metrics, as a misspelt one is not."""
        keys = (key for key in self.metrics if ":" in key and "*" not in key and key not in labels)
        return [
            f"{self.source}: metrics.{key} is the label of no metric of these runs and holds for none" for key in keys
        ]


def find(near: Path) -> Path:
    """The margins.yaml beside a run folder, or in the two folders above.

    Raises:
        RunError: there is none.
    """
    for folder in list(near.absolute().parents)[:3]:
        if (folder / NAME).is_file():
            return folder / NAME
    raise RunError(
        f"no {NAME} beside {near} or in the two folders above it; write one ({_PAGE}), or name it with --margins FILE"
    )


def read(path: Path, facts: Iterable[Mapping[str, Any]] = ()) -> Margins:
    """The margins in a YAML file; `facts` are of runs, whose metrics are known beside the installed ones.

    Raises:
        RunError: the file cannot be read, or an entry is wrong: names file, field and remedy.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"cannot read {path} as YAML: {error}") from error
    return parse(content, str(path), facts)


def parse(content: Any, source: str, facts: Iterable[Mapping[str, Any]] = ()) -> Margins:
    """The margins in a mapping as the file holds it; see `read`."""
    if not isinstance(content, dict) or not content.keys() <= {"metrics", "families"}:
        raise RunError(f"{source} must hold the mappings metrics and families, and nothing else; {_PAGE}")
    tables = {kind: content.get(kind) or {} for kind in ("metrics", "families")}
    for kind, table in tables.items():
        if not isinstance(table, dict):
            raise RunError(f"{source}: {kind} must be a mapping of names to margins; {_PAGE}")
    entries = {k: {str(n): _entry(e, f"{source}: {k}.{n}") for n, e in t.items()} for k, t in tables.items()}
    _check_names(entries, source, list(facts))
    return Margins(source, entries["metrics"], entries["families"])


def _entry(entry: Any, place: str) -> Margin:
    if not isinstance(entry, dict):
        raise RunError(f"{place} must be a mapping such as {{margin: 0.02, reason: why this much}}, not {entry!r}")
    for key in entry:
        if key not in _FIELDS:
            raise RunError(f"{place}: unknown field {key!r}; {did_you_mean(str(key), _FIELDS)}")
    rule = entry.get("rule", "test")
    if rule not in RULES:
        raise RunError(f"{place}.rule: {rule!r} is none of {', '.join(RULES)}; {did_you_mean(str(rule), RULES)}")
    if not str(entry.get("reason") or "").strip():
        raise RunError(f"{place}.reason is missing; say why this margin, for those who read a verdict")
    margin = _number(entry, "margin", place, math.nan if rule == "report" else None)
    if rule == "test" and not margin > 0:
        raise RunError(
            f"{place}.margin must be above 0 where it is tested, not {margin}; rule: exact allows 0 for counts"
        )
    if margin < 0:
        raise RunError(f"{place}.margin cannot be negative: {margin}")
    lost = _number(entry, "lost", place, 0.0)
    if not 0 <= lost <= 1:
        raise RunError(f"{place}.lost is a share of clips, from 0 to 1, not {lost}")
    return Margin(margin, " ".join(str(entry["reason"]).split()), rule, lost)


def _number(entry: Mapping[str, Any], key: str, place: str, default: float | None) -> float:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise RunError(f"{place}.{key} must be a number, not {value!r}")
    if math.isnan(value) and key in entry:
        raise RunError(f"{place}.{key} must be a number, not {value!r}")
    return float(value)


def _check_names(entries: Mapping[str, Mapping[str, Margin]], source: str, facts: list[Mapping[str, Any]]) -> None:
    """Raise where a name is no metric's or no family's, installed or in a run."""
    labels = {label for fact in facts for label in metric_facts(fact)} | set(COST_FACTS)
    installed = plugins.available("metrics")
    names = {_name(label) for label in labels} | set(installed)
    for key in entries["metrics"]:
        known = any(fnmatchcase(name, key) for name in names | labels) if "*" in key else _name(key) in names
        if not known:
            raise RunError(f"{source}: metrics.{key}: unknown metric; {did_you_mean(_name(key), names)}")
    families = {str(plugin.declared.get("family")) for plugin in installed.values()} | set(_FAMILIES)
    for key in entries["families"]:
        if key not in families:
            raise RunError(f"{source}: families.{key}: unknown family; {did_you_mean(key, families)}")


_FAMILIES = ("faithfulness", "localisation", "temporal", "robustness", "sanity", "complexity", "cost")


def _name(label: str) -> str:
    try:
        return spec.parse(label).name
    except PluginError:
        return label
