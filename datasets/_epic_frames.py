"""EPIC-KITCHENS' footage as it lies on disk: folders and tar archives of RGB frames, videos, and trimmed videos.

Frames are named by the numbers of the extracted pictures, frame_0000000001.jpg being the first: at 60 frames a second
in the videos of EPIC-55 (P01_01), at 50 in those that EPIC-100 added (P01_101), whatever rate the video has.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
import os
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from vidattr_bench.errors import DataError
from vidattr_bench.motion import file_identity
from vidattr_bench.stills import CODECS, decode_picture, read_picture
from vidattr_bench.video import frame_times, read_frames

_PLACES = (
    "P??",
    "P??/rgb_frames",
    "frames_rgb_flow/rgb/train/P??",
    "frames_rgb_flow/rgb/test/P??",
    "frames_rgb_flow/rgb/seg_train/P??/P??_*",
    "seg_train/P??/P??_*",
    "rgb_frames/P??",
    "rgb/P??",
    "rgb/train/P??",
    "rgb/test/P??",
    "rgb_frames",
    "rgb",
    "frames",
    "frames/P??",
    "P??/videos",
    "videos/train/P??",
    "videos/test/P??",
    "videos/P??",
    "videos",
    "clips",
)
_ROOTS = ("EPIC-KITCHENS", "EPIC_KITCHENS_2018", ".")
# The last frame of a video stays on for as long as the one before it, and trimming cuts between pictures.
_SLACK = 3
_VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm")
_WHOLE = re.compile(r"P\d\d_\d{2,3}")
_SEGMENT = re.compile(r"(P\d\d_\d{2,3}_\d+)(?:-.*)?")
_CUT = re.compile(r"(P\d\d_\d{2,3})_.*_f(\d+)-(\d+)_rgb")
_FRAME = re.compile(r"frame_(\d+)\.(?:jpe?g|png)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Footage(ABC):
    """Something that frames can be read from, by the numbers of the extracted pictures."""

    path: Path

    @abstractmethod
    def covers(self, start: int, stop: int) -> bool:
        """Whether these frames and what lies between them should be there; nothing is decoded."""

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> Tensor:
        """Frames, uint8 (n, H, W, 3), in the order asked for; raises `DataError` where one cannot be had."""

    def stamp(self, start: int, stop: int) -> str:
        """What changes when the frames of a segment do: for a file its size."""
        return str(self.path.stat().st_size)

    def identity(self, numbers: Sequence[int]) -> str:
        """What is another text once these frames are others, wherever they lie; nothing is decoded."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "path"}
        return f"{file_identity(self.path)} {facts} {list(numbers)}"


@dataclasses.dataclass(frozen=True)
class FrameFolder(Footage):
    """A folder of frame_0000000001.jpg, ..., perhaps of some of a video's frames only."""

    path: Path

    def covers(self, start: int, stop: int) -> bool:
        """Whether the pictures of both ends are there."""
        return self._file(start) is not None and self._file(stop) is not None

    def read(self, numbers: Sequence[int]) -> Tensor:
        """The pictures; raises `DataError` that names the one that is missing or damaged."""
        return _stacked([read_picture(self._existing(number)) for number in numbers], self.path)

    def stamp(self, start: int, stop: int) -> str:
        """The sizes of three pictures: a segment may have thousands."""
        files = (self._file(number) for number in (start, (start + stop) // 2, stop))
        return " ".join("-" if file is None else str(Path(file).stat().st_size) for file in files)

    def identity(self, numbers: Sequence[int]) -> str:
        """The hashes of the pictures; raises `DataError` where one is missing."""
        return " ".join(file_identity(self._existing(number)) for number in numbers)

    def _existing(self, number: int) -> Path:
        file = self._file(number)
        if file is None:
            raise DataError(f"{self.path}: frame_{number:010d}.jpg is missing; extract the archive again")
        return Path(file)

    def _file(self, number: int) -> str | None:
        stem = f"{self.path}/frame_{number:010d}"
        # A list has tens of thousands of segments, and pathlib takes three times as long.
        return next((stem + suffix for suffix in CODECS if os.path.isfile(stem + suffix)), None)  # noqa: PTH113


@dataclasses.dataclass(frozen=True)
class FrameArchive(Footage):
    """A tar archive of pictures as distributed, read in place."""

    path: Path

    def covers(self, start: int, stop: int) -> bool:
        """True: an archive is listed once it is read."""
        return True

    def read(self, numbers: Sequence[int]) -> Tensor:
        """The pictures; raises `DataError` that names the archive and the frame."""
        members = _members(self.path, self.path.stat().st_size, self.path.stat().st_mtime_ns)
        pictures = []
        with self.path.open("rb") as file:
            for number in numbers:
                if number not in members:
                    raise DataError(f"{self.path}: holds no frame_{number:010d}.jpg; download the archive again")
                suffix, offset, size = members[number]
                file.seek(offset)
                data = file.read(size)
                if len(data) < size:
                    raise DataError(f"{self.path}: ends within frame {number}; download the archive again")
                pictures.append(decode_picture(data, self.path / f"frame_{number:010d}{suffix}"))
        return _stacked(pictures, self.path)


@functools.lru_cache(maxsize=4)
def _members(path: Path, _size: int, _mtime: int) -> Mapping[int, tuple[str, int, int]]:
    """Suffix, offset and size of each picture in an archive; names are matched and never become paths."""
    found = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isreg() and not member.issparse() and (number := _FRAME.fullmatch(name)):
                    found[int(number[1])] = (PurePosixPath(name).suffix.lower(), member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a tar archive ({error}); download it again") from error
    if not found:
        raise DataError(f"{path}: holds no frame_0000000001.jpg, ...; download the archive of RGB frames")
    return found


def _stacked(pictures: Sequence[np.ndarray], path: Path) -> Tensor:
    if len({picture.shape for picture in pictures}) > 1:
        raise DataError(f"{path}: its frames differ in size; extract them again")
    return torch.from_numpy(np.stack(pictures))


@dataclasses.dataclass(frozen=True)
class VideoFile(Footage):
    """A video in its own rate, of which frames are taken as resampling to the rate of the pictures does.

    Attributes:
        path: an MP4 or Matroska file.
        rate: pictures a second.
        first: number of the picture at its beginning.
        last: number of the last one; None where the whole video is there.
    """

    path: Path
    rate: int
    first: int = 1
    last: int | None = None

    def covers(self, start: int, stop: int) -> bool:
        """Whether the video was not cut before or after; how long it is shows when it is read."""
        return self.first <= start and (self.last is None or stop <= self.last)

    def read(self, numbers: Sequence[int]) -> Tensor:
        """The frames; raises `DataError` where the video ends before one, or does not tell when its frames are."""
        shown = _shown(self.path, self.rate, self.path.stat().st_size, self.path.stat().st_mtime_ns)
        if not shown:
            raise DataError(f"{self.path}: does not tell when its frames are shown; extract them to a folder")
        late = [number for number in numbers if not 0 <= number - self.first <= shown[-1] + _SLACK]
        if late:
            where = f"frame {late[0]} ({self.rate} a second from {self.first})"
            raise DataError(f"{self.path}: ends before {where}; use the whole video")
        return read_frames(self.path, [bisect.bisect_right(shown, number - self.first) - 1 for number in numbers])


@functools.lru_cache(maxsize=64)
def _shown(path: Path, rate: int, _size: int, _mtime: int) -> list[int]:
    """The first picture, counted from 0, that shows each frame of a video or a later one."""
    # Halves go up, as in FFmpeg, and not to the even number.
    return [math.floor(time * rate + 0.5) for time in frame_times(path)]


@dataclasses.dataclass(frozen=True)
class CutVideo(Footage):
    """A video of consecutive pictures, one frame each, whose name says which: `P01_01_..._f1498-1572_rgb.mp4`."""

    path: Path
    first: int
    last: int

    def covers(self, start: int, stop: int) -> bool:
        """Whether both ends are among its frames."""
        return self.first <= start and stop <= self.last

    def read(self, numbers: Sequence[int]) -> Tensor:
        """The frames; raises `DataError` where the file holds fewer than its name says."""
        return read_frames(self.path, [number - self.first for number in numbers])


@dataclasses.dataclass(frozen=True)
class Shelf:
    """All footage below a folder.

    Attributes:
        videos: by video, in the order in which it is preferred.
        segments: by the id of the one segment that it shows.
    """

    videos: Mapping[str, tuple[Footage, ...]]
    segments: Mapping[str, Path]

    def find(self, id: str, video: str, start: int, stop: int) -> Footage | None:
        """What holds a segment: a folder of frames before an archive, a video, and files of that segment alone."""
        own = self.segments.get(id)
        trimmed = () if own is None else (FrameFolder(own) if own.is_dir() else VideoFile(own, rate_of(video), start),)
        candidates: tuple[Footage, ...] = (*self.videos.get(video, ()), *trimmed)
        return next((footage for footage in candidates if footage.covers(start, stop)), None)


def rate_of(video: str) -> int:
    """RGB frames a second: 60 in the videos of EPIC-55, 50 in the later ones, whose numbers have three digits."""
    return 60 if len(video.partition("_")[2]) == 2 else 50


def find_footage(root: Path) -> Shelf:
    """Everything in the places where the official scripts and common loaders keep it; frames are not listed."""
    videos: dict[str, list[Footage]] = {}
    segments: dict[str, Path] = {}
    for path in entries(root, _PLACES):
        kind = "folder" if path.is_dir() else path.suffix.lower()
        stem = path.name if path.is_dir() else path.stem
        if _WHOLE.fullmatch(stem) and (whole := _whole(path, kind, stem)) is not None:
            videos.setdefault(stem, []).append(whole)
        elif kind in _VIDEOS and (cut := _CUT.fullmatch(stem)):
            videos.setdefault(cut[1], []).append(CutVideo(path, int(cut[2]), int(cut[3])))
        elif kind in ("folder", *_VIDEOS) and (segment := _SEGMENT.fullmatch(stem)):
            segments.setdefault(segment[1], path)
    order = (FrameFolder, FrameArchive, VideoFile, CutVideo)
    ranked = {video: tuple(sorted(found, key=lambda one: order.index(type(one)))) for video, found in videos.items()}
    return Shelf(ranked, segments)


def _whole(path: Path, kind: str, video: str) -> Footage | None:
    if kind == "folder":
        return FrameFolder(path)
    if kind == ".tar":
        return FrameArchive(path)
    return VideoFile(path, rate_of(video)) if kind in _VIDEOS else None


def entries(root: Path, places: Sequence[str]) -> Iterator[Path]:
    """What lies in the folders of a release below `root`, and in those below them that match `places`."""
    for base in (root / name for name in _ROOTS):
        if base.is_dir():
            for folder in (base, *(folder for place in places for folder in sorted(base.glob(place)))):
                if folder.is_dir():
                    yield from sorted(folder.iterdir())
