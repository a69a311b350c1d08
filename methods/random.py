"""The control that knows nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel


@dataclasses.dataclass(frozen=True)
class Random(AttributionMethod):
    """Independent uniform noise at every voxel."""

    family = "control"
    informed = False
    is_chance = True
    stochastic = True
    draws = 5

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
        """Relevance (N, T, H, W) in [0, 1), each clip's from its own seed."""
        size = frames.shape[2:]
        noise = [torch.rand(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(noise).to(frames.device)
