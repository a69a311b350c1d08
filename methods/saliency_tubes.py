"""Saliency tubes."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

from ._cam import class_weights_and_activations

Zoom = Literal["aligned", "authors"]


@dataclasses.dataclass(frozen=True)
class SaliencyTubes(SignedMethod):
    """Activations of the layer that the linear head pools, each channel weighted by the head's weight for the target.

    No ReLU, no bias; the sum is enlarged in time and space by cubic splines.

    Attributes:
        weight_threshold: leave out channels whose weight, min-max scaled over the target's weights, lies below it.
        activation_threshold: set activations below this fraction of their channel's maximum to 0.
        zoom: aligned keeps the centres of cells in place; authors is scipy's default, which moves them to the border.

    Raises:
        ValueError: a threshold does not lie in 0..1.
    """

    family = "CAM"
    reference = "Stergiou et al. 2019, arXiv:1902.01078"
    requires = ("linear_head",)
    signed = True

    weight_threshold: float | None = None
    activation_threshold: float | None = None
    zoom: Zoom = "aligned"

    def __post_init__(self) -> None:
        for name in ("weight_threshold", "activation_threshold"):
            threshold = getattr(self, name)
            if threshold is not None and not 0 <= threshold <= 1:
                raise ValueError(f"{name}={threshold} must lie in 0..1")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward."""
        return (1, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        size = (frames.shape[2], frames.shape[3], frames.shape[4])
        volumes = self.volume(model, frames, targets).float().cpu().numpy()
        return torch.stack([torch.from_numpy(spline_zoom(volume, size, self.zoom)) for volume in volumes]).to(frames)

    def volume(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """The weighted activations at native resolution, (N, t, h, w)."""
        weights, A = class_weights_and_activations(model, frames, targets)
        return torch.einsum("nc,ncthw->nthw", self._selected_weights(weights), self._selected_activations(A))

    def _selected_activations(self, A: Tensor) -> Tensor:
        if self.activation_threshold is None:
            return A
        return A * torch.ge(A, self.activation_threshold * A.amax((2, 3, 4), keepdim=True))

    def _selected_weights(self, weights: Tensor) -> Tensor:
        if self.weight_threshold is None:
            return weights
        low, high = weights.amin(1, keepdim=True), weights.amax(1, keepdim=True)
        return weights * torch.ge(weights - low, self.weight_threshold * (high - low))


def spline_zoom(volume: np.ndarray, size: tuple[int, int, int], zoom: Zoom = "aligned") -> np.ndarray:
    """A volume (t, h, w) enlarged to `size` by cubic splines."""
    factors = [new / old for new, old in zip(size, volume.shape, strict=True)]
    if zoom == "authors":
        return ndimage.zoom(volume, factors, order=3)
    return ndimage.zoom(volume, factors, order=3, grid_mode=True, mode="nearest")
