"""The control that is told the truth."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel


@dataclasses.dataclass(frozen=True)
class Oracle(AttributionMethod):
    """The annotated tubes themselves: the best map there is for localisation, and for localisation only.

    It bounds no faithfulness metric, since a model may rely on what lies outside the tubes.
    """

    family = "control"
    informed = False
    needs_truth = True

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, tubes: Tensor) -> Tensor:
        """Relevance (N, T, H, W): 1 inside the tubes, 0 outside."""
        return tubes.to(frames)
