"""CAM."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel

from ._cam import ClassActivationMap, class_weights_and_activations


@dataclasses.dataclass(frozen=True)
class CAM(ClassActivationMap):
    """Activations of the layer that the linear head pools, each channel weighted by the head's weight for the target.

    The sum over the channels is enlarged linearly; saliency tubes enlarge the same sum by cubic splines.
    """

    family = "CAM"
    reference = "Zhou et al. 2016, arXiv:1512.04150"
    requires = ("linear_head",)
    signed = True

    relu: bool = False

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward."""
        return (1, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w) at the resolution of the layer."""
        weights, A = class_weights_and_activations(model, frames, targets)
        return self.rectified(torch.einsum("nc,ncthw->nthw", weights, A))
