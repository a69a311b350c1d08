"""Find, describe, load and configure plug-ins: folders of this project and entry points of others, one code path.

Kinds are `methods`, `datasets`, `metrics` and `models`. A built-in file becomes the same `EntryPoint` object as a
third-party one; listing reads sources with `ast` and imports none of them.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib
import inspect
import re
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from vidattr_bench import sources
from vidattr_bench import spec as specs
from vidattr_bench.errors import PluginError, did_you_mean

KINDS = ("methods", "datasets", "metrics", "models")


@dataclasses.dataclass(frozen=True)
class Plugin:
    """One plug-in as its source shows it, unimported.

    Attributes:
        entry: what loads it.
        doc: the docstring of its class.
        declared: the class attributes that its source gives literally: name, aliases, reference, units, ...
        options: what the docstrings of its class and of its bases say of its fields.
        path: its file.
    """

    entry: EntryPoint
    doc: str
    declared: Mapping[str, Any]
    options: Mapping[str, str]
    path: Path

    @property
    def name(self) -> str:
        """The name that specs use."""
        return self.entry.name

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring, in one line."""
        return self.doc.split("\n\n")[0].replace("\n", " ")

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names that resolve to it."""
        return tuple(self.declared.get("aliases", ()))


def available(kind: str) -> dict[str, Plugin]:
    """All plug-ins of a kind by name, sorted; imports none of them.

    Raises:
        PluginError: a file does not parse, holds no public class, or two plug-ins share a name.
    """
    if kind not in KINDS:
        raise PluginError(f"unknown kind of plug-in {kind!r}; {did_you_mean(kind, KINDS)}")
    found: dict[str, Plugin] = {}
    for plugin in [*_built_in(kind), *_third_party(kind)]:
        for name in (plugin.name, *plugin.aliases):
            other = found.setdefault(name, plugin)
            if other is not plugin:
                where = f"{other.path} and {plugin.path}"
                raise PluginError(f"two plug-ins of kind {kind} are called {name!r}: {where}; rename one of them")
    return {name: plugin for name, plugin in sorted(found.items()) if name == plugin.name}


def load(kind: str, name: str) -> type[Any]:
    """The class of a plug-in, by its name or an alias.

    Raises:
        PluginError: unknown name (with the nearest known ones), or the plug-in does not import.
    """
    return _load(find(kind, name))


def load_all(kind: str) -> dict[str, type[Any]]:
    """The classes of all plug-ins of a kind by name, sorted; raises `PluginError` as `available` and `load` do."""
    return {name: _load(plugin) for name, plugin in available(kind).items()}


def _load(plugin: Plugin) -> type[Any]:
    try:
        loaded = plugin.entry.load()
    except Exception as error:
        raise PluginError(f"{plugin.path}: the plug-in {plugin.name!r} does not import: {error!r}") from error
    if not isinstance(loaded, type):
        raise PluginError(f"{plugin.path}: {plugin.entry.value} is not a class")
    return loaded


def find(kind: str, name: str) -> Plugin:
    """The plug-in called `name` or aliased so; raises `PluginError` with the nearest known names."""
    known = available(kind)
    by_alias = {alias: plugin for plugin in known.values() for alias in plugin.aliases}
    if name not in known and name not in by_alias:
        raise PluginError(f"unknown {kind[:-1]} {name!r}; {did_you_mean(name, [*known, *by_alias])}")
    return known.get(name) or by_alias[name]


def create(kind: str, text: str, **options: Any) -> Any:
    """A configured plug-in from a spec string, its option texts converted by the types of the fields.

    Args:
        kind: methods, datasets, metrics or models.
        text: `name:key=value,key=value`.
        options: values that need no text, overriding those in the spec.

    Raises:
        PluginError: unknown name or option ("did you mean"), or a value of the wrong type.
    """
    parsed = specs.parse(text)
    return configure(load(kind, parsed.name), parsed, **options)


def configure(cls: type[Any], parsed: specs.Spec, **options: Any) -> Any:
    """An instance of a plug-in's class with the options of a spec; the rest as in `create`."""
    fields = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in [*parsed.options, *options]:
        if key not in fields:
            raise PluginError(f"{parsed.name} has no option {key!r}; {did_you_mean(key, fields)}")
    texts = {key: value for key, value in parsed.options.items() if key not in options}
    nested = {key: create(kind, texts.pop(key)) for key, kind in _nested_kinds(cls).items() if key in texts}
    try:
        return cls(**_convert(cls, fields, texts), **nested, **options)
    except (ArgumentError, TypeError, ValueError) as error:
        raise PluginError(f"cannot configure {parsed.name}: {' '.join(str(error).split())}") from error


def _nested_kinds(cls: type[Any]) -> dict[str, str]:
    """The fields that hold plug-ins, by default already, with their kinds."""
    kinds = {field.name: getattr(_default(field), "plugin_kind", None) for field in dataclasses.fields(cls)}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _convert(cls: type[Any], fields: Sequence[str], texts: dict[str, str]) -> dict[str, Any]:
    """Typed values of the options, by jsonargparse, which knows unions, literals, tuples and paths."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser.add_class_arguments(cls, None, skip=set(fields) - set(texts))
    return dict(parser.parse_object(texts).as_dict())


def name_of(kind: str, cls: type[Any]) -> str:
    """The name under which a class is found as a plug-in; of one that is not installed, what its file would give it."""
    for plugin in available(kind).values():
        if plugin.entry.value == f"{cls.__module__}:{cls.__name__}":
            return plugin.name
    return _default_name(kind, cls.__module__.rpartition(".")[2], cls.__name__)


def label(kind: str, plugin: Any, *, places: bool = True) -> str:
    """The row label: the spec of a configured plug-in with fields sorted and defaults omitted.

    Without `places`, paths are omitted too: what stands there is told apart by hashes, wherever it lies.
    """
    defaults = {field.name: _default(field) for field in dataclasses.fields(plugin)}
    shown = {key: value for key, value in _options(plugin, places).items() if value != defaults[key]}
    return specs.render(name_of(kind, type(plugin)), {key: _nest(label, value, places) for key, value in shown.items()})


def _options(plugin: Any, places: bool) -> dict[str, Any]:
    options = {field.name: getattr(plugin, field.name) for field in dataclasses.fields(plugin) if field.init}
    return {key: value for key, value in options.items() if places or not isinstance(value, Path)}


def _nest(write: Callable[..., str], value: Any, places: bool) -> Any:
    """A plug-in that another one holds, as `write` (label or full_spec) has it; other values as they are."""
    kind = getattr(value, "plugin_kind", None)
    return value if kind is None else write(kind, value, places=places)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def full_spec(kind: str, plugin: Any, *, places: bool = True) -> str:
    """The spec with every field written out (paths only with `places`): what a cache key holds, beside `version`."""
    options = _options(plugin, places)
    return specs.render(
        name_of(kind, type(plugin)), {key: _nest(full_spec, value, places) for key, value in options.items()}
    )


def version(plugin: Any) -> str:
    """SHA-256 (16 hex digits) of the sources of a plug-in.

    They are its file, the helpers `_*.py` and the other plug-ins beside it that it imports, and the plug-ins it holds.
    """
    path = Path(inspect.getfile(type(plugin)))
    digest = hashlib.sha256()
    for file in [*_imported_beside(path), *sorted(path.parent.glob("_[!_]*.py"))]:
        digest.update(file.read_bytes())
    for name in _nested_kinds(type(plugin)):
        digest.update(version(getattr(plugin, name)).encode())
    return digest.hexdigest()[:16]


def _imported_beside(path: Path) -> list[Path]:
    """A file, and the plug-ins of its folder that it imports relatively, they themselves included."""
    found, rest = [], [path]
    while rest:
        file = rest.pop()
        found.append(file)
        nodes = ast.walk(sources.parse(file))
        names = sorted(n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 1 and n.module)
        beside = [path.with_name(f"{name}.py") for name in names if not name.startswith("_")]
        rest += [other for other in beside if other.is_file() and other not in (*found, *rest)]
    return found


def _built_in(kind: str) -> Iterator[Plugin]:
    package = f"vidattr_bench.{kind}"
    for folder in dict.fromkeys(importlib.import_module(package).__path__):
        for path in sorted(Path(folder).glob("*.py")):
            if not path.name.startswith("_"):
                yield from _read(kind, path, f"{package}.{path.stem}")


def _third_party(kind: str) -> Iterator[Plugin]:
    for entry in entry_points(group=f"vidattr_bench.{kind}"):
        module, _, attribute = entry.value.partition(":")
        path = sources.file_of(module)
        if path is None:
            raise PluginError(f"the entry point {entry.name} = {entry.value} names a module that is not installed")
        plugins = _read(kind, path, module, only=attribute)
        for plugin in plugins:
            name = entry.name if len(plugins) == 1 else plugin.name
            yield dataclasses.replace(plugin, entry=EntryPoint(name, plugin.entry.value, plugin.entry.group))


def _read(kind: str, path: Path, module: str, only: str = "") -> Sequence[Plugin]:
    """The plug-ins that a file declares, read again only where the file has changed."""
    return _declared(kind, path, path.stat().st_mtime_ns, module, only)


@functools.lru_cache(maxsize=1024)
def _declared(kind: str, path: Path, _stamp: int, module: str, only: str) -> Sequence[Plugin]:
    return tuple(_parsed(kind, path, module, only))


def _parsed(kind: str, path: Path, module: str, only: str) -> Iterator[Plugin]:
    """The plug-ins a file declares: `only` the one, one public class, or every one of a metrics or models file."""
    try:
        classes = [node for node in sources.parse(path).body if isinstance(node, ast.ClassDef)]
        public = [node for node in classes if not node.name.startswith("_") and only in ("", node.name)]
        lineages = [sources.lineage(node, path) for node in public]
    except SyntaxError as error:
        raise PluginError(f"{error.filename}:{error.lineno}: this plug-in does not parse: {error.msg}") from error
    if (only or kind in ("methods", "datasets")) and len(public) != 1:
        raise PluginError(f"{path}: a plug-in of kind {kind} is one public class {only}, this file holds {len(public)}")
    for node, lineage in zip(public, lineages, strict=True):
        # Names are not inherited: what builds on another plug-in is not called as that is.
        own = sources.constants([node])
        declared = {**sources.constants(lineage), "aliases": own.get("aliases", ())}
        name = own.get("name") or _default_name(kind, path.stem, node.name)
        entry = EntryPoint(name, f"{module}:{node.name}", f"vidattr_bench.{kind}")
        yield Plugin(entry, ast.get_docstring(node) or "", declared, sources.options(lineage), path)


def _default_name(kind: str, stem: str, class_name: str) -> str:
    if kind in ("methods", "datasets"):
        return stem
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()
