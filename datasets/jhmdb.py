"""JHMDB."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat
from torch import Tensor

from vidattr_bench.clip import Clip, Tube, Unreadable, VideoTruth
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.transform import Sampled, fit_boxes, sample_clip
from vidattr_bench.video import frame_count

from ._class_lists import ClassLists


@dataclasses.dataclass(eq=False, kw_only=True)
class JHMDB(ClassLists):
    """JHMDB, 21 classes of HMDB51 with the acting person outlined in every frame; the tube is the outline's box.

    Clips are folders of pictures `<root>/Rename_Images/<class>/<clip>/00001.png` (`Frames` too) or videos
    `<root>/ReCompress_Videos/<class>/<clip>.avi`; outlines are `<root>/puppet_mask/<class>/<clip>/puppet_mask.mat`. A
    frame without an outline, as the last ones of some clips are, is unknown, not empty; so is a clip without the file.
    A clip's group is the film or video that it was cut from.

    Attributes:
        root: folder with the frames, the outlines and the lists.
        splits: folder with <class>_test_split1.txt, ...; by default found below root, in `splits` for one.
        masks: folder with <class>/<clip>/puppet_mask.mat; by default `puppet_mask` below root.
    """

    reference: ClassVar[str] = "Jhuang et al. 2013, doi 10.1109/ICCV.2013.396"
    clip_folders: ClassVar[Sequence[str]] = ("Rename_Images", "Frames", "ReCompress_Videos", "frames", "videos", ".")
    list_folders: ClassVar[Sequence[str]] = ("splits", "JHMDB_splits", "listfiles/JHMDB_splits", ".")

    masks: Path | None = None

    def load(self, ref: ClipRef) -> Clip:
        """Decode a clip; raises `DataError` too where there are more outlines than frames."""
        path, told = self.clips[ref.id.casefold()], self._boxes(ref.id)
        total = frame_count(path)
        sampled = sample_clip(path, self.clip_input, total)
        if told is None:
            return Clip(ref.id, ref.group, sampled.frames, ref.label, (), sampled.known & False)
        boxes, size = told
        if len(boxes) > total:
            raise InconsistentError(
                f"{path}: has {total} frames, but {self._mask_file(ref.id)} outlines {len(boxes)}; extract every frame"
            )
        tubes, annotated = self._sampled(ref, boxes, size, sampled)
        return Clip(ref.id, ref.group, sampled.frames, ref.label, tubes, annotated)

    def truths(self) -> Iterator[VideoTruth | Unreadable]:
        """The boxes of the listed clips whose outlines are there; reads as many files."""
        labels = {name: i for i, name in enumerate(self.classes)}
        for entry in self.entries:
            try:
                told = self._boxes(entry.clip)
            except DataError as error:
                yield Unreadable(entry.clip, str(error), inconsistent=True)
                continue
            if told is not None:
                boxes, size = told
                tubes = (_tube(labels[entry.label], boxes),)
                yield VideoTruth(entry.clip, entry.group, labels[entry.label], len(boxes), size, tubes)

    def truth_files(self, clip: str) -> list[Path]:
        """The file with the outlines."""
        path = self._mask_file(clip)
        return [path] if path.is_file() else []

    def _mask_file(self, clip: str) -> Path:
        folder = self.root / "puppet_mask" if self.masks is None else Path(self.masks)
        return folder / self._labels[clip] / clip / "puppet_mask.mat"

    @functools.cached_property
    def _labels(self) -> dict[str, str]:
        return {entry.clip: entry.label for entry in self.entries}

    def _boxes(self, clip: str) -> tuple[Tensor, tuple[int, int]] | None:
        """Boxes of the outlines (n, 4), zero where a frame has none, and height and width; None without the file."""
        path = self._mask_file(clip)
        return boxes_of(read_masks(path)) if path.is_file() else None

    def _sampled(
        self, ref: ClipRef, boxes: Tensor, size: tuple[int, int], sampled: Sampled
    ) -> tuple[tuple[Tube, ...], Tensor]:
        """The tube on the sampled frames, none where no outlined frame was sampled, and which frames are known."""
        scale = torch.tensor([sampled.size[1] / size[1], sampled.size[0] / size[0]] * 2, dtype=torch.float64)
        here = torch.zeros(len(sampled.indices), 4, dtype=torch.float64)
        for t, i in enumerate(sampled.indices):
            if i is not None and i < len(boxes):
                here[t] = boxes[i] * scale
        annotated = here[:, 2] > here[:, 0]
        if ref.label is None or not annotated.any():
            return (), annotated
        return (_tube(ref.label, fit_boxes(here, sampled.size, self.clip_input), annotated),), annotated


def _tube(label: int, boxes: Tensor, annotated: Tensor | None = None) -> Tube:
    """One person from the first to the last frame with a box; a frame between without one keeps an empty box."""
    known = (boxes[:, 2] > boxes[:, 0] if annotated is None else annotated).nonzero()[:, 0]
    return Tube(label, int(known[0]), boxes[int(known[0]) : int(known[-1]) + 1])


def read_masks(path: Path) -> NDArray[np.bool_]:
    """The outlines of a clip, bool (H, W, n); raises `DataError` where the file is not what its name says."""
    try:
        masks = np.asarray(loadmat(path, variable_names=["part_mask"])["part_mask"])
    except Exception as error:  # the parser raises whatever damaged bytes lead it to
        raise DataError(f"{path}: cannot be read as outlines ({error!r}); download the file again") from error
    masks = masks[..., None] if masks.ndim == 2 else masks  # MATLAB drops a last axis of one frame
    if masks.ndim != 3 or not (masks > 0).any():
        raise DataError(f"{path}: part_mask of shape {masks.shape} outlines nobody; download the file again")
    return masks > 0


def boxes_of(masks: NDArray[np.bool_]) -> tuple[Tensor, tuple[int, int]]:
    """The boxes around masks (H, W, n): float64 (n, 4) x0, y0, x1, y1, half-open, zero without a pixel; H and W."""
    h, w, n = masks.shape
    boxes = torch.zeros(n, 4, dtype=torch.float64)
    for i in range(n):
        rows, columns = (np.flatnonzero(masks[:, :, i].any(axis)) for axis in (1, 0))
        if len(rows):
            boxes[i] = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return boxes, (h, w)
