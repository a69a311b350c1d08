"""Gaussian blur of single frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRUNCATE = 3.0


def blur_frames(volume: Tensor, sigma: float) -> Tensor:
    """Each frame of (..., H, W) blurred; `sigma` is a fraction of H, 0 leaves the frames as they are.

    The Gaussian is cut at three standard deviations; frames continue beyond their border by their outermost pixels.
    """
    if sigma == 0:
        return volume
    h, w = volume.shape[-2:]
    rows, columns = (_blur_matrix(cells, sigma * h).to(volume) for cells in (h, w))
    return rows @ volume @ columns.mT


def _blur_matrix(cells: int, sigma: float) -> Tensor:
    """The blur of one axis as a matrix (cells, cells); a matrix product is exact where a GPU rounds convolutions."""
    radius = math.ceil(TRUNCATE * sigma)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    sources = (torch.arange(cells)[:, None] + offsets).clamp(0, cells - 1)
    return torch.zeros(cells, cells).scatter_add(1, sources, (kernel / kernel.sum()).expand(cells, -1))
