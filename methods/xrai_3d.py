"""XRAI over time and space."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.streams import picture_of
from vidattr_bench.supervoxels import supervoxels

from ._baselines import Baseline, baseline_clips
from ._gradients import Score, target_score
from ._masked import CHUNK_WITH_GRADIENTS
from ._options import require_not_negative, require_positive
from ._regions import cover, regions

BASELINES: tuple[Baseline, ...] = ("black", "white")


@dataclasses.dataclass(frozen=True)
class XRAI3D(SignedMethod):
    """Mean integrated gradient of the region by which a voxel is covered, supervoxels of several sizes competing.

    Integrated gradients from black and from white are averaged. Supervoxels of every size, each grown by a disk, are
    added in the order of the density of what they add, and what a region adds gets that density. The authors' code
    does so in images, with Felzenszwalb's segments at six scales.

    Attributes:
        segments: numbers of supervoxels, about, one a size.
        spacing: the distance from a frame to the next, in pixels: below 1 supervoxels reach over many frames.
        compactness: what distance counts against colour.
        dilation: radius of the disk as a share of the height H, at least a pixel; 0 for none.
        smallest: a region that adds fewer voxels is left out.
        algorithm: full, or fast, where regions are ranked as wholes, whatever is covered already.
        pool: max (authors' code) or sum over the channels.
        steps: points of each path at which the gradient is taken.
        score: the target's logit or probability.

    Raises:
        ValueError: there is no size, dilation is negative, or another number is not positive.
    """

    family = "perturbation"
    reference = "Kapishnikov et al. 2019, arXiv:1906.02825"
    signed = True
    variants = ("steps=25",)
    quick = 'steps=4,segments="[20,8]"'

    segments: tuple[int, ...] = (400, 200, 100, 50, 25, 12)
    spacing: float = 0.2
    compactness: float = 10.0
    dilation: float = 5 / 224
    smallest: int = 50
    algorithm: Literal["full", "fast"] = "full"
    pool: Literal["max", "sum"] = "max"
    steps: int = 100
    score: Score = "logit"

    def __post_init__(self) -> None:
        if min(self.segments, default=0) < 1:
            raise ValueError(f"segments={list(self.segments)} must name a size, and each be positive")
        require_positive(self, "spacing", "compactness", "smallest", "steps")
        require_not_negative(self, "dilation")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward and a backward at every step of both paths."""
        return (len(BASELINES) * self.steps, len(BASELINES) * self.steps)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        maps = [
            self._covered(picture_of(clip, model.input), self._attribution(model, clip, target))
            for clip, target in zip(frames, targets, strict=True)
        ]
        return torch.stack(maps).to(frames)

    def _attribution(self, model: VideoModel, clip: Tensor, target: Tensor) -> Tensor:
        """The mean over the baselines of the integrated gradients of one clip, float64 (T, H, W) on the CPU."""

        def score(x: Tensor) -> Tensor:
            return target_score(model.logits(x), target.expand(len(x)), self.score)

        captum = CaptumIntegratedGradients(score)
        x = model.normalise(clip[None])
        shares = [
            captum.attribute(x, baseline, n_steps=self.steps, internal_batch_size=CHUNK_WITH_GRADIENTS).detach()
            for baseline in (baseline_clips(model, clip[None], name) for name in BASELINES)
        ]
        mean = torch.cat(shares).cpu().double().mean(0)
        return mean.amax(0) if self.pool == "max" else mean.sum(0)

    def _covered(self, picture: Tensor, attribution: Tensor) -> Tensor:
        """The relevance (T, H, W) of one clip, of which supervoxels see what is a picture."""
        partitions = [supervoxels(picture, number, self.spacing, self.compactness) for number in self.segments]
        radius = max(1, round(self.dilation * picture.shape[2])) if self.dilation else 0
        overlaps = self.algorithm == "full"
        relevance = cover(regions(partitions, radius), attribution.flatten(), self.smallest, overlaps=overlaps)
        return relevance.view_as(attribution)
