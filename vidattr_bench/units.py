"""Units: what is removed at once, in which order, and where an order is cut."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor

from vidattr_bench import randomness
from vidattr_bench.errors import PluginError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Units:
    """A partition of a clip into what is removed at once; every number from 0 to U - 1 occurs.

    Attributes:
        labels: int64 (T, H, W) on the CPU, the unit of each voxel.
        sizes: int64 (U,), voxels a unit.
    """

    labels: Tensor
    sizes: Tensor

    @staticmethod
    def of(labels: Tensor) -> Units:
        """The partition that a label map (T, H, W) draws."""
        return Units(labels, torch.bincount(labels.flatten()))

    def means(self, relevance: Tensor) -> Tensor:
        """Mean relevance of each unit, float64 (U,), summed on the CPU in one fixed order: ranks never waver."""
        weights = relevance.detach().cpu().double().flatten()
        return torch.bincount(self.labels.flatten(), weights, minlength=len(self.sizes)) / self.sizes


UNITS = {"tubelet": (8, 7, 7), "frame": (math.inf, 1, 1), "voxel": (math.inf, math.inf, math.inf)}
"""Cells along (T, H, W) of the regular units; an axis never has more cells than voxels."""
NAMES = (*UNITS, "supervoxel")


def check_unit(unit: str) -> None:
    """Raise `PluginError`, with the nearest known names, where there is no such unit."""
    if unit not in NAMES:
        raise PluginError(f"unknown unit {unit!r}; {did_you_mean(unit, NAMES)}")


@functools.lru_cache(maxsize=16)
def regular_units(unit: str, t: int, h: int, w: int) -> Units:
    """The cells of a regular grid over (T, H, W), as even as whole voxels allow."""
    cells = [_cells(length, wanted) for length, wanted in zip((t, h, w), UNITS[unit], strict=True)]
    counts = [int(axis[-1]) + 1 for axis in cells]
    along_t, along_h, along_w = cells
    labels = (along_t[:, None] * counts[1] + along_h)[:, :, None] * counts[2] + along_w
    return Units.of(labels)


def _cells(length: int, wanted: float) -> Tensor:
    """The cell (length,) of each position when an axis is cut into `wanted` cells, or into single voxels."""
    n = int(min(length, wanted))
    ends = [_nearest(i, length, n) for i in range(1, n + 1)]
    return torch.searchsorted(torch.tensor(ends), torch.arange(length), right=True)


def _nearest(i: int, length: int, n: int) -> int:
    """The whole number nearest to i * length / n, halves towards the nearer end, so that boundaries mirror."""
    if 2 * i > n:
        return length - _nearest(n - i, length, n)
    return (2 * i * length + n - 1) // (2 * n)


def removal_order(means: Tensor, seed: int, clip_id: str, unit: str) -> Tensor:
    """Units from most to least relevant, int64 (U,); ties in the order of a permutation of (seed, clip, unit)."""
    permutation = torch.randperm(len(means), generator=randomness.generator(seed, clip_id, unit))
    return permutation[torch.sort(means[permutation], descending=True, stable=True).indices]


def tie_fraction(means: Tensor) -> float:
    """Share of units whose mean equals another unit's."""
    _, counts = torch.unique(means, return_counts=True)
    return int(counts[counts > 1].sum()) / len(means)


def cut_boundaries(sizes: Tensor, steps: int) -> Tensor:
    """Cuts of an order as numbers of removed units, int64 (P,), from 0 to U.

    Cut k is the unit boundary nearest to the fraction k / S of voxels, halves towards the nearer end, so that cut S - k
    mirrors cut k; a tie in the very middle is left out, and so are repeated cuts.

    Args:
        sizes: int64 (U,), voxels of the units in the order of their removal.
        steps: S.
    """
    removed = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    k = torch.arange(steps + 1)
    wanted, have = k * removed[-1], removed * steps
    upper = torch.searchsorted(have, wanted)
    lower = torch.searchsorted(have, wanted, right=True) - 1
    lead = (wanted - have[lower]) - (have[upper] - wanted)
    lead = torch.where(lead == 0, 2 * k - steps, lead)
    chosen = torch.where(lead < 0, lower, upper)
    cuts: Tensor = chosen[(lead != 0) | (lower == upper)].unique()  # type: ignore[no-untyped-call]
    return cuts
