"""What the source of a plug-in shows, without importing it."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_of(module: str) -> Path | None:
    """The file of a module, found without importing its parents; None where it is not installed."""
    top, *rest = module.split(".")
    found = importlib.util.find_spec(top)
    if found is None:
        return None
    if not rest:
        return Path(found.origin) if found.origin else None
    for folder in found.submodule_search_locations or []:
        base = Path(folder).joinpath(*rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file, read again only where the file has changed; raises `SyntaxError`."""
    return _parse(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _parse(path: Path, _stamp: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def classes_of(path: Path) -> dict[str, ast.ClassDef]:
    """The public classes of a file, and those that they may build on: its private ones and those of its helpers."""
    tree, found = parse(path), dict[str, ast.ClassDef]()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            helper = path.with_name(f"{node.module.rpartition('.')[2]}.py")
            found |= classes_of(helper) if helper.name.startswith("_") and helper.is_file() else {}
        elif isinstance(node, ast.ClassDef):
            found[node.name] = node
    return found


def constants(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> dict[str, Any]:
    """The literal class attributes of a class, those of its bases among `classes` included; a field is none."""
    found: dict[str, Any] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id in classes:
            found |= constants(classes[base.id], classes)
    for item in node.body:
        target: ast.expr
        value: ast.expr | None
        if isinstance(item, ast.AnnAssign) and "ClassVar" in ast.unparse(item.annotation):
            target, value = item.target, item.value
        elif isinstance(item, ast.Assign) and len(item.targets) == 1:
            target, value = item.targets[0], item.value
        else:
            continue
        if isinstance(target, ast.Name) and value is not None:
            with contextlib.suppress(ValueError):
                found[target.id] = ast.literal_eval(value)
    return found
