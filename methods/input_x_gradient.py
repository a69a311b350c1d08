"""Input times gradient."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

from ._gradients import Score, input_gradient


@dataclasses.dataclass(frozen=True)
class InputXGradient(SignedMethod):
    """The normalised clip times the gradient of the target's score, summed over the channels.

    What each voxel adds to the score where the network is linear around the clip. A frame shown in the colour that
    normalises to 0 gets no relevance, whatever the network makes of it.

    Attributes:
        score: the target's logit or probability.
    """

    family = "gradient"
    reference = "Shrikumar et al. 2016, arXiv:1605.01713"
    signed = True

    score: Score = "logit"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        x = model.normalise(frames)
        return (x * input_gradient(model, x, targets, self.score)).sum(1)
