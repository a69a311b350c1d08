"""LIME on supervoxels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel

from ._options import require_not_negative, require_positive
from ._supervoxels import SupervoxelClip, SupervoxelMethod


@dataclasses.dataclass(frozen=True)
class LIME(SupervoxelMethod):
    """Weight of each supervoxel in a linear model of the target's score, fitted to clips from which half are missing.

    Every supervoxel is kept with probability 1/2; a sample weighs exp(-d^2 / (2 width^2)) with d its cosine distance
    from the whole clip, which is the first sample; the model is a ridge regression with an intercept. Kernel, ridge and
    number of samples are those of the authors' code for images. They explain the probability (`score=prob`) and replace
    a superpixel by its mean colour.

    Attributes:
        samples: clips scored, the whole one included.
        width: of the kernel, as the authors count it: a sample weighs sqrt(exp(-d^2 / width^2)).
        ridge: penalty on the squared weights, 0 for ordinary least squares.

    Raises:
        PluginError: the substrate is unknown.
        ValueError: fewer than two samples, a negative ridge, or a width, segments, spacing or compactness that is not
            positive.
    """

    family = "perturbation"
    reference = "Ribeiro et al. 2016, arXiv:1602.04938"
    signed = True
    stochastic = True
    variants = ("samples=300",)
    quick = "samples=40,segments=20"

    samples: int = 1000
    width: float = 0.25
    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2:
            raise ValueError(f"samples={self.samples} must be at least 2")
        require_positive(self, "width")
        require_not_negative(self, "ridge")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward of every sample."""
        return (self.samples, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
        """Relevance (N, T, H, W), constant in each supervoxel."""
        clips = self.clips(model, frames, targets)
        return torch.stack([clip.paint(self._weights(clip, seed)) for clip, seed in zip(clips, seeds, strict=True)])

    def _weights(self, clip: SupervoxelClip, seed: int) -> Tensor:
        """The weights (S,) of one clip's supervoxels."""
        kept = halves(self.samples, clip.count, torch.Generator().manual_seed(seed))
        return ridge_weights(kept.double(), clip.scores(kept), kernel(kept.double(), self.width), self.ridge)


def halves(samples: int, players: int, draws: torch.Generator) -> Tensor:
    """Which supervoxels each sample keeps, bool (M, S): all in the first, every one with probability 1/2 in others."""
    kept = torch.randint(2, (samples, players), generator=draws, dtype=torch.bool)
    kept[0] = True
    return kept


def kernel(kept: Tensor, width: float) -> Tensor:
    """What samples (M, S) of 0 and 1 weigh, (M,): sqrt(exp(-d^2 / width^2)), d the cosine distance from all ones."""
    distance = 1 - kept.mean(1).sqrt()
    return torch.exp(-((distance / width) ** 2) / 2)


def ridge_weights(features: Tensor, scores: Tensor, sample_weights: Tensor, ridge: float) -> Tensor:
    """The weights (S,) that minimise the weighted squared error of a linear model with intercept, plus the penalty.

    The shortest solution where there is more than one.

    Args:
        features: (M, S).
        scores: (M,).
        sample_weights: (M,).
        ridge: penalty on the sum of the squared weights; the intercept is free.
    """
    share = sample_weights / sample_weights.sum()
    centred = features - share @ features
    moments = centred.T @ (sample_weights[:, None] * centred)
    target = centred.T @ (sample_weights * (scores - share @ scores))
    penalty = ridge * torch.eye(len(moments)).to(moments)
    weights: Tensor = torch.linalg.pinv(moments + penalty, hermitian=True) @ target
    return weights
