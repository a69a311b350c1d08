"""Clips below class folders: <folder>/<class>/<clip>.avi, or <folder>/<class>/<clip>/00001.jpg."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Where a clip is there several times, the form nearest to the original wins; a GIF is dithered.
FORMS = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", "folder", ".gif")


def clips_below(
    folders: Iterable[Path], classes: Iterable[str], is_clip: Callable[[str], bool] = bool
) -> dict[str, Path]:
    """Every clip below the class folders of `folders`, by name in lower case; of several forms, the first of `FORMS`.

    Args:
        folders: where class folders lie; those that do not exist hold nothing.
        classes: names of class folders, in whatever case.
        is_clip: whether a name, without its suffix, is that of a clip.
    """
    known = {name.casefold() for name in classes}
    found: dict[str, tuple[int, Path]] = {}
    for folder in folders:
        for name, rank, path in _ranked(folder, known, is_clip):
            if name not in found or rank < found[name][0]:
                found[name] = rank, path
    return {name: path for name, (_, path) in found.items()}


def _ranked(folder: Path, known: set[str], is_clip: Callable[[str], bool]) -> Iterator[tuple[str, int, Path]]:
    """Names in lower case, ranks of their forms, and paths."""
    for class_folder in _sorted(folder):
        if class_folder.name.casefold() in known and class_folder.is_dir():
            for entry in _sorted(class_folder):
                stem, _, suffix = entry.name.rpartition(".")
                name, form = (entry.name, "folder") if entry.is_dir() else (stem, f".{suffix.lower()}")
                if form in FORMS and is_clip(name):
                    yield name.casefold(), FORMS.index(form), Path(entry.path)


def _sorted(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; the system tells kinds along with names, a question less for each of the clips."""
    if not Path(folder).is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
