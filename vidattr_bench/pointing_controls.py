"""The pointing game of maps that need no network and no pixel: what photographers and chance score on an annotation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import torch
from scipy import ndimage
from torch import Tensor

from vidattr_bench.clip import Tube, VideoTruth
from vidattr_bench.metrics.localisation import pointing_hits
from vidattr_bench.model import ClipInput
from vidattr_bench.transform import fit_boxes, fit_masks, sample_indices

GRID = ClipInput(length=16, anchor="spread", size=(112, 112), crop="none")
"""Frames over the whole clip, stretched to the grid: nothing of a tube is cropped away."""
TOLERANCE = 0.0625
"""As a share of the height, as in the pointing game: 7 of 112 pixels."""


@dataclasses.dataclass(frozen=True)
class Control:
    """Pointing-game hit rates of one map: the mean over tube frames, over clips, and over classes of their clips."""

    control: str
    truth: str
    frames: float
    clips: float
    classes: float


def controls(truths: Iterable[VideoTruth], wanted: ClipInput) -> Iterator[Control]:
    """Hit rates of the pointing game on tube frames, for maps that need no pixel.

    The truth is once the first tube's box of each frame, once all boxes of the label. Centre points at the middle;
    random is the expectation over uniform points, which is what a constant map scores; the oracle is the truth itself.
    Videos without a tube frame on the grid are left out.

    Args:
        truths: annotated videos.
        wanted: the grid, T frames of H x W; the tolerance is H / 16.
    """
    h, w = wanted.size
    middle = _middle(h, w).flatten()
    hits: dict[tuple[str, str], list[tuple[int | None, Tensor]]] = {}
    for truth in truths:
        for kind, distances in zip(("one box a frame", "all boxes"), squared_distances(truth, wanted), strict=True):
            rows = distances[distances[:, 0, 0].isfinite()].flatten(1)
            if len(rows):
                near = rows <= (TOLERANCE * h) ** 2
                found = {
                    "centre": near[:, middle].double().mean(1),
                    "random": near.double().mean(1),
                    "oracle": pointing_hits((rows == 0).float(), near),
                }
                for name, shares in found.items():
                    hits.setdefault((name, kind), []).append((truth.label, shares))
    for (name, kind), values in hits.items():
        yield Control(name, kind, *_means(values))


def _means(values: Sequence[tuple[int | None, Tensor]]) -> tuple[float, float, float]:
    """Over frames, over clips, and over classes of their clips."""
    frames = float(torch.cat([hits for _, hits in values]).mean())
    by_class: dict[int | None, list[Tensor]] = {}
    for label, hits in values:
        by_class.setdefault(label, []).append(hits.mean())
    classes = float(torch.stack([torch.stack(clips).mean() for clips in by_class.values()]).mean())
    return frames, float(torch.stack([hits.mean() for _, hits in values]).mean()), classes


def squared_distances(truth: VideoTruth, wanted: ClipInput) -> tuple[Tensor, Tensor]:
    """From each voxel to the truth of its frame, squared: first to one box a frame, second to the nearest of all.

    Returns:
        Twice (T, H, W) float32, in voxels: 0 inside the label's tubes, infinite where the frame has none.
    """
    place = {i: t for t, i in enumerate(sample_indices(truth.frames, wanted)) if i is not None}
    first, nearest = torch.full((2, wanted.length, *wanted.size), float("inf"))
    for tube in (tube for tube in truth.tubes if tube.label == truth.label):
        at = [(t, i - tube.start) for i, t in place.items() if 0 <= i - tube.start < len(tube.boxes)]
        rows = [t for t, _ in at]
        found = _to_tube(tube, [i for _, i in at], truth.size, wanted)
        vacant = first[rows, :1, :1].isinf()
        first[rows] = torch.where(vacant, found, first[rows])
        nearest[rows] = torch.minimum(found, nearest[rows])
    return first, nearest


def _to_tube(tube: Tube, chosen: list[int], source: tuple[int, int], wanted: ClipInput) -> Tensor:
    """(n, H, W): squared distance to the nearest voxel of some of a tube's masks, or else boxes."""
    if tube.masks is None:
        return _squared(fit_boxes(tube.boxes[chosen], source, wanted), wanted.size)
    return _squared_to(fit_masks(tube.masks[chosen], source, wanted))


def _squared_to(masks: Tensor) -> Tensor:
    """(n, H, W): squared distance to the nearest voxel of each mask; infinite without any."""
    found = torch.full(masks.shape, float("inf"))
    for to, mask in zip(found, masks, strict=True):
        if bool(mask.any()):
            to[:] = torch.from_numpy(ndimage.distance_transform_edt(~mask.numpy()) ** 2).round()
    return found


def _middle(h: int, w: int) -> Tensor:
    """Bool (H, W): the voxels nearest to the middle of the frame; one, two or four."""
    rows, columns = ((2 * torch.arange(n) + 1 - n).abs() for n in (h, w))
    return (rows == rows.min())[:, None] & (columns == columns.min())


def _squared(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, H, W): squared distance to the nearest voxel with its centre in the box."""
    columns, rows = (_gaps(boxes[:, i], boxes[:, i + 2], size[1 - i]) ** 2 for i in (0, 1))
    return rows[:, :, None] + columns[:, None, :]


def _gaps(lower: Tensor, upper: Tensor, cells: int) -> Tensor:
    """(n, cells): steps from each cell to the nearest whose centre lies in [lower, upper); infinite without any."""
    first, last = (lower - 0.5).ceil()[:, None], (upper - 0.5).ceil()[:, None] - 1
    at = torch.arange(cells, dtype=torch.float64)
    gaps = torch.maximum(first - at, at - last).clamp(min=0)
    return gaps.masked_fill(last < first, float("inf")).float()
