"""The data that flows: tubes, clips, batches. Boxes are x0, y0, x1, y1 in pixels of the clip, half-open."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vidattr_bench.errors import DataError


@dataclasses.dataclass(frozen=True)
class Tube:
    """The boxes of one action instance over consecutive sampled frames, or its outlines where they are known.

    Attributes:
        label: index of the class in the data set's list.
        start: first frame, 0-based within the clip.
        boxes: (n, 4) float, x0, y0, x1, y1 in pixels, half-open; an empty box marks a frame where the crop hides the
            actor.
        masks: bool (n, H, W), the voxels of the clip that belong to it; None where its boxes are all that is known.
            With masks the boxes are those around them: see `outlined`.
    """

    label: int
    start: int
    boxes: Tensor
    masks: Tensor | None = None

    @classmethod
    def outlined(cls, label: int, start: int, masks: Tensor) -> Tube:
        """The tube of masks, bool (n, H, W), with the boxes around them."""
        return cls(label, start, boxes_around(masks), masks)

    def mask(self, t: int, h: int, w: int) -> Tensor:
        """Bool (T, H, W): the masks where there are some, else the voxels whose centre lies inside their frame's box.

        Raises:
            DataError: the tube begins before the first or after the last of the T frames, or its masks have another
                size.
        """
        if not 0 <= self.start < t:
            raise DataError(f"a tube starts at frame {self.start} of a clip of {t} frames")
        mask = torch.zeros(t, h, w, dtype=torch.bool)
        inside = self._inside(h, w)[: t - self.start]
        mask[self.start : self.start + len(inside)] = inside
        return mask

    def _inside(self, h: int, w: int) -> Tensor:
        """Bool (n, H, W)."""
        if self.masks is not None:
            if self.masks.shape != (len(self.boxes), h, w):
                found = tuple(self.masks.shape)
                raise DataError(f"a tube's masks have shape {found}; its boxes and clip need {len(self.boxes), h, w}")
            return self.masks
        x0, y0, x1, y1 = self.boxes.double().unbind(1)
        ys = torch.arange(h, dtype=torch.float64) + 0.5
        xs = torch.arange(w, dtype=torch.float64) + 0.5
        rows = (ys >= y0[:, None]) & (ys < y1[:, None])
        columns = (xs >= x0[:, None]) & (xs < x1[:, None])
        return rows[:, :, None] & columns[:, None, :]


def boxes_around(masks: Tensor) -> Tensor:
    """The tight boxes of masks, bool (n, H, W): float64 (n, 4), half-open, zero where a mask is empty."""
    sides = []
    for hit in (masks.any(1), masks.any(2)):  # columns, rows
        cells, size = hit.int(), hit.shape[1]
        sides.append((cells.argmax(1), size - cells.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], 1).double() * masks.flatten(1).any(1)[:, None]


@dataclasses.dataclass(frozen=True)
class Clip:
    """T sampled frames of one video, what is known about them, and where they come from.

    Attributes:
        id: unique name within the data set.
        group: the source the clip was cut from; clips of a group are not independent.
        frames: (C, T, H, W) float32 in [0, 1].
        label: index of the class, or None where the clip has none.
        tubes: action tubes in the pixels of `frames`.
        annotated: bool (T,); False where a frame's truth is unknown. A frame without a tube but annotated is empty.
    """

    id: str
    group: str
    frames: Tensor
    label: int | None
    tubes: tuple[Tube, ...]
    annotated: Tensor


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A clip that could not be decoded: its cells fail with this reason, the others' do not.

    Attributes:
        id: unique name within the data set.
        reason: what is wrong, and the remedy.
        inconsistent: the video and its annotation do not fit together; else the video itself is at fault.
    """

    id: str
    reason: str
    inconsistent: bool = False


@dataclasses.dataclass(frozen=True)
class VideoTruth:
    """What an annotation tells of one whole video, whether it is on disk or not.

    Attributes:
        id: unique name within the data set.
        group: the source the video was cut from.
        label: index of the class, or None where it has none.
        frames: number of frames of the video.
        size: height and width of the frames that the boxes were drawn in.
        tubes: over the frames of the video, 0-based, in pixels of `size`, masks too.
    """

    id: str
    group: str
    label: int | None
    frames: int
    size: tuple[int, int]
    tubes: tuple[Tube, ...]


@dataclasses.dataclass(frozen=True)
class Batch:
    """N clips as tensors.

    Attributes:
        ids: N unique names.
        frames: (N, C, T, H, W) float32 in [0, 1].
        labels: int64 (N,), -1 where a clip has no label.
        tubes: bool (N, T, H, W), the union of the label's tubes.
        annotated: bool (N, T), False where a frame's truth is unknown.
        instances: per clip, bool (K, T, H, W): the label's tubes one by one; by default the union is one instance.
        groups: N sources; by default every clip is its own group.
    """

    ids: Sequence[str]
    frames: Tensor
    labels: Tensor
    tubes: Tensor
    annotated: Tensor
    instances: tuple[Tensor, ...] = ()
    groups: Sequence[str] = ()

    def __post_init__(self) -> None:
        n, _, t, h, w = self.frames.shape
        expected = {"labels": (n,), "tubes": (n, t, h, w), "annotated": (n, t)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                found = tuple(getattr(self, name).shape)
                raise DataError(f"Batch.{name} has shape {found}; frames of {tuple(self.frames.shape)} need {shape}")
        if len(self.ids) != n:
            raise DataError(f"Batch.ids names {len(self.ids)} clips, frames holds {n}")
        if not self.instances:
            object.__setattr__(self, "instances", tuple(mask[None] for mask in self.tubes))
        if not self.groups:
            object.__setattr__(self, "groups", tuple(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """The batch on another device; called by Lightning."""
        moved = {name: getattr(self, name).to(*args, **kwargs) for name in ("frames", "labels", "tubes", "annotated")}
        instances = tuple(mask.to(*args, **kwargs) for mask in self.instances)
        return dataclasses.replace(self, instances=instances, **moved)

    def select(self, index: Sequence[int]) -> Batch:
        """The clips at `index`, in that order; a clip may be repeated."""
        chosen = torch.as_tensor(list(index), device=self.frames.device)
        tensors = {name: getattr(self, name)[chosen] for name in ("frames", "labels", "tubes", "annotated")}
        return Batch(
            ids=[self.ids[i] for i in index],
            instances=tuple(self.instances[i] for i in index),
            groups=[self.groups[i] for i in index],
            **tensors,
        )


def collate(clips: Sequence[Clip]) -> Batch:
    """A batch of clips of one size; `DataError` names the clip whose shape differs."""
    shape = clips[0].frames.shape
    for clip in clips:
        if clip.frames.shape != shape:
            raise DataError(
                f"clip {clip.id} has shape {tuple(clip.frames.shape)} beside {tuple(shape)} of {clips[0].id}; "
                "give the data set a size"
            )
    _, t, h, w = shape
    instances = tuple(_instances(clip, t, h, w) for clip in clips)
    return Batch(
        ids=[clip.id for clip in clips],
        frames=torch.stack([clip.frames for clip in clips]),
        labels=torch.tensor([-1 if clip.label is None else clip.label for clip in clips]),
        tubes=torch.stack([masks.any(0) for masks in instances]),
        annotated=torch.stack([clip.annotated for clip in clips]),
        instances=instances,
        groups=[clip.group for clip in clips],
    )


def _instances(clip: Clip, t: int, h: int, w: int) -> Tensor:
    masks = [tube.mask(t, h, w) for tube in clip.tubes if tube.label == clip.label]
    return torch.stack(masks) if masks else torch.zeros(0, t, h, w, dtype=torch.bool)
