"""EPIC-Kitchens 55 and 100."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from vidattr_bench.clip import Clip
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError, did_you_mean
from vidattr_bench.motion import Flow, NoFlow, sample_streams
from vidattr_bench.transform import Sampled, sample_indices
from vidattr_bench.videomodule import VideoDataModule

from ._epic_boxes import Coverage, coverage, files_of_boxes, nouns_with_boxes, read_boxes
from ._epic_flow import FlowShelf, SegmentFlow, SegmentFrames, Span, every, find_flow
from ._epic_frames import Footage, find_footage
from ._epic_lists import (
    JOINED,
    Lists,
    Segment,
    Video,
    find_lists,
    read_classes,
    read_joined,
    read_joined_classes,
    read_segments,
    read_videos,
    read_words,
)
from ._epic_truth import TRUTHS, Boxes, Masks, chosen_visor
from ._epic_visor import MAPPING, Visor, classes_of_nouns, noun_list

_PARTS = {"test": ("test",), "train": ("train",), "all": ("train", "test"), "unlabelled": ("unlabelled",)}


@dataclasses.dataclass(eq=False, kw_only=True)
class EPICKitchens(VideoDataModule):
    """EPIC-Kitchens, actions in kitchens seen by who does them, versions 55 and 100, as they lie on disk.

    The lists are the official CSV files, gzipped or not. A segment is read from a folder of frames
    (`P01/rgb_frames/P01_01/frame_0000000001.jpg`), from an archive as distributed (`P01/rgb_frames/P01_01.tar`), from
    a video (`P01/videos/P01_01.MP4`), or from a file of that segment alone (`P01_01_10.mp4`), in that order; the places
    of the EPIC-55 release (`frames_rgb_flow/rgb/train/P01/P01_01`, `videos/train/P01/P01_01.MP4`) are looked into too.

    Truth are EPIC-55's boxes of active objects, of the segment's noun, in the training videos of EPIC-55: one every 30
    frames, so that a sampled frame within `tolerance` of one has its boxes and every other frame is unknown. Boxes were
    drawn on pictures with numbers of their own and are carried over to the RGB frames that show the same moment.

    Where VISOR's deposit is there (`VISOR/GroundTruth-SparseAnnotations/annotations/train/P01_01.json` below root, with
    `VISOR/frame_mapping.json`), truth are its masks instead, of the objects of the segment's noun, in videos of both
    versions: about two pictures an action, so that again most frames are unknown. Dense interpolations are not read.

    Attributes:
        root: folder with the footage and the lists.
        version: 55 or 100; class ids, segments and lists differ.
        split: official, or a list of segments joined with boxes: top20_500, top20_100 (20 nouns), top20_verb_500,
            top20_verb_100 (20 verbs).
        part: test, train, all or unlabelled, the withheld test sets. EPIC-100's test is the official validation list;
            the official lists of EPIC-55 have none.
        labels: noun, verb, or action, the pairs of verb and noun that the labelled lists hold.
        tolerance: largest distance in frames between a sampled frame and its boxes or masks.
        truth: boxes, masks, or auto: VISOR's masks where they are found, but for a split joined with boxes and where
            `boxes` or `box_frames` are given. The name of the split tells of masks.
        box_frames: object, where the numbers of the boxes are those of their own pictures, as in all published files;
            rgb takes them for RGB frames, as published scores on the joined lists did.
        annotations: folder with the lists; by default found below root, in `annotations` for one.
        flow_every: RGB frames from one picture of EPIC's flow to the next; by default 2 in the videos of EPIC-55, 1 in
            those that EPIC-100 added.
        boxes: EPIC_train_object_labels.csv or a joined list; by default the former where it is found, else the split's
            own joined list, or Valid_seg_top50.csv.
        visor: folder of VISOR's deposit; by default found below root, in `VISOR` for one.
    """

    reference: ClassVar[str] = (
        "Damen et al. 2018, arXiv 1804.02748; Damen et al. 2022, arXiv 2006.13256; joined lists: Li et al. 2021, arXiv "
        "2005.00375; VISOR: Darkhalil et al. 2022, arXiv 2209.13064"
    )

    version: int = 100
    split: str = "official"
    labels: str = "noun"
    tolerance: int = 3
    box_frames: str = "object"
    annotations: Path | None = None
    boxes: Path | None = None
    truth: str = "auto"
    visor: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for place in ("annotations", "boxes", "visor"):
            if (given := getattr(self, place)) is not None:
                setattr(self, place, Path(given))
        for field, known in (
            ("version", ("55", "100")),
            ("split", ("official", *JOINED)),
            ("part", tuple(_PARTS)),
            ("labels", ("noun", "verb", "action")),
            ("box_frames", ("object", "rgb")),
            ("truth", TRUTHS),
        ):
            if (value := str(getattr(self, field))) not in known:
                raise DataError(f"epic_kitchens: {field}={value!r} is unknown; {did_you_mean(value, known)}")
        if (self.visor and (self.boxes or self.truth == "boxes")) or (self.boxes and self.truth == "masks"):
            raise DataError("epic_kitchens: boxes=FILE is for truth=boxes, visor=DIR for truth=masks; give one")
        if self.truth == "masks" and self.box_frames != "object":
            raise DataError(
                f"epic_kitchens: box_frames={self.box_frames} tells of boxes; leave it out with truth=masks"
            )
        if not 0 <= self.tolerance < 15:
            raise DataError(f"epic_kitchens: tolerance={self.tolerance} must be 0 to 14, half the step of the boxes")
        joined = JOINED.get(self.split)
        if joined is not None and (self.version != 55 or self.labels != joined[2]):
            raise DataError(f"epic_kitchens: split={self.split} needs version=55 and labels={joined[2]}")

    def __getstate__(self) -> dict[str, Any]:
        """What a loading process needs: it reads the boxes again sooner than it is handed all of them."""
        return {name: value for name, value in super().__getstate__().items() if name != "_truth"}

    @property
    def split_name(self) -> str:
        """Version, split, part and labels, such as 55/top20_500/test/noun, and masks where they are the truth."""
        masks = "" if self._visor is None else "/masks"
        return f"{self.version}/{self.split}/{self.part}/{self.labels}{masks}"

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the official ids; of actions the pairs in the lists, in the order of their ids."""
        if self.split != "official":
            _, _, kind, names = JOINED[self.split]
            return read_joined_classes(self._lists.path(names), kind)
        if self.labels == "action":
            return tuple(f"{self._verbs[verb]} {self._nouns[noun]}" for verb, noun in self._actions)
        return self._verbs if self.labels == "verb" else self._nouns

    def refs(self) -> list[ClipRef]:
        """The listed segments that are on disk, in the order of the lists."""
        present = [segment for segment in self._segments.values() if segment.id in self._footage]
        if not present:
            raise DataError(
                f"{self.root}: none of the {len(self._segments)} segments of {self.split_name} is there; epic_kitchens "
                "expects P01/rgb_frames/P01_01/frame_0000000001.jpg, P01/rgb_frames/P01_01.tar or P01/videos/P01_01.MP4"
            )
        return [ClipRef(segment.id, segment.video, self._label(segment)) for segment in present]

    def missing(self) -> list[str]:
        """Listed segments that are not on disk."""
        return [id for id in self._segments if id not in self._footage]

    def load(self, ref: ClipRef) -> Clip:
        """Read a segment and the truth of its noun; raises `DataError` where a frame, box or mask makes no sense."""
        segment, sampled = self._segments[ref.id], self.sampled(ref)
        frames = self._sampled(segment)
        tubes, known = self._truth.tubes(segment, frames, sampled.size, self.clip_input, ref.label)
        annotated = torch.tensor([t in known for t in range(len(frames))])
        return Clip(ref.id, ref.group, sampled.frames, ref.label, tubes, annotated)

    def video(self, ref: ClipRef) -> Path:
        """What the frames of a segment are read from."""
        return self._footage[ref.id].path

    def sampled(self, ref: ClipRef, total: int | None = None) -> Sampled:
        """The frames of a segment, of the streams that `clip_input` asks for; flow does not look beyond its ends."""
        segment = self._segments[ref.id]
        frames = SegmentFrames(self._footage[ref.id], segment.start)
        total = segment.stop - segment.start + 1
        return sample_streams(frames, total, self.clip_input, self._flow(segment, frames, total))

    def flow_facts(self) -> list[str]:
        """What flow is made from: the algorithm, or the files of every segment; raises `DataError` without any."""
        if self._flow_shelf is None:
            return super().flow_facts()
        segments = (self._segments[ref.id] for ref in self.refs())
        return self._flow_shelf.facts({one.id: (one.video, self._span(one)) for one in segments})

    def _flow(self, segment: Segment, frames: SegmentFrames, total: int) -> Flow:
        if not self.clip_input.flow:
            return NoFlow()
        if self._flow_shelf is None:
            return self.computed_flow(frames, total)
        span = self._span(segment)
        return SegmentFlow(self._flow_shelf.find(segment.video, span), span)

    def _span(self, segment: Segment) -> Span:
        return Span(segment.start, segment.stop, self.flow_every or every(segment.video))

    @functools.cached_property
    def _flow_shelf(self) -> FlowShelf | None:
        return None if self.flow_root is None else find_flow(self.flow_root)

    def coverage(self) -> Coverage:
        """How much truth the whole split carries, on disk or not, as `clip_input` samples it; no pixel is read."""
        areas = (self._truth.areas(segment, self._sampled(segment)) for segment in self._segments.values())
        return coverage(areas, self.clip_input.length)

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) of the lists, boxes and masks by content, and of footage by place and size."""
        digest = hashlib.sha256()
        for path in self._sources:
            digest.update(path.name.encode() + path.read_bytes())
        files = {} if self._visor is None else self._visor.files
        for video in sorted({segment.video for segment in self._segments.values()} & set(files)):
            with files[video].open("rb") as file:
                digest.update(files[video].name.encode() + hashlib.file_digest(file, "sha256").digest())
        for ref in self.refs():
            segment, footage = self._segments[ref.id], self._footage[ref.id]
            stamp = footage.stamp(segment.start, segment.stop)
            digest.update(f"{ref.id} {footage.path.relative_to(self.root)} {stamp}\n".encode())
        return self.with_flow(digest.hexdigest()[:16])

    def _sampled(self, segment: Segment) -> list[int | None]:
        indices = sample_indices(segment.stop - segment.start + 1, self.clip_input)
        return [None if i is None else segment.start + i for i in indices]

    def _label(self, segment: Segment) -> int | None:
        if segment.label is not None:
            return segment.label
        if segment.verb is None or segment.noun is None:
            return None
        if self.labels == "action":
            return self._actions[segment.verb, segment.noun]
        return segment.verb if self.labels == "verb" else segment.noun

    def _video(self, segment: Segment) -> Video:
        if segment.video not in self._videos:
            raise DataError(f"{self._lists.path(self._lists.version.videos)}: has no video {segment.video}")
        return self._videos[segment.video]

    @functools.cached_property
    def _footage(self) -> Mapping[str, Footage]:
        """Where the segments are that are on disk, by id."""
        shelf = find_footage(self.root)
        found = {one.id: shelf.find(one.id, one.video, one.start, one.stop) for one in self._segments.values()}
        return {id: footage for id, footage in found.items() if footage is not None}

    @functools.cached_property
    def _lists(self) -> Lists:
        return self._both_lists[self.version]

    @functools.cached_property
    def _verbs(self) -> tuple[str, ...]:
        version = self._lists.version
        return read_classes(self._lists.path(version.verbs), version.id[0], version.key)

    @functools.cached_property
    def _nouns(self) -> tuple[str, ...]:
        version = self._lists.version
        return read_classes(self._lists.path(version.nouns), version.id[1], version.key, version.nouns_used)

    @functools.cached_property
    def _videos(self) -> Mapping[str, Video]:
        version = self._lists.version
        return read_videos(self._lists.path(version.videos), version.video)

    @functools.cached_property
    def _actions(self) -> Mapping[tuple[int, int], int]:
        """Number of each pair of verb and noun that a labelled list holds."""
        paths = (self._lists.path(name) for name in self._labelled_lists)
        listed = (segment for path in paths for segment in self._official(path))
        pairs = {(one.verb, one.noun) for one in listed if one.verb is not None and one.noun is not None}
        return {pair: number for number, pair in enumerate(sorted(pairs))}

    @property
    def _labelled_lists(self) -> list[str]:
        """Names of the lists that tell verb and noun."""
        lists = self._lists.version.lists
        return [name for part, names in lists.items() if part != "unlabelled" for name in names]

    @functools.cached_property
    def _read_lists(self) -> list[Path]:
        """The lists of the split and part."""
        joined = JOINED.get(self.split)
        if joined is not None:
            names = {"test": joined[0], "train": joined[1]}
            return [self._lists.path(names[part]) for part in _PARTS[self.part] if part in names]
        lists = self._lists.version.lists
        names_of = [name for part in _PARTS[self.part] for name in lists.get(part, ())]
        return [self._lists.path(name) for name in names_of]

    @property
    def _sources(self) -> list[Path]:
        """Every file that labels and truth come from, but for the masks."""
        own, drawn = self._lists, self._lists_of_boxes
        names = [own.version.verbs, own.version.nouns, own.version.videos, drawn.version.nouns]
        if self.split != "official":
            names.append(JOINED[self.split][3])
        elif self.labels == "action":
            names += self._labelled_lists  # an action's number is its place among the pairs of all of them
        found = (own.find(name) or drawn.find(name) for name in names)
        if self._visor is None:
            truth = self._box_paths
        else:
            truth = [noun_list(self._visor, self._both_lists[100]), self._visor.folder / MAPPING]
        return [path for path in (*self._read_lists, *truth, *found) if path is not None]

    @functools.cached_property
    def _segments(self) -> Mapping[str, Segment]:
        """What the lists name, each segment once."""
        if not self._read_lists:
            raise DataError(
                f"epic_kitchens: {self.split_name} has no list; of EPIC-55 give part=train, part=unlabelled or "
                "split=top20_500"
            )
        read = self._official if self.split == "official" else self._joined
        return {segment.id: segment for path in self._read_lists for segment in read(path)}

    def _official(self, path: Path) -> list[Segment]:
        return read_segments(path, self._lists.version, len(self._verbs), len(self._nouns))

    def _joined(self, path: Path) -> list[Segment]:
        return read_joined(path, JOINED[self.split][2], len(self.classes), self._words)

    @functools.cached_property
    def _both_lists(self) -> Mapping[int, Lists]:
        """The lists of either version, which lie side by side or in folders of their own."""
        return {number: find_lists(self.root, number, self.annotations) for number in (55, 100)}

    @property
    def _lists_of_boxes(self) -> Lists:
        return self._both_lists[55]

    @functools.cached_property
    def _box_paths(self) -> list[Path]:
        joined = [] if self.split == "official" else self._read_lists
        return files_of_boxes(self.boxes, self._lists_of_boxes, joined)

    @functools.cached_property
    def _words(self) -> Mapping[str, int]:
        """The EPIC-55 class of every noun."""
        version = self._lists_of_boxes.version
        return read_words(self._lists_of_boxes.path(version.nouns), version.id[1], version.instances[1])

    @functools.cached_property
    def _visor(self) -> Visor | None:
        """VISOR, where its masks are the truth."""
        boxes = self.split != "official" or self.boxes is not None or self.box_frames != "object"
        return chosen_visor(self.truth, self.root, self.visor, boxes=boxes)

    @functools.cached_property
    def _truth(self) -> Boxes | Masks:
        """The boxes of all segments, or where their masks are."""
        if self._visor is not None:
            nouns = classes_of_nouns(self._visor, self.version, self._both_lists)
            return Masks(self._visor, nouns, self.tolerance)
        if not self._box_paths:
            return Boxes(None, {}, self.tolerance, carried=False, video=self._video)
        drawn: Mapping[int, tuple[int, ...]] = {noun: (noun,) for noun in self._words.values()}
        if self.version == 100:
            drawn = nouns_with_boxes(self._lists, self._lists_of_boxes)
        table = read_boxes(self._box_paths, self._words)
        return Boxes(table, drawn, self.tolerance, carried=self.box_frames == "object", video=self._video)
