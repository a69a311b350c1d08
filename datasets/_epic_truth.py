"""Where the object of a segment is: in the boxes of EPIC-55 or in the masks of VISOR."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from vidattr_bench.clip import Tube
from vidattr_bench.errors import DataError
from vidattr_bench.model import ClipInput

from ._epic_boxes import Box, BoxTable, Canvas, matched, rgb_frame, tubes_of, union_area
from ._epic_lists import Segment, Video
from ._epic_visor import ANNOTATIONS, Outline, Visor, find_visor, outlined_tubes, share_of_canvas

Frames = Sequence[int | None]
"""The sampled RGB frames of a segment; None past its end."""
TRUTHS = ("auto", "boxes", "masks")


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes as the truth.

    Attributes:
        table: the boxes; None where there are none.
        nouns: the EPIC-55 classes whose boxes each noun class takes.
        tolerance: largest distance in frames between a sampled frame and its boxes.
        carried: whether their numbers are those of their own pictures, and not yet of RGB frames.
        video: how the video of a segment was recorded.
    """

    table: BoxTable | None
    nouns: Mapping[int, tuple[int, ...]]
    tolerance: int
    carried: bool
    video: Callable[[Segment], Video]

    def found(self, segment: Segment, frames: Frames) -> dict[int, tuple[Box, ...]]:
        """The boxes of each sampled frame that has some, by its index."""
        if self.table is None or segment.noun is None:
            return {}
        drawn = self.table.of(segment.video, self.nouns.get(segment.noun, ()))
        if drawn and self.carried:
            fps = self.video(segment).fps
            drawn = {rgb_frame(frame, fps): boxes for frame, boxes in drawn.items()}
        return matched(drawn, frames, self.tolerance)

    def tubes(
        self, segment: Segment, frames: Frames, read: tuple[int, int], wanted: ClipInput, label: int | None
    ) -> tuple[tuple[Tube, ...], Collection[int]]:
        """The tubes of a segment in frames of height and width `read`, and the indices of the frames that are known."""
        boxes = self.found(segment, frames)
        if self.table is None or not boxes or label is None:
            return (), boxes
        canvas = Canvas(self.video(segment).size, read, wanted)
        return tubes_of(boxes, canvas, label, f"{self.table.source}: {segment.id}"), boxes

    def areas(self, segment: Segment, frames: Frames) -> list[float]:
        """Share of the frame that the boxes cover, in each sampled frame that has some."""
        where = f"{'' if self.table is None else self.table.source}: {segment.id}"
        return [union_area(boxes, self.video(segment).size, where) for boxes in self.found(segment, frames).values()]


@dataclasses.dataclass(frozen=True)
class Masks:
    """Masks as the truth; as `Boxes`, with the classes of VISOR whose objects each noun class takes."""

    visor: Visor
    nouns: Mapping[int, tuple[int, ...]]
    tolerance: int

    def found(self, segment: Segment, frames: Frames) -> dict[int, tuple[Outline, ...]]:
        """The objects on each sampled frame that has some, by its index."""
        if segment.noun is None:
            return {}
        return matched(self.visor.of(segment.video, self.nouns.get(segment.noun, ())), frames, self.tolerance)

    def tubes(
        self, segment: Segment, frames: Frames, read: tuple[int, int], wanted: ClipInput, label: int | None
    ) -> tuple[tuple[Tube, ...], Collection[int]]:
        """As of `Boxes`."""
        outlines = self.found(segment, frames)
        return (() if label is None else outlined_tubes(outlines, read, wanted, label)), outlines

    def areas(self, segment: Segment, frames: Frames) -> list[float]:
        """As of `Boxes`."""
        return [share_of_canvas(outlines) for outlines in self.found(segment, frames).values()]


def chosen_visor(truth: str, root: Path, given: Path | None, *, boxes: bool) -> Visor | None:
    """VISOR, where its masks are the truth.

    Args:
        truth: one of `TRUTHS`; auto takes masks where they are found, unless boxes are preferred.
        root: folder below which VISOR is looked for.
        given: the folder of VISOR's deposit, where it is given.
        boxes: whether auto prefers boxes to masks that are not given.

    Raises:
        DataError: masks are asked for and not there.
    """
    if truth == "boxes" or (truth == "auto" and boxes and given is None):
        return None
    found = find_visor(root, given)
    if found is None and truth == "masks":
        raise DataError(f"{root}: has no VISOR/{ANNOTATIONS}/train/P01_01.json; download it, or give visor=DIR")
    return found
