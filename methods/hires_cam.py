"""HiResCAM."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ._cam import GradientMap


@dataclasses.dataclass(frozen=True)
class HiResCAM(GradientMap):
    """Activations of the feature layer times the gradient of the target's score, cell by cell, added up over channels.

    The map is ReLU(sum_j g_j A_j). Where a linear head follows on the layer's global average it is Grad-CAM's map, so
    `--methods all` reads the layer before, where the two differ.

    Attributes:
        sign: signed or absolute, where `relu=false` leaves a sign.
        layer: the layer read; by default the model's feature layer.
        back: layers to go back from there: 1 reads the one that ends last before its convolutions begin.
        relu: whether negative evidence is cut off.
        score: the target's logit or probability.
    """

    family = "CAM"
    reference = "Draelos and Carin 2020, arXiv:2011.08891"
    variants = ("back=1",)

    def weights(self, A: Tensor, g: Tensor) -> Tensor:
        """The gradient of each cell."""
        return g
