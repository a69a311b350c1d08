"""Presets: names under which `--metrics` runs many configured metrics at once; every metric declares its own part."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vidattr_bench import plugins, spec
from vidattr_bench.errors import PluginError, did_you_mean
from vidattr_bench.metric import Metric

ALL = "all"


def presets() -> dict[str, tuple[str, ...]]:
    """The specs that each preset stands for; `all` is every variant of every preset, and metrics in none by default."""
    found: dict[str, dict[str, None]] = {}
    for name, metric in _metrics():
        for preset, variants in metric.presets.items():
            found.setdefault(preset, {}).update(dict.fromkeys(_spec(name, options) for options in variants))
        everything = [options for variants in metric.presets.values() for options in variants] or [""]
        found.setdefault(ALL, {}).update(dict.fromkeys(_spec(name, options) for options in everything))
    return {preset: tuple(found[preset]) for preset in sorted(found)}


def resolve(names: Sequence[str]) -> list[Metric]:
    """The configured metrics that presets and specs name, in their order, each once.

    Raises:
        PluginError: a name that is neither a preset nor a metric (with the nearest known ones), or a wrong option.
    """
    known = presets()
    configured: dict[str, Metric] = {}
    for name in names:
        for text in known.get(name) or (_existing(name, known),):
            metric: Metric = plugins.create("metrics", text)
            configured.setdefault(plugins.label("metrics", metric), metric)
    return list(configured.values())


def complete(labels: Collection[str]) -> dict[str, list[str]]:
    """The presets whose metrics are all among `labels`, with the labels of those."""
    found = {name: _held(texts, labels) for name, texts in presets().items()}
    return {name: members for name, members in found.items() if members}


def _held(texts: Sequence[str], labels: Collection[str]) -> list[str]:
    """The labels of a preset's metrics; none where one is not among `labels`, or cannot be configured."""
    members: dict[str, None] = {}
    for text in texts:
        try:
            label = plugins.label("metrics", plugins.create("metrics", text))
        except PluginError:
            return []
        if label not in labels:
            return []
        members[label] = None
    return list(members)


def _metrics() -> list[tuple[str, type[Metric]]]:
    """All metrics, primary endpoints first, then by family and name."""
    found = plugins.load_all("metrics").items()
    return sorted(found, key=lambda item: (not item[1].primary, item[1].family))


def _spec(name: str, options: str) -> str:
    return f"{name}:{options}" if options else name


def _existing(text: str, known: dict[str, tuple[str, ...]]) -> str:
    """`text`, if it begins with the name of a metric."""
    available = plugins.available("metrics")
    names = [*available, *(alias for plugin in available.values() for alias in plugin.aliases)]
    name = spec.parse(text).name
    if name not in names:
        raise PluginError(f"unknown metric or preset {name!r}; {did_you_mean(name, [*names, *known])}")
    return text
