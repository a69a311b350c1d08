"""UCF101 and UCF101-24."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch

from vidattr_bench.clip import Clip, Tube, Unreadable, VideoTruth
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError, InconsistentError, did_you_mean
from vidattr_bench.transform import Sampled, fit_boxes
from vidattr_bench.video import frame_count
from vidattr_bench.videomodule import VideoDataModule

from ._ucf101 import (
    FRAME,
    Annotation,
    Entry,
    RawTube,
    boxes_in,
    find_clips,
    find_splits,
    find_tubes,
    read_classes,
    read_list,
    read_tube_classes,
    read_tubes,
)

_SPLITS = ("1", "2", "3", "all")
_PARTS = {"test": ("test",), "train": ("train",), "all": ("train", "test")}


@dataclasses.dataclass(eq=False, kw_only=True)
class UCF101(VideoDataModule):
    """UCF101, human actions in web video, and its part with action tubes, UCF101-24, as they lie on disk.

    Clips are `<root>/UCF-101/<Class>/<clip>.avi` (or mp4, mkv, webm, mov, m4v, mpg, mpeg, gif) or folders of pictures
    `<root>/rgb-images/<Class>/<clip>/00001.jpg`; `videos`, `frames` and `<root>` itself are looked into too. Of a clip
    in several forms the first of avi, mp4, mkv, webm, mov, m4v, mpg, mpeg, folder, gif is read. The plan holds the
    listed clips that are there. Tubes are the corrected ones (finalAnnots.mat, or pyannot.pkl), with boxes drawn in
    320 x 240 and scaled to the size of the video. A frame outside the tubes is empty; a clip without annotation is
    unknown.

    Attributes:
        root: folder with the videos, the lists and the tubes.
        split: official split 1, 2 or 3, or all: the lists of the three joined, so that train and test overlap.
        subset: 101 for every class, the default, since every clip serves faithfulness; 24 for the classes with tubes,
            where localisation is defined too.
        splits: folder with classInd.txt, trainlist01.txt, testlist01.txt, ...; by default found below root.
        tubes: finalAnnots.mat or pyannot.pkl; by default found below root, in `tubes` for one.
    """

    reference: ClassVar[str] = "Soomro et al. 2012, arXiv 1212.0402; tubes: Singh et al. 2017, arXiv 1611.08563"

    split: str = "1"
    subset: int = 101
    splits: Path | None = None
    tubes: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.split = str(self.split)
        for field, known in (("split", _SPLITS), ("part", tuple(_PARTS)), ("subset", ("24", "101"))):
            if (value := str(getattr(self, field))) not in known:
                raise DataError(f"ucf101: {field}={value!r} is unknown; {did_you_mean(value, known)}")

    @property
    def split_name(self) -> str:
        """Split, part and subset, such as 1/test/24."""
        return f"{self.split}/{self.part}/{self.subset}"

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The 101 names of classInd.txt, or the 24 with tubes, both in alphabetical order."""
        return (read_tube_classes if self.subset == 24 else read_classes)(self._split_folder)

    def refs(self) -> list[ClipRef]:
        """The listed clips that are on disk, in the order of the lists."""
        labels = {name: i for i, name in enumerate(self.classes)}
        present = [entry for entry in self._entries if entry.clip.casefold() in self._clips]
        if not present:
            raise DataError(
                f"{self.root}: none of the {len(self._entries)} clips of {self.split_name} is there; ucf101 expects "
                "UCF-101/<Class>/<clip>.avi or rgb-images/<Class>/<clip>/00001.jpg below root"
            )
        return [ClipRef(entry.clip, entry.group, labels[entry.label]) for entry in present]

    def missing(self) -> list[str]:
        """Listed clips that are not on disk."""
        return [entry.clip for entry in self._entries if entry.clip.casefold() not in self._clips]

    def truths(self) -> Iterator[VideoTruth | Unreadable]:
        """The tubes of the listed clips that have any, in the 320 x 240 frame in which they were drawn."""
        labels = {name: i for i, name in enumerate(self.classes)}
        for entry in self._entries:
            annotation = self._annotations.get(entry.clip.casefold())
            if annotation is None:
                continue
            try:
                tubes = tuple(self._whole_tube(entry.clip, raw, annotation.frames) for raw in annotation.tubes)
            except DataError as error:
                yield Unreadable(entry.clip, f"{self._tube_file}: {error}", inconsistent=True)
                continue
            yield VideoTruth(entry.clip, entry.group, labels[entry.label], annotation.frames, FRAME, tubes)

    def _whole_tube(self, clip: str, raw: RawTube, frames: int) -> Tube:
        if raw.last > frames:
            raise InconsistentError(f"{clip}: a tube ends in frame {raw.last} of {frames}; correct the annotation")
        return Tube(self._label(raw.label), raw.first - 1, boxes_in(raw, FRAME, clip))

    def video(self, ref: ClipRef) -> Path:
        """The file of a clip, or its folder of pictures."""
        return self._clips[ref.id.casefold()]

    def flow_names(self, ref: ClipRef) -> Sequence[str]:
        """As the clip, the lists or the class are spelt: the lists have v_HandStandPushups, published flow has not."""
        assert ref.label is not None
        label, cut = self.classes[ref.label], "_".join(ref.id.split("_")[-2:])
        spelt = (ref.id, f"v_{label}_{cut}")
        return [*super().flow_names(ref), *(f"{folder}{name}" for name in spelt for folder in (f"{label}/", ""))]

    def load(self, ref: ClipRef) -> Clip:
        """Decode a clip; raises `DataError` too where the annotation was made on another number of frames."""
        path = self.video(ref)
        sampled = self.sampled(ref)
        annotation, total = self._annotations.get(ref.id.casefold()), frame_count(path)
        if annotation is not None and annotation.frames != total:
            raise InconsistentError(
                f"{path}: decodes to {total} frames, but its tubes in {self._tube_file} were drawn on "
                f"{annotation.frames} and would lie on wrong ones; use the original video, or extract every frame of it"
            )
        tubes = () if annotation is None else self._tubes_of(ref.id, annotation, sampled)
        annotated = torch.zeros_like(sampled.known) if annotation is None else sampled.known
        return Clip(ref.id, ref.group, sampled.frames, ref.label, tubes, annotated)

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) of lists and tubes by content, and of clips by place and size."""
        digest = hashlib.sha256()
        for path in [self._split_folder / "classInd.txt", *self._list_files, self._tube_file]:
            digest.update(path.read_bytes() if path is not None else b"no tubes")
        for ref in self.refs():
            path = self.video(ref)
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            digest.update(f"{path.relative_to(self.root)} {[file.stat().st_size for file in files]}\n".encode())
        return self.with_flow(digest.hexdigest()[:16])

    def _tubes_of(self, clip: str, annotation: Annotation, sampled: Sampled) -> tuple[Tube, ...]:
        tubes = (self._sampled_tube(clip, raw, sampled) for raw in annotation.tubes)
        return tuple(tube for tube in tubes if tube is not None)

    def _sampled_tube(self, clip: str, raw: RawTube, sampled: Sampled) -> Tube | None:
        """The tube on the sampled frames; None where it lies between or beside all of them."""
        boxes = boxes_in(raw, sampled.size, clip)
        hit = [
            (t, i - raw.first + 1)
            for t, i in enumerate(sampled.indices)
            if i is not None and raw.first - 1 <= i < raw.last
        ]
        if not hit:
            return None
        chosen = fit_boxes(boxes[[i for _, i in hit]], sampled.size, self.clip_input)
        return Tube(self._label(raw.label), hit[0][0], chosen)

    def _label(self, name: str) -> int:
        if name not in self.classes:
            raise DataError(f"{self._tube_file}: a tube has the class {name!r}; {did_you_mean(name, self.classes)}")
        return self.classes.index(name)

    @functools.cached_property
    def _split_folder(self) -> Path:
        if not self.root.is_dir():
            raise DataError(
                f"{self.root}: there is no such folder; give ucf101:root=DIR, the folder that holds UCF-101"
            )
        return find_splits(self.root) if self.splits is None else Path(self.splits)

    @property
    def _list_files(self) -> list[Path]:
        numbers = ("1", "2", "3") if self.split == "all" else (self.split,)
        return [self._split_folder / f"{part}list0{n}.txt" for part in _PARTS[self.part] for n in numbers]

    @functools.cached_property
    def _entries(self) -> list[Entry]:
        """What the lists name, each clip once, of the classes of the subset."""
        every_class = read_classes(self._split_folder)
        listed = (entry for path in self._list_files for entry in read_list(path, every_class))
        return [entry for entry in dict.fromkeys(listed) if entry.label in self.classes]

    @functools.cached_property
    def _clips(self) -> Mapping[str, Path]:
        return find_clips(self.root, self.classes)

    @functools.cached_property
    def _tube_file(self) -> Path | None:
        return find_tubes(self.root) if self.tubes is None else Path(self.tubes)

    @functools.cached_property
    def _annotations(self) -> Mapping[str, Annotation]:
        if self._tube_file is not None:
            return read_tubes(self._tube_file, read_tube_classes(self._split_folder))
        if self.subset == 24:
            raise DataError(f"{self.root}: no finalAnnots.mat or pyannot.pkl; give tubes=FILE, or subset=101")
        return {}
