"""Gradient-weighted attention."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel

from ._attention import attend, on_patches, passed_on
from ._gradients import Score, target_score


@dataclasses.dataclass(frozen=True)
class GradientAttention(AttributionMethod):
    """Patches that the head reads through attention whose increase would raise the target's score.

    From R = I on, every attention A adds mean_heads(relu(dA * A)) R, with dA the gradient of the score; R is read at
    the class token, or on the mean of tokens where the head reads that. Where attention is divided, each step is
    an attention of its own, and the copies of the class token in it add up, each with its own gradient.

    Attributes:
        score: the target's logit or probability.
    """

    family = "relevance propagation"
    reference = "Chefer et al. 2021, arXiv:2103.15679"
    requires = ("attention",)

    score: Score = "logit"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w), one number a patch."""
        clips = zip(model.normalise(frames)[:, None], targets[:, None], strict=True)
        return torch.stack([self._explain(model, x, target) for x, target in clips])

    def _explain(self, model: VideoModel, x: Tensor, target: Tensor) -> Tensor:
        found, matrices, logits = attend(model, x.requires_grad_())
        score = target_score(logits, target, self.score).sum()
        gradients = torch.autograd.grad(score, matrices, materialize_grads=True)
        r = found.read
        for A, dA, attention in list(zip(matrices, gradients, found.attentions, strict=True))[::-1]:
            r = r + passed_on(r, attention.mean_over_heads((dA * A.detach()).relu()), attention)
        return on_patches(r, found)
