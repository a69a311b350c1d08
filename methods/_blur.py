"""Gaussian blur of maps."""

from __future__ import annotations

from torch import Tensor

from vidattr_bench.substrates import gaussian_blur


def blur(maps: Tensor, space: float, time: float = 0.0) -> Tensor:
    """Maps (N, T, H, W) blurred by a Gaussian whose standard deviation is a share of the height H, and of T along time.

    It is truncated at 3 standard deviations, and the maps are reflected at their borders.
    """
    _, t, h, _ = maps.shape
    return gaussian_blur(maps, (time * t, space * h, space * h))
