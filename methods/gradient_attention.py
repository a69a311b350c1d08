"""Gradient-weighted attention."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.tokens import Attention

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
        x = x.requires_grad_()
        found, weighted, logits = attend(model, x, _weighted)
        # Going back to the clip fills `weighted`.
        torch.autograd.grad(target_score(logits, target, self.score).sum(), x, allow_unused=True)
        r = found.read
        for A, attention in zip(reversed(weighted), reversed(found.attentions), strict=True):
            r = r + passed_on(r, A, attention)
        return on_patches(r, found)


def _weighted(matrices: Tensor, attention: Attention) -> Tensor:
    """The mean of relu(dA * A) over heads, (g, n, n), for matrices A (..., n, n): zeros until their gradient passes."""
    g, n = attention.groups.shape
    mean, values = matrices.new_zeros(g, n, n), matrices.detach()

    def fill(gradient: Tensor) -> None:
        mean.add_(attention.mean_over_heads((gradient * values).relu()))

    if matrices.requires_grad:
        matrices.register_hook(fill)  # type: ignore[no-untyped-call]
    return mean
