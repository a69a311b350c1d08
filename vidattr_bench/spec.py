"""Spec strings: `name:key=value,key=value` names a configured plug-in.

A value with commas, spaces, colons, quotes or parentheses is quoted (`root="/my data"`); a nested spec stands in
parentheses (`of=(grad_cam:pool=frame)`) and stays a string until whoever owns the field parses it.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from vidattr_bench.errors import PluginError

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_PLAIN = re.compile(r"[^\s,:()\"'=]+")


@dataclasses.dataclass(frozen=True)
class Spec:
    """The name of a plug-in and its options, as text."""

    name: str
    options: Mapping[str, str]


def parse(text: str) -> Spec:
    """Read a spec string; raises `PluginError` that shows where the text stops making sense."""
    text = text.strip()
    match = _NAME.match(text)
    if match is None:
        raise PluginError(f"spec {text!r} must begin with a name, as in grad_cam:pool=frame")
    if match.end() == len(text):
        return Spec(text, {})
    if text[match.end()] != ":":
        raise _bad(text, match.end(), "expected ':' after the name")
    return Spec(match[0], _options(text, match.end() + 1))


def _options(text: str, at: int) -> dict[str, str]:
    options: dict[str, str] = {}
    while at < len(text):
        match = _NAME.match(text, at)
        if match is None or text[match.end() : match.end() + 1] != "=":
            raise _bad(text, at, "expected key=value")
        if match[0] in options:
            raise _bad(text, at, f"{match[0]!r} is given twice")
        options[match[0]], at = _value(text, match.end() + 1)
        if at < len(text) and text[at] != ",":
            raise _bad(text, at, "expected ',' between options (quote a value that holds one)")
        at += 1
    return options


def _value(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] in ("'", '"'):
        end = at + 1
        while end < len(text) and text[end] != text[at]:
            end += 2 if text[end] == "\\" else 1
        if end >= len(text):
            raise _bad(text, at, "this quote is never closed")
        return re.sub(r"\\(.)", r"\1", text[at + 1 : end]), end + 1
    if text[at : at + 1] == "(":
        end = _closing(text, at)
        return text[at + 1 : end], end + 1
    match = re.compile(r"[^,\"'()]*").match(text, at)
    assert match is not None
    return match[0].strip(), match.end()


def _closing(text: str, at: int) -> int:
    depth, quote, end = 0, "", at
    while end < len(text):
        char = text[end]
        if quote:
            if char == "\\":
                end += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0:
                return end
        end += 1
    raise _bad(text, at, "this parenthesis is never closed")


def _bad(text: str, at: int, why: str) -> PluginError:
    return PluginError(f"cannot read the spec {text!r} at position {at}: {why}")


def quote(value: str) -> str:
    """`value` as it can stand in a spec string."""
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def render(name: str, options: Mapping[str, Any]) -> str:
    """The spec string of a name and its options, keys sorted."""
    if not options:
        return name
    return f"{name}:" + ",".join(f"{key}={_text(options[key])}" for key in sorted(options))


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return quote("[" + ",".join(map(str, value)) + "]") if value else '"[]"'
    return quote(str(value))
