"""SmoothGrad."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from ._gradients import ChannelPooled
from ._noisy import NoisyGradient, total


@dataclasses.dataclass(frozen=True)
class SmoothGrad(NoisyGradient, ChannelPooled):
    """The gradient of the target's score, averaged over noisy copies of the clip and pooled over the channels.

    Gradients are averaged with their signs, so that what points in another direction at every copy cancels out.

    Attributes:
        pool: max_abs, l2, sum_abs or sum over the channels, of the average.
    """

    family = "gradient"
    reference = "Smilkov et al. 2017, arXiv:1706.03825"

    def __post_init__(self) -> None:
        NoisyGradient.__post_init__(self)
        ChannelPooled.__post_init__(self)

    def statistic(self, gradients: Iterator[Tensor]) -> Tensor:
        """Their mean."""
        return total(gradients) / self.samples
