"""Gradients at noisy copies of a clip, and what methods make of them."""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel

from ._gradients import Pool, Score, input_gradient, pool_channels
from ._masked import CHUNK_WITH_GRADIENTS
from ._options import require_not_negative, require_positive


@dataclasses.dataclass(frozen=True)
class NoisyGradient(AttributionMethod):
    """Base of methods that sum up, voxel by voxel and channel by channel, the gradients at noisy copies of a clip.

    Attributes:
        pool: max_abs, l2, sum_abs or sum over the channels.
        samples: noisy copies of a clip.
        noise: standard deviation of the Gaussian noise, as a share of the normalised clip's range.
        score: the target's logit or probability.

    Raises:
        ValueError: fewer samples than one, or negative noise.
    """

    stochastic = True
    quick = "samples=3"

    pool: Pool = "max_abs"
    samples: int = 25
    noise: float = 0.15
    score: Score = "logit"

    def __post_init__(self) -> None:
        require_positive(self, "samples")
        require_not_negative(self, "noise")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward and a backward a noisy copy."""
        return (self.samples, self.samples)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: list[int]) -> Tensor:
        """Relevance (N, T, H, W); clip by clip, so memory is that of one chunk of copies."""
        clips = zip(model.normalise(frames), targets, seeds, strict=True)
        statistics = [self.statistic(self._gradients(model, *clip)) for clip in clips]
        return pool_channels(torch.stack(statistics), self.pool)

    @abstractmethod
    def statistic(self, gradients: Iterator[Tensor]) -> Tensor:
        """What becomes of the gradients, which come in chunks (M, C, T, H, W): one number for each of (C, T, H, W)."""

    def _gradients(self, model: VideoModel, x: Tensor, target: Tensor, seed: int) -> Iterator[Tensor]:
        draws = torch.Generator().manual_seed(seed)
        sigma = self.noise * (x.max() - x.min())
        for i in range(0, self.samples, CHUNK_WITH_GRADIENTS):
            n = min(CHUNK_WITH_GRADIENTS, self.samples - i)
            copies = x + sigma * standard_noise(x, n, draws)
            yield input_gradient(model, copies, target.expand(n), self.score)


def total(chunks: Iterator[Tensor]) -> Tensor:
    """The sum over all copies, which come in chunks (M, C, T, H, W)."""
    return functools.reduce(torch.add, (chunk.sum(0) for chunk in chunks))


def standard_noise(x: Tensor, n: int, draws: torch.Generator) -> Tensor:
    """Standard Gaussian noise (n, C, T, H, W) for a clip x; drawn a copy at a time, so that chunks do not matter."""
    return torch.stack([torch.randn(x.shape, generator=draws) for _ in range(n)]).to(x)
