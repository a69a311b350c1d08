"""Grad-CAM over time and space."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

from ._activations import activations_and_gradients
from ._gradients import Score


@dataclasses.dataclass(frozen=True)
class GradCAM(SignedMethod):
    """Activations of the feature layer, each channel weighted by the mean gradient of the target's score, added up.

    The map is ReLU(sum_j w_j A_j), with w_j the mean of the gradient at A_j over time and space, or over space at each
    time step; both are called Grad-CAM in public video code, and they rank differently.

    Attributes:
        sign: signed or absolute, where `relu=false` leaves a sign.
        pool: mean of the gradients over (t, h, w): volume, or over (h, w): frame.
        layer: the layer read; by default the model's feature layer.
        relu: whether negative evidence is cut off.
        score: the target's logit or probability.
    """

    reference = "Selvaraju et al. 2017, arXiv:1610.02391"
    requires = ("feature_layer",)
    variants = ("", "pool=frame")

    pool: Literal["volume", "frame"] = "volume"
    layer: str | None = None
    relu: bool = True
    score: Score = "logit"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w) at the resolution of the layer."""
        x = model.normalise(frames)
        layer = self.layer or model.feature_layer(x)
        A, gradient = activations_and_gradients(model, x, targets, layer, self.score)
        weights = gradient.mean((2, 3, 4) if self.pool == "volume" else (3, 4), keepdim=True)
        cam = (weights * A).sum(1)
        return cam.relu() if self.relu else cam
