"""Gaussian blur of maps."""

from __future__ import annotations

from torch import Tensor

from vidattr_bench.substrates import gaussian_blur


def blur_frames(maps: Tensor, share: float) -> Tensor:
    """Every frame of (N, T, H, W) blurred by a Gaussian with a standard deviation of `share` of the height H."""
    sigma = share * maps.shape[2]
    return gaussian_blur(maps, (0.0, sigma, sigma))
