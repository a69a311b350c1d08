"""XGrad-CAM."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ._cam import VOLUME, GradientMap


@dataclasses.dataclass(frozen=True)
class XGradCAM(GradientMap):
    """Grad-CAM whose mean gradient of a channel is weighted by the channel's activations.

    The map is ReLU(sum_j w_j A_j) with w_j = sum g_j A_j / sum A_j over (t, h, w), 0 where a channel adds up to 0.
    Where a linear head follows on the layer's global average it is Grad-CAM's map, so `--methods all` reads the layer
    before, where the two differ.
    """

    family = "CAM"
    reference = "Fu et al. 2020, arXiv:2008.02312"
    variants = ("back=1",)

    def weights(self, A: Tensor, g: Tensor) -> Tensor:
        """One weight a channel, (N, C, 1, 1, 1)."""
        total = A.sum(VOLUME, keepdim=True)
        return torch.where(total == 0, 0, (g * A).sum(VOLUME, keepdim=True) / total)
