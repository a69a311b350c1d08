"""Grad-CAM over time and space."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor

from ._cam import VOLUME, GradientMap


@dataclasses.dataclass(frozen=True)
class GradCAM(GradientMap):
    """Activations of the feature layer, each channel weighted by the mean gradient of the target's score, added up.

    The map is ReLU(sum_j w_j A_j), with w_j the mean of the gradient at A_j over time and space, or over space at each
    time step; both are called Grad-CAM in public video code, and they rank differently. Where a linear head follows on
    the layer's global average, the gradient is constant over each channel and the two poolings give one map.

    Attributes:
        pool: mean of the gradients over (t, h, w): volume, or over (h, w): frame.
    """

    family = "CAM"
    reference = "Selvaraju et al. 2017, arXiv:1610.02391"
    variants = ("", "pool=frame")

    pool: Literal["volume", "frame"] = "volume"

    def weights(self, A: Tensor, g: Tensor) -> Tensor:
        """One weight a channel, or one a channel and time step."""
        return g.mean(VOLUME if self.pool == "volume" else (3, 4), keepdim=True)
