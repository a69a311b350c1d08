"""Attention rollout."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.tokens import Attention

from ._attention import attend, on_patches, passed_on


@dataclasses.dataclass(frozen=True)
class AttentionRollout(AttributionMethod):
    """How much of what the head reads comes from each patch, as attention and shortcuts hand tokens on; class-blind.

    The product over all attentions of (A + I) / 2, with A the mean over the heads, read at the class token, or on the
    mean of the patches or of all tokens where the head reads that. Where attention is divided, each step is a factor of
    its own, in which tokens that take no part stay as they are and the class token gets the mean of its copies.
    """

    family = "relevance propagation"
    reference = "Abnar & Zuidema 2020, arXiv:2005.00928"
    requires = ("attention",)

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward."""
        return (1, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w), one number a patch."""
        with torch.no_grad():
            return torch.stack([_rollout(model, x) for x in model.normalise(frames)[:, None]])


def _rollout(model: VideoModel, x: Tensor) -> Tensor:
    found, matrices, _ = attend(model, x, lambda matrices, attention: attention.mean_over_heads(matrices))
    r = found.read
    for A, attention in zip(reversed(matrices), reversed(found.attentions), strict=True):
        r = (_attended(r, A, attention) + r) / 2
    return on_patches(r, found)


def _attended(r: Tensor, A: Tensor, attention: Attention) -> Tensor:
    """R A over all tokens, a token that takes no part attending to itself."""
    copies = attention.groups.flatten().bincount(minlength=len(r))
    return passed_on(r / copies.clamp(min=1), A, attention) + r * (copies == 0)
