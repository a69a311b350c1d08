"""Something-Something V2 on disk: the official lists, and clips by their number."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidattr_bench.errors import DataError, did_you_mean

from ._videos import SUFFIXES

PARTS: Mapping[str, tuple[str, ...]] = {"val": ("validation", "val"), "train": ("train",), "test": ("test",)}
"""The parts, and what lists call them."""

_PACKAGE = "20bn-something-something-download-package-labels"
_LIST_FOLDERS = ("labels", "annotations", "label", f"{_PACKAGE}/labels", _PACKAGE, ".")
_LIST_NAMES = ("{}.json", "something-something-v2-{}.json")
_ANSWERS = ("test-answers.csv", "something-something-v2-test-answers.csv")
_VIDEOS = "20bn-something-something-v2"
_CLIP_FOLDERS = (_VIDEOS, f"{_VIDEOS}/{_VIDEOS}", "videos", f"videos/{_VIDEOS}", "frames", "rawframes", ".")
_ID = re.compile(r"[0-9]{1,9}")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A line of a list: the number of the clip, and its class, "" where the list withholds it."""

    id: str
    label: str


def find_lists(root: Path) -> Path:
    """The folder with the official lists; raises `DataError` that says where it was looked for."""
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; give something_something:root=DIR, which holds {_VIDEOS}")
    for folder in (root / name for name in _LIST_FOLDERS):
        if _find(folder, "labels") is not None:
            return folder
    raise DataError(
        f"{root}: no labels.json or something-something-v2-labels.json in {', '.join(_LIST_FOLDERS)}; unpack the "
        "official labels, or give lists=DIR"
    )


def list_files(folder: Path, part: str) -> list[Path]:
    """The files that tell the clips of a part and their classes; raises `DataError` where there is no list."""
    found = next((path for alias in PARTS[part] if (path := _find(folder, alias)) is not None), None)
    if found is None:
        names = " or ".join(name.format(PARTS[part][0]) for name in _LIST_NAMES)
        raise DataError(f"{folder}: there is no {names}; unpack the official labels, or give another part")
    answers = (folder / name for name in _ANSWERS if part == "test")
    return [found, *(path for path in answers if path.is_file())]


def _find(folder: Path, name: str) -> Path | None:
    return next((path for form in _LIST_NAMES if (path := folder / form.format(name)).is_file()), None)


def labels_file(folder: Path) -> Path:
    """The file that names the classes."""
    found = _find(folder, "labels")
    if found is None:
        raise DataError(f"{folder}: there is no labels.json; give the folder with the official lists")
    return found


def read_classes(path: Path) -> tuple[str, ...]:
    """The classes in alphabetical order, which is that of the official numbers.

    The compositional lists of Something-Else number them otherwise, and its code sorts them too.
    """
    found = _read(path)
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path}: is no mapping of class names to numbers; restore the official file")
    return tuple(sorted(found))


def read_list(paths: list[Path], classes: tuple[str, ...]) -> list[Entry]:
    """The clips of a part.

    Args:
        paths: what `list_files` found.
        classes: names of the classes; a template is one of them without its brackets.

    Raises:
        DataError: naming the first entry without a number, of an unknown class, or, but for the test part, of none.
    """
    path, *answers = paths
    found = _read(path)
    if not isinstance(found, list):
        raise DataError(f"{path}: is no list of clips; restore the official file")
    told = {id: label for file in answers for id, label in _read_answers(file)}
    known = {"", *classes}
    entries = []
    for place, one in enumerate(found):
        entry = _entry(one, told)
        if entry is not None and not entry.label and not told and "test" not in path.stem:
            raise DataError(f"{path}: clip {entry.id} has no template, its class; restore the official file")
        if entry is None:
            raise DataError(f"{path}: entry {place} has no id of digits and no template; restore the official file")
        if entry.label not in known:
            raise DataError(
                f"{path}: entry {place}: the class {entry.label!r} is unknown; {did_you_mean(entry.label, classes)}"
            )
        entries.append(entry)
    return entries


def _entry(one: Any, told: Mapping[str, str]) -> Entry | None:
    if not isinstance(one, dict):
        return None
    id, template = str(one.get("id", "")), one.get("template", "")
    if not _ID.fullmatch(id) or not isinstance(template, str):
        return None
    return Entry(id, template.replace("[", "").replace("]", "") or told.get(id, ""))


def _read_answers(path: Path) -> list[tuple[str, str]]:
    """The classes of the test part: lines `<id>;<class>`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter=";", strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is damaged ({error}); restore the official file") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise DataError(f"{path}:{number}: {';'.join(row)!r} is not <id>;<class>; restore the official file")
    return [(id, label) for id, label in rows]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}); restore the official file") from error


def find_clips(root: Path) -> dict[str, str]:
    """Every clip on disk by its number: a video, or a folder of pictures; of several, that of the first place."""
    found: dict[str, str] = {}
    for folder in (root / name for name in _CLIP_FOLDERS):
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    stem, dot, suffix = entry.name.rpartition(".")
                    id, is_form = (stem, f".{suffix.lower()}" in SUFFIXES) if dot else (suffix, entry.is_dir())
                    if is_form and _ID.fullmatch(id):
                        found.setdefault(id, entry.path)
    return found
