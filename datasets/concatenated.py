"""Two clips joined: truth in time or in space, without boxes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vidattr_bench.clip import Clip, Tube
from vidattr_bench.datamodule import ClipDataModule, ClipRef
from vidattr_bench.errors import DataError, did_you_mean
from vidattr_bench.model import NO_MOTION

from ._pairs import Pair, join
from .planted_actions import PlantedActions

_AXES = {"time": 1, "height": 2, "width": 3}


@dataclasses.dataclass(eq=False, kw_only=True)
class Concatenated(ClipDataModule):
    """Two clips of different classes joined in time or in space, from any data set: truth without boxes.

    A map for the label of one of the two should lie on its half. The joined clip has the size that the model wants:
    in time, each member is sampled to half of the frames; in space, each is prepared as for the model and then
    squeezed to half of the width or height. The truth is that half, whole, in every frame that it has: 1/2 of the
    clip, where that is of even size, so that a map that knows nothing scores 1/2 in the share of relevance inside and
    in the area under the ROC curve, 1/2 and what its tolerance adds in the pointing game, and 1/3 in the IoU with as
    many voxels. Frames that are black up to the end of a member, as those are that fill up a short video, are
    unknown; of optical flow alone, those without motion. With axis=time a box fills its frame: what compares places
    within one frame is undefined, and what compares frames is what to read; in space it is the other way round. Of a
    network that answers one class a clip, the prediction is often the partner's, rightly so.

    Every labelled clip of the data set is the target of one joined clip. Groups are matched in pairs, in an order drawn
    from the seed, and members come from the two groups of a pair; groups of one class that are left over join such
    pairs, since their partners are taken already. A pair with all that joined it is the joined clip's group, so that no
    two groups share a source: with one class far more frequent than the others there are few groups, and intervals are
    as wide as that makes them. Clips of one group without a partner of another class are left out. Mostly two clips are
    each other's partners, and then they are joined twice in the same order, once for each label: on such two, where
    `--limit` takes both, a map that ignores the target gets 1/2 on average. Which member comes first is drawn from the
    seed and the two names, apart from labels and from which of them is the target.

    Attributes:
        of: the data set whose clips are joined, as (ucf101:root=DIR); it takes no length and no size of its own.
        axis: time, width (side by side) or height (one above the other).
        pairs: seed of the pairs and of their order.
        part: a part of the joined data set; by default the one that `of` asks for.
    """

    reference: ClassVar[str] = (
        "the grid pointing game (Boehle et al. 2021, arXiv 2104.00032) and mosaics (Arias-Duart et al. 2021, arXiv "
        "2109.15035) of images, here of clips, in time too, and at the model's own input size"
    )

    of: ClipDataModule = dataclasses.field(default_factory=PlantedActions)
    axis: str = "time"
    pairs: int = 0
    part: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.part = self.part or self.of.part
        if self.axis not in _AXES:
            raise DataError(f"concatenated: axis={self.axis!r} is unknown; {did_you_mean(self.axis, _AXES)}")
        for field in ("length", "size"):
            if getattr(self.of, field) is not None:
                raise DataError(f"concatenated: the joined data set has a {field} of its own; give it to concatenated")

    @property
    def delivers_flow(self) -> bool:
        """Whether the joined data set does."""
        return self.of.delivers_flow

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the joined data set."""
        return self._source.classes

    @property
    def split_name(self) -> str:
        """The split of the joined data set, and the axis."""
        return f"{self._source.split_name}/{self.axis}"

    def refs(self) -> list[ClipRef]:
        """One joined clip for each labelled clip that has a partner, in the order of the joined data set."""
        return [pair.ref for pair in self._pairs.values()]

    def missing(self) -> list[str]:
        """Clips of the joined data set that are not on disk."""
        return self._source.missing()

    def made_of(self, ref: ClipRef) -> tuple[ClipRef, ...]:
        """The two members, or where they are joined themselves, what these are made of."""
        pair = self._pairs[ref.id]
        return (*self._source.made_of(pair.target), *self._source.made_of(pair.partner))

    def load(self, ref: ClipRef) -> Clip:
        """Load both members and join them; raises `DataError` where one of them cannot be read."""
        pair, dim, whole = self._pairs[ref.id], _AXES[self.axis], self._whole
        if whole < 2:
            raise DataError(
                f"concatenated: axis={self.axis} of a clip that has {whole} of it; there must be two at least"
            )
        order = (pair.target, pair.partner) if pair.target_first else (pair.partner, pair.target)
        halves = [self._half(member, n) for member, n in zip(order, (whole // 2, whole - whole // 2), strict=True)]
        frames, shown = torch.cat(halves, dim), [_shown(half, self.clip_input.pixels) for half in halves]
        assert ref.label is not None
        tube = _half_tube(ref.label, frames, dim, halves[0].shape[dim], first=pair.target_first)
        known = torch.cat(shown) if self.axis == "time" else shown[0] & shown[1]
        return Clip(ref.id, ref.group, frames, ref.label, (tube,), known)

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) of the joined data set's fingerprint and of the pairs."""
        self._source.adapt(self.clip_input)  # of flow it tells only where it is asked for it
        digest = hashlib.sha256(f"{self._source.fingerprint()} {self.axis}".encode())
        for pair in self._pairs.values():
            digest.update(f"{pair.ref.id} {pair.target_first}\n".encode())
        return digest.hexdigest()[:16]

    @functools.cached_property
    def _source(self) -> ClipDataModule:
        """The joined data set, at this module's part; a copy, since another part may join the same one."""
        return dataclasses.replace(self.of, part=self.part)

    @functools.cached_property
    def _pairs(self) -> Mapping[str, Pair]:
        return {pair.ref.id: pair for pair in join(self._source.refs(), self.pairs)}

    @property
    def _whole(self) -> int:
        """Size of the joined clip along the axis."""
        return (self.clip_input.length, *self.clip_input.size)[_AXES[self.axis] - 1]

    def _half(self, ref: ClipRef, n: int) -> Tensor:
        """A member (C, T, H, W) that takes `n` along the axis."""
        if self.axis == "time":
            self._source.adapt(dataclasses.replace(self.clip_input, length=n))
            return self._source.load(ref).frames
        self._source.adapt(self.clip_input)
        frames = self._source.load(ref).frames
        height, width = frames.shape[2:]
        return F.adaptive_avg_pool2d(frames, (n, width) if self.axis == "height" else (height, n))


def _shown(frames: Tensor, pixels: bool) -> Tensor:
    """Bool (T,): the frames up to the last one that is not black; a short video is filled up with black ones.

    Without pixels it is filled up with frames that do not move.
    """
    lit = frames[:3] > 0 if pixels else (frames - NO_MOTION).abs() > 1e-6
    lit = lit.flatten(2).any(2).any(0)
    return lit.flip(0).cumsum(0).flip(0) > 0


def _half_tube(label: int, frames: Tensor, dim: int, cut: int, *, first: bool) -> Tube:
    """The half of a clip before or from `cut` on, as one box in each of its frames."""
    low, high = [0, 0, 0], list(frames.shape[1:])
    (high if first else low)[dim - 1] = cut
    boxes = torch.tensor([[low[2], low[1], high[2], high[1]]], dtype=torch.float64)
    return Tube(label, low[0], boxes.repeat(high[0] - low[0], 1))
