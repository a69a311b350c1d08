"""Supervoxels: connected parts of a clip that are alike in colour, found by SLIC over time and space."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch
from skimage.segmentation import slic
from torch import Tensor

WHITE = 100.0  # in Lab, where black is 0; pixels that are not RGB are compared in [0, 1]


def supervoxels(pixels: Tensor, segments: int = 200, spacing: float = 0.2, compactness: float = 10.0) -> Tensor:
    """The supervoxel of each voxel of a clip: int64 (T, H, W) on the CPU, where every number from 0 to S - 1 occurs.

    A function of the pixels in single precision and of the options alone; the last clips are remembered.

    Args:
        pixels: (C, T, H, W) in [0, 1]; stretched to that range, they are compared in Lab where C is 3,
            else as they are.
        segments: S, about; SLIC starts from the nearest regular grid and joins small parts to their neighbours.
        spacing: the distance from a frame to the next, that from a pixel to the next being 1: below 1 supervoxels
            reach over more frames than pixels.
        compactness: what distance counts against colour; larger values make supervoxels rounder.

    Raises:
        ValueError: the pixels are not (C, T, H, W) or not finite, or an option is not positive.

    Source: Achanta et al. 2012, doi:10.1109/TPAMI.2012.120.
    """
    if pixels.ndim != 4:
        raise ValueError(f"pixels must be (C, T, H, W); their shape is {tuple(pixels.shape)}")
    if min(segments, spacing, compactness) <= 0:
        raise ValueError(f"segments={segments}, spacing={spacing} and compactness={compactness} must be positive")
    # Bytes as a key are compared in full: two clips never share a partition by chance.
    values = _channels_last(pixels)
    labels = _remembered(values.tobytes(), values.shape, segments, spacing, compactness)
    return torch.from_numpy(labels.copy())


@functools.lru_cache(maxsize=16)
def _remembered(
    data: bytes, shape: tuple[int, ...], segments: int, spacing: float, compactness: float
) -> npt.NDArray[np.int64]:
    return _slic(np.frombuffer(data, np.float32).reshape(shape), segments, spacing, compactness)


def _channels_last(pixels: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = pixels.detach().movedim(0, -1).float().cpu().contiguous().numpy()
    return array


def _slic(pixels: npt.NDArray[np.float32], segments: int, spacing: float, compactness: float) -> npt.NDArray[np.int64]:
    """The partition of pixels (T, H, W, C), found in double precision."""
    in_lab = pixels.shape[-1] == 3
    labels = slic(
        pixels.astype(np.float64),
        n_segments=segments,
        compactness=compactness if in_lab else compactness / WHITE,
        spacing=(spacing, 1.0, 1.0),
        convert2lab=in_lab,
        start_label=0,
    )
    numbers: npt.NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    return numbers.astype(np.int64)
