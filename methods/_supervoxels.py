"""What methods on supervoxels share: the partition of a clip, and the target's score of what is left of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from vidattr_bench import substrates
from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.streams import picture_of
from vidattr_bench.supervoxels import supervoxels

from ._gradients import Score
from ._masked import CHUNK, MaskedClip
from ._options import require_positive


@dataclasses.dataclass(frozen=True)
class SupervoxelClip:
    """One clip cut into S supervoxels, any of which can be replaced.

    Attributes:
        masked: the clip, the target, and what replaces removed voxels.
        labels: int64 (T, H, W), the supervoxel of each voxel, on the device of the clip.
    """

    masked: MaskedClip
    labels: Tensor

    @property
    def count(self) -> int:
        """S, the number of supervoxels."""
        return int(self.labels.max()) + 1

    def scores(self, kept: Tensor) -> Tensor:
        """The target's scores (M,) when supervoxels kept, bool (M, S), stay and all others are replaced; M forwards.

        They are float64 on the CPU, where small linear systems are solved.
        """
        removed = (~kept).to(self.masked.x)
        scores = [self.masked.scores(chunk[:, self.labels]) for chunk in torch.split(removed, CHUNK)]
        return torch.cat(scores).cpu().double()

    def paint(self, values: Tensor) -> Tensor:
        """The map (T, H, W) in which each supervoxel has its value, (S,)."""
        return values.to(self.masked.x)[self.labels]


@dataclasses.dataclass(frozen=True)
class SupervoxelMethod(SignedMethod):
    """Base of methods that replace supervoxels and ask for the target's score.

    Attributes:
        segments: number of supervoxels, about.
        spacing: the distance from a frame to the next, in pixels: below 1 supervoxels reach over many frames.
        compactness: what distance counts against colour.
        substrate: what replaces a supervoxel.
        score: the target's logit or probability.

    Raises:
        PluginError: the substrate is unknown.
        ValueError: segments, spacing or compactness is not positive.
    """

    segments: int = 200
    spacing: float = 0.2
    compactness: float = 10.0
    substrate: str = "mean"
    score: Score = "logit"

    def __post_init__(self) -> None:
        substrates.create(self.substrate)
        require_positive(self, "segments", "spacing", "compactness")

    def labels(self, clip: Tensor) -> Tensor:
        """The supervoxel of each voxel of a clip (C, T, H, W) in [0, 1], int64 (T, H, W) on its device."""
        return supervoxels(clip, self.segments, self.spacing, self.compactness).to(clip.device)

    def clips(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Iterator[SupervoxelClip]:
        """The clips of a batch, one by one."""
        for clip, x, target in zip(picture_of(frames, model.input), model.normalise(frames), targets, strict=True):
            yield SupervoxelClip(MaskedClip(model, x, target, self.substrate, self.score), self.labels(clip))
