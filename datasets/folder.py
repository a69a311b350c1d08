"""Just my clips: a folder of videos."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vidattr_bench.classes import read_classes
from vidattr_bench.clip import Clip, Tube
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError, InconsistentError, did_you_mean
from vidattr_bench.video import frame_count
from vidattr_bench.videomodule import VideoDataModule

from ._folder_lists import PARTS, Boxes, Entry, nearest, read_boxes, read_entries, tubes_of
from ._videos import find_videos, footprint

_LABELS_BY = ("auto", "csv", "folder", "none")


@dataclasses.dataclass(eq=False, kw_only=True)
class Folder(VideoDataModule):
    """A plain folder of videos, nested or flat, with labels and boxes from CSV files where there are any.

    A video is a file (avi, mp4, mkv, webm, mov, m4v, mpg, mpeg, ts, ogv, flv, wmv, gif) or a folder of numbered
    pictures (00001.jpg); its name is its path below root, with forward slashes.

    `labels.csv` has the column `video` and, each where wanted, `label`, `group` (the source that clips share; by
    default each video is its own) and `part` (test or train; a video without one is for the test). The data set is
    then the videos that it lists. Without labels there, the subfolders of root name the classes if every video lies in
    one; else there are no classes, and every clip is explained for the class that the model predicts.

    `boxes.csv` has the columns `video,frame,x0,y0,x1,y1`, where wanted `instance`: frames count from 0, boxes are in
    pixels of the video, x1 and y1 excluded. Lines of a frame are told apart by `instance`; a line with a frame and no
    numbers says that the frame is empty. Every other frame is unknown. Boxes show the evidence for the clip's label,
    so those of a clip without one are not used.

    Attributes:
        root: folder with the videos.
        labels: CSV file of labels; by default `labels.csv` in root where it is there.
        boxes: CSV file of boxes; by default `boxes.csv` in root where it is there.
        labels_by: where labels come from: csv, folder, none, or auto, the first of them that there is.
        class_list: text file of class names, one a line, for a model whose classes have an order but no names; by
            default those that occur, sorted.
        tolerance: largest distance in frames between a sampled frame and the boxes that it takes.
    """

    labels: Path | None = None
    boxes: Path | None = None
    labels_by: str = "auto"
    class_list: Path | None = None
    tolerance: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known in (("part", (*PARTS, "all")), ("labels_by", _LABELS_BY)):
            if (value := getattr(self, field)) not in known:
                raise DataError(f"folder: {field}={value!r} is unknown; {did_you_mean(value, known)}")
        if self.tolerance < 0:
            raise DataError(f"folder: tolerance={self.tolerance} must be 0 or more frames")

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels that occur in any part, sorted, or those of `class_list`; empty where there are none."""
        found = {label for label in self._labels.values() if label}
        if self.class_list is None:
            return tuple(sorted(found))
        listed = read_classes(self.class_list)
        unknown = sorted(found.difference(listed))
        if unknown:
            raise DataError(f"{self.class_list}: lacks the label {unknown[0]!r}; {did_you_mean(unknown[0], listed)}")
        return listed

    def refs(self) -> list[ClipRef]:
        """The videos of the part that are on disk, in the order of labels.csv, or sorted by name."""
        present = [entry for entry in self._part if entry.video in self._videos]
        if not present:
            raise DataError(f"{self.root}: no video of part={self.part} is there; {len(self._part)} are listed")
        number = {name: i for i, name in enumerate(self.classes)}
        if self._boxes and not number:
            raise DataError(
                f"{self._box_file}: boxes show the evidence for a label, and there are no labels; give labels.csv a "
                "column label, or set the boxes aside"
            )
        return [
            ClipRef(one.video, one.group or one.video, number.get(self._labels.get(one.video, ""))) for one in present
        ]

    def missing(self) -> list[str]:
        """Videos of the part that labels.csv lists and that are not on disk."""
        return [entry.video for entry in self._part if entry.video not in self._videos]

    def video(self, ref: ClipRef) -> Path:
        """The file or the folder of that name."""
        return self._videos[ref.id]

    def flow_names(self, ref: ClipRef) -> Sequence[str]:
        """Its whole place below root: videos in two folders may have one name."""
        return super().flow_names(ref)[:1]

    def load(self, ref: ClipRef) -> Clip:
        """Decode a video; raises `DataError` where it is damaged or its boxes do not belong to it."""
        path, boxes = self.video(ref), self._boxes.get(ref.id, {})
        sampled = self.sampled(ref)
        total = frame_count(path)
        late = [frame for frame in boxes if frame >= total]
        if late:
            raise InconsistentError(
                f"{self._box_file}: frame {late[0]} of {ref.id}, which has {total} (counted from 0)"
            )
        known = {} if ref.label is None else nearest(boxes, sampled, self.tolerance)
        tubes: tuple[Tube, ...] = ()
        if ref.label is not None:
            try:
                tubes = tubes_of(known, ref.label, sampled, self.clip_input)
            except InconsistentError as error:
                raise InconsistentError(f"{self._box_file}: {ref.id}: {error}") from error
        annotated = torch.tensor([t in known for t in range(len(sampled.indices))])
        return Clip(ref.id, ref.group, sampled.frames, ref.label, tubes, annotated)

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) of the lists by content, and of the videos by place and size."""
        videos = (self.video(ref) for ref in self.refs())
        return self.with_flow(footprint(self.root, videos, [self._label_file, self._box_file, self.class_list]))

    @functools.cached_property
    def _videos(self) -> Mapping[str, Path]:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder; give folder:root=DIR, the folder with the videos")
        found = find_videos(self.root)
        if not found:
            raise DataError(f"{self.root}: holds no video file and no folder of numbered pictures")
        return found

    @functools.cached_property
    def _label_file(self) -> Path | None:
        return self._beside(self.labels, "labels.csv")

    @functools.cached_property
    def _box_file(self) -> Path | None:
        return self._beside(self.boxes, "boxes.csv")

    def _beside(self, given: Path | None, name: str) -> Path | None:
        if given is not None and not given.is_file():
            raise DataError(f"{given}: there is no such file; give the CSV file, or leave it out")
        return given or (self.root / name if (self.root / name).is_file() else None)

    @functools.cached_property
    def _entries(self) -> list[Entry]:
        """What labels.csv lists, or every video on disk."""
        if self._label_file is not None:
            return read_entries(self._label_file)
        return [Entry(0, video, "", "", "") for video in self._videos]

    @functools.cached_property
    def _part(self) -> list[Entry]:
        return [entry for entry in self._entries if self.part in ("all", entry.part or "test")]

    @functools.cached_property
    def _labels(self) -> Mapping[str, str]:
        """The name of the class of every video that has one."""
        listed = {entry.video: entry.label for entry in self._entries if entry.label}
        folders = {entry.video: entry.video.partition("/")[0] for entry in self._entries if "/" in entry.video}
        every = len(folders) == len(self._entries)
        if self.labels_by == "csv" and not listed:
            raise DataError(f"{self.root}: labels_by=csv needs labels.csv with a column label")
        if self.labels_by == "folder" and not every:
            flat = next(entry.video for entry in self._entries if "/" not in entry.video)
            raise DataError(f"{self.root}: labels_by=folder, but {flat!r} lies in no subfolder; move it into one")
        if self.labels_by == "none":
            return {}
        if self.labels_by == "folder":
            return folders
        return listed or (folders if every else {})

    @functools.cached_property
    def _boxes(self) -> Mapping[str, Boxes]:
        if self._box_file is None:
            return {}
        return read_boxes(self._box_file, {*self._videos, *(entry.video for entry in self._entries)})
