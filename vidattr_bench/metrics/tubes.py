"""Localisation by action tubes: the map is cut at a threshold, and its pieces are matched with the annotated tubes."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from vidattr_bench.metric import Case

from ._truth import Levels, TruthMetric, chance_iou, expected_iou, levels, truth

Threshold = Literal["area", "half_max"] | float


def cuts(relevance: Tensor, levels: Levels, threshold: Threshold) -> list[tuple[float, Tensor]]:
    """Masks like relevance (t, H, W), each with its probability.

    `area` cuts at the |G|-th most relevant voxel. Voxels tied there enter all together, with the probability that makes
    the expected area |G|: a level of the map is never torn into random pieces.
    """
    if threshold == "half_max":
        threshold = float(levels.values[0]) / 2
    if threshold != "area":
        return [(1.0, relevance >= threshold)]
    taken = levels.taken(int(levels.hits.sum()))
    last = int((taken > 0).nonzero()[-1])
    share, value = float(taken[last]), levels.values[last]
    return [(weight, mask) for weight, mask in ((share, relevance >= value), (1 - share, relevance > value)) if weight]


def voxel_iou(mask: Tensor, inside: Tensor) -> float:
    """Intersection over union of two sets of voxels."""
    return int((mask & inside).sum()) / int((mask | inside).sum())


def component_boxes(mask: Tensor) -> Tensor:
    """Per-frame boxes (n, t, 4) of the connected components (26 neighbours in t, h, w) of a bool mask (t, H, W)."""
    labels, n = scipy.ndimage.label(mask.cpu().numpy(), structure=np.ones((3, 3, 3)))
    component = torch.from_numpy(labels).long()
    frame, y, x = component.nonzero().unbind(1)
    return _boxes(component[frame, y, x] - 1, frame, y, x, (n, len(mask)))


def instance_boxes(masks: Tensor) -> Tensor:
    """Per-frame boxes (k, t, 4) of k masks (k, t, H, W)."""
    instance, frame, y, x = masks.cpu().nonzero().unbind(1)
    return _boxes(instance, frame, y, x, (masks.shape[0], masks.shape[1]))


def _boxes(piece: Tensor, frame: Tensor, y: Tensor, x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Half-open boxes x0, y0, x1, y1 round the voxels of each (piece, frame), zeros where there is none; float64."""
    cell = piece * shape[1] + frame
    boxes = torch.zeros(shape[0] * shape[1], 4, dtype=torch.float64)
    for column, (values, reduce) in enumerate(((x, "amin"), (y, "amin"), (x + 1, "amax"), (y + 1, "amax"))):
        boxes[:, column].scatter_reduce_(0, cell, values.double(), reduce, include_self=False)
    return boxes.view(*shape, 4)


def tube_ious(target: Tensor, found: Tensor) -> Tensor:
    """Spatio-temporal IoU (k, n) of tubes given as boxes a frame, (k, t, 4) and (n, t, 4): temporal x mean spatial.

    Temporal IoU is taken over the frames in which a tube has a box; spatial IoU is the mean over those of both.
    """
    target, found = target[:, None], found[None]
    areas = [_area(boxes) for boxes in (target, found)]
    corners = torch.cat([torch.maximum(target, found)[..., :2], torch.minimum(target, found)[..., 2:]], -1)
    shared = _area(corners)
    spatial = shared / (areas[0] + areas[1] - shared).clamp(min=1)
    both = (areas[0] > 0) & (areas[1] > 0)
    either = (areas[0] > 0) | (areas[1] > 0)
    # Temporal IoU times the mean over common frames: the number of common frames cancels.
    return (spatial * both).sum(-1) / either.sum(-1).clamp(min=1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def best_ious(mask: Tensor, targets: Tensor) -> Tensor:
    """IoU (k,) of each target tube (k, t, 4) with its best component of a mask (t, H, W); 0 where there is none."""
    found = component_boxes(mask)
    return tube_ious(targets, found).amax(1) if len(found) else torch.zeros(len(targets), dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class _ThresholdMetric(TruthMetric):
    """A number from the map cut at a threshold; `no_positive_relevance` where half_max has no maximum.

    Attributes:
        threshold: area (as many voxels as G), half_max (half of the maximum), or a fixed relevance.
    """

    family: ClassVar[str] = "localisation"

    threshold: Threshold = "area"

    def _value(self, case: Case, clip: int) -> float | str:
        grouped = levels(case, clip)
        if self.threshold == "half_max" and float(grouped.values[0]) <= 0:
            return "no_positive_relevance"
        score = self._scorer(case, clip)
        relevance = truth(case, clip).of(case.relevance[clip])
        return sum(weight * score(mask) for weight, mask in cuts(relevance, grouped, self.threshold))

    def _chance(self, case: Case, clip: int) -> float | None:
        return None

    @abstractmethod
    def _scorer(self, case: Case, clip: int) -> Callable[[Tensor], float]:
        """The score of a mask (t, H, W) on the known frames of a clip."""


@dataclasses.dataclass(frozen=True)
class TubeIoU(_ThresholdMetric):
    """IoU of each annotated tube with the best tube that the map draws; mean over the clip's tubes.

    The map is cut at a threshold; each connected component in (t, h, w), diagonal neighbours included, is a tube of
    per-frame bounding boxes; a tube takes its best component by temporal IoU times mean spatial IoU over common frames.
    Unknown frames are left out, and those around them become neighbours. With `threshold=area`, voxels tied at the
    border enter all together with the probability that makes the expected area |G|, and the value is the expectation: a
    constant map scores |G| / N times the IoU of the whole clip with the tube. No closed form of chance: see the random
    control. The oracle gets 1 where each instance is in one piece and touches no other: of a mask of several parts the
    truth is one box around them all, while the map falls into components. Undefined as the truth, and
    `no_positive_relevance` where half_max has no maximum.

    Attributes:
        above: report the share of tubes whose IoU exceeds this instead of the mean IoU.

    Raises:
        ValueError: `above` outside [0, 1).
    """

    name: ClassVar[str] = "tube_iou"
    reference: ClassVar[str] = "Weinzaepfel 2015, arXiv 1506.01929 (spatio-temporal IoU of tubes)"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {
        "default": ("",),
        "localisation": ("", "above=0.2", "above=0.5", "threshold=half_max"),
    }
    units: ClassVar[str] = "IoU, or share of tubes, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": "< oracle",
        "random": "< oracle",
        "constant": "< oracle",
    }

    above: float | None = None

    def __post_init__(self) -> None:
        if self.above is not None and not 0 <= self.above < 1:
            raise ValueError(f"above={self.above} must be an IoU that can be exceeded, in [0, 1)")

    def _scorer(self, case: Case, clip: int) -> Callable[[Tensor], float]:
        targets: Tensor = case.shared.memo(("tubes", clip), lambda: _known_tubes(case, clip))

        def score(mask: Tensor) -> float:
            ious = best_ious(mask, targets)
            return float((ious if self.above is None else (ious > self.above).double()).mean())

        return score


def _known_tubes(case: Case, clip: int) -> Tensor:
    """Boxes (k, t, 4) on the known frames, of the tubes that are seen there."""
    masks = case.batch.instances[clip]
    boxes = instance_boxes(masks[:, truth(case, clip).known.to(masks.device)])
    return boxes[_area(boxes).any(1)]


@dataclasses.dataclass(frozen=True)
class VoxelIoU(_ThresholdMetric):
    """IoU of the voxels above a threshold with those of the tubes.

    With `threshold=area`, voxels tied at the border count in expectation over their order, so that a constant map
    scores chance: the expected IoU of |G| voxels drawn at random, the sum over k of P(k) k / (2 |G| - k) with the
    hypergeometric P of k hits, about p / (2 - p) for p = |G| / N. Other thresholds have no chance level. Undefined as
    the truth, and `no_positive_relevance` where half_max has no maximum.
    """

    name: ClassVar[str] = "voxel_iou"
    reference: ClassVar[str] = "Jaccard 1912, doi 10.1111/j.1469-8137.1912.tb05611.x"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"localisation": ("",)}
    units: ClassVar[str] = "IoU, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": "max(0, 2|G|/N - 1)",
        "random": "chance",
        "constant": "chance",
    }

    def _value(self, case: Case, clip: int) -> float | str:
        return expected_iou(levels(case, clip)) if self.threshold == "area" else super()._value(case, clip)

    def _chance(self, case: Case, clip: int) -> float | None:
        if self.threshold != "area":
            return None
        inside = truth(case, clip).inside
        level: float = case.shared.memo(("voxel chance", clip), lambda: chance_iou(inside.numel(), int(inside.sum())))
        return level

    def _scorer(self, case: Case, clip: int) -> Callable[[Tensor], float]:
        inside = truth(case, clip).inside
        return lambda mask: voxel_iou(mask, inside)
