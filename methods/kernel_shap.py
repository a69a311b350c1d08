"""Kernel SHAP on supervoxels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel
from vidattr_bench.streams import picture_of

from ._supervoxels import SupervoxelClip, SupervoxelMethod


@dataclasses.dataclass(frozen=True)
class KernelShap(SupervoxelMethod):
    """Shapley value of each supervoxel: its mean contribution to the target's score over all orders of appearance.

    The values are those of the additive model that fits sampled coalitions best. Coalitions come from the Shapley
    kernel, each with its complement; where the budget allows, all are enumerated and the values are exact. They add up
    to the score of the clip minus that of the clip with everything replaced.

    Attributes:
        substrate: what replaces a supervoxel that does not take part.
        samples: coalitions scored, an even number; None is 2 S + 2048, as in the authors' code. Fewer than some four a
            supervoxel leave noise.

    Raises:
        PluginError: the substrate is unknown.
        ValueError: `samples` is odd or not positive, or segments, spacing or compactness is not positive.
    """

    family = "perturbation"
    reference = "Lundberg & Lee 2017, arXiv:1705.07874; pairs: Covert & Lee 2021, arXiv:2012.01536"
    signed = True
    stochastic = True
    variants = ("samples=200,segments=50",)
    quick = "samples=80,segments=20"

    samples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples is not None and (self.samples < 2 or self.samples % 2):
            raise ValueError(f"samples={self.samples} must be an even number: coalitions come in pairs")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward of every coalition, of the whole clip and of the empty one."""
        return (coalition_count(int(self.labels(picture_of(clip, model.input)).max()) + 1, self.samples) + 2, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
        """Relevance (N, T, H, W), constant in each supervoxel."""
        clips = self.clips(model, frames, targets)
        return torch.stack([clip.paint(self.values(clip, seed)) for clip, seed in zip(clips, seeds, strict=True)])

    def values(self, clip: SupervoxelClip, seed: int) -> Tensor:
        """The Shapley values (S,) of one clip's supervoxels."""
        kept, weights = coalitions(clip.count, self.samples, torch.Generator().manual_seed(seed))
        ends = torch.tensor([[True], [False]]).expand(2, clip.count)
        scores = clip.scores(torch.cat([ends, kept]))
        return constrained_fit(kept.double(), weights, scores[2:] - scores[1], scores[0] - scores[1])


def coalition_count(players: int, samples: int | None) -> int:
    """How many coalitions are scored, the full and the empty one aside: `samples`, or all where these suffice."""
    budget = 2 * players + 2048 if samples is None else samples
    return min(budget, (1 << players) - 2)


def coalitions(players: int, samples: int | None, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coalitions, bool (M, S), and what they weigh, (M,): all of them, or pairs drawn from the Shapley kernel."""
    count = coalition_count(players, samples)
    if count == (1 << players) - 2:
        kept = (torch.arange(1, count + 1)[:, None] >> torch.arange(players)) % 2 == 1
        return kept, shapley_kernel(players)[kept.sum(1)]
    sizes = torch.arange(1, players)
    chances = 1 / (sizes * (players - sizes)).double()
    size = 1 + torch.multinomial(chances, count // 2, replacement=True, generator=draws)
    ranks = torch.rand(count // 2, players, generator=draws).argsort(1).argsort(1)
    half = ranks < size[:, None]
    return torch.cat([half, ~half]), torch.ones(count, dtype=torch.float64)


def shapley_kernel(players: int) -> Tensor:
    """What a coalition of each size weighs, float64 (S + 1,): (S - 1) / (C(S, k) k (S - k)), 0 at both ends."""
    inner = [(players - 1) / (math.comb(players, k) * k * (players - k)) for k in range(1, players)]
    return torch.tensor([0.0, *inner, 0.0], dtype=torch.float64)


def constrained_fit(kept: Tensor, weights: Tensor, gains: Tensor, total: Tensor) -> Tensor:
    """The values (S,) that add up to `total` and, in each coalition, to its gain as nearly as least squares gets.

    An equal share each, plus the shortest least-squares solution among changes that add up to 0.

    Args:
        kept: (M, S) of 0 and 1.
        weights: (M,).
        gains: (M,), the scores of the coalitions minus that of the empty one.
        total: (), the gain of the full coalition.
    """
    share = total / kept.shape[1]
    rows = kept - kept.mean(1, keepdim=True)
    root = weights.sqrt()
    change: Tensor = torch.linalg.lstsq(root[:, None] * rows, root * (gains - kept.sum(1) * share), driver="gelsd")[0]
    return share + change
