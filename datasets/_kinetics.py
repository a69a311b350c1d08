"""Kinetics on disk: label files, class folders, and clips by their YouTube id."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vidattr_bench.errors import DataError

from ._csv_rows import Row, parse_rows, read_rows, refuse
from ._videos import SUFFIXES

PARTS: Mapping[str, tuple[str, ...]] = {
    "val": ("val", "validate", "validation"),
    "train": ("train",),
    "test": ("test",),
}
"""The parts, and what folders and label files call them."""

_LIST_FOLDERS = ("annotations", "annotations{v}", "kinetics{v}/annotations", "kinetics{v}", "labels", ".")
_LIST_NAMES = ("{p}", "kinetics-{v}_{p}", "kinetics_{v}_{p}", "kinetics{v}_{p}", "kinetics_{p}", "k{v}_{p}")
_CLIP_FOLDERS = ("{p}", "{p}_256", "{p}_320p", "videos_{p}", "videos_{p}_256", "videos/{p}")
_CLIP_PARENTS = (".", "k{v}", "kinetics{v}", "kinetics-{v}", "kinetics_{v}")
# A YouTube id has 11 letters, some of them underscores; the times are seconds, as the crawlers write them.
_NAME = re.compile(r"([A-Za-z0-9_-]{11})(?:_(\d{1,6})_(\d{1,6}))?")
_ID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """Ten seconds, more or less, of a YouTube video: its id, and first and last second (None where not known)."""

    youtube: str
    start: int | None = None
    stop: int | None = None

    @property
    def id(self) -> str:
        """As the files are called: id, start and end with six digits."""
        return f"{self.youtube}_{self.start:06d}_{self.stop:06d}" if self.tells else self.youtube

    @property
    def tells(self) -> bool:
        """Whether it is known which part of the video it is."""
        return self.start is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A line of a label file: the moment and its class, "" where the file withholds it."""

    moment: Moment
    label: str


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A clip on disk: the moment, its file, and the class folder that it lies in, "" where in none."""

    moment: Moment
    path: Path
    folder: str


def find_list(root: Path, version: int, part: str) -> Path | None:
    """The label file of a part, where users have it."""
    names = [name.format(v=version, p=alias) for name in _LIST_NAMES for alias in PARTS[part]]
    folders = [root / folder.format(v=version) for folder in _LIST_FOLDERS]
    return next((path for folder in folders for name in names if (path := folder / f"{name}.csv").is_file()), None)


def read_list(path: Path) -> list[Listed]:
    """The clips of a label file, each once.

    The columns are youtube_id, time_start, time_end and, but for withheld labels, label; others are ignored.

    Raises:
        DataError: naming every line with an id or a time that is none, or with another label than an earlier line.
    """
    rows = read_rows(path, ["youtube_id", "time_start", "time_end"])
    lines = zip(parse_rows(path, rows, _listed), rows, strict=True)
    found: dict[Moment, Listed] = {}
    wrong = []
    for listed, row in lines:
        known = found.setdefault(listed.moment, listed)
        if known.label != listed.label:
            wrong.append((row.line, f"{listed.moment.id} is {known.label!r} on an earlier line, {listed.label!r} here"))
    refuse(path, wrong)
    return list(found.values())


def _listed(row: Row) -> Listed:
    if not _ID.fullmatch(row["youtube_id"]):
        raise ValueError(f"youtube_id={row['youtube_id']!r} is no id of 11 letters, digits, - and _")
    start, stop = row.count("time_start"), row.count("time_end")
    if start >= stop:
        raise ValueError(f"time_start={start} must come before time_end={stop}")
    return Listed(Moment(row["youtube_id"], start, stop), row["label"])


def file_of(listed: Sequence[Listed], paths: Mapping[Moment, Path]) -> dict[Listed, Path | None]:
    """The file of each listed clip; one that names no moment stands for the only one that is listed of its video."""
    times = Counter(one.moment.youtube for one in listed)
    whole = {one: paths.get(Moment(one.moment.youtube)) for one in listed if times[one.moment.youtube] == 1}
    return {one: paths.get(one.moment) or whole.get(one) for one in listed}


def clip_folders(root: Path, version: int, part: str) -> list[Path]:
    """The folders that hold the clips of a part, where users have them."""
    names = [name.format(p=alias) for name in _CLIP_FOLDERS for alias in PARTS[part]]
    parents = [root / parent.format(v=version) for parent in _CLIP_PARENTS]
    return [path for parent in parents for name in names if (path := parent / name).is_dir()]


def find_clips(folders: Sequence[Path]) -> Iterator[Found]:
    """The clips directly below the folders and below their class folders, sorted; other names are passed over."""
    for folder in folders:
        yield from _clips_in(folder, "")
        for name in _names(folder, folders=True):
            yield from _clips_in(folder / name, name)


def _clips_in(folder: Path, label: str) -> Iterator[Found]:
    for name in _names(folder, folders=False):
        stem, dot, suffix = name.rpartition(".")
        match = _NAME.fullmatch(stem) if f"{dot}{suffix.lower()}" in SUFFIXES else None
        if match is not None:
            start, stop = (None if seconds is None else int(seconds) for seconds in match.group(2, 3))
            yield Found(Moment(match[1], start, stop), folder / name, label)


def _names(folder: Path, *, folders: bool) -> list[str]:
    """The folders in a folder, or what else is there, sorted; the system tells kinds along with names."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() == folders)


def plain(name: str) -> str:
    """A class name as folders may spell it: without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]+", "", name.casefold())


def class_of(folder: str, classes: Mapping[str, str], where: Path) -> str:
    """The class that a folder is called after; raises `DataError` where there is none."""
    name = classes.get(plain(folder))
    if name is None:
        raise DataError(
            f"{where}: is called like none of the {len(classes)} classes; rename it, or give label_map=FILE"
        )
    return name
