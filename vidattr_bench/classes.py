"""Which class of the model is which class of the data set: by name, or by a class map that the user gives."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from vidattr_bench.errors import ModelError, did_you_mean

Pairs = list[tuple[str, str | None]]


def match(
    dataset_classes: Sequence[str],
    model_classes: Sequence[str],
    class_map: Mapping[str, str | None] | None = None,
    logits: int | None = None,
) -> list[int]:
    """For each class of the data set the index of the model's class, -1 where the class map says that there is none.

    The class map comes first, then the same name, then the same name but for case, spaces, underscores and hyphens,
    where only one class on each side is spelt so. A model without class names takes the data set's, in their order.

    Args:
        dataset_classes: names in the order of the labels.
        model_classes: names in the order of the logits; empty where the model has none.
        class_map: the model's name for a name of the data set.
        logits: number of the model's logits, needed where it has no class names.

    Raises:
        ModelError: a class of the data set has no counterpart, the class map names an unknown class, or a model without
            class names has another number of logits.
    """
    if not model_classes:
        return _by_order(dataset_classes, class_map, logits)
    twice = [name for name, count in Counter(model_classes).items() if count > 1]
    if twice:
        raise ModelError(f"the model has two classes called {twice[0]!r}; give it distinct names")
    class_map = class_map or {}
    _check(class_map, dataset_classes, model_classes)
    named = {**_alike(dataset_classes, model_classes), **{name: name for name in model_classes}, **class_map}
    missing = [name for name in dataset_classes if name not in named]
    if missing:
        raise ModelError(
            f"{len(missing)} of the data set's {len(dataset_classes)} classes are not among the model's "
            f"{len(model_classes)}: {_first(missing)} (the model has {_first(model_classes)}). "
            "Name the counterparts with --class-map FILE"
        )
    index = {name: i for i, name in enumerate(model_classes)}
    wanted = [named[name] for name in dataset_classes]
    return [-1 if name is None else index[name] for name in wanted]


def _by_order(
    dataset_classes: Sequence[str], class_map: Mapping[str, str | None] | None, logits: int | None
) -> list[int]:
    if class_map:
        raise ModelError("the model has no class names that --class-map could refer to; give it a classes_file")
    if logits != len(dataset_classes):
        raise ModelError(
            f"the model has no class names and {logits} logits, the data set {len(dataset_classes)} classes, so they "
            "cannot be matched; give the model a classes_file, one name a line in the order of the logits"
        )
    return list(range(len(dataset_classes)))


def _alike(dataset_classes: Sequence[str], model_classes: Sequence[str]) -> dict[str, str]:
    """The model's name of each class that is spelt alike and on each side only once."""
    ours, theirs = (Counter(map(_key, names)) for names in (dataset_classes, model_classes))
    by_key = {_key(name): name for name in model_classes}
    return {name: by_key[_key(name)] for name in dataset_classes if ours[_key(name)] == theirs[_key(name)] == 1}


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _check(class_map: Mapping[str, str | None], dataset_classes: Sequence[str], model_classes: Sequence[str]) -> None:
    for name, counterpart in class_map.items():
        if name not in dataset_classes:
            raise ModelError(f"class map: the data set has no class {name!r}; {did_you_mean(name, dataset_classes)}")
        if counterpart is not None and counterpart not in model_classes:
            raise ModelError(
                f"class map, {name}: the model has no class {counterpart!r}; {did_you_mean(counterpart, model_classes)}"
            )


def _first(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def read_class_map(path: Path) -> dict[str, str | None]:
    """The model's class name for each of the data set's that a file lists; None where an entry says there is none.

    `.json` and `.yaml`/`.yml` files hold one mapping, `.csv` and `.tsv` files two columns; every name is text, `no` and
    `1` too. An empty or null counterpart says that the model lacks the class: its clips are explained without a label.

    Raises:
        ModelError: the file is missing, of another kind, damaged, empty, or lists a class twice.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ModelError(f"{path}: a class map is a {', '.join(_READERS)} file")
    pairs = _parse(path, reader)
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ModelError(f"{path}: the class {twice[0]!r} is listed twice")
    if not pairs:
        raise ModelError(f"{path}: the class map is empty; list `data set class: model class`")
    return dict(pairs)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line in the order of the logits, or numbered like UCF101's classInd.txt.

    Raises:
        ModelError: the file is missing, no text, empty, or numbered with gaps.
    """
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise ModelError(f"{path} names no class; write one name a line, in the order of the logits")
    numbered = [re.fullmatch(r"(\d+)[\s,]+(\S.*)", line) for line in lines]
    if not all(numbered):
        return tuple(lines)
    names = {int(found[1]): found[2] for found in numbered if found}
    first = min(names)
    if first > 1 or set(names) != set(range(first, first + len(lines))):
        raise ModelError(f"{path}: {len(lines)} numbered classes must count from 0 or 1 without gaps")
    return tuple(names[number] for number in sorted(names))


def _parse(path: Path, reader: Callable[[str], Pairs]) -> Pairs:
    try:
        return reader(_text(path))
    except (ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path} is no class map, `data set class: model class` on each line: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no UTF-8 text; save it as UTF-8") from error


def _yaml_pairs(text: str) -> Pairs:
    # Composed, not loaded: a class called `no` stays a name, and nothing is constructed.
    root = yaml.compose(text, yaml.SafeLoader)
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("the top level must be a mapping")
    return [(_scalar(key), None if value.tag.endswith(":null") else _scalar(value)) for key, value in root.value]


def _scalar(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"line {node.start_mark.line + 1}: expected one name")
    return str(node.value)


def _json_pairs(text: str) -> Pairs:
    pairs = json.loads(text, object_pairs_hook=list) if text.strip() else []
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError("the top level must be an object")
    for name, counterpart in pairs:
        if not isinstance(counterpart, str | None):
            raise ValueError(f"the counterpart of {name!r} must be a name or null")
    return pairs


def _csv_pairs(text: str, delimiter: str = ",") -> Pairs:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    for row in rows:
        if len(row) != 2:
            raise ValueError(f"the row {row} must have two columns, without a header")
    return [(name, counterpart or None) for name, counterpart in rows]


_READERS: dict[str, Callable[[str], Pairs]] = {
    ".yaml": _yaml_pairs,
    ".yml": _yaml_pairs,
    ".json": _json_pairs,
    ".csv": _csv_pairs,
    ".tsv": lambda text: _csv_pairs(text, "\t"),
}
