"""How alike two maps of one clip are."""

from __future__ import annotations

from typing import Literal

from skimage.metrics import structural_similarity
from torch import Tensor

from vidattr_bench.errors import NotApplicableError

Similarity = Literal["spearman", "pearson", "ssim"]

_WINDOW = 7


def is_constant(map_: Tensor) -> bool:
    """Whether all values of a map are equal: there is nothing to correlate then."""
    return bool(map_.amax() == map_.amin())


def similarity(first: Tensor, second: Tensor, kind: Similarity) -> float | None:
    """Similarity in [-1, 1] of two maps (t, h, w); None where one of them is constant.

    spearman: correlation of mid-ranks over voxels. pearson: of values. ssim: Wang 2004 (doi:10.1109/TIP.2003.819861) on
    every frame, by scikit-image with a uniform window of 7 x 7 (less in smaller frames), the mean over frames of maps
    that are stretched to [0, 1] over the clip first.

    Raises:
        NotApplicableError: ssim of frames smaller than 3 x 3.
    """
    if is_constant(first) or is_constant(second):
        return None
    if kind == "ssim":
        return _ssim(first, second)
    if kind == "spearman":
        first, second = mid_ranks(first), mid_ranks(second)
    return correlation(first, second)


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of two tensors of one shape, neither of them constant, in double precision."""
    a, b = (tensor.double().flatten() for tensor in (first, second))
    a, b = a / a.abs().amax(), b / b.abs().amax()
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / (a.norm() * b.norm()))


def mid_ranks(values: Tensor) -> Tensor:
    """Ranks from 1, float64 (M,); equal values share the mean of theirs."""
    _, places, counts = values.flatten().unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts - 1) / 2)[places]
    return ranks


def _ssim(first: Tensor, second: Tensor) -> float:
    window = min(_WINDOW, *first.shape[1:])
    if window < 3:
        raise NotApplicableError(f"ssim needs 3 x 3 pixels; they share {first.shape[1]} x {first.shape[2]}")
    images = [_stretched(map_).cpu().numpy() for map_ in (first, second)]
    odd = window - (window + 1) % 2
    return float(structural_similarity(*images, win_size=odd, data_range=1.0, channel_axis=0))  # type: ignore[no-untyped-call]


def _stretched(map_: Tensor) -> Tensor:
    map_ = map_.double()
    return (map_ - map_.amin()) / (map_.amax() - map_.amin())
