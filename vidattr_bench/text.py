"""The one place where text from files (labels of methods, reasons, class names) is made safe for what shows it."""

from __future__ import annotations

import hashlib
import html as _html
import re

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    # A row or rule of a tabular would read these as its optional argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "`": "{`}",
}
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")
_UNSAFE_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._=]+")


def printable(text: object) -> str:
    """`text` in one line without control, formatting or bidirectional characters: each becomes a question mark."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def html(text: object) -> str:
    """`text` for the body or a quoted attribute of an HTML page."""
    return _html.escape(printable(text), quote=True)


def tex(text: object) -> str:
    r"""`text` for LaTeX: no character of it starts a command, a comment, mathematics or an optional argument.

    Letters beyond ASCII need the T1 font encoding, letters beyond Latin XeLaTeX or LuaLaTeX.
    """
    return "".join(_TEX.get(char, char) for char in printable(text)).replace("--", "-{}-")


def markdown(text: object) -> str:
    """`text` for a cell of a GitHub table: neither Markdown nor HTML is read from it."""
    return _MARKDOWN.sub(r"\\\1", _html.escape(printable(text), quote=False))


def prose(text: str) -> str:
    """A paragraph for Markdown in one line; what stands between backticks stays code."""
    parts = " ".join(text.split()).split("`")
    return "`".join(part if i % 2 else markdown(part) for i, part in enumerate(parts))


def slug(label: str) -> str:
    """A file name for a label, at most 80 characters; labels that differ give names that differ.

    Letters, digits, dot, underscore and equals sign stay; where anything else was replaced, eight hexadecimal digits of
    the label's SHA-256 follow.
    """
    kept = _UNSAFE_IN_FILE_NAMES.sub("-", label).strip(".-")[:64]
    if kept and kept == label:
        return kept
    return f"{kept or 'unnamed'}-{hashlib.sha256(label.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
