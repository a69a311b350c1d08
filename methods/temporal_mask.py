"""Temporal masks, optimised by gradient."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel

from ._gradients import Score, target_score
from ._masked import CHUNK
from ._options import require_not_negative, require_positive

ACTIVE = 0.1  # from this value on a frame belongs to a block that is reversed


@dataclasses.dataclass(frozen=True)
class TemporalMask(AttributionMethod):
    """How much each frame has to be frozen, or its block reversed, for the target's score to fall; constant in space.

    The mask m in [0, 1] over the frames minimises score + l1 · sum m + tv · TV(m) by Adam on its logits. Freezing shows
    m_t x'_(t-1) + (1 - m_t) x_t at t; reversing mixes the frames of each block of m > 0.1 with those of its mirror
    image. The search starts from the shortest run of frames in the middle that takes 90 % of what freezing all takes.

    Attributes:
        perturbation: freeze or reverse.
        iterations: steps of Adam.
        l1: weight of the sum of the mask.
        tv: weight of its total variation, the sum of the cubed differences between neighbours, each seen from both.
        learning_rate: of Adam.
        threshold: above it the mask becomes 1, else 0; None leaves it as it is.
        score: the target's logit or probability.

    Raises:
        ValueError: iterations or learning_rate is not positive, l1 or tv negative, or threshold does not lie between 0
            and 1.
    """

    family = "perturbation"
    reference = "Mänttäri et al. 2020, arXiv:2002.00367"
    variants = ("iterations=25", "iterations=25,perturbation=reverse")
    quick = "iterations=2"

    perturbation: Literal["freeze", "reverse"] = "freeze"
    iterations: int = 300
    l1: float = 0.01
    tv: float = 0.02
    learning_rate: float = 0.2
    threshold: float | None = None
    score: Score = "prob"

    def __post_init__(self) -> None:
        require_positive(self, "iterations", "learning_rate")
        require_not_negative(self, "l1", "tv")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold} must lie between 0 and 1")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward and a backward every iteration, and the forwards that find the first mask."""
        return (1 + len(_central_runs(clip.shape[1])) + self.iterations, self.iterations)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        if frames.shape[2] < 2:
            raise NotApplicableError("a clip of one frame has no motion that could be frozen or reversed")
        masks = [self._mask(model, x, target) for x, target in zip(model.normalise(frames), targets, strict=True)]
        return torch.stack(masks)[..., None, None].expand(-1, -1, *frames.shape[3:])

    def _mask(self, model: VideoModel, x: Tensor, target: Tensor) -> Tensor:
        """The mask (T,) of a clip x (C, T, H, W)."""
        logits = (10 * self._first_mask(model, x, target) - 5).requires_grad_()
        adam = torch.optim.Adam([logits], lr=self.learning_rate)
        for _ in range(self.iterations):
            mask = logits.sigmoid()
            score = target_score(model.logits(self.perturb(x, mask)[None]), target[None], self.score)[0]
            loss = score + self.l1 * mask.sum() + self.tv * total_variation(mask)
            (logits.grad,) = torch.autograd.grad(loss, logits)
            adam.step()
        mask = logits.detach().sigmoid()
        return mask if self.threshold is None else (mask > self.threshold).float()

    def _first_mask(self, model: VideoModel, x: Tensor, target: Tensor) -> Tensor:
        """The last of ever shorter runs in the middle, 0 or 1 (T,), that all take 90 % of what freezing all takes."""
        runs = _central_runs(x.shape[1]).to(x)
        clips = [x, freeze(x, runs[0]), *(self.perturb(x, run) for run in runs[1:])]
        with torch.no_grad():
            logits = torch.cat([model.logits(torch.stack(clips[i : i + CHUNK])) for i in range(0, len(clips), CHUNK)])
        scores = target_score(logits, target.expand(len(logits)), self.score)
        enough = scores[0] - scores[2:] >= 0.9 * (scores[0] - scores[1])
        return runs[enough.long().cumprod(0).sum()]

    def perturb(self, x: Tensor, mask: Tensor) -> Tensor:
        """The clip x (C, T, H, W) frozen or reversed where the mask (T,) is 1."""
        return freeze(x, mask) if self.perturbation == "freeze" else reverse(x, mask)


def freeze(x: Tensor, mask: Tensor) -> Tensor:
    """Each frame of x (C, T, H, W) mixed with what is shown before it, by the mask (T,); the first one stays."""
    shown = [x[:, 0]]
    for t in range(1, len(mask)):
        shown.append(torch.lerp(x[:, t], shown[-1], mask[t]))
    return torch.stack(shown, 1)


def reverse(x: Tensor, mask: Tensor) -> Tensor:
    """Each frame of x (C, T, H, W) mixed with its mirror image in its block of active frames.

    The two frames of a pair are mixed by the earlier one's mask.
    """
    active, index = mask > ACTIVE, torch.arange(len(mask), device=mask.device)
    first = torch.where(active, 0, index + 1).cummax(0).values
    last = torch.where(active, len(mask) - 1, index - 1).flip(0).cummin(0).values.flip(0)
    mirror = torch.where(active, first + last - index, index)
    return torch.lerp(x, x[:, mirror], mask[torch.minimum(index, mirror)][:, None, None])


def total_variation(mask: Tensor) -> Tensor:
    """Cubed differences of every frame but the first and the last to both its neighbours, added up, ()."""
    cubes = mask.diff().abs() ** 3
    return cubes[:-1].sum() + cubes[1:].sum()


def _central_runs(length: int) -> Tensor:
    """Masks (M, T) of all frames and of ever fewer in the middle; at least two frames stay masked."""
    index = torch.arange(length)
    margin = torch.arange(max(length // 2, 1))[:, None]
    return (index >= margin) & (index < length - margin)
