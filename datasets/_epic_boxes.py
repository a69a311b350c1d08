"""EPIC-55's boxes of active objects: read, carried from the numbers of their pictures to RGB frames, and matched.

The boxes were drawn on pictures numbered apart from the RGB frames (`object_frame` and `action_frame` of the official
EPIC_..._object_action_correspondence.csv): where a video has 59.94 frames a second, frame n of the boxes is RGB frame
1.001 n, since the RGB frames were resampled to 60; elsewhere the numbers agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidattr_bench.clip import Tube
from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.model import ClipInput
from vidattr_bench.transform import fit_boxes

from ._epic_lists import Lists, parse_literal, read_classes, read_rows, read_words

Box = tuple[int, int, int, int]
"""Top, left, height, width in the resolution of the recording."""

OBJECT_LABELS = "EPIC_train_object_labels.csv"
TOP50 = "Valid_seg_top50.csv"
_RGB_RATE = 60
_Mark = TypeVar("_Mark")


@dataclasses.dataclass(frozen=True)
class BoxTable:
    """The boxes of some files, unparsed: picture (empty where the text names it) and text, by video and noun class.

    Attributes:
        source: names of the files.
        texts: by video and noun class of EPIC-55.
    """

    source: str
    texts: Mapping[tuple[str, int], tuple[tuple[str, str], ...]]

    def of(self, video: str, nouns: Iterable[int]) -> dict[int, tuple[Box, ...]]:
        """The boxes of some nouns in a video, by the number of the picture that they were drawn on.

        Raises:
            DataError: boxes that are no literals of four whole numbers.
        """
        found: dict[int, tuple[Box, ...]] = {}
        for noun in nouns:
            for frame, text in self.texts.get((video, noun), ()):
                for number, boxes in _parsed(frame, text, f"{self.source}: {video}").items():
                    found[number] = tuple(dict.fromkeys((*found.get(number, ()), *boxes)))
        return {frame: found[frame] for frame in sorted(found)}


def read_boxes(paths: Sequence[Path], words: Mapping[str, int]) -> BoxTable:
    """The boxes of the official object labels, or of lists of segments joined with boxes; which, their names tell.

    Args:
        paths: the files.
        words: the EPIC-55 class of a noun.

    Raises:
        DataError: one is neither, or damaged.
    """
    gathered: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for path in paths:
        for key, frame, text in _texts(path, words):
            gathered.setdefault(key, []).append((frame, text))
    source = ", ".join(str(path) for path in paths)
    return BoxTable(source, {key: tuple(texts) for key, texts in gathered.items()})


def files_of_boxes(given: Path | None, lists: Lists, joined: Sequence[Path]) -> list[Path]:
    """The file that is given; else the official object labels, the split's own joined lists, or that of 50 nouns.

    Raises:
        DataError: the file that is given is not there.
    """
    if given is not None:
        if not given.is_file():
            raise DataError(f"{given}: there is no such file; boxes= takes {OBJECT_LABELS} or a joined list")
        return [given]
    official, pooled = (lists.find(name) for name in (OBJECT_LABELS, TOP50))
    if official is not None:
        return [official]
    return list(joined) or ([] if pooled is None else [pooled])


def nouns_with_boxes(own: Lists, drawn: Lists) -> dict[int, tuple[int, ...]]:
    """The EPIC-55 classes whose boxes each noun class of EPIC-100 takes: those whose name is a word of it.

    Args:
        own: the lists of EPIC-100.
        drawn: the lists of EPIC-55.
    """
    version = own.version
    words = read_words(own.path(version.nouns), version.id[1], version.instances[1])
    found: dict[int, tuple[int, ...]] = {}
    older = drawn.version
    for number, key in enumerate(read_classes(drawn.path(older.nouns), older.id[1], older.key)):
        if key in words:
            found[words[key]] = (*found.get(words[key], ()), number)
    return found


def _texts(path: Path, words: Mapping[str, int]) -> Iterator[tuple[tuple[str, int], str, str]]:
    if path.name.removesuffix(".gz") == OBJECT_LABELS:
        for noun, video, frame, text in read_rows(path, ("noun_class", "video_id", "frame", "bounding_boxes")):
            if text != "[]" and noun.isdecimal():
                yield (video, int(noun)), frame, text
    else:
        for noun, video, text in read_rows(path, ("noun", "video_id", "bounding_boxes")):
            if noun in words:
                yield (video, words[noun]), "", text


def _parsed(frame: str, text: str, where: str) -> dict[int, tuple[Box, ...]]:
    """Boxes by picture, of one picture's list or of a whole segment's mapping."""
    if frame:
        if not frame.isdecimal():
            raise DataError(f"{where}: frame {frame!r} is not a whole number; restore the file")
        return {int(frame): _boxes(parse_literal(text, f"{where}: bounding_boxes", _is_boxes))}
    by_frame = parse_literal(text, f"{where}: bounding_boxes", _is_mapping)
    return {number: _boxes(boxes) for number, boxes in by_frame.items()}


def _boxes(value: Any) -> tuple[Box, ...]:
    return (value,) if isinstance(value, tuple) else tuple(value)


def _is_boxes(value: Any) -> bool:
    """A box, or a list of them."""
    boxes = [value] if isinstance(value, tuple) else value
    return isinstance(boxes, list) and all(
        isinstance(box, tuple) and len(box) == 4 and all(type(number) is int for number in box) for box in boxes
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(type(key) is int and _is_boxes(boxes) for key, boxes in value.items())


def rgb_frame(frame: int, fps: float) -> int:
    """The RGB frame that shows what the picture `frame` of the boxes shows, both counted from 1, within one frame."""
    return round(frame * _RGB_RATE / fps) if abs(fps - 59.94) < 0.01 else frame


def matched(
    boxes: Mapping[int, tuple[_Mark, ...]], frames: Sequence[int | None], tolerance: int
) -> dict[int, tuple[_Mark, ...]]:
    """The boxes, or other marks, of each sampled frame that has some within `tolerance` frames, the nearest ones.

    Args:
        boxes: by RGB frame.
        frames: the sampled RGB frames; None past the end of the segment.
        tolerance: the largest distance in frames.

    Returns:
        Boxes by index into `frames`.
    """
    found: dict[int, tuple[_Mark, ...]] = {}
    for t, frame in enumerate(frames):
        near = [] if frame is None else [other for other in boxes if abs(other - frame) <= tolerance and boxes[other]]
        if frame is not None and near:
            found[t] = boxes[min(near, key=lambda other: (abs(other - frame), other))]
    return found


def pixels_of(boxes: Sequence[Box], size: tuple[int, int], where: str) -> Tensor:
    """Boxes (n, 4) x0, y0, x1, y1, half-open, float64, in pixels of a recording of height and width `size`.

    They are cut at its edge, over which some of the official ones reach.

    Raises:
        InconsistentError: a box lies outside the recording altogether.
    """
    top, left, height, width = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4).unbind(1)
    limit = torch.tensor([size[1], size[0]] * 2, dtype=torch.float64)
    found = torch.stack([left, top, left + width, top + height], 1).clamp(min=0 * limit, max=limit)
    empty = ~(found[:, 2:] > found[:, :2]).all(1)
    if bool(empty.any()):
        wrong = boxes[int(empty.nonzero()[0])]
        raise InconsistentError(
            f"{where}: the box (top, left, height, width) = {wrong} has no pixel of the {size} recording"
        )
    return found


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Where boxes were drawn and where they are wanted.

    Attributes:
        drawn: height and width of the recording.
        read: height and width of the frames that were read.
        wanted: the geometry of the clip.
    """

    drawn: tuple[int, int]
    read: tuple[int, int]
    wanted: ClipInput

    def place(self, boxes: Sequence[Box], where: str) -> Tensor:
        """Boxes (n, 4) x0, y0, x1, y1 in pixels of the clip; raises as `pixels_of`."""
        scale = torch.tensor([self.read[1] / self.drawn[1], self.read[0] / self.drawn[0]] * 2, dtype=torch.float64)
        return fit_boxes(pixels_of(boxes, self.drawn, where) * scale, self.read, self.wanted)


def tubes_of(found: Mapping[int, tuple[Box, ...]], canvas: Canvas, label: int, where: str) -> tuple[Tube, ...]:
    """The matched boxes as tubes in pixels of the clip, one for the k-th box of every frame.

    Between frames with boxes a tube holds empty ones: those frames are unknown, and nothing is measured on them.

    Args:
        found: boxes by index of the sampled frame.
        canvas: where they were drawn and where they are wanted.
        label: the class of the segment.
        where: what an error names.
    """
    tubes = []
    for k in range(max(map(len, found.values()), default=0)):
        frames = [t for t in sorted(found) if k < len(found[t])]
        boxes = torch.zeros(frames[-1] - frames[0] + 1, 4, dtype=torch.float64)
        boxes[[t - frames[0] for t in frames]] = canvas.place([found[t][k] for t in frames], where)
        tubes.append(Tube(label, frames[0], boxes))
    return tuple(tubes)


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How much truth a split carries, counted from the lists alone.

    Attributes:
        segments: number of segments.
        without: segments of which no sampled frame has a box, or mask.
        frames: sampled frames, those past the end of a segment included.
        annotated: sampled frames that have one.
        area: mean share of the frame that the boxes, or masks, of such a frame cover.
    """

    segments: int
    without: int
    frames: int
    annotated: int
    area: float

    def __str__(self) -> str:
        share = self.annotated / self.frames if self.frames else 0.0
        return (
            f"{self.annotated} of {self.frames} sampled frames carry truth ({share:.1%}), which covers "
            f"{self.area:.1%} of the frame on average; {self.without} of {self.segments} segments have none"
        )


def coverage(clips: Iterable[Sequence[float]], length: int) -> Coverage:
    """Counts over segments, each with the area of the truth in those of its `length` sampled frames that have some."""
    areas = [tuple(clip) for clip in clips]
    annotated = sum(map(len, areas))
    mean = sum(map(sum, areas)) / annotated if annotated else float("nan")
    return Coverage(len(areas), sum(not clip for clip in areas), len(areas) * length, annotated, mean)


def union_area(boxes: Sequence[Box], size: tuple[int, int], where: str = "boxes") -> float:
    """Share of a frame of height and width `size` that the union of boxes covers; raises as `pixels_of`."""
    x0, y0, x1, y1 = pixels_of(boxes, size, where).unbind(1)
    xs, ys = (torch.cat(ends).sort().values for ends in ((x0, x1), (y0, y1)))
    columns = (x0[:, None] <= xs[:-1]) & (xs[1:] <= x1[:, None])
    rows = (y0[:, None] <= ys[:-1]) & (ys[1:] <= y1[:, None])
    cells = (rows[:, :, None] & columns[:, None, :]).any(0)
    return float((cells * ys.diff()[:, None] * xs.diff()).sum()) / (size[0] * size[1])
