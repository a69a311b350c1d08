"""Eigen-CAM."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel

from ._activations import activations
from ._cam import LayerMap


@dataclasses.dataclass(frozen=True)
class EigenCAM(LayerMap):
    """The first principal component of the feature layer's activations, whatever the target.

    Activations form a matrix with one row a cell and one column a channel. Each column is centred, and the rows are
    projected on the first right singular vector; its sign is the one with which the map correlates positively with the
    mean activation.

    Attributes:
        relu: whether what lies below the mean is cut off.
    """

    family = "CAM"
    reference = "Muhammad and Yeasin 2020, arXiv:2008.00299"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward."""
        return (1, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w) at the resolution of the layer."""
        x = model.normalise(frames)
        A = activations(model, x, self.layer_read(model, x))
        return self.rectified(torch.stack([first_component(volume) for volume in A]))


def first_component(A: Tensor) -> Tensor:
    """The scores (t, h, w) of the cells of A (C, t, h, w) on the first principal component of its channels."""
    cells = A.flatten(1).T
    centred = cells - cells.mean(0)
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    scores = centred @ direction
    sign = torch.where(scores @ cells.mean(1) < 0, -1, 1)
    component: Tensor = sign * scores
    return component.view(A.shape[1:])
