"""What gradient-based methods share: the score of a target, its gradient at the input, channels pooled to relevance."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

Score = Literal["logit", "prob"]
Pool = Literal["max_abs", "l2", "sum_abs", "sum"]


def check_targets(targets: Tensor, classes: int) -> None:
    """Raise `ValueError` unless every target is a class; on a GPU a wrong index would end the process's use of it."""
    if bool(((targets < 0) | (targets >= classes)).any()):
        raise ValueError(f"targets {targets.tolist()} must lie in 0..{classes - 1}: the model has {classes} classes")


def target_score(logits: Tensor, targets: Tensor, score: Score = "logit") -> Tensor:
    """The target's logit or softmax probability, (N,), from logits (N, K); raises as `check_targets` does."""
    check_targets(targets, logits.shape[1])
    scores = logits.softmax(1) if score == "prob" else logits
    return scores.gather(1, targets[:, None])[:, 0]


def input_gradient(model: VideoModel, x: Tensor, targets: Tensor, score: Score = "logit") -> Tensor:
    """Gradient of each clip's target score with respect to that clip, (N, C, T, H, W)."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(target_score(model.logits(x), targets, score).sum(), x)
    return gradient


def pool_channels(gradient: Tensor, pool: Pool) -> Tensor:
    """One number a voxel, (N, T, H, W), from (N, C, T, H, W)."""
    if pool == "max_abs":
        return gradient.abs().amax(1)
    if pool == "l2":
        return gradient.square().sum(1).sqrt()
    if pool == "sum_abs":
        return gradient.abs().sum(1)
    return gradient.sum(1)


@dataclasses.dataclass(frozen=True)
class ChannelPooled(SignedMethod):
    """A method whose map over voxels and channels is pooled over the channels.

    Attributes:
        sign: what becomes of the sign that only `pool=sum` leaves: signed or absolute.
        pool: max_abs, l2, sum_abs or sum over the channels.
    """

    pool: Pool = "max_abs"

    def __post_init__(self) -> None:
        if self.sign == "absolute" and self.pool != "sum":
            raise ValueError(f"sign=absolute belongs to pool=sum; pool={self.pool} has no sign")
        object.__setattr__(self, "signed", self.pool == "sum")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    def pooled(self, gradient: Tensor) -> Tensor:
        """Relevance (N, T, H, W) from (N, C, T, H, W)."""
        return pool_channels(gradient, self.pool)
