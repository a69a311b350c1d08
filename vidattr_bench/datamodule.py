"""ClipDataModule: what files in datasets/ implement, a Lightning data module that hands out a fixed plan of batches."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from vidattr_bench.clip import Batch, Clip, Unreadable, VideoTruth, collate
from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.model import ClipInput
from vidattr_bench.randomness import generator

_OVERRIDES = ("length", "stride", "anchor", "size", "resize", "crop", "interpolation")

Labelled = tuple[Tensor, Tensor, Any]
"""Frames, labels and ids: a clip of the training, or a batch of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClipRef:
    """A clip of the plan, not yet read: unique id, group, and index of its class (None where unknown)."""

    id: str
    group: str
    label: int | None


@dataclasses.dataclass(frozen=True)
class Work:
    """One batch of the plan as a data loader hands it out.

    Attributes:
        number: position in the plan.
        batch: the clips that could be read, or None.
        unreadable: the others.
    """

    number: int
    batch: Batch | None
    unreadable: tuple[Unreadable, ...] = ()

    def to(self, *args: Any, **kwargs: Any) -> Work:
        """The work on another device; called by Lightning."""
        return self if self.batch is None else dataclasses.replace(self, batch=self.batch.to(*args, **kwargs))


@dataclasses.dataclass(eq=False, kw_only=True)
class ClipDataModule(LightningDataModule):
    """A named list of clips with classes and, where known, action tubes. Fields are the options of its spec.

    Attributes:
        part: test, train or all (a data set may know more).
        length, stride, anchor, size, resize, crop, interpolation: override what the model asks for; see `ClipInput`.
    """

    plugin_kind: ClassVar[str] = "datasets"
    reference: ClassVar[str] = ""

    part: str = "test"
    length: int | None = None
    stride: int | None = None
    anchor: str | None = None
    size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    crop: str | None = None
    interpolation: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a loading process needs: the trainer and other parts stay behind."""
        return {**self.__dict__, "trainer": None, "_others": {}}

    def __post_init__(self) -> None:
        super().__init__()
        self.adapt(ClipInput())
        self._others: dict[str, ClipDataModule] = {}
        self.plan: list[list[ClipRef]] = []
        self.pending: list[int] = []
        self.workers = 0
        self.batch_size = 8
        self.seed = 0

    def adapt(self, wanted: ClipInput) -> None:
        """Take the model's input for every field that this data set's own spec leaves open.

        Raises:
            DataError: the model wants optical flow, which this data set does not have.
        """
        if wanted.flow and not self.delivers_flow:
            name = type(self).__name__
            raise DataError(f"{name} delivers no optical flow, which the model wants; take a data set of videos")
        own = {name: getattr(self, name) for name in _OVERRIDES}
        self.clip_input = dataclasses.replace(wanted, **{k: v for k, v in own.items() if v is not None})

    @property
    def delivers_flow(self) -> bool:
        """Whether `load` heeds `clip_input.pixels` and `clip_input.flow`; else a clip is three channels of colour."""
        return False

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; labels are indices into it."""

    @abstractmethod
    def refs(self) -> list[ClipRef]:
        """The clips of the split that are on disk, in a fixed order; raises `DataError` where there are none."""

    @abstractmethod
    def load(self, ref: ClipRef) -> Clip:
        """Decode one clip and its tubes to `self.clip_input`; raises `DataError` that names file, field and remedy."""

    def at(self, part: str) -> ClipDataModule:
        """The same data set at a part, for the same clips; each part is one module, so that it is listed once."""
        if part == self.part:
            return self
        if part not in self._others:
            self._others[part] = dataclasses.replace(self, part=part)
        other = self._others[part]
        other.clip_input, other.seed, other.workers = self.clip_input, self.seed, self.workers
        return other

    def made_of(self, ref: ClipRef) -> tuple[ClipRef, ...]:
        """The recorded clips that a clip shows: itself, or those that it is put together from."""
        return (ref,)

    @property
    def split_name(self) -> str:
        """How rows name the split."""
        return self.part

    def missing(self) -> list[str]:
        """Ids of clips that the split lists but that are not on disk."""
        return []

    def truths(self) -> Iterator[VideoTruth | Unreadable] | None:
        """What the annotation tells of the split's clips, on disk or not, without decoding one.

        A clip without annotation is left out, one whose annotation makes no sense is unreadable; None where this data
        set cannot tell without decoding.
        """
        return None

    def fingerprint(self) -> str:
        """A hash of what the clips are made from: file sizes and annotations; equal hashes mean equal data."""
        return ""

    def batches(self, size: int, limit: int | None = None) -> list[list[ClipRef]]:
        """The fixed plan: clips (`limit` of them, evenly spaced over the split) in batches of `size`.

        Raises:
            DataError: two clips of the split have one name.
        """
        refs = self.refs()
        twice = [id for id, count in Counter(ref.id for ref in refs).items() if count > 1]
        if twice:
            raise DataError(f"the split holds two clips called {twice[0]!r}; rows are told apart by the clip's id")
        if limit is not None and limit < len(refs):
            refs = [refs[(2 * i + 1) * len(refs) // (2 * limit)] for i in range(limit)]
        return [refs[i : i + size] for i in range(0, len(refs), size)]

    def read(self, number: int, refs: Sequence[ClipRef]) -> Work:
        """Load a batch; a clip that cannot be read costs no other clip its place."""
        clips: list[Clip] = []
        unreadable: list[Unreadable] = []
        for ref in refs:
            try:
                clips.append(self._checked(ref, self.load(ref)))
            except Exception as error:
                known = isinstance(error, DataError)
                reason = str(error) if known else f"{type(error).__name__}: {error}"
                unreadable.append(Unreadable(ref.id, reason, isinstance(error, InconsistentError)))
        return Work(number, collate(clips) if clips else None, tuple(unreadable))

    def _checked(self, ref: ClipRef, clip: Clip) -> Clip:
        """The clip; raises where it would not stand in a batch, whatever its neighbours are."""
        shape = self.clip_input.shape
        if clip.id != ref.id or tuple(clip.frames.shape) != shape:
            found = f"{clip.id} of {tuple(clip.frames.shape)}"
            raise DataError(f"clip {ref.id}: `load` gave {found}, not (C, T, H, W) = {shape}")
        if clip.label is not None and not 0 <= clip.label < len(self.classes):
            raise DataError(f"clip {ref.id}: its label {clip.label} is none of the {len(self.classes)} classes")
        if not bool(clip.frames.isfinite().all()):
            raise DataError(f"clip {ref.id}: its frames are NaN or infinite")
        collate([clip])
        return clip

    def predict_dataloader(self) -> DataLoader[Work]:
        """Batches `pending[rank::world]` of the plan, each loaded whole by one worker."""
        rank, world = self._rank_and_world()
        work = _PlannedWork(self, self.pending[rank::world])
        return DataLoader(work, batch_size=None, num_workers=self.workers, persistent_workers=self.workers > 0)

    def train_dataloader(self) -> DataLoader[Labelled]:
        """Shuffled batches (frames, labels, ids) of this rank's share of the training part, as many on every rank.

        A clip that cannot be read has the one after it in the list stand in for it.
        """
        clips = self._labelled("train", stand_in=True)
        return self._loader(clips, _Shuffle(len(clips), self.seed, *self._rank_and_world()))

    def val_dataloader(self) -> DataLoader[Labelled]:
        """Batches (frames, labels, ids) of this rank's share of this module's own part, in which no clip comes twice.

        A clip that cannot be read is missing from its batch.

        Raises:
            DataError: there are fewer clips than ranks.
        """
        clips, (rank, world) = self._labelled(self.part, stand_in=False), self._rank_and_world()
        if len(clips) < world:
            raise DataError(f"part={self.part} has {len(clips)} labelled clips for {world} devices; use --devices 1")
        return self._loader(clips, range(rank, len(clips), world))

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _labelled(self, part: str, *, stand_in: bool) -> LabelledClips:
        module = self.at(part)
        return LabelledClips(module, module.refs(), stand_in=stand_in)

    def _loader(self, clips: LabelledClips, sampler: Iterable[int]) -> DataLoader[Labelled]:
        given = cast(Dataset[Labelled], clips)  # what `collate_fn` takes is its own affair
        return DataLoader(given, self.batch_size, sampler=sampler, num_workers=self.workers, collate_fn=_readable)


class _Shuffle(Sampler[int]):
    """One rank's share of an order that is another one every epoch: a function of seed and epoch.

    Ranks take turns; where the clips do not come out even, the order begins again, since all ranks train in step.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.seed, self.rank, self.world, self.epoch = n, seed, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.n, generator=generator(self.seed, "epoch", str(self.epoch))).tolist()
        return (order[at % self.n] for at in range(self.rank, len(self) * self.world, self.world))

    def __len__(self) -> int:
        return -(-self.n // self.world)


class _PlannedWork(Dataset[Work]):
    def __init__(self, module: ClipDataModule, numbers: Sequence[int]) -> None:
        self.module, self.numbers = module, list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Work:
        number = self.numbers[i]
        return self.module.read(number, self.module.plan[number])


class LabelledClips(Dataset[Labelled | None]):
    """The labelled clips of a part, decoded.

    Args:
        module: the data set at that part.
        refs: its clips.
        stand_in: of a clip that cannot be read, give the next one of the list that can; else None. So the steps of an
            epoch, and what each sees, are a function of the files, not of when damage was found.

    Attributes:
        unreadable: bool (n,), the clips that could not be read so far, also by loading processes.

    Raises:
        DataError: not one of them can be read.
    """

    def __init__(self, module: ClipDataModule, refs: Sequence[ClipRef], *, stand_in: bool) -> None:
        self.module, self.stand_in = module, stand_in
        self.refs = [ref for ref in refs if ref.label is not None]
        marks = torch.zeros(len(self.refs), dtype=torch.uint8)
        self.unreadable: Tensor = marks.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, i: int) -> Labelled | None:
        for at in [*range(i, len(self)), *range(i)] if self.stand_in else [i]:
            try:
                clip = self.module.load(self.refs[at])
            except DataError as error:
                self.unreadable[at], last = 1, error
            else:
                return clip.frames, torch.tensor(clip.label), clip.id
        if self.stand_in:
            raise DataError(f"none of the {len(self)} clips of part={self.module.part} can be read: {last}") from last
        return None


def _readable(clips: Sequence[Labelled | None]) -> Labelled:
    """A batch of the clips that could be read, (0,) tensors where that is none."""
    read = [clip for clip in clips if clip is not None]
    if not read:
        return torch.zeros(0), torch.zeros(0, dtype=torch.long), []
    frames, labels, ids = default_collate(read)
    return frames, labels, ids
