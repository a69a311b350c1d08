"""Overlapping regions of a clip, and how XRAI covers the clip with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor


def regions(partitions: Sequence[Tensor], radius: int) -> Any:
    """Every part of every partition, grown in each frame by a disk, as a sparse bool matrix (M, V) of regions, voxels.

    Args:
        partitions: label maps, int64 (T, H, W) on the CPU, where every number from 0 to S - 1 occurs.
        radius: of the disk, in pixels.
    """
    firsts = np.cumsum([0, *(int(labels.max()) + 1 for labels in partitions)])
    voxels = partitions[0].numel()
    pairs = [members(labels, radius) + first * voxels for labels, first in zip(partitions, firsts[:-1], strict=True)]
    rows, columns = np.divmod(torch.cat(pairs).numpy(), voxels)
    return csr_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), (firsts[-1], voxels))


def members(labels: Tensor, radius: int) -> Tensor:
    """All pairs of a part, grown by a disk, and a voxel that lies in it, each as part x V + voxel, once."""
    _, h, w = labels.shape
    reach = range(-radius, radius + 1)
    rows, columns = torch.arange(h), torch.arange(w)
    voxel = torch.arange(labels.numel()).view_as(labels)
    own = labels * labels.numel() + voxel
    others = [torch.empty(0, dtype=torch.int64)]
    for dy, dx in [(dy, dx) for dy in reach for dx in reach if dy * dy + dx * dx <= radius * radius]:
        # Beyond the border the nearest voxel inside stands in, which lies in the disk as well.
        near = labels[:, (rows + dy).clamp(0, h - 1)][:, :, (columns + dx).clamp(0, w - 1)]
        entered = near != labels
        others.append(near[entered] * labels.numel() + voxel[entered])
    grown: Tensor = torch.cat(others).unique()  # type: ignore[no-untyped-call]
    return torch.cat([own.flatten(), grown])


def cover(regions: Any, attribution: Tensor, smallest: int, *, overlaps: bool) -> Tensor:
    """The density of attribution over what each region adds, region by region, until none adds enough: (V,).

    The next region is the one whose voxels that are not yet covered are densest, or, without `overlaps`, the one that
    is densest as a whole. Voxels that stay uncovered share their mean.

    Args:
        regions: sparse bool matrix (M, V).
        attribution: float64 (V,) on the CPU.
        smallest: a region that adds fewer voxels is left out.
        overlaps: whether regions are ranked by what they add: XRAI, or without it fast XRAI.
    """
    values, owners = attribution.numpy(), regions.T.tocsr()
    sizes, sums = np.diff(regions.indptr), regions @ values
    densities = sums / sizes
    relevance, covered = np.empty_like(values), np.zeros(len(values), dtype=bool)
    while (sizes >= smallest).any():
        if overlaps:
            densities = sums / sizes.clip(1)
        best = np.where(sizes >= smallest, densities, -np.inf).argmax()
        voxels = regions.indices[regions.indptr[best] : regions.indptr[best + 1]]
        added = voxels[~covered[voxels]]
        relevance[added] = values[added].mean()
        covered[added] = True
        touched = owners[added]
        weights = values[added].repeat(np.diff(touched.indptr))
        sizes = sizes - np.bincount(touched.indices, minlength=len(sizes))
        sums = sums - np.bincount(touched.indices, weights, minlength=len(sums))
    if not covered.all():
        relevance[~covered] = values[~covered].mean()
    return torch.from_numpy(relevance)
