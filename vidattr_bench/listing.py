"""What plug-ins there are, as text, JSON or a page of Markdown; imports none of them."""

from __future__ import annotations

import json

from vidattr_bench import preset_notes, sources
from vidattr_bench.plugins import Plugin, available
from vidattr_bench.text import markdown, prose

_TITLES = {"methods": "Attribution methods", "metrics": "Metrics", "datasets": "Data sets", "models": "Models"}


def render(kind: str, style: str = "text") -> str:
    """The plug-ins of a kind: a line each (text), records (json), or a page with all that their docstrings say (md)."""
    found = list(available(kind).values())
    if style == "json":
        return json.dumps([_record(plugin) for plugin in found], indent=2, ensure_ascii=False)
    if style == "md":
        return _page(kind, found)
    width = max((len(plugin.name) for plugin in found), default=0)
    return "\n".join(f"{plugin.name:{width}}  {plugin.summary}{_also(plugin)}" for plugin in found)


def _record(plugin: Plugin) -> dict[str, object]:
    return {
        "name": plugin.name,
        "aliases": list(plugin.aliases),
        "summary": plugin.summary,
        "reference": plugin.declared.get("reference", ""),
        "options": dict(plugin.options),
        "object": plugin.entry.value,
    }


def _also(plugin: Plugin) -> str:
    return f" (also called {', '.join(plugin.aliases)})" if plugin.aliases else ""


def _page(kind: str, found: list[Plugin]) -> str:
    head = (
        f"# {_TITLES[kind]}\n\nWritten by `python -m vidattr_bench list {kind} --format md`: what each docstring says."
    )
    rows = [f"| [{markdown(p.name)}](#{p.name}) | {prose(p.summary)} |" for p in found]
    table = "\n".join([f"| {kind[:-1]} | what it is |", "|---|---|", *rows])
    presets = [preset_notes.page(found)] if kind == "metrics" else []
    return "\n\n".join([head, table, *presets, *map(_section, found)])


def _section(plugin: Plugin) -> str:
    facts = [f"also called {', '.join(plugin.aliases)}"] if plugin.aliases else []
    facts += [f"{key}: {plugin.declared[key]}" for key in ("family", "units", "reference") if plugin.declared.get(key)]
    lines = [f"- {markdown(fact)}" for fact in facts]
    return "\n\n".join(part for part in (f"## {plugin.name}", _body(plugin), "\n".join(lines)) if part)


def _body(plugin: Plugin) -> str:
    """What the docstring of a plug-in says, as Markdown, and a list of its options."""
    paragraphs = [prose(paragraph) for paragraph in sources.description(plugin.doc).split("\n\n")]
    listed = [f"- `{name}`: {prose(what)}" for name, what in plugin.options.items()]
    return "\n\n".join([*paragraphs, "\n".join(["Options:", "", *listed])] if listed else paragraphs)
