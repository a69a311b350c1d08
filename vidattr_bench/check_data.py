"""`check-data`: what of a data set is missing, damaged, inconsistent or without annotation, and what is usable."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from vidattr_bench.clip import Tube, Unreadable, VideoTruth
from vidattr_bench.datamodule import ClipDataModule, ClipRef, Work
from vidattr_bench.errors import DataError, UserError
from vidattr_bench.held_out import Shared, shared_with_training
from vidattr_bench.pointing_controls import GRID, Control, controls

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Counts over the annotated videos of a part, on disk or not.

    Attributes:
        videos, groups: annotated videos, and the sources they come from.
        several: videos with more than one tube.
        tubes, boxes: in all of them.
        frames: of all of them.
        tube_frames: those of them that lie in at least one tube.
    """

    videos: int
    groups: int
    several: int
    tubes: int
    boxes: int
    frames: int
    tube_frames: int


@dataclasses.dataclass(frozen=True)
class DataReport:
    """What `check-data` found. Lists name clips; None: not looked for, or not to be known without decoding.

    Attributes:
        dataset: the spec.
        split: name of the split.
        listed: clips that the split lists.
        on_disk: those that are there, in this many `groups`, of `classes`, some of which have no clip at all.
        usable: clips that are there, read well as far as looked, and fit their annotation.
        localisable: those with a tube of their label (decoded: in the sampled frames).
        problem: why nothing could be listed, or "".
        missing: listed, not on disk.
        corrupt: clips that do not decode, with the reason.
        inconsistent: clips that do not fit their annotation, with the reason.
        unannotated: clips on disk whose truth is unknown in every frame.
        annotation: counts by part; empty where the data set cannot tell without decoding.
        controls: pointing game without any network; None where not asked for, empty where not to be had.
        trained_clips: clips that the training part holds too; None where there is no other such part.
        trained_groups: sources that clips of the training part come from too.
    """

    dataset: str
    split: str
    listed: int
    on_disk: int
    groups: int
    classes: int
    empty_classes: tuple[str, ...]
    usable: int
    localisable: int | None
    problem: str
    missing: tuple[str, ...]
    corrupt: Mapping[str, str] | None
    inconsistent: Mapping[str, str]
    unannotated: tuple[str, ...] | None
    annotation: Mapping[str, Annotation]
    controls: tuple[Control, ...] | None = None
    trained_clips: tuple[str, ...] | None = None
    trained_groups: tuple[str, ...] | None = None

    @property
    def status(self) -> int:
        """The command's exit status: 0 every listed clip is usable, 1 some are not, 2 none is."""
        return 2 if self.usable == 0 else int(self.usable < self.listed)


@dataclasses.dataclass
class _Found:
    """What one way of looking, listing or decoding, says about the clips on disk."""

    corrupt: dict[str, str] | None
    inconsistent: dict[str, str]
    unannotated: list[str] | None
    localisable: set[str] | None


def check(data: ClipDataModule, name: str, *, decode: bool = False, workers: int = 0) -> DataReport:
    """Look through the split of a data set.

    Args:
        data: the data set.
        name: its spec, for the report.
        decode: read every clip as a run does, 16 frames over its whole length; else only what listing shows.
        workers: processes that decode.

    Raises:
        DataError: the data set is not there at all, or its lists or annotation cannot be read.
    """
    missing, (refs, problem) = data.missing(), _refs(data)
    truths = data.truths()
    told = [] if truths is None else [_counted(truth) for truth in truths]
    found = _listing(refs, told, known=truths is not None)
    if decode and refs:
        found = _decoding(data, refs, found.inconsistent, workers)
    bad = {**(found.corrupt or {}), **found.inconsistent}
    usable = [ref for ref in refs if ref.id not in bad]
    labels, shared = {ref.label for ref in refs}, _shared(data)
    return DataReport(
        dataset=name,
        split=data.split_name,
        listed=len(refs) + len(missing),
        on_disk=len(refs),
        groups=len({ref.group for ref in refs}),
        classes=len(data.classes),
        empty_classes=tuple(c for i, c in enumerate(data.classes) if i not in labels),
        usable=len(usable),
        localisable=None if found.localisable is None else sum(ref.id in found.localisable for ref in usable),
        problem=problem,
        missing=tuple(missing),
        corrupt=found.corrupt,
        inconsistent=found.inconsistent,
        unannotated=None if found.unannotated is None else tuple(found.unannotated),
        annotation={} if truths is None else {data.part: count(_videos(told)), **_whole(data)},
        trained_clips=None if shared is None else shared.clips,
        trained_groups=None if shared is None else shared.groups,
    )


def _refs(data: ClipDataModule) -> tuple[list[ClipRef], str]:
    try:
        return data.refs(), ""
    except DataError as error:
        return [], str(error)


def _shared(data: ClipDataModule) -> Shared | None:
    """What the part shares with the training part, where there is another."""
    try:
        return None if data.part == "train" else shared_with_training(data)
    except UserError:
        return None


def _videos(told: Iterable[VideoTruth | Unreadable]) -> list[VideoTruth]:
    return [truth for truth in told if isinstance(truth, VideoTruth)]


def _counted(truth: VideoTruth | Unreadable) -> VideoTruth | Unreadable:
    """Without masks: what is counted is in the boxes, and the masks of all videos would fill the memory."""
    if isinstance(truth, Unreadable):
        return truth
    return dataclasses.replace(truth, tubes=tuple(dataclasses.replace(tube, masks=None) for tube in truth.tubes))


def _whole(data: ClipDataModule) -> dict[str, Annotation]:
    """The counts of all parts together, where the data set knows such a part."""
    if data.part == "all":
        return {}
    try:
        truths = data.at("all").truths()
        return {} if truths is None else {"all": count(_videos(map(_counted, truths)))}
    except UserError:
        return {}


def _listing(refs: Sequence[ClipRef], told: Sequence[VideoTruth | Unreadable], *, known: bool) -> _Found:
    """What lists and annotation show; an absurd annotation of a clip that is not there is reported too."""
    wrong = {truth.id: truth.reason for truth in told if isinstance(truth, Unreadable)}
    for id, times in Counter(ref.id for ref in refs).items():
        if times > 1:
            wrong[id] = f"the split lists {times} clips of this name; rows are told apart by it"
    for truth in _videos(told):
        if truth.tubes and all(tube.label != truth.label for tube in truth.tubes):
            wrong[truth.id] = "its tubes are all of another class than the clip; correct the annotation"
    if not known:
        return _Found(None, wrong, None, None)
    annotated = {truth.id for truth in told}
    tubes = {truth.id for truth in _videos(told) if any(tube.label == truth.label for tube in truth.tubes)}
    return _Found(None, wrong, [ref.id for ref in refs if ref.id not in annotated], tubes)


def _decoding(data: ClipDataModule, refs: Sequence[ClipRef], wrong: Mapping[str, str], workers: int) -> _Found:
    """What reading every clip shows, on top of what listing showed to be `wrong`."""
    found = _Found({}, dict(wrong), [], set())
    for work in _works(data, refs, workers):
        for bad in work.unreadable:
            if bad.inconsistent:
                found.inconsistent.setdefault(bad.id, bad.reason)
            else:
                assert found.corrupt is not None
                found.corrupt[bad.id] = bad.reason
        if work.batch is not None:
            assert found.unannotated is not None
            assert found.localisable is not None
            found.unannotated += [] if bool(work.batch.annotated.any()) else work.batch.ids
            found.localisable |= set(work.batch.ids if bool(work.batch.tubes.any()) else ())
    return found


def _works(data: ClipDataModule, refs: Sequence[ClipRef], workers: int) -> Iterator[Work]:
    """Every clip for itself, as the loader of a run reads it."""
    data.adapt(GRID)
    data.plan, data.pending, data.workers = [[ref] for ref in refs], list(range(len(refs))), workers
    console = Console(stderr=True)
    yield from track(
        data.predict_dataloader(), "decoding", total=len(refs), console=console, disable=not console.is_terminal
    )


def count(truths: Sequence[VideoTruth]) -> Annotation:
    """The counts of annotated videos."""
    return Annotation(
        videos=len(truths),
        groups=len({truth.group for truth in truths}),
        several=sum(len(truth.tubes) > 1 for truth in truths),
        tubes=sum(len(truth.tubes) for truth in truths),
        boxes=sum(int(_visible(tube).sum()) for truth in truths for tube in truth.tubes),
        frames=sum(truth.frames for truth in truths),
        tube_frames=sum(_tube_frames(truth) for truth in truths),
    )


def _tube_frames(truth: VideoTruth) -> int:
    inside = torch.zeros(truth.frames, dtype=torch.bool)
    for tube in truth.tubes:
        inside[tube.start : tube.start + len(tube.boxes)] |= _visible(tube)
    return int(inside.sum())


def _visible(tube: Tube) -> Tensor:
    """Bool (n,): whether the box of a frame is not empty."""
    return (tube.boxes[:, 2:] > tube.boxes[:, :2]).all(1)


def with_controls(report: DataReport, data: ClipDataModule) -> DataReport:
    """The report with the pointing game of centre, random and oracle, where the data set tells tubes undecoded."""
    truths = data.truths()
    data.adapt(GRID)
    videos = None if truths is None else (truth for truth in truths if isinstance(truth, VideoTruth))
    found = () if videos is None else tuple(controls(videos, data.clip_input))
    return dataclasses.replace(report, controls=found)


def show(report: DataReport, console: Console, style: str = "text") -> None:
    """Print a report as text, or as JSON that names every clip."""
    if style == "json":
        print(json.dumps(dataclasses.asdict(report) | {"status": report.status}, indent=1))
        return
    for line in _lines(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if report.annotation:
        console.print(_annotation_table(report.annotation))
    if report.controls == ():
        console.print(f"controls: {report.dataset} does not tell tubes without decoding", highlight=False, markup=False)
    if report.controls:
        console.print(_control_table(report.controls))


def _lines(report: DataReport) -> Iterator[str]:
    yield f"{report.dataset}, split {report.split}"
    if report.problem:
        yield report.problem
    yield f"listed: {report.listed} clips, {report.on_disk} of them on disk, in {report.groups} groups"
    for name, clips in (("missing", report.missing), ("classes without a clip", report.empty_classes)):
        yield from _named(name, clips)
    if report.corrupt is None:
        yield "corrupt: not looked for; --decode reads every clip"
    else:
        yield from _named("corrupt", [f"{id}: {reason}" for id, reason in report.corrupt.items()])
    yield from _named("inconsistent", [f"{id}: {reason}" for id, reason in report.inconsistent.items()])
    if report.unannotated is None:
        yield "unannotated: not to be known without --decode"
    else:
        yield from _named("unannotated", report.unannotated)
    if report.trained_clips:
        yield from _named("in part=train too, so not to be held out", report.trained_clips)
    elif report.trained_groups:
        yield from _named("sources that part=train holds too", report.trained_groups)
    truth = "" if report.localisable is None else f", {report.localisable} of them with a tube of their class"
    yield f"usable: {report.usable} of {report.listed} clips{truth}"


def _named(name: str, found: Sequence[str]) -> Iterator[str]:
    """How many, and the first few; reasons stand on lines of their own."""
    yield f"{name}: {len(found)}"
    yield from (f"  {text}" for text in found[:_SHOWN])
    if len(found) > _SHOWN:
        yield f"  and {len(found) - _SHOWN} more (--format json names all)"


def _annotation_table(parts: Mapping[str, Annotation]) -> Table:
    table = Table(title="annotation, of clips on disk or not")
    table.add_column("part")
    names = ("videos", "groups", "several tubes", "tubes", "boxes", "frames", "in a tube")
    for name in names:
        table.add_column(name, justify="right")
    for part, found in parts.items():
        share = f"{found.tube_frames / found.frames:.1%}" if found.frames else "-"
        counts = (found.videos, found.groups, found.several, found.tubes, found.boxes, found.frames)
        table.add_row(part, *map(str, counts), share)
    return table


def _control_table(controls: Sequence[Control]) -> Table:
    table = Table(title="pointing game without a network, % of hits in tube frames")
    for name in ("control", "truth"):
        table.add_column(name)
    for name in ("mean over frames", "over clips", "over classes"):
        table.add_column(name, justify="right")
    for row in controls:
        table.add_row(row.control, row.truth, *(f"{100 * x:.1f}" for x in (row.frames, row.clips, row.classes)))
    return table
