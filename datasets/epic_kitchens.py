"""EPIC-Kitchens 55 and 100."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from vidattr_bench.clip import Clip, Tube
from vidattr_bench.datamodule import ClipDataModule, ClipRef
from vidattr_bench.errors import DataError, did_you_mean
from vidattr_bench.transform import fit, sample_indices

from ._epic_boxes import (
    OBJECT_LABELS,
    TOP50,
    Box,
    BoxTable,
    Canvas,
    Coverage,
    coverage,
    matched,
    read_boxes,
    rgb_frame,
    tubes_of,
)
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

_PARTS = {"test": ("test",), "train": ("train",), "all": ("train", "test"), "unlabelled": ("unlabelled",)}


@dataclasses.dataclass(eq=False, kw_only=True)
class EPICKitchens(ClipDataModule):
    """EPIC-Kitchens, actions in kitchens seen by who does them, versions 55 and 100, as they lie on disk.

    The lists are the official CSV files, gzipped or not. A segment is read from a folder of frames
    (`P01/rgb_frames/P01_01/frame_0000000001.jpg`), from an archive as distributed (`P01/rgb_frames/P01_01.tar`), from
    a video (`P01/videos/P01_01.MP4`), or from a file of that segment alone (`P01_01_10.mp4`), in that order; the places
    of the EPIC-55 release (`frames_rgb_flow/rgb/train/P01/P01_01`, `videos/train/P01/P01_01.MP4`) are looked into too.

    Truth are EPIC-55's boxes of active objects, of the segment's noun, in the training videos of EPIC-55: one every 30
    frames, so that a sampled frame within `tolerance` of one has its boxes and every other frame is unknown. Boxes were
    drawn on pictures with numbers of their own and are carried over to the RGB frames that show the same moment. Masks
    of VISOR are not read, since tubes are boxes.

    Attributes:
        root: folder with the footage and the lists.
        version: 55 or 100; class ids, segments and lists differ.
        split: official, or a list of segments joined with boxes: top20_500, top20_100 (20 nouns), top20_verb_500,
            top20_verb_100 (20 verbs).
        part: test, train, all or unlabelled, the withheld test sets. EPIC-100's test is the official validation list;
            the official lists of EPIC-55 have none.
        labels: noun, verb, or action, the pairs of verb and noun that the labelled lists hold.
        tolerance: largest distance in frames between a sampled frame and its boxes.
        box_frames: object, where the numbers of the boxes are those of their own pictures, as in all published files;
            rgb takes them for RGB frames, as published scores on the joined lists did.
        annotations: folder with the lists; by default found below root, in `annotations` for one.
        boxes: EPIC_train_object_labels.csv or a joined list; by default the former where it is found, else the split's
            own joined list, or Valid_seg_top50.csv.
    """

    reference: ClassVar[str] = (
        "Damen et al. 2018, arXiv 1804.02748; Damen et al. 2022, arXiv 2006.13256; joined lists: Li et al. 2021, arXiv "
        "2005.00375"
    )

    root: Path
    version: int = 100
    split: str = "official"
    labels: str = "noun"
    tolerance: int = 3
    box_frames: str = "object"
    annotations: Path | None = None
    boxes: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.root = Path(self.root)
        for field, known in (
            ("version", ("55", "100")),
            ("split", ("official", *JOINED)),
            ("part", tuple(_PARTS)),
            ("labels", ("noun", "verb", "action")),
            ("box_frames", ("object", "rgb")),
        ):
            if (value := str(getattr(self, field))) not in known:
                raise DataError(f"epic_kitchens: {field}={value!r} is unknown; {did_you_mean(value, known)}")
        if not 0 <= self.tolerance < 15:
            raise DataError(f"epic_kitchens: tolerance={self.tolerance} must be 0 to 14, half the step of the boxes")
        joined = JOINED.get(self.split)
        if joined is not None and (self.version != 55 or self.labels != joined[2]):
            raise DataError(f"epic_kitchens: split={self.split} needs version=55 and labels={joined[2]}")

    def __getstate__(self) -> dict[str, Any]:
        """What a loading process needs: it reads the boxes again sooner than it is handed all of them."""
        return {name: value for name, value in super().__getstate__().items() if name != "_boxes"}

    @property
    def split_name(self) -> str:
        """Version, split, part and labels, such as 55/top20_500/test/noun."""
        return f"{self.version}/{self.split}/{self.part}/{self.labels}"

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
        """Read a segment and the boxes of its noun; raises `DataError` where a frame or a box makes no sense."""
        segment = self._segments[ref.id]
        frames = self._sampled(segment)
        pixels = self._footage[ref.id].read([frame for frame in frames if frame is not None])
        shown, _ = fit(pixels, torch.zeros(0, 4), self.clip_input)
        found = self.truth(segment)
        read = (pixels.shape[1], pixels.shape[2])
        tubes: tuple[Tube, ...] = ()
        if found and ref.label is not None:
            canvas = Canvas(self._video(segment).size, read, self.clip_input)
            tubes = tubes_of(found, canvas, ref.label, f"{', '.join(map(str, self._box_paths))}: {ref.id}")
        annotated = torch.tensor([t in found for t in range(len(frames))])
        padded = F.pad(shown, (0, 0, 0, 0, 0, len(frames) - len(pixels)))
        return Clip(ref.id, ref.group, padded, ref.label, tubes, annotated)

    def truth(self, segment: Segment) -> dict[int, tuple[Box, ...]]:
        """The boxes of each sampled frame of a segment that has some, by its index in the clip."""
        table = self._boxes
        if table is None or segment.noun is None:
            return {}
        drawn = table.of(segment.video, self._box_nouns.get(segment.noun, ()))
        if drawn and self.box_frames == "object":
            fps = self._video(segment).fps
            drawn = {rgb_frame(frame, fps): boxes for frame, boxes in drawn.items()}
        return matched(drawn, self._sampled(segment), self.tolerance)

    def coverage(self) -> Coverage:
        """How much truth the whole split carries, on disk or not, as `clip_input` samples it; no pixel is read."""
        clips = ((self.truth(segment), self._video(segment)) for segment in self._segments.values())
        return coverage(clips, self.clip_input.length)

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) of the lists and boxes by content, and of the footage by place and size."""
        digest = hashlib.sha256()
        for path in self._sources:
            digest.update(path.name.encode() + path.read_bytes())
        for ref in self.refs():
            segment, footage = self._segments[ref.id], self._footage[ref.id]
            stamp = footage.stamp(segment.start, segment.stop)
            digest.update(f"{ref.id} {footage.path.relative_to(self.root)} {stamp}\n".encode())
        return digest.hexdigest()[:16]

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
        return find_lists(self.root, self.version, self.annotations)

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
        lists = self._lists.version.lists
        names = (name for part, names in lists.items() if part != "unlabelled" for name in names)
        listed = (segment for name in names for segment in self._official(self._lists.path(name)))
        pairs = {(one.verb, one.noun) for one in listed if one.verb is not None and one.noun is not None}
        return {pair: number for number, pair in enumerate(sorted(pairs))}

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
        """Every file that labels and boxes come from."""
        own, drawn = self._lists, self._lists_of_boxes
        names = [own.version.verbs, own.version.nouns, own.version.videos, drawn.version.nouns]
        if self.split != "official":
            names.append(JOINED[self.split][3])
        found = (own.find(name) or drawn.find(name) for name in names)
        return [path for path in (*self._read_lists, *self._box_paths, *found) if path is not None]

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
    def _lists_of_boxes(self) -> Lists:
        """EPIC-55's lists, which lie beside those of EPIC-100 or in a folder of their own."""
        return find_lists(self.root, 55, self.annotations)

    @functools.cached_property
    def _box_paths(self) -> list[Path]:
        if self.boxes is not None:
            if not self.boxes.is_file():
                raise DataError(f"{self.boxes}: there is no such file; boxes= takes {OBJECT_LABELS} or a joined list")
            return [self.boxes]
        official, pooled = (self._lists_of_boxes.find(name) for name in (OBJECT_LABELS, TOP50))
        if official is not None:
            return [official]
        if self.split != "official":
            return self._read_lists
        return [] if pooled is None else [pooled]

    @functools.cached_property
    def _boxes(self) -> BoxTable | None:
        return read_boxes(self._box_paths, self._words) if self._box_paths else None

    @functools.cached_property
    def _words(self) -> Mapping[str, int]:
        """The EPIC-55 class of every noun."""
        version = self._lists_of_boxes.version
        return read_words(self._lists_of_boxes.path(version.nouns), version.id[1], version.instances[1])

    @functools.cached_property
    def _box_nouns(self) -> Mapping[int, tuple[int, ...]]:
        """The EPIC-55 noun classes whose boxes each noun class takes: itself, or those whose name is a word of it."""
        version, lists = self._lists_of_boxes.version, self._lists_of_boxes
        if self.version == 55:
            return {noun: (noun,) for noun in self._words.values()}
        keys = read_classes(lists.path(version.nouns), version.id[1], version.key)
        own = self._lists.version
        words = read_words(self._lists.path(own.nouns), own.id[1], own.instances[1])
        found: dict[int, tuple[int, ...]] = {}
        for number, key in enumerate(keys):
            if key in words:
                found[words[key]] = (*found.get(words[key], ()), number)
        return found
