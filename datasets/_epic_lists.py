"""EPIC-KITCHENS' lists of both versions, plain or gzipped: action segments, classes and videos."""

from __future__ import annotations

import ast
import csv
import dataclasses
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from vidattr_bench.errors import DataError

_FOLDERS = (
    "annotations{version}",
    "annotations",
    "epic-kitchens-{version}-annotations",
    "epic-kitchens-{version}-annotations-master",
    "EPIC-KITCHENS/annotations",
    ".",
)
_JOINED_FOLDERS = ("step_boxes", "my_epic_annot")


@dataclasses.dataclass(frozen=True)
class Version:
    """The file and column names of one version.

    Attributes:
        lists: the lists of segments of each part; a part may be spread over several.
        verbs, nouns, videos: the lists of classes and of videos.
        segment: column of a segment's id.
        id, key: columns of a class, for verbs and nouns.
        instances: columns of the words that belong to a verb class and to a noun class.
        nouns_used: number of noun classes that segments are labelled with; None: all of the list.
    """

    lists: Mapping[str, tuple[str, ...]]
    verbs: str
    nouns: str
    videos: str
    segment: str
    id: tuple[str, str]
    key: str
    instances: tuple[str, str]
    video: str
    nouns_used: int | None = None


VERSIONS = {
    55: Version(
        lists={
            "train": ("EPIC_train_action_labels.csv",),
            "unlabelled": ("EPIC_test_s1_timestamps.csv", "EPIC_test_s2_timestamps.csv"),
        },
        verbs="EPIC_verb_classes.csv",
        nouns="EPIC_noun_classes.csv",
        videos="EPIC_video_info.csv",
        segment="uid",
        id=("verb_id", "noun_id"),
        key="class_key",
        instances=("verbs", "nouns"),
        video="video",
    ),
    100: Version(
        lists={
            "train": ("EPIC_100_train.csv",),
            "test": ("EPIC_100_validation.csv",),
            "unlabelled": ("EPIC_100_test_timestamps.csv",),
        },
        verbs="EPIC_100_verb_classes.csv",
        nouns="EPIC_100_noun_classes.csv",
        videos="EPIC_100_video_info.csv",
        segment="narration_id",
        id=("id", "id"),
        key="key",
        instances=("instances", "instances"),
        video="video_id",
        # The second edition of the list appends classes of VISOR, which no segment has.
        nouns_used=300,
    ),
}
# Lists of segments joined with boxes: evaluation list, training list, its kind of label, and the names of its classes.
JOINED = {
    "top20_500": (
        "Valid_seg_top20_500_val.csv",
        "Valid_seg_top20_train.csv",
        "noun",
        "Valid_seg_top20_noun_labels.csv",
    ),
    "top20_100": (
        "Valid_seg_top20_100_val.csv",
        "Valid_seg_top20_train.csv",
        "noun",
        "Valid_seg_top20_noun_labels.csv",
    ),
    "top20_verb_500": (
        "Valid_seg_top20_verb_500_val_new.csv",
        "Valid_seg_top20_verb_train_new.csv",
        "verb",
        "Valid_seg_top20_verb_labels_new.csv",
    ),
    "top20_verb_100": (
        "Valid_seg_top20_verb_100_val_new.csv",
        "Valid_seg_top20_verb_train_new.csv",
        "verb",
        "Valid_seg_top20_verb_labels_new.csv",
    ),
}


@dataclasses.dataclass(frozen=True)
class Segment:
    """An action segment.

    Attributes:
        id: unique name, `<video>_<number>`.
        video: the video it was cut from.
        start, stop: first and last RGB frame, by the numbers of the extracted pictures, which count from 1.
        verb, noun: ids of its classes; None where they are withheld.
        label: class in a list of its own; None where verb and noun are the label.
    """

    id: str
    video: str
    start: int
    stop: int
    verb: int | None
    noun: int | None
    label: int | None = None


@dataclasses.dataclass(frozen=True)
class Video:
    """How a video was recorded: height and width in pixels, and frames a second."""

    size: tuple[int, int]
    fps: float


@dataclasses.dataclass(frozen=True)
class Lists:
    """The folders that hold the lists of one version."""

    version: Version
    folders: tuple[Path, ...]

    def find(self, name: str) -> Path | None:
        """A list by its official name, gzipped or not."""
        candidates = (folder / f"{name}{suffix}" for folder in self.folders for suffix in ("", ".gz"))
        return next((path for path in candidates if path.is_file()), None)

    def path(self, name: str) -> Path:
        """As `find`; raises `DataError` that says where it was looked for."""
        found = self.find(name)
        if found is None:
            where = ", ".join(str(folder) for folder in self.folders)
            raise DataError(f"there is no {name} (or {name}.gz) in {where}; download it, or give annotations=DIR")
        return found


def find_lists(root: Path, number: int, given: Path | None) -> Lists:
    """The folders in which users keep the lists of a version; `given` alone where it is."""
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; give epic_kitchens:root=DIR")
    if given is not None:
        folders = [given, given / f"annotations{number}", *(given / name for name in _JOINED_FOLDERS)]
    else:
        folders = [root / name.format(version=number) for name in (*_FOLDERS, *_JOINED_FOLDERS)]
    return Lists(VERSIONS[number], tuple(folder for folder in folders if folder.is_dir()) or (given or root,))


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Some columns of a CSV file, gzipped where its name ends so.

    Raises:
        DataError: it lacks a column, a line has another number of fields, or it is damaged.
    """
    try:
        with _opened(path) as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            for column in columns:
                if column not in header:
                    raise DataError(f"{path}: has no column {column!r}; restore the official file")
            chosen = [header.index(column) for column in columns]
            for row in filter(None, reader):
                if len(row) != len(header):
                    raise DataError(f"{path}:{reader.line_num}: {len(row)} fields under {len(header)} headings")
                yield tuple(row[i] for i in chosen)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is damaged ({error}); download it again") from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def read_classes(path: Path, id_column: str, key_column: str, used: int | None = None) -> tuple[str, ...]:
    """Names of classes in the order of their ids, which must count from 0; the first `used` of them.

    Raises:
        DataError: an id is missing or repeated, or two classes have one name.
    """
    names = {_whole(number, path, id_column): key for number, key in read_rows(path, (id_column, key_column))}
    if not names or set(names) != set(range(len(names))) or len(set(names.values())) != len(names):
        raise DataError(f"{path}: {id_column} must count from 0 without gaps, with distinct names; restore the file")
    return tuple(names[number] for number in sorted(names))[:used]


def read_words(path: Path, id_column: str, words_column: str) -> dict[str, int]:
    """The class of every word that the list names."""
    found: dict[str, int] = {}
    for number, words in read_rows(path, (id_column, words_column)):
        for word in parse_literal(words, f"{path}: {words_column}", lambda value: isinstance(value, list)):
            found.setdefault(str(word), _whole(number, path, id_column))
    return found


def read_videos(path: Path, video_column: str) -> dict[str, Video]:
    """Resolution and frame rate of every video."""
    found = {}
    for name, resolution, fps in read_rows(path, (video_column, "resolution", "fps")):
        try:
            width, height = (int(number) for number in resolution.split("x"))
            found[name] = Video((height, width), float(fps))
        except ValueError as error:
            raise DataError(f"{path}: {name}: resolution {resolution!r}, fps {fps!r}; restore the file") from error
        if min(width, height, found[name].fps) <= 0:
            raise DataError(f"{path}: {name}: resolution {resolution!r}, fps {fps!r}; both must be positive")
    return found


def read_segments(path: Path, version: Version, verbs: int, nouns: int) -> list[Segment]:
    """The segments of an official list.

    Args:
        path: the list; one of the withheld test sets has no verb_class and noun_class.
        version: its column names.
        verbs: number of verb classes.
        nouns: number of noun classes.

    Raises:
        DataError: a field that is not what its column says, such as a class out of range.
    """
    labelled = path.name.removesuffix(".gz") not in version.lists["unlabelled"]
    columns = (version.segment, "video_id", "start_frame", "stop_frame", *(("verb_class", "noun_class") * labelled))
    found = []
    for number, video, start, stop, *classes in read_rows(path, columns):
        verb, noun = (_whole(text, path, "class") for text in classes) if labelled else (None, None)
        for value, count, name in ((verb, verbs, "verb_class"), (noun, nouns, "noun_class")):
            if value is not None and not value < count:
                raise DataError(f"{path}: segment {number}: {name} {value} is not below {count}; restore the file")
        id = number if number.startswith(f"{video}_") else f"{video}_{number}"
        found.append(Segment(id, _video(video, path), *_span(start, stop, path, id), verb, noun))
    return found


def read_joined(path: Path, kind: str, classes: int, words: Mapping[str, int]) -> list[Segment]:
    """The segments of a list joined with boxes.

    Args:
        path: the list, with the columns seg_id, video_id, noun, `<kind>_label`, start_frame, stop_frame.
        kind: noun or verb.
        classes: number of its classes.
        words: the noun class of a noun.

    Raises:
        DataError: as `read_segments`.
    """
    found = []
    columns = ("seg_id", "video_id", "start_frame", "stop_frame", "noun", f"{kind}_label")
    for number, video, start, stop, noun, label in read_rows(path, columns):
        index = _whole(label, path, f"{kind}_label")
        if index >= classes:
            raise DataError(f"{path}: segment {number}: {kind}_label {index} is not below {classes}; restore the file")
        id = f"{video}_{number}"
        span = _span(start, stop, path, id)
        found.append(Segment(id, _video(video, path), *span, None, words.get(noun), index))
    return found


def read_joined_classes(path: Path, kind: str) -> tuple[str, ...]:
    """Names of the classes of a list joined with boxes."""
    return read_classes(path, f"{kind}_label", kind)


def parse_literal(text: str, where: str, wanted: Callable[[Any], bool]) -> Any:
    """A Python literal; raises `DataError` that says where, unless it is as wanted."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(f"{where} {text[:60]!r} is no Python literal; restore the file") from error
    if not wanted(value):
        raise DataError(f"{where} {text[:60]!r} is not what stands there by rights; restore the file")
    return value


def _whole(text: str, path: Path, column: str) -> int:
    if not text.strip().isdecimal():
        raise DataError(f"{path}: {column} {text!r} is not a whole number; restore the official file")
    return int(text)


def _video(name: str, path: Path) -> str:
    # A video's name becomes part of a path.
    participant, _, number = name.partition("_")
    if not (participant[:1] == "P" and participant[1:].isdecimal() and number.isdecimal()):
        raise DataError(f"{path}: video_id {name!r} is not like P01_01; restore the official file")
    return name


def _span(start: str, stop: str, path: Path, id: str) -> tuple[int, int]:
    first, last = max(_whole(start, path, "start_frame"), 1), _whole(stop, path, "stop_frame")
    if last < first:
        raise DataError(f"{path}: segment {id}: stop_frame {stop} comes before start_frame {start}; correct the list")
    return first, last
