"""The gradient of the target's score."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from vidattr_bench.model import VideoModel

from ._gradients import ChannelPooled, Score, input_gradient


@dataclasses.dataclass(frozen=True)
class Gradient(ChannelPooled):
    """How strongly a small change of each voxel changes the target's score: its gradient, pooled over the channels.

    As a reversed network this is SaliNet: a signal passes a ReLU back where the ReLU's input was positive.

    Attributes:
        pool: max_abs, l2, sum_abs or sum over the channels.
        sign: what becomes of the sign that only `pool=sum` leaves: signed or absolute.
        score: the target's logit or probability.
    """

    reference = "Simonyan et al. 2013, arXiv:1312.6034"
    aliases = ("salinet",)

    score: Score = "logit"

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        return self.pooled(input_gradient(model, model.normalise(frames), targets, self.score))
