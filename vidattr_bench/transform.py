"""From video to clip: which frames are sampled, and the one geometry that pixels and boxes go through."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vidattr_bench.errors import DataError, did_you_mean
from vidattr_bench.model import ClipInput
from vidattr_bench.video import read_chosen, read_frames

ANCHORS = ("start", "middle", "end", "spread")
CROPS = ("centre", "none")
INTERPOLATIONS = ("area", "bilinear", "nearest")


@dataclasses.dataclass(frozen=True)
class Sampled:
    """The frames of a clip and where they come from.

    Attributes:
        frames: (C, T, H, W) float32 in [0, 1]; past the end of the video black, and of flow without motion.
        indices: T 0-based frames of the video, None past its end.
        size: height and width of the video.
    """

    frames: Tensor
    indices: tuple[int | None, ...]
    size: tuple[int, int]

    @property
    def known(self) -> Tensor:
        """Bool (T,): False where the clip goes on past the end of the video."""
        return torch.tensor([i is not None for i in self.indices])


def sample_clip(path: Path, wanted: ClipInput, total: int | None = None) -> Sampled:
    """Read the frames of a video, or of a folder of pictures, that `wanted` asks for.

    Args:
        path: the video.
        wanted: sampling and geometry.
        total: number of its frames where that is known; by default they are counted, while they are read.

    Raises:
        DataError: the video cannot be read, or `wanted` makes no sense.
    """
    if total is None:
        pixels, total = read_chosen(path, lambda n: [i for i in sample_indices(n, wanted) if i is not None])
        indices = sample_indices(total, wanted)
    else:
        indices = sample_indices(total, wanted)
        pixels = read_frames(path, [i for i in indices if i is not None])
    frames, _ = fit(pixels, torch.zeros(0, 4), wanted)
    past_the_end = len(indices) - len(pixels)
    return Sampled(F.pad(frames, (0, 0, 0, 0, 0, past_the_end)), tuple(indices), (pixels.shape[1], pixels.shape[2]))


def sample_indices(total: int, wanted: ClipInput) -> list[int | None]:
    """T frames out of `total`, 0-based and ascending; None past the end of the video.

    Frame i is first + i * stride, where the anchor puts the span at the start, in the middle or at the end of the video
    (at its start where the video is shorter); `spread` takes frame i * max(total // T, 1).
    Frames are counted, not timed: a variable frame rate changes nothing.

    Raises:
        DataError: unknown anchor, or a length, stride or total that is not positive.
    """
    if wanted.anchor not in ANCHORS:
        raise DataError(f"anchor={wanted.anchor!r} is unknown; {did_you_mean(wanted.anchor, ANCHORS)}")
    if min(total, wanted.length, wanted.stride) < 1:
        raise DataError(f"length={wanted.length} and stride={wanted.stride} of {total} frames: all must be positive")
    spread = wanted.anchor == "spread"
    stride = max(total // wanted.length, 1) if spread else wanted.stride
    spare = max(total - (wanted.length - 1) * stride - 1, 0)
    first = {"start": 0, "middle": spare // 2, "end": spare, "spread": 0}[wanted.anchor]
    frames = range(first, first + wanted.length * stride, stride)
    return [i if i < total else None for i in frames]


def fit(
    frames: Tensor, boxes: Tensor, wanted: ClipInput, source: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Resize and crop pixels and boxes alike.

    Args:
        frames: uint8 (T, H, W, C).
        boxes: (n, 4) x0, y0, x1, y1 in pixels of `source`, half-open.
        wanted: size, resize, crop and interpolation.
        source: height and width of the video, where frames show it whole at another size; by default their own.

    Returns:
        Frames (C, T, h, w), float32 in [0, 1], and boxes (n, 4), float64 in pixels of them; a box that the crop hides
        is empty.

    Raises:
        DataError: unknown crop or interpolation, or a resize that leaves less than the crop takes.
    """
    source = source or (frames.shape[1], frames.shape[2])
    resized, (top, left) = _geometry(source, wanted)
    h, w = wanted.size
    pixels = _resize(frames.permute(0, 3, 1, 2).float() / 255, resized, wanted.interpolation)
    pixels = pixels[:, :, top : top + h, left : left + w]
    return pixels.transpose(0, 1).contiguous(), fit_boxes(boxes, source, wanted)


def fit_boxes(boxes: Tensor, source: tuple[int, int], wanted: ClipInput) -> Tensor:
    """The boxes of `fit`, for frames of height and width `source`."""
    resized, (top, left) = _geometry(source, wanted)
    h, w = wanted.size
    scale = torch.tensor([resized[1] / source[1], resized[0] / source[0]] * 2, dtype=torch.float64)
    offset = torch.tensor([left, top, left, top], dtype=torch.float64)
    limit = torch.tensor([w, h, w, h], dtype=torch.float64)
    moved = (boxes.double() * scale - offset).clamp(min=torch.zeros(4, dtype=torch.float64), max=limit)
    visible = (moved[:, 2:] > moved[:, :2]).all(1, keepdim=True)
    return moved * visible


def fit_masks(masks: Tensor, source: tuple[int, int], wanted: ClipInput) -> Tensor:
    """The masks of `fit`: a voxel belongs to a mask that covers half of it or more.

    Coverage is by area, whatever the interpolation of the pixels. Of what is nowhere half a voxel wide the voxel stays
    that it covers most: it is there, and its frame is not empty.

    Args:
        masks: bool (n, H, W), drawn over whole frames, at their size or at another one.
        source: height and width of the frames.
        wanted: size, resize and crop.

    Returns:
        Bool (n, h, w), in pixels of the clip.
    """
    resized, (top, left) = _geometry(source, wanted)
    h, w = wanted.size
    rows = _overlap(masks.shape[1], resized[0])[top : top + h]
    columns = _overlap(masks.shape[2], resized[1])[left : left + w]
    covered = [rows @ mask.double() @ columns.T for mask in masks]
    if not covered:
        return torch.zeros(0, h, w, dtype=torch.bool)
    share = torch.stack(covered)
    # Shares of whole pixels are sums of rounded quotients.
    return (share > 1e-9) & (share >= share.amax((1, 2), keepdim=True).clamp(max=0.5) - 1e-9)


def _geometry(source: tuple[int, int], wanted: ClipInput) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width after the resize, and top and left of the crop."""
    if wanted.crop not in CROPS:
        raise DataError(f"crop={wanted.crop!r} is unknown; {did_you_mean(wanted.crop, CROPS)}")
    if wanted.interpolation not in INTERPOLATIONS:
        raise DataError(
            f"interpolation={wanted.interpolation!r} is unknown; {did_you_mean(wanted.interpolation, INTERPOLATIONS)}"
        )
    (height, width), (h, w) = source, wanted.size
    if wanted.crop == "none":
        return (h, w), (0, 0)
    if isinstance(wanted.resize, Sequence):
        resized = (wanted.resize[0], wanted.resize[1])
    elif wanted.resize is not None:
        short = min(source)
        resized = (height * wanted.resize // short, width * wanted.resize // short)
    else:
        scale = max(h / height, w / width)
        resized = (max(round(height * scale), h), max(round(width * scale), w))
    if resized[0] < h or resized[1] < w:
        raise DataError(
            f"resize={wanted.resize} makes frames of {source} {resized}, less than size={wanted.size}; give more"
        )
    return resized, ((resized[0] - h) // 2, (resized[1] - w) // 2)


def _resize(pixels: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Pixels (T, C, H, W) at another size, the corners of the image staying its corners."""
    if interpolation == "area":
        rows, columns = (_overlap(n, m).to(pixels) for n, m in zip(pixels.shape[2:], size, strict=True))
        return (rows @ pixels @ columns.T).clamp(0, 1)
    if interpolation == "nearest":
        return F.interpolate(pixels, size, mode="nearest-exact")
    return F.interpolate(pixels, size, mode="bilinear", antialias=True).clamp(0, 1)


def _overlap(n: int, m: int) -> Tensor:
    """(m, n): the share of each of m equal cells that each of n covers; rows sum to 1."""
    edges, cells = torch.arange(n + 1).double() * m / n, torch.arange(m).double()[:, None]
    upper, lower = torch.minimum(edges[1:], cells + 1), torch.maximum(edges[:-1], cells)
    return (upper - lower).clamp(min=0)
