"""The two CSV files beside a folder of videos: what each clip shows, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vidattr_bench.clip import Tube
from vidattr_bench.errors import InconsistentError, did_you_mean
from vidattr_bench.model import ClipInput
from vidattr_bench.transform import Sampled, fit_boxes

from ._csv_rows import Row, parse_rows, read_rows, refuse
from ._videos import inside_name

PARTS = ("test", "train")
_CORNERS = ("x0", "y0", "x1", "y1")
Boxes = Mapping[int, Mapping[str, "Box"]]
"""The boxes of a video by frame and by instance; a frame without one was looked at and is empty."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of labels.csv: the video, and its label, group and part where they are given ("" where not)."""

    line: int
    video: str
    label: str
    group: str
    part: str


@dataclasses.dataclass(frozen=True)
class Box:
    """x0, y0, x1, y1 of one instance in one frame, half-open, in pixels of the video, and the line that says so."""

    line: int
    corners: tuple[float, float, float, float]


def read_entries(path: Path) -> list[Entry]:
    """The lines of labels.csv; raises `DataError` that names every bad one, such as a video listed twice."""
    found = parse_rows(path, read_rows(path, ["video"], ["label", "group", "part"]), _entry)
    first = {entry.video: entry.line for entry in reversed(found)}
    again = [one for one in found if first[one.video] != one.line]
    refuse(path, [(one.line, f"{one.video} is on line {first[one.video]} already") for one in again])
    return found


def _entry(row: Row) -> Entry:
    if row["part"] not in ("", *PARTS):
        raise ValueError(f"part={row['part']!r} is unknown; {did_you_mean(row['part'], PARTS)}")
    return Entry(row.line, inside_name(row["video"]), row["label"], row["group"], row["part"])


def read_boxes(path: Path, known: set[str]) -> dict[str, Boxes]:
    """The boxes of boxes.csv by video.

    Args:
        path: the file.
        known: the videos that are on disk or listed.

    Raises:
        DataError: naming every bad line: no such video, no frame, an empty or half-given box, a box given twice.
    """
    found: dict[str, dict[int, dict[str, Box]]] = {}

    def add(row: Row) -> None:
        video, frame, corners = inside_name(row["video"]), row.count("frame"), _corners(row)
        if video not in known:
            raise ValueError(f"there is no video {video!r}; {did_you_mean(video, known)}")
        here = found.setdefault(video, {}).setdefault(frame, {})
        if corners is None:
            return
        if row["instance"] in here:
            raise ValueError(f"frame {frame} of {video} has this box already; tell several by a column instance")
        here[row["instance"]] = Box(row.line, corners)

    parse_rows(path, read_rows(path, ["video", "frame", *_CORNERS], ["instance"]), add)
    return dict(found)


def _corners(row: Row) -> tuple[float, float, float, float] | None:
    if not any(row[name] for name in _CORNERS):
        return None
    x0, y0, x1, y1 = (row.number(name) for name in _CORNERS)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"the box {x0:g},{y0:g},{x1:g},{y1:g} is empty; give x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def nearest(boxes: Boxes, sampled: Sampled, tolerance: int) -> dict[int, Mapping[str, Box]]:
    """What is known of the sampled frames, by index in the clip: the annotated frame nearest to each within reach."""
    found = {}
    for t, frame in enumerate(sampled.indices):
        if frame is None:
            continue
        near = [frame + sign * gap for gap in range(tolerance + 1) for sign in (-1, 1)]
        here = next((i for i in near if i in boxes), None)
        if here is not None:
            found[t] = boxes[here]
    return found


def tubes_of(
    known: Mapping[int, Mapping[str, Box]], label: int, sampled: Sampled, wanted: ClipInput
) -> tuple[Tube, ...]:
    """One tube an instance, from its first box to its last; between them, frames without its box hold an empty one.

    Raises:
        InconsistentError: a box lies outside the frames of the video.
    """
    names = dict.fromkeys(name for here in known.values() for name in here)
    drawn = ({t: here[name] for t, here in known.items() if name in here} for name in names)
    return tuple(_tube(boxes, label, sampled, wanted) for boxes in drawn)


def _tube(drawn: Mapping[int, Box], label: int, sampled: Sampled, wanted: ClipInput) -> Tube:
    first, last = min(drawn), max(drawn)
    boxes = torch.zeros(last - first + 1, 4, dtype=torch.float64)
    for t, box in drawn.items():
        boxes[t - first] = _inside(box, sampled.size)
    return Tube(label, first, fit_boxes(boxes, sampled.size, wanted))


def _inside(box: Box, size: tuple[int, int]) -> Tensor:
    height, width = size
    limit = torch.tensor([width, height] * 2, dtype=torch.float64)
    corners = torch.tensor(box.corners, dtype=torch.float64).clamp(min=0 * limit, max=limit)
    if not bool((corners[2:] > corners[:2]).all()):
        raise InconsistentError(
            f"line {box.line}: the box {box.corners} lies outside the frames of {width} x {height} pixels"
        )
    return corners
