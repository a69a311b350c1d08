"""EPIC-KITCHENS' own optical flow: pictures of the motion to the right (u) and down (v), counted apart from the frames.

Of the videos of EPIC-55 (P01_01) there is one for every second RGB frame, of those that EPIC-100 added (P01_101) one
for each; picture (n - 1) // 2 + 1, or n, belongs to RGB frame n (github.com/epic-kitchens/C1-Action-Recognition-TSN-
TRN-TSM, convert_rgb_to_flow_frame_idxs.py).
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.motion import Field, Flow
from vidattr_bench.stills import CODECS, decode_picture, read_picture
from vidattr_bench.stored_flow import SideBySide, flow_values
from vidattr_bench.video import frame_count

from ._epic_frames import Footage, entries, rate_of

_PLACES = (
    "P??/flow_frames",
    "frames_rgb_flow/flow/train/P??",
    "frames_rgb_flow/flow/test/P??",
    "flow/train/P??",
    "flow/test/P??",
    "flow_frames/P??",
    "flow/P??",
    "flow_frames",
    "flow",
    "P??",
    "clips",
)
_WHOLE = re.compile(r"P\d\d_\d{2,3}")
_CUT = re.compile(r"(P\d\d_\d{2,3})_.*_f(\d+)-(\d+)_flow_uv")
_MEMBER = re.compile(r"(?:.*/)?([uv])/frame_(\d+)(\.jpe?g|\.png)", re.IGNORECASE)
# Flow ends before the frames do: the last pair of frames begins some frames before the end.
_SLACK = 3


def every(video: str) -> int:
    """RGB frames from one picture of flow to the next."""
    return 2 if rate_of(video) == 60 else 1


@dataclasses.dataclass(frozen=True)
class SegmentFrames:
    """The frames of a segment from 0 on, which its video numbers from `start` on."""

    footage: Footage
    start: int

    def read(self, indices: Sequence[int]) -> Tensor:
        """Frames, uint8 (n, H, W, 3); raises `DataError` as the footage does."""
        return self.footage.read([self.start + i for i in indices])

    def identity(self, indices: Sequence[int]) -> str:
        """What is another text once these frames are others."""
        return self.footage.identity([self.start + i for i in indices])


class FlowFootage(ABC):
    """Something that fields of flow can be read from, by the numbers of EPIC's pictures."""

    path: Path

    def covers(self, first: int, last: int) -> bool:
        """Whether these fields should be there; nothing is decoded, and no archive listed."""
        return True

    @abstractmethod
    def has(self, number: int) -> bool:
        """Whether a field is there; nothing is decoded."""

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> list[Field]:
        """Fields (H, W, 2); raises `DataError` that names the file."""

    def stamp(self, start: int, stop: int) -> str:
        """What changes when the fields from one number to another do: for a file its size."""
        return str(self.path.stat().st_size)


@dataclasses.dataclass(frozen=True)
class FlowFolder(FlowFootage):
    """A folder with u/frame_0000000001.jpg and v/frame_0000000001.jpg, perhaps of some of a video's frames only."""

    path: Path

    def covers(self, first: int, last: int) -> bool:
        """Whether the first is there: flow may end before the frames do."""
        return self.has(first)

    def has(self, number: int) -> bool:
        """Whether both pictures are there."""
        return self._file("u", number) is not None and self._file("v", number) is not None

    def read(self, numbers: Sequence[int]) -> list[Field]:
        """The pictures; raises `DataError` that names the one that is missing or damaged."""
        return [_paired(self._values, number, self.path) for number in numbers]

    def stamp(self, start: int, stop: int) -> str:
        """The sizes of the pictures of both ends."""
        files = (self._file(axis, number) for axis in "uv" for number in (start, stop))
        return " ".join("-" if file is None else str(file.stat().st_size) for file in files)

    def _values(self, axis: str, number: int) -> Field:
        file = self._file(axis, number)
        if file is None:
            raise DataError(f"{self.path}: {axis}/frame_{number:010d}.jpg is missing; extract the archive again")
        return flow_values(read_picture(file), file)

    def _file(self, axis: str, number: int) -> Path | None:
        files = (self.path / axis / f"frame_{number:010d}{suffix}" for suffix in CODECS)
        return next((file for file in files if file.is_file()), None)


@dataclasses.dataclass(frozen=True)
class FlowArchive(FlowFootage):
    """A tar archive of such folders as distributed, read in place."""

    path: Path

    def has(self, number: int) -> bool:
        """Whether both pictures are in the archive."""
        members = self._members()
        return ("u", number) in members and ("v", number) in members

    def read(self, numbers: Sequence[int]) -> list[Field]:
        """The pictures; raises `DataError` that names the archive and the picture."""
        return [_paired(self._values, number, self.path) for number in numbers]

    def _values(self, axis: str, number: int) -> Field:
        members = self._members()
        if (axis, number) not in members:
            raise DataError(f"{self.path}: holds no {axis}/frame_{number:010d}.jpg; download the archive again")
        suffix, offset, size = members[axis, number]
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        name = self.path / axis / f"frame_{number:010d}{suffix}"
        if len(data) < size:
            raise DataError(f"{name}: the archive ends within it; download the archive again")
        return flow_values(decode_picture(data, name), name)

    def _members(self) -> Mapping[tuple[str, int], tuple[str, int, int]]:
        return _members(self.path, self.path.stat().st_size, self.path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _members(path: Path, _size: int, _mtime: int) -> Mapping[tuple[str, int], tuple[str, int, int]]:
    """Suffix, offset and size of each picture in an archive; names are matched and never become paths."""
    found = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and (name := _MEMBER.fullmatch(member.name)):
                    found[name[1].lower(), int(name[2])] = (name[3].lower(), member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a tar archive ({error}); download it again") from error
    return found


@dataclasses.dataclass(frozen=True)
class FlowCut(FlowFootage):
    """A video of the fields of consecutive RGB frames, u beside v: `P01_01_..._f1498-1572_flow_uv.mp4`.

    Attributes:
        path: the file.
        first: number of its first field.
        last: number of its last one.
    """

    path: Path
    first: int
    last: int

    def covers(self, first: int, last: int) -> bool:
        """Whether its name promises both."""
        return self.has(first) and self.has(last)

    def has(self, number: int) -> bool:
        """Whether its name promises the field."""
        return self.first <= number <= self.last

    def read(self, numbers: Sequence[int]) -> list[Field]:
        """The fields.

        Raises:
            InconsistentError: the file holds another number of fields than its name says, or than that less one.
        """
        fields, named = frame_count(self.path), self.last - self.first + 1
        if fields not in (named - 1, named):
            raise InconsistentError(f"{self.path}: holds {fields} fields, and its name says {named}; cut it again")
        return SideBySide(self.path).read([number - self.first for number in numbers])


@dataclasses.dataclass(frozen=True)
class Span:
    """RGB frames `start` to `stop` of a video that has a picture of flow for every `step` of them."""

    start: int
    stop: int
    step: int

    @property
    def first(self) -> int:
        """The picture that belongs to the first frame."""
        return self.number(0)

    @property
    def last(self) -> int:
        """The picture that belongs to the last frame."""
        return self.number(self.stop - self.start)

    def number(self, index: int) -> int:
        """The picture that belongs to a frame, which counts from the first one."""
        return (self.start + index - 1) // self.step + 1


class SegmentFlow(Flow):
    """EPIC's flow of a segment: the pictures that belong to its frames, from the first to the last that there is."""

    def __init__(self, footage: FlowFootage, span: Span) -> None:
        self._footage, self._span = footage, span
        ends = range(span.last, max(span.last - _SLACK, span.first) - 1, -1)
        self._last = next((number for number in ends if footage.has(number)), span.last)

    @property
    def fields(self) -> int:
        """Number of pictures."""
        return self._last - self._span.first + 1

    def place(self, index: int) -> int:
        """The picture that belongs to a frame, both counted from the beginning of the segment."""
        return self._span.number(index) - self._span.first

    def found(self, numbers: Sequence[int]) -> dict[int, Field]:
        """All of these fields; raises `DataError` where one is missing, damaged, or of another size than the rest."""
        fields = self._footage.read([self._span.first + number for number in numbers])
        if len({field.shape for field in fields}) > 1:
            raise DataError(f"{self._footage.path}: fields of flow differ in size; extract them again")
        return dict(zip(numbers, fields, strict=True))


@dataclasses.dataclass(frozen=True)
class FlowShelf:
    """All flow below a folder, by video, in the order in which it is preferred."""

    root: Path
    videos: Mapping[str, tuple[FlowFootage, ...]]

    def find(self, video: str, span: Span) -> FlowFootage:
        """What holds the flow of some frames; raises `DataError` where there is none."""
        for footage in self.videos.get(video, ()):
            if footage.covers(span.first, span.last):
                return footage
        raise DataError(
            f"{self.root}: holds no flow of {video} with the pictures {span.first} to {span.last}, such as "
            f"{video[:3]}/flow_frames/{video}/u/frame_{span.first:010d}.jpg; download it, or leave flow_root out to "
            "have flow computed"
        )

    def facts(self, segments: Mapping[str, tuple[str, Span]]) -> list[str]:
        """Where the flow of segments lies, and sizes; raises `DataError` where there is none of any."""
        facts, without = [], []
        for id, (video, span) in segments.items():
            try:
                footage = self.find(video, span)
            except DataError as error:  # which costs this segment its rows once it is loaded
                without.append(error)
                continue
            stamp = footage.stamp(span.first, span.last)
            facts.append(f"{id} {span} {footage.path.relative_to(self.root)} {stamp}")
        if not facts:
            raise without[0]
        return facts


def find_flow(root: Path) -> FlowShelf:
    """The flow of each video in the places where the official scripts put it: folders before archives and cut videos.

    Raises:
        DataError: there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; give flow_root=DIR, or leave it out to have flow computed")
    found: dict[str, list[FlowFootage]] = {}
    for path in entries(root, _PLACES):
        if path.is_dir() and _WHOLE.fullmatch(path.name) and (path / "u").is_dir():
            found.setdefault(path.name, []).append(FlowFolder(path))
        elif path.suffix.lower() == ".tar" and _WHOLE.fullmatch(path.stem):
            found.setdefault(path.stem, []).append(FlowArchive(path))
        elif cut := _CUT.fullmatch(path.stem):
            span = Span(int(cut[2]), int(cut[3]), every(cut[1]))
            found.setdefault(cut[1], []).append(FlowCut(path, span.first, span.last))
    order = (FlowFolder, FlowArchive, FlowCut)
    ranked = {video: tuple(sorted(some, key=lambda one: order.index(type(one)))) for video, some in found.items()}
    return FlowShelf(root, ranked)


def _paired(values: Callable[[str, int], Field], number: int, path: Path) -> Field:
    """The pictures of both axes as one field (H, W, 2)."""
    u, v = values("u", number), values("v", number)
    if u.shape != v.shape:
        raise DataError(f"{path}: pictures {number} of motion to the right and down differ in size; get them again")
    return np.stack([u, v], -1)
