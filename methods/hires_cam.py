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
    """

    family = "CAM"
    reference = "Draelos and Carin 2020, arXiv:2011.08891"
    variants = ("back=1",)

    def weights(self, A: Tensor, g: Tensor) -> Tensor:
        """The gradient of each cell."""
        return g
