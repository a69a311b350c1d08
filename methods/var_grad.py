"""VarGrad."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from ._noisy import NoisyGradient


@dataclasses.dataclass(frozen=True)
class VarGrad(NoisyGradient):
    """How much the gradient of the target's score varies over noisy copies of the clip.

    The variance of every voxel's and channel's gradient, pooled over the channels; it has no sign, so that `sum` and
    `sum_abs` are one. It is divided by the number of copies, as Captum's is.

    Attributes:
        pool: max_abs, l2, sum_abs or sum over the channels, of the variances.
        samples: noisy copies of a clip, at least two.

    Raises:
        ValueError: fewer samples than two.
    """

    family = "gradient"
    reference = "Adebayo et al. 2018, arXiv:1810.03307; Hooker et al. 2019, arXiv:1806.10758"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2:
            raise ValueError(f"samples={self.samples}: a variance needs at least two")

    def statistic(self, gradients: Iterator[Tensor]) -> Tensor:
        """Their variance, chunk by chunk (Chan et al. 1983), since a mean of squares minus a square would cancel."""
        seen, mean, deviations = 0, torch.zeros(()), torch.zeros(())
        for chunk in gradients:
            n = len(chunk)
            step = chunk.mean(0) - mean.to(chunk)
            within = (chunk - chunk.mean(0)).square().sum(0)
            deviations = deviations.to(chunk) + within + step.square() * (seen * n / (seen + n))
            mean = mean.to(chunk) + step * (n / (seen + n))
            seen += n
        return deviations / seen
