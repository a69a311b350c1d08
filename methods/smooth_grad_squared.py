"""SmoothGrad squared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from ._noisy import NoisyGradient, total


@dataclasses.dataclass(frozen=True)
class SmoothGradSquared(NoisyGradient):
    """The square of the gradient of the target's score, averaged over noisy copies of the clip.

    Squares are averaged voxel by voxel and channel by channel, then pooled over the channels; they have no sign, so
    that `sum` and `sum_abs` are one.

    Attributes:
        pool: max_abs, l2, sum_abs or sum over the channels, of the averages.
    """

    family = "gradient"
    reference = "Hooker et al. 2019, arXiv:1806.10758"

    def statistic(self, gradients: Iterator[Tensor]) -> Tensor:
        """The mean of their squares."""
        return total(map(torch.square, gradients)) / self.samples
