"""What plug-ins there are, as text, Markdown or JSON; imports none of them."""

from __future__ import annotations

import json

from vidattr_bench.plugins import Plugin, available


def render(kind: str, style: str = "text") -> str:
    """The plug-ins of a kind: name, aliases and summary."""
    found = list(available(kind).values())
    if style == "json":
        return json.dumps([_record(plugin) for plugin in found], indent=2, ensure_ascii=False)
    if style == "md":
        rows = [f"| `{p.name}` | {', '.join(p.aliases)} | {p.summary.replace('|', chr(92) + '|')} |" for p in found]
        return "\n".join([f"| {kind[:-1]} | aliases | what it is |", "|---|---|---|", *rows])
    width = max((len(plugin.name) for plugin in found), default=0)
    return "\n".join(f"{plugin.name:{width}}  {plugin.summary}{_also(plugin)}" for plugin in found)


def _record(plugin: Plugin) -> dict[str, object]:
    return {
        "name": plugin.name,
        "aliases": list(plugin.aliases),
        "summary": plugin.summary,
        "object": plugin.entry.value,
    }


def _also(plugin: Plugin) -> str:
    return f" (also called {', '.join(plugin.aliases)})" if plugin.aliases else ""
