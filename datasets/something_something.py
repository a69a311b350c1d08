"""Something-Something V2, with the boxes of Something-Else."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch

from vidattr_bench.clip import Clip
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError, InconsistentError, did_you_mean
from vidattr_bench.video import frame_count
from vidattr_bench.videomodule import VideoDataModule

from ._something_boxes import BoxIndex, check_fit, find_boxes, index_boxes, picture_numbers, tubes_of
from ._something_lists import PARTS, Entry, find_clips, find_lists, labels_file, list_files, read_classes, read_list
from ._videos import footprint

_TRUTHS = ("objects", "hand", "all")


@dataclasses.dataclass(eq=False, kw_only=True)
class SomethingSomething(VideoDataModule):
    """Something-Something V2, 174 actions of hands with objects, with the boxes of Something-Else where they are there.

    Clips are `<root>/20bn-something-something-v2/<id>.webm` (`videos` and `<root>` itself are looked into too) or
    folders of pictures `<root>/frames/<id>/0001.jpg`. The official lists labels.json, train.json, validation.json,
    test.json and test-answers.csv, in `labels` for one, may begin with `something-something-v2-`; a class is a template
    without its brackets. Nothing tells who recorded a clip, so that each is a group of its own, and intervals are
    narrower than they should be where one person recorded several.

    Truth are the boxes of Something-Else (bounding_box_smthsmth_part1.json to part4, or one file) of 180 049 clips:
    objects and hands in every picture at 12 a second up to where the annotation ends. A frame takes the boxes of the
    picture that is shown at its time; one whose picture is not listed is unknown; one that is listed without such a box
    is empty. Boxes were drawn on the original videos, 240 pixels high, and are scaled to the height of the video.

    Attributes:
        root: folder with the clips, the lists and the boxes.
        part: val, train, test or all of them; published accuracies are of val. Without test-answers.csv, clips of test
            have no label.
        truth: objects, the things that the class calls something; hand; or all of them.
        lists: folder with the lists, by default found below root; that of a split of Something-Else will do, such as
            compositional.
        boxes: file of boxes, or folder with the four parts; by default found below root, in `something_else` for one.
        fps: rate at which pictures were extracted, or of a video whose file does not tell when a frame is shown; by
            default 12.
    """

    reference: ClassVar[str] = "Goyal et al. 2017, arXiv 1706.04261; boxes: Materzynska et al. 2020, arXiv 1912.09930"

    part: str = "val"
    truth: str = "objects"
    lists: Path | None = None
    boxes: Path | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known in (("part", (*PARTS, "all")), ("truth", _TRUTHS)):
            if (value := getattr(self, field)) not in known:
                raise DataError(f"something_something: {field}={value!r} is unknown; {did_you_mean(value, known)}")
        if self.fps is not None and self.fps <= 0:
            raise DataError(f"something_something: fps={self.fps} must be more than 0 frames a second")

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of labels.json in alphabetical order, that of the official numbers."""
        return read_classes(labels_file(self._list_folder))

    def refs(self) -> list[ClipRef]:
        """The listed clips that are on disk, in the order of the lists."""
        number = {name: i for i, name in enumerate(self.classes)}
        present = [entry for entry in self._entries if entry.id in self._clips]
        if not present:
            raise DataError(
                f"{self.root}: none of the {len(self._entries)} clips of part={self.part} is there; below root there "
                "must be 20bn-something-something-v2/<id>.webm or frames/<id>/0001.jpg"
            )
        return [ClipRef(entry.id, entry.id, number.get(entry.label)) for entry in present]

    def missing(self) -> list[str]:
        """Listed clips that are not on disk."""
        return [entry.id for entry in self._entries if entry.id not in self._clips]

    def video(self, ref: ClipRef) -> Path:
        """The file of a clip, or its folder of pictures."""
        return Path(self._clips[ref.id])

    def load(self, ref: ClipRef) -> Clip:
        """Decode a clip; raises `DataError` too where its boxes were drawn on other pictures than it shows."""
        path = self.video(ref)
        sampled = self.sampled(ref)
        if ref.label is None or ref.id not in self._index.places:
            return Clip(ref.id, ref.group, sampled.frames, ref.label, (), torch.zeros_like(sampled.known))
        drawn = self._index.drawn(ref.id, self.truth)
        numbers, guessed = picture_numbers(path, frame_count(path), self.fps)
        try:
            check_fit(drawn, numbers, sampled.size, guessed=guessed)
        except InconsistentError as error:
            raise InconsistentError(f"{path}: {self._index.places[ref.id][0]} {error}") from error
        pictures = [None if i is None else numbers[i] for i in sampled.indices]
        tubes = tubes_of(drawn, pictures, ref.label, sampled, self.clip_input)
        annotated = torch.tensor([number in drawn for number in pictures])
        return Clip(ref.id, ref.group, sampled.frames, ref.label, tubes, annotated)

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) of the lists and the clips' boxes by content, and of the clips by place and size."""
        refs = self.refs()
        lists = [labels_file(self._list_folder), *(path for part in self._parts for path in self._files_of(part))]
        digest = hashlib.sha256(footprint(self.root, map(self.video, refs), lists).encode())
        for ref in refs:
            digest.update(self._index.text(ref.id) if ref.id in self._index.places else b"no boxes")
        return self.with_flow(digest.hexdigest()[:16])

    @property
    def _parts(self) -> tuple[str, ...]:
        return tuple(PARTS) if self.part == "all" else (self.part,)

    @functools.cached_property
    def _list_folder(self) -> Path:
        return find_lists(self.root) if self.lists is None else Path(self.lists)

    def _files_of(self, part: str) -> list[Path]:
        return list_files(self._list_folder, part)

    @functools.cached_property
    def _entries(self) -> list[Entry]:
        """What the lists name."""
        return [entry for part in self._parts for entry in read_list(self._files_of(part), self.classes)]

    @functools.cached_property
    def _clips(self) -> Mapping[str, str]:
        return find_clips(self.root)

    @functools.cached_property
    def _index(self) -> BoxIndex:
        given = None if self.boxes is None else Path(self.boxes)
        return index_boxes(
            find_boxes(self.root, given), {entry.id for entry in self._entries if entry.id in self._clips}
        )
