"""A method of a third party."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from vidattr_bench import AttributionMethod, VideoModel


@dataclasses.dataclass(frozen=True)
class Brightness(AttributionMethod):
    """A control that takes what is bright for what is relevant.

    Attributes:
        power: exponent of the mean over the channels.
    """

    informed = False
    aliases = ("bright",)

    power: float = 1.0

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W) in [0, 1]."""
        return frames.mean(1) ** self.power
