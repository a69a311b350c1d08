"""Kinetics-400, -600 and -700."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch

from vidattr_bench.classes import read_classes
from vidattr_bench.clip import Clip
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError, did_you_mean
from vidattr_bench.videomodule import VideoDataModule

from ._kinetics import (
    PARTS,
    Found,
    Listed,
    Moment,
    class_of,
    clip_folders,
    file_of,
    find_clips,
    find_list,
    plain,
    read_list,
)
from ._videos import footprint

_VERSIONS = ("400", "600", "700")


@dataclasses.dataclass(eq=False, kw_only=True)
class Kinetics(VideoDataModule):
    """Kinetics, ten-second clips of human actions in YouTube videos, with 400, 600 or 700 classes, without boxes.

    Clips are `<root>/<part>/<class>/<id>_<start>_<end>.mp4` (or another container), with class folders in any
    spelling, or without them; `<id>.mp4` is a clip of the label file where that lists the id once. Parts are folders
    called train, val (validate, validation) and test, also as `val_256` or `videos_val`, in root or in `k400`. The
    label files, with the columns label, youtube_id, time_start, time_end, split, are looked for in `annotations` and in
    root as train.csv, val.csv or validate.csv, test.csv, or kinetics-400_val.csv. A part without label file holds what
    lies in its class folders. A clip's group is its YouTube id. Clips that a label file names and the disk lacks, as
    videos vanish from YouTube, are counted as missing.

    Attributes:
        root: folder with the clips and the label files.
        version: 400, 600 or 700; label files and label maps are called after it.
        part: val, train, test or all of them; published accuracies are of val.
        lists: label file of the part, instead of the one found below root.
        label_map: text file of class names, one a line in the order of the labels; by default the label map found
            in root (label_map_600.txt), of Kinetics-400 the official names, else those that occur, sorted; the maps
            of Kinetics-400 and -600 are sorted too.
    """

    reference: ClassVar[str] = (
        "Kay et al. 2017, arXiv 1705.06950; Kinetics-600: Carreira et al. 2018, arXiv 1808.01340; Kinetics-700: "
        "Carreira et al. 2019, arXiv 1907.06987"
    )

    version: int = 400
    part: str = "val"
    lists: Path | None = None
    label_map: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known in (("version", _VERSIONS), ("part", (*PARTS, "all"))):
            if (value := str(getattr(self, field))) not in known:
                raise DataError(f"kinetics: {field}={value!r} is unknown; {did_you_mean(value, known)}")
        if self.lists is not None and self.part == "all":
            raise DataError("kinetics: lists= is the label file of one part; give part=val, train or test")

    @property
    def split_name(self) -> str:
        """Version and part, such as 400/val."""
        return f"{self.version}/{self.part}"

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the label map."""
        if self._map_file is not None:
            return read_classes(self._map_file)
        if self.version == 400:
            return _official_400()
        listed = {one.label for part in PARTS for one in self._listed(part) if one.label}
        return tuple(sorted(listed or {one.folder for part in PARTS for one in self._found(part) if one.folder}))

    def refs(self) -> list[ClipRef]:
        """The clips of the part that are on disk, in the order of the label file, or sorted by class folder."""
        present = [(listed, path) for listed, path in self._clips.items() if path is not None]
        if not present:
            raise DataError(
                f"{self.root}: none of the {len(self._clips)} clips of {self.split_name} is there; kinetics expects "
                f"{'val' if self.part == 'all' else self.part}/<class>/<id>_<start>_<end>.mp4 below root"
            )
        number = {name: i for i, name in enumerate(self.classes)}
        return [ClipRef(one.moment.id, one.moment.youtube, number.get(one.label)) for one, _ in present]

    def missing(self) -> list[str]:
        """Clips that the label file names and that are not on disk, nor in a file that might be another moment."""
        return [one.moment.id for one, path in self._clips.items() if path is None]

    def video(self, ref: ClipRef) -> Path:
        """The file of a clip."""
        return self._paths[ref.id]

    def load(self, ref: ClipRef) -> Clip:
        """Decode a clip; nothing is known of where its action is."""
        video = self.sampled(ref)
        return Clip(ref.id, ref.group, video.frames, ref.label, (), torch.zeros_like(video.known))

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) of label files and label map by content, and of the clips by place and size."""
        lists = [self._list_file(part) for part in self._parts]
        found = footprint(self.root, (self.video(ref) for ref in self.refs()), [*lists, self._map_file])
        return self.with_flow(found)

    @property
    def _parts(self) -> tuple[str, ...]:
        return tuple(PARTS) if self.part == "all" else (self.part,)

    @functools.cached_property
    def _map_file(self) -> Path | None:
        if self.label_map is not None:
            return self.label_map
        path = self.root / f"label_map_{self.version}.txt"
        return path if path.is_file() else None

    def _list_file(self, part: str) -> Path | None:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder; give kinetics:root=DIR, the folder that holds val")
        own = self.lists if part == self.part else None
        return find_list(self.root, self.version, part) if own is None else own

    def _listed(self, part: str) -> list[Listed]:
        path = self._list_file(part)
        return [] if path is None else read_list(path)

    def _found(self, part: str) -> list[Found]:
        return list(find_clips(clip_folders(self.root, self.version, part)))

    @functools.cached_property
    def _clips(self) -> Mapping[Listed, Path | None]:
        """What the parts hold, and the file of each clip, None where it is missing."""
        found: dict[Listed, Path | None] = {}
        for part in self._parts:
            for one, path in self._clips_of(part).items():
                found[one] = found.get(one) or path  # a clip that two parts list lies in one of them
        return found

    def _clips_of(self, part: str) -> Mapping[Listed, Path | None]:
        if self._list_file(part) is None:
            names = {plain(name): name for name in self.classes}
            clips: dict[Listed, Path | None] = {}
            for one in self._found(part):
                if one.folder:
                    # Of a clip in several folders, such as val and val_256, the first is read.
                    clips.setdefault(Listed(one.moment, class_of(one.folder, names, one.path.parent)), one.path)
            return clips
        listed, paths = self._listed(part), self._files[part]
        self._check_labels(part, listed)
        return file_of(listed, paths)

    @functools.cached_property
    def _files(self) -> Mapping[str, Mapping[Moment, Path]]:
        """The clips on disk, part by part; of one in several folders the first."""
        files: dict[str, dict[Moment, Path]] = {}
        for part in self._parts:
            for found in self._found(part):
                files.setdefault(part, {}).setdefault(found.moment, found.path)
        return {part: files.get(part, {}) for part in self._parts}

    def _check_labels(self, part: str, listed: list[Listed]) -> None:
        unknown = {one.label for one in listed} - {*self.classes, ""}
        if unknown:
            name = min(unknown)
            raise DataError(
                f"{self._list_file(part)}: the class {name!r} is not in the label map of {len(self.classes)}; "
                f"{did_you_mean(name, self.classes)} Or give version= or label_map=FILE"
            )

    @functools.cached_property
    def _paths(self) -> Mapping[str, Path]:
        return {one.moment.id: path for one, path in self._clips.items() if path is not None}


def _official_400() -> tuple[str, ...]:
    """The label map of Kinetics-400, as torchvision's networks have it."""
    from torchvision.models.video import R3D_18_Weights

    return tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"])
