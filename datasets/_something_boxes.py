"""Boxes of Something-Else: found in files of gigabytes without reading all of them, and laid on a video's frames."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vidattr_bench.clip import Tube
from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.model import ClipInput
from vidattr_bench.transform import Sampled, fit_boxes
from vidattr_bench.video import frame_times

Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in the pictures that boxes were drawn on, HEIGHT pixels high."""
Drawn = Mapping[int, Mapping[str, Corners]]
"""By the number of a picture, from 1, and by instance; a picture that is not there is unknown."""

RATE = 12
"""Pictures a second that the boxes were drawn on."""
HEIGHT = 240
_SPARE = 2  # pictures, and pixels, by which an annotation may reach over its video
_STEP = 1 << 24
_FOLDERS = (".", "something_else", "something-else", "annotations", "bounding_box_annotations", "boxes")
_WHOLE = ("bounding_box_annotations.json", "annotations.json")
# The only keys of digits are those of videos, and a quotation mark within a text has a backslash before it.
_VIDEO = re.compile(rb'"(\d{1,9})"\s*:\s*(?=\[)')
_LONGEST = 64


def find_boxes(root: Path, given: Path | None) -> tuple[Path, ...]:
    """The files of boxes: the four parts as published, or one file; none where there are none."""
    if given is not None and given.is_file():
        return (given,)
    for folder in [root / name for name in _FOLDERS] if given is None else [given]:
        parts = tuple(sorted(folder.glob("bounding_box_smthsmth*.json")))
        if parts:
            return parts
        for path in (folder / name for name in _WHOLE):
            if path.is_file():
                return (path,)
    if given is not None:
        raise DataError(
            f"{given}: holds no bounding_box_smthsmth_part1.json; boxes= takes a file, or the folder of parts"
        )
    return ()


@dataclasses.dataclass(frozen=True)
class BoxIndex:
    """Where in which file the boxes of each video lie, in bytes: where they begin, and where the next ones do."""

    places: Mapping[str, tuple[Path, int, int]]

    def text(self, id: str) -> bytes:
        """The annotation of a video as it stands in the file."""
        path, start, stop = self.places[id]
        with path.open("rb") as file:
            file.seek(start)
            text = file.read(stop - start)
        return text[: text.rfind(b"]") + 1]

    def drawn(self, id: str, truth: str) -> Drawn:
        """The boxes of a video; raises `DataError` where its annotation is damaged."""
        where = f"{self.places[id][0]}: video {id}"
        try:
            pictures, _ = json.JSONDecoder().raw_decode(self.text(id).decode())
            return _drawn(pictures, id, truth)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{where}: its boxes are damaged ({error!r}); download the file again") from error


def index_boxes(paths: Sequence[Path], ids: Container[str]) -> BoxIndex:
    """Where the boxes of the videos `ids` lie; raises `DataError` where a file holds no video at all."""
    places: dict[str, tuple[Path, int, int]] = {}
    for path in paths:
        starts = [*_starts(path), ("", path.stat().st_size)]
        if len(starts) == 1:
            raise DataError(f"{path}: holds the boxes of no video; download it again, or take boxes= away")
        for (id, start), (_, stop) in itertools.pairwise(starts):
            if id in ids:
                places.setdefault(id, (path, start, stop))
    return BoxIndex(places)


def _starts(path: Path) -> Iterator[tuple[str, int]]:
    """The videos of a file in order, and where the list of each begins."""
    with path.open("rb") as file:
        kept, offset = b"", 0
        while block := file.read(_STEP):
            text = kept + block
            end = 0
            for match in _VIDEO.finditer(text):
                end = match.end()
                yield match[1].decode(), offset + end
            # What may be the beginning of a match is looked at again with the next block.
            kept = text[max(end, len(text) - _LONGEST) :]
            offset += len(text) - len(kept)


def _drawn(pictures: Any, id: str, truth: str) -> Drawn:
    found: dict[int, dict[str, Corners]] = {}
    for picture in pictures:
        folder, _, name = picture["name"].partition("/")
        number = int(name.partition(".")[0])
        if folder != id or number < 1:
            raise ValueError(f"name {picture['name']!r}")
        here = dict(_instances(picture["labels"], truth))
        # A box without extent says that something is there, but not where: then nothing is known.
        if all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in here.values()):
            found[number] = here
    return found


def _instances(labels: Any, truth: str) -> Iterator[tuple[str, Corners]]:
    """The boxes of one picture that count as truth, by instance: `hand`, or the place among the something's."""
    times = Counter[str]()
    for label in labels:
        kind = str(label.get("standard_category") or label["category"])
        times[kind] += 1
        corners = tuple(float(label["box2d"][name]) for name in ("x1", "y1", "x2", "y2"))
        if not all(map(math.isfinite, corners)):
            raise ValueError(f"box2d {label['box2d']}")
        if truth == "all" or (kind == "hand") == (truth == "hand"):
            x0, y0, x1, y1 = corners
            yield f"{kind} {times[kind]}", (x0, y0, x1, y1)


def picture_numbers(path: Path, total: int, fps: float | None) -> tuple[list[int], bool]:
    """The number of the picture, from 1, that shows what each frame of a video shows, at RATE pictures a second.

    And whether that is guessed, since neither the file nor `fps` tells when its frames are shown.

    Args:
        path: a video, or a folder of pictures.
        total: number of its frames.
        fps: frames a second, where the file does not say when it shows them; None: RATE.
    """
    times = () if path.is_dir() else frame_times(path)
    told = len(times) == total
    if not told:
        times = tuple(i / (fps or RATE) for i in range(total))
    return [math.floor(time * RATE + 0.5) + 1 for time in times], not told and fps is None


def check_fit(drawn: Drawn, numbers: Sequence[int], size: tuple[int, int], *, guessed: bool) -> None:
    """Raise `InconsistentError` where boxes were drawn on more pictures, or on larger ones, than the video has.

    Args:
        drawn: the boxes of the video.
        numbers: the picture that each frame shows.
        size: height and width of the video.
        guessed: the rate is; boxes that end before the video then may say that it is another.
    """
    if not drawn:
        return
    last = max(drawn)
    if last > numbers[-1] + _SPARE or (guessed and numbers[-1] > last + _SPARE):
        raise InconsistentError(
            f"has boxes up to picture {last}, but the video ends with {numbers[-1]}, at {RATE} a second; take the "
            f"original video, or give fps=, at which pictures were extracted (fps={RATE} where it is that)"
        )
    width = size[1] * HEIGHT / size[0]
    reach = max((box[2] for boxes in drawn.values() for box in boxes.values()), default=0.0)
    if reach > width + _SPARE:
        raise InconsistentError(
            f"has boxes up to x = {reach:.0f}, but a video of {size[1]} x {size[0]} is {width:.0f} wide where it is "
            f"{HEIGHT} high, as those are that boxes were drawn on; take one that is not stretched or cropped"
        )


def tubes_of(
    drawn: Drawn, pictures: Sequence[int | None], label: int, sampled: Sampled, wanted: ClipInput
) -> tuple[Tube, ...]:
    """One tube an instance, from the first sampled frame with its box to the last; between them it may be empty.

    Args:
        drawn: the boxes of the video.
        pictures: the number of the picture that each sampled frame shows, None past the end of the video.
        label: class of the clip.
        sampled: the clip, which tells the size of the video.
        wanted: its geometry.
    """
    here = {t: drawn[number] for t, number in enumerate(pictures) if number is not None and number in drawn}
    scale = sampled.size[0] / HEIGHT
    tubes = []
    for name in dict.fromkeys(name for boxes in here.values() for name in boxes):
        frames = [t for t, boxes in here.items() if name in boxes]
        boxes = torch.zeros(frames[-1] - frames[0] + 1, 4, dtype=torch.float64)
        for t in frames:
            boxes[t - frames[0]] = torch.tensor(here[t][name], dtype=torch.float64) * scale
        tubes.append(Tube(label, frames[0], fit_boxes(boxes, sampled.size, wanted)))
    return tuple(tubes)
