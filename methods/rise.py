"""RISE over time and space."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidattr_bench import substrates
from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

from ._gradients import Score
from ._masked import CHUNK, MaskedClip


@dataclasses.dataclass(frozen=True)
class RISE(SignedMethod):
    """The mean of many random masks, each weighted by the target's score on the clip that it leaves visible.

    A mask is a small grid of random zeros and ones, enlarged trilinearly and shifted at random by less than a cell; the
    map is sum_i s_i M_i / (N p).

    Attributes:
        sign: signed or absolute, where `score=logit` leaves a sign.
        masks: their number N.
        frames: cells of the grid along time.
        cells: cells of the grid along height and width.
        p: probability that a cell stays visible.
        normalise: divide by N p, the expected sum of the masks: expected; or by that sum itself at each voxel, which
            takes away the noise of uneven masks: coverage.
        substrate: what replaces masked voxels.
        score: the target's logit or probability.

    Raises:
        PluginError: the substrate is unknown.
        ValueError: no masks, no cells, p is no probability between 0 and 1, or there is no sign for `sign=absolute`.
    """

    family = "perturbation"
    reference = "Petsiuk et al. 2018, arXiv:1806.07421"
    stochastic = True
    variants = ("masks=300",)
    quick = "masks=8"

    masks: int = 4000
    frames: int = 4
    cells: int = 7
    p: float = 0.5
    normalise: Literal["expected", "coverage"] = "expected"
    substrate: str = "mean"
    score: Score = "prob"

    def __post_init__(self) -> None:
        substrates.create(self.substrate)
        if min(self.masks, self.frames, self.cells) < 1 or not 0 < self.p < 1:
            raise ValueError(f"masks, frames and cells must be at least 1, and p={self.p} lie between 0 and 1")
        if self.sign == "absolute" and self.score == "prob":
            raise ValueError("sign=absolute belongs to score=logit; a mean of probabilities has no sign")
        object.__setattr__(self, "signed", self.score == "logit")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward for every mask."""
        return (self.masks, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: Sequence[int]) -> Tensor:
        """Relevance (N, T, H, W), each clip's from masks of its own seed."""
        maps = []
        for x, target, seed in zip(model.normalise(frames), targets, seeds, strict=True):
            maps.append(self._weighted_masks(MaskedClip(model, x, target, self.substrate, self.score), seed))
        return torch.stack(maps)

    def _weighted_masks(self, clip: MaskedClip, seed: int) -> Tensor:
        total, coverage = (clip.x.new_zeros(clip.x.shape[1:]) for _ in range(2))
        for masks in self.draw(clip.x, seed):
            total += torch.einsum("m,mthw->thw", clip.scores(1 - masks), masks)
            coverage += masks.sum(0)
        if self.normalise == "expected":
            return total / (self.masks * self.p)
        return total / coverage.clamp_min(torch.finfo(coverage.dtype).eps)

    def draw(self, x: Tensor, seed: int) -> Iterator[Tensor]:
        """The masks of a clip x (C, T, H, W) in chunks (M, T, H, W), 1 = visible; they depend on its seed and size."""
        draws = torch.Generator().manual_seed(seed)
        cells = (self.frames, self.cells, self.cells)
        grids = (torch.rand(self.masks, *cells, generator=draws) < self.p).to(x.dtype)
        crops = [_enlargements(n, length) for n, length in zip(cells, x.shape[1:], strict=True)]
        shifts = [torch.randint(len(crop), (self.masks,), generator=draws) for crop in crops]
        for part in torch.split(torch.arange(self.masks), CHUNK):
            chosen = (crop[shift[part]].to(x) for crop, shift in zip(crops, shifts, strict=True))
            yield _enlarge(grids[part].to(x), *chosen)


def _enlargements(cells: int, length: int) -> Tensor:
    """Linear maps from one axis of a grid to that of a clip, for every shift within a cell, (shifts, length, cells)."""
    cell = -(-length // cells)
    enlarged = F.interpolate(torch.eye(cells)[None], (cells + 1) * cell, mode="linear", align_corners=False)[0]
    return enlarged.unfold(1, length, 1)[:, :cell].permute(1, 2, 0)


def _enlarge(grids: Tensor, t: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """Masks (M, T, H, W) of grids (M, t, h, w), by the linear maps (M, T, t), (M, H, h) and (M, W, w) of the axes."""
    planes = h[:, None] @ grids @ w[:, None].mT
    return (t @ planes.flatten(2)).view(*t.shape[:2], *planes.shape[2:])
