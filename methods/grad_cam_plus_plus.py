"""Grad-CAM++."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel

from ._activations import activations_and_gradients
from ._cam import VOLUME, LayerMap


@dataclasses.dataclass(frozen=True)
class GradCAMPlusPlus(LayerMap):
    """Grad-CAM whose weights are weighted sums of the positive gradients, so that small regions count as well.

    The map is ReLU(sum_j w_j A_j) with w_j = sum alpha_j relu(g_j) over (t, h, w) and, cell by cell,
    alpha_j = g_j^2 / (2 g_j^2 + g_j^3 sum A_j), 0 where g_j = 0 (equation 19). The gradient is that of the logit, on
    whose exponential the closed form of alpha rests, and the activations are meant to follow on a ReLU.

    Attributes:
        relu: whether negative evidence is cut off; there is some only where activations are negative.
    """

    family = "CAM"
    reference = "Chattopadhay et al. 2018, arXiv:1710.11063"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w) at the resolution of the layer."""
        x = model.normalise(frames)
        A, g = activations_and_gradients(model, x, targets, self.layer_read(model, x))
        # Gradients of videos are about 1e-4: their third power is lost beside any absolute epsilon, so it is cancelled.
        alpha = 1 / (2 + g * A.sum(VOLUME, keepdim=True))
        weights = torch.where(g > 0, alpha * g, 0).sum(VOLUME, keepdim=True)
        return self.rectified((weights * A).sum(1))
