"""Another method, averaged over noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod, Wrapper
from vidattr_bench.model import VideoModel
from vidattr_bench.randomness import derive

from ._masked import CHUNK_WITH_GRADIENTS
from ._noisy import standard_noise
from ._options import require_not_negative, require_positive
from .grad_cam import GradCAM


@dataclasses.dataclass(frozen=True)
class Smooth(Wrapper):
    """Mean of another method's maps over copies of the clip to which Gaussian noise was added.

    The noise lives on the normalised clip. Of the signed gradient this is SmoothGrad, of Grad-CAM it is the smoothing
    of Smooth Grad-CAM++ without the plus signs.

    Attributes:
        of: the method that explains the copies.
        samples: number of copies.
        noise: standard deviation of the noise, as a share of the range (max - min) of the normalised clip.

    Raises:
        ValueError: there are no samples, noise is negative, or the other method needs the tubes.
    """

    reference = "Smilkov et al. 2017, arXiv:1706.03825; Omeiza et al. 2019, arXiv:1908.01224"
    variants = ()
    stochastic = True
    quick = "samples=3"

    of: AttributionMethod = dataclasses.field(default_factory=GradCAM)
    samples: int = 25
    noise: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "samples")
        require_not_negative(self, "noise")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """What the other method costs, once a copy."""
        forwards, backwards = self.of.cost(model, clip)
        return self.samples * forwards, self.samples * backwards

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
        """Relevance (N, T, H, W)."""
        clips = zip(frames, targets, seeds, strict=True)
        return torch.stack([self._mean_map(model, clip, target, seed) for clip, target, seed in clips])

    def _mean_map(self, model: VideoModel, clip: Tensor, target: Tensor, seed: int) -> Tensor:
        x = model.normalise(clip[None])
        # Noise on x is this noise on pixels.
        sigma = self.noise * (x.max() - x.min()) * model.std
        draws = torch.Generator().manual_seed(seed)
        total = torch.zeros_like(clip[0])
        for first in range(0, self.samples, CHUNK_WITH_GRADIENTS):
            copies = range(first, min(first + CHUNK_WITH_GRADIENTS, self.samples))
            noisy = clip + sigma * standard_noise(clip, len(copies), draws)
            seeds = [derive(seed, str(copy)) for copy in copies]
            total += self.of(model, noisy, target.expand(len(copies)), seeds).sum(0)
        return total / self.samples
