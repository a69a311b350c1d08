"""What the source of a plug-in shows, without importing it."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PROJECT = __name__.partition(".")[0]
_SECTION = re.compile(r"\n\n(?=[A-Z][a-z]+:\n )")
_ENTRY = re.compile(r"^    (\w[\w, ]*): (.*(?:\n     .*)*)", re.MULTILINE)
Origin = ast.ClassDef | tuple[ast.ImportFrom, str]
"""What a name of a file stands for: a class, or what an import calls so."""


def file_of(module: str) -> Path | None:
    """The file of a module, found without importing its parents; None where it is not installed."""
    top, *rest = module.split(".")
    found = importlib.util.find_spec(top)
    if found is None:
        return None
    if not rest:
        return Path(found.origin) if found.origin else None
    folders = [Path(folder, *rest[:-1]) for folder in found.submodule_search_locations or []]
    return next(filter(None, (_module(folder, rest[-1]) for folder in folders)), None)


def _module(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.py", folder / name / "__init__.py") if path.is_file()), None)


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file, read again only where the file has changed; raises `SyntaxError`."""
    return _parse(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _parse(path: Path, _stamp: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def lineage(node: ast.ClassDef, path: Path) -> list[ast.ClassDef]:
    """A class of a file and those that it builds on, in the order in which Python asks them, as far as they are near.

    Near are the classes of the same file, of this project and of the file's own package; raises `SyntaxError`.
    """
    found = [node]
    for base in node.bases:
        origin = _origin(base.id, path) if isinstance(base, ast.Name) else None
        found += lineage(*origin) if origin and origin[0] is not node else []
    # What several bases build on comes after all of them.
    return [one for i, one in enumerate(found) if one not in found[i + 1 :]]


def _origin(name: str, path: Path) -> tuple[ast.ClassDef, Path] | None:
    """The class that a name of a file stands for, and the file where it is defined."""
    found = _names(path, path.stat().st_mtime_ns).get(name)
    if isinstance(found, ast.ClassDef):
        return found, path
    file = _imported(found[0], path) if found else None
    return _origin(found[1], file) if found and file else None


@functools.lru_cache(maxsize=512)
def _names(path: Path, stamp: int) -> Mapping[str, Origin]:
    tree, found = _parse(path, stamp), dict[str, Origin]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: (node, alias.name) for alias in node.names}
    return found | {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _imported(node: ast.ImportFrom, path: Path) -> Path | None:
    """The file that a file imports from, where it is near."""
    if node.module is None:
        return None
    top, *rest = node.module.split(".")
    if node.level:
        module = path.parents[node.level - 1].joinpath(top, *rest)
        return _module(module.parent, module.name)
    near = top == _PROJECT or top in (folder.name for folder in path.parents)
    return file_of(node.module) if near else None


def constants(classes: Sequence[ast.ClassDef]) -> dict[str, Any]:
    """The literal class attributes of a lineage: of each name what the first class says that gives it; no field."""
    found: dict[str, Any] = {}
    for node in classes:
        found = {**_literals(node), **found}
    return found


@functools.lru_cache(maxsize=1024)
def _literals(node: ast.ClassDef) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for item in node.body:
        if isinstance(item, ast.Assign) and len(item.targets) == 1:
            target = item.targets[0]
        elif isinstance(item, ast.AnnAssign) and _is_class_var(item):
            target = item.target
        else:
            continue
        if isinstance(target, ast.Name) and item.value is not None:
            with contextlib.suppress(ValueError):
                found[target.id] = ast.literal_eval(item.value)
    return found


def _is_class_var(item: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(item.annotation)


def options(classes: Sequence[ast.ClassDef]) -> dict[str, str]:
    """What the docstrings of a lineage say of its fields, by name or, as `mean, std`, by names that share a text.

    Of each field the first text counts, so that a class need not repeat what its bases say.
    """
    fields = {name for node in classes for name in _documented(node)[0]}
    found: dict[str, str] = {}
    told: set[str] = set()
    for names, text in (entry for node in classes for entry in _documented(node)[1]):
        fresh = [name for name in names if name in fields and name not in told]
        found |= {", ".join(fresh): text} if fresh else {}
        told.update(fresh)
    return found


@functools.lru_cache(maxsize=1024)
def _documented(node: ast.ClassDef) -> tuple[frozenset[str], tuple[tuple[list[str], str], ...]]:
    """The fields that a class declares, and the names and texts of what its docstring calls attributes."""
    annotated = [item for item in node.body if isinstance(item, ast.AnnAssign) and not _is_class_var(item)]
    fields = frozenset(item.target.id for item in annotated if isinstance(item.target, ast.Name))
    sections = _SECTION.split(ast.get_docstring(node) or "")
    entries = [entry for part in sections if part.startswith("Attributes:\n") for entry in _ENTRY.findall(part)]
    return fields, tuple((names.split(", "), " ".join(text.split())) for names, text in entries)


def description(doc: str) -> str:
    """A docstring without its sections: what it says in front of `Attributes:`, `Raises:` and their like."""
    return _SECTION.split(doc)[0]
