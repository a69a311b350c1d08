"""LayerCAM."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ._cam import GradientMap


@dataclasses.dataclass(frozen=True)
class LayerCAM(GradientMap):
    """Activations of the feature layer times the positive part of the score's gradient, cell by cell, added up.

    The map is ReLU(sum_j relu(g_j) A_j): channels speak only for the target. It is made for earlier layers, too; where
    a linear head follows on the layer's global average it is close to Grad-CAM++'s map, so `--methods all` reads the
    layer before.

    Attributes:
        relu: whether negative evidence is cut off; there is some only where activations are negative.
    """

    family = "CAM"
    reference = "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943"
    variants = ("back=1",)

    def weights(self, A: Tensor, g: Tensor) -> Tensor:
        """The positive gradient of each cell."""
        return g.relu()
