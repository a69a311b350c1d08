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

from vidattr_bench.clip import Clip, Tube, Unreadable, VideoTruth, boxes_around
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError, InconsistentError, did_you_mean
from vidattr_bench.transform import Sampled, fit_boxes, fit_masks
from vidattr_bench.video import frame_count

from ._class_lists import ClassLists

_TRUTHS = ("boxes", "masks")


@dataclasses.dataclass(eq=False, kw_only=True)
class JHMDB(ClassLists):
    """JHMDB, 21 classes of HMDB51 with the acting person outlined in every frame; the tube is the outline or its box.

    Clips are folders of pictures `<root>/Rename_Images/<class>/<clip>/00001.png` (`Frames` too) or videos
    `<root>/ReCompress_Videos/<class>/<clip>.avi`; outlines are `<root>/puppet_mask/<class>/<clip>/puppet_mask.mat`. A
    frame without an outline, as the last ones of some clips are, is unknown, not empty; so is a clip without the file.
    A clip's group is the film or video that it was cut from.

    Boxes are the default, since detection of actions on JHMDB is scored by boxes (as by Kalogeiton et al. 2017, arXiv
    1705.01861) and the tubes of UCF101-24 are boxes too. Outlines leave out what lies about the person within the box;
    chance is lower on them.

    Attributes:
        root: folder with the frames, the outlines and the lists.
        splits: folder with <class>_test_split1.txt, ...; by default found below root, in `splits` for one.
        masks: folder with <class>/<clip>/puppet_mask.mat; by default `puppet_mask` below root.
        truth: boxes, those around the outlines, or masks, the outlines themselves, which the split's name tells of.
    """

    reference: ClassVar[str] = "Jhuang et al. 2013, doi 10.1109/ICCV.2013.396"
    clip_folders: ClassVar[Sequence[str]] = ("Rename_Images", "Frames", "ReCompress_Videos", "frames", "videos", ".")
    list_folders: ClassVar[Sequence[str]] = ("splits", "JHMDB_splits", "listfiles/JHMDB_splits", ".")

    masks: Path | None = None
    truth: str = "boxes"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.truth not in _TRUTHS:
            raise DataError(f"jhmdb: truth={self.truth!r} is unknown; {did_you_mean(self.truth, _TRUTHS)}")

    @property
    def split_name(self) -> str:
        """Split and part, such as 1/test, and masks where they are the truth."""
        return super().split_name + ("/masks" if self.truth == "masks" else "")

    def load(self, ref: ClipRef) -> Clip:
        """Decode a clip; raises `DataError` too where there are more outlines than frames."""
        path, told = self.video(ref), self._outlines(ref.id)
        sampled = self.sampled(ref)
        total = frame_count(path)
        if told is None:
            return Clip(ref.id, ref.group, sampled.frames, ref.label, (), sampled.known & False)
        if len(told) > total:
            raise InconsistentError(
                f"{path}: has {total} frames, but {self._mask_file(ref.id)} outlines {len(told)}; extract every frame"
            )
        tubes, annotated = self._sampled(ref, told, sampled)
        return Clip(ref.id, ref.group, sampled.frames, ref.label, tubes, annotated)

    def truths(self) -> Iterator[VideoTruth | Unreadable]:
        """The tubes of the listed clips whose outlines are there; reads as many files."""
        labels = {name: i for i, name in enumerate(self.classes)}
        for entry in self.entries:
            try:
                told = self._outlines(entry.clip)
            except DataError as error:
                yield Unreadable(entry.clip, str(error), inconsistent=True)
                continue
            if told is not None:
                label, known = labels[entry.label], told.flatten(1).any(1).nonzero()[:, 0]
                first, last = int(known[0]), int(known[-1])
                tube = Tube.outlined(label, first, told[first : last + 1])
                tubes = (tube if self.truth == "masks" else dataclasses.replace(tube, masks=None),)
                yield VideoTruth(entry.clip, entry.group, label, len(told), (told.shape[1], told.shape[2]), tubes)

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

    def _outlines(self, clip: str) -> Tensor | None:
        """Bool (n, H, W), empty where a frame has no outline; None without the file."""
        path = self._mask_file(clip)
        return torch.from_numpy(read_masks(path)).permute(2, 0, 1) if path.is_file() else None

    def _sampled(self, ref: ClipRef, outlines: Tensor, sampled: Sampled) -> tuple[tuple[Tube, ...], Tensor]:
        """The tube on the sampled frames, none where no outlined frame was sampled, and which frames are known.

        It is one person from the first to the last of these; a frame between without an outline keeps an empty one.
        """
        here = torch.zeros(len(sampled.indices), *outlines.shape[1:], dtype=torch.bool)
        for t, i in enumerate(sampled.indices):
            if i is not None and i < len(outlines):
                here[t] = outlines[i]
        annotated = here.flatten(1).any(1)
        known = annotated.nonzero()[:, 0]
        if ref.label is None or not len(known):
            return (), annotated
        first, last = int(known[0]), int(known[-1])
        return (self._tube(ref.label, first, here[first : last + 1], sampled.size),), annotated

    def _tube(self, label: int, start: int, outlines: Tensor, size: tuple[int, int]) -> Tube:
        """Outlines, drawn over frames of height and width `size`, in pixels of the clip."""
        if self.truth == "masks":
            return Tube.outlined(label, start, fit_masks(outlines, size, self.clip_input))
        h, w = outlines.shape[1:]
        scale = torch.tensor([size[1] / w, size[0] / h] * 2, dtype=torch.float64)
        return Tube(label, start, fit_boxes(boxes_around(outlines) * scale, size, self.clip_input))


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
