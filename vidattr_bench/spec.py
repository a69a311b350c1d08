"""Spec strings: `name:key=value,key=value` names a configured plug-in.

A value with commas, spaces, colons, quotes or parentheses is quoted (`root="/my data"`); a nested spec stands in
parentheses (`of=(grad_cam:pool=frame)`) and stays a string until whoever owns the field parses it. None is written
`null`, a tuple as a JSON list.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from vidattr_bench.errors import PluginError

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_PLAIN = re.compile(r"[^\s,:()\"'=]+")
_UNQUOTED = re.compile(r"[^,\"'()]*[^,\"'()\s][^,\"'()]*")
_QUOTED = re.compile(r"""(["'])(?:\\.|(?!\1)[^\\])*\1""", re.DOTALL)


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
    while True:
        match = _NAME.match(text, at)
        if match is None or text[match.end() : match.end() + 1] != "=":
            raise _bad(text, at, "expected key=value")
        key = match[0]
        if key in options:
            raise _bad(text, at, f"{key!r} is given twice")
        options[key], at = _value(text, match.end() + 1)
        if at == len(text):
            return options
        if text[at] != ",":
            raise _bad(text, at, "expected ',' between options (quote a value that holds one)")
        at += 1


def _value(text: str, at: int) -> tuple[str, int]:
    """The value that begins at `at`, and where it ends."""
    if text[at : at + 1] in ("'", '"'):
        match = _QUOTED.match(text, at)
        if match is None:
            raise _bad(text, at, "this quote is never closed")
        return re.sub(r"\\(.)", r"\1", match[0][1:-1], flags=re.DOTALL), match.end()
    if text[at : at + 1] == "(":
        end = _closing(text, at)
        return text[at + 1 : end], end + 1
    match = _UNQUOTED.match(text, at)
    if match is None:
        raise _bad(text, at, 'expected a value ("" is the empty one)')
    return match[0].strip(), match.end()


def _closing(text: str, at: int) -> int:
    """Where the parenthesis that opens at `at` is closed; those inside quotes do not count."""
    depth, end = 0, at
    while end < len(text):
        quoted = _QUOTED.match(text, end)
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            return end
        end = quoted.end() if quoted else end + 1
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
    if value is None:
        return "null"
    if isinstance(value, (tuple, list)):
        return quote(json.dumps(value, separators=(",", ":"), default=str))
    if isinstance(value, float):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    text = str(value)
    return f"({text})" if _is_nested(text) else quote(text)


def _is_nested(text: str) -> bool:
    """Whether a text is a spec with options, which reads better in parentheses than in quotes."""
    try:
        return bool(parse(text).options) and text == text.strip()
    except PluginError:
        return False
