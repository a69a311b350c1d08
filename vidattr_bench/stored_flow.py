"""Optical flow that was extracted before, as two-stream code and EPIC-KITCHENS store it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.motion import Field, Flow
from vidattr_bench.stills import CODECS, REMEDY, Picture, picture_files, read_picture
from vidattr_bench.video import frame_count, read_frames

_AXES = (("u", "v"), ("x", "y"), ("flow_x", "flow_y"))
_VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
_MARKS = ("", "_flow", "_flow_uv", "_uv")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Mean distance of the channels from which a picture is one in colour; lossy grey video has less than 1.
_COLOUR = 6


class Fields(ABC):
    """Fields of flow in files.

    Attributes:
        path: the file or the folder that errors name.
    """

    path: Path

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are; raises `DataError` where that cannot be told."""

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> list[Field]:
        """Fields (H, W, 2) by 0-based number; raises `DataError` that names the file."""

    @abstractmethod
    def stamp(self) -> str:
        """What changes when the files do; none is read."""


@dataclasses.dataclass(frozen=True)
class PicturePairs(Fields):
    """Pictures of the motion to the right, and as many of the motion down: u/frame000001.jpg, v/frame000001.jpg.

    Attributes:
        path: what holds them all.
        right: the folder with the motion to the right.
        down: the folder with the motion down; may be the same.
        prefixes: how the names of either begin.
    """

    path: Path
    right: Path
    down: Path
    prefixes: tuple[str, str] = ("", "")

    @property
    def count(self) -> int:
        """Number of pairs; raises `DataError` where pictures are missing, also where only one of a pair is there."""
        right, down = self._files()
        if len(right) != len(down):
            raise InconsistentError(
                f"{self.right}: holds {len(right)} pictures of motion to the right, but {self.down} {len(down)} of "
                "motion down; extract the flow again"
            )
        return len(right)

    def read(self, numbers: Sequence[int]) -> list[Field]:
        """The pairs; raises `DataError` that names the picture that is damaged or of another size."""
        right, down = self._files()
        return [read_pair(right[number], down[number]) for number in numbers]

    def stamp(self) -> str:
        """The number of pictures, and the sizes of some."""
        return " ".join(
            f"{len(files)} {[files[i].stat().st_size for i in (0, len(files) // 2, -1)]}" for files in self._files()
        )

    def _files(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        return picture_files(self.right, self.prefixes[0]), picture_files(self.down, self.prefixes[1])


def read_pair(right: Path, down: Path) -> Field:
    """A field (H, W, 2) from two pictures; raises `DataError` that names the one at fault."""
    u, v = (flow_values(read_picture(path), path) for path in (right, down))
    if u.shape != v.shape:
        raise DataError(f"{down}: is of another size than {right}; extract the flow again")
    return np.stack([u, v], -1)


@dataclasses.dataclass(frozen=True)
class SideBySide(Fields):
    """A video, or a folder of numbered pictures, with the motion to the right beside the motion down."""

    path: Path

    @property
    def count(self) -> int:
        """Number of frames that decode, or of pictures."""
        return frame_count(self.path)

    def read(self, numbers: Sequence[int]) -> list[Field]:
        """The two halves of frames; raises `DataError` where they have no halves, or are not of flow."""
        pictures = read_frames(self.path, numbers).numpy()
        if pictures.shape[2] % 2:
            raise DataError(f"{self.path}: an odd width of {pictures.shape[2]} holds no two halves; extract it again")
        return [np.stack(np.split(flow_values(picture, self.path), 2, axis=1), -1) for picture in pictures]

    def stamp(self) -> str:
        """The size of the file, or the number of pictures and the sizes of some."""
        files = picture_files(self.path) if self.path.is_dir() else (self.path,)
        return f"{len(files)} {[files[i].stat().st_size for i in (0, len(files) // 2, -1)]}"


def flow_values(picture: Picture, path: Path) -> Picture:
    """Grey values (H, W) of a picture (H, W, 3); raises `DataError` where it is in colour, and so none of flow."""
    levels = picture.astype(np.float32)
    if float(np.abs(levels[..., ::2] - levels[..., 1:2]).mean()) > _COLOUR:
        raise DataError(f"{path}: is a picture in colour, not one of flow; give flow_root the folder of the flow")
    grey: Picture = np.rint(levels @ _LUMA).astype(np.uint8)
    return grey


class StoredFlow(Flow):
    """Flow that was extracted before, as it was stored.

    Args:
        stored: the files.
        video: what they were extracted from.
        total: number of its frames.
        every: frames of the video from one field to the next.

    Raises:
        InconsistentError: there are not as many fields as the video has room for, or one less.
    """

    def __init__(self, stored: Fields, video: Path, total: int, every: int) -> None:
        self._stored, self._every, self._count = stored, every, stored.count
        if not (self._count - 1) * every < total <= self._count * every + 1:
            raise InconsistentError(
                f"{stored.path}: holds {self._count} fields of flow, which is not one for every {every} of the {total} "
                f"frames of {video}; extract the flow again, or give flow_every"
            )

    @property
    def fields(self) -> int:
        """Number of fields in the files."""
        return self._count

    def place(self, index: int) -> int:
        """The field of a frame, or of the last one before it that has one."""
        return index // self._every

    def found(self, numbers: Sequence[int]) -> dict[int, Field]:
        """All of these fields; raises `DataError` where a file is damaged or two are of different size."""
        fields = self._stored.read(numbers) if numbers else []
        if len({field.shape for field in fields}) > 1:
            raise DataError(f"{self._stored.path}: fields of flow differ in size; {REMEDY}")
        return dict(zip(numbers, fields, strict=True))


def find_fields(root: Path, names: Sequence[str]) -> Fields:
    """The flow of a clip below a folder.

    Looked for are, for each name, pictures `u/<name>/frame000001.jpg` and `v/...` (twostreamfusion),
    `<name>/u/frame_0000000001.jpg` and `v/...` (EPIC-KITCHENS), `<name>/flow_x_00001.jpg` and `flow_y_00001.jpg` or
    `x_00001.jpg` and `y_00001.jpg` (dense_flow), then pictures `<name>/00001.jpg` and videos `<name>.mp4` with one
    beside the other, `<name>_flow_uv.mp4` too.

    Args:
        root: the folder.
        names: of the clip, the first that is there counts.

    Raises:
        DataError: there is none, or only half of one.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; give flow_root=DIR, or leave it out to have flow computed")
    for name in names:
        for found in _candidates(root, name):
            return found
    raise DataError(
        f"{root}: holds no flow of {names[-1]}, neither u/{names[-1]}/frame000001.jpg nor in another layout; extract "
        "it, or leave flow_root out to have flow computed"
    )


def _candidates(root: Path, name: str) -> Iterator[Fields]:
    folder = root / name
    for u, v in _AXES:
        for right, down in ((root / u / name, root / v / name), (folder / u, folder / v)):
            if right.is_dir() and down.is_dir():
                yield PicturePairs(right, right, down)
            elif right.is_dir() or down.is_dir():
                absent = down if right.is_dir() else right
                raise DataError(f"{absent}: is missing beside the other half of the flow; extract it again")
    if folder.is_dir():
        names = [path.name for path in folder.iterdir() if path.suffix.lower() in CODECS]
        for prefixes in ((f"{u}_", f"{v}_") for u, v in _AXES):
            if any(name.startswith(prefixes) for name in names):
                yield PicturePairs(folder, folder, folder, prefixes)
        if names:
            yield SideBySide(folder)
    for path in (root / f"{name}{mark}{suffix}" for mark in _MARKS for suffix in _VIDEOS):
        if path.is_file():
            yield SideBySide(path)
