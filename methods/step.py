"""STEP, spatio-temporal extremal perturbations."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._extremal import MaskOptimisation, top_share

CORE_WEIGHT = 300.0
FILLED = 0.5236  # share of its box that an ellipsoid fills: pi / 6


@dataclasses.dataclass(frozen=True)
class STEP(MaskOptimisation):
    """Sum of masks, each of a given area and made of blobs in time and space, that preserve the target's score.

    Extremal perturbations with a core loss: an ellipsoid is moved over the mask, frame by frame and in space by its own
    size, and averages it; the responses that would make up the area are pulled to 1, the others to 0. The authors
    shuffle the voxels before every sort, so that ties are broken at random; here tied voxels share the places that they
    compete for. Their code also rounds the ellipsoid's volume down, lets its loss set in a step later, and returns the
    masks before the last step.

    With fewer iterations the weight of the area loss grows less: to 849 at 1200, to 303 at 10. A small budget takes a
    greater `rate`, so that masks reach their areas, and a `core_start` for which rate times core_start stays 5, so that
    the core loss finds masks as far developed as the authors' are.

    Attributes:
        core_frames: length of the ellipsoid, at most that of the clip.
        core_size: its height and width in pixels, at most those of the masks.
        core_start: steps before the core loss, of weight 300, sets in.

    Raises:
        ValueError: an area does not lie in (0, 1), a number is not positive, or the core loss never sets in.
    """

    family = "perturbation"
    reference = "Li et al. 2021, arXiv:2005.00375"
    variants = ('areas="[0.1]",core_start=5,iterations=10,rate=1',)
    quick = "core_start=1,iterations=2"

    core_frames: int = 8
    core_size: int = 11
    core_start: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.core_frames < 1 or self.core_size < 1:
            raise ValueError(f"core_frames={self.core_frames} and core_size={self.core_size} must be positive")
        if not 0 <= self.core_start < self.iterations:
            raise ValueError(
                f"core_start={self.core_start} must lie below iterations={self.iterations}: "
                "without the core loss this is extremal_perturbation"
            )

    def regulariser(self, masks: Tensor, done: int) -> Tensor:
        """The area loss and, from step `core_start` on, the core loss."""
        loss = super().regulariser(masks, done)
        if done < self.core_start:
            return loss
        return loss + CORE_WEIGHT * core_loss(masks, self.areas, self._ellipsoid(masks))

    def _ellipsoid(self, masks: Tensor) -> Tensor:
        """The ellipsoid, no larger than the masks (areas, T, h, w)."""
        wanted = (self.core_frames, self.core_size, self.core_size)
        t, h, w = (min(length, most) for length, most in zip(wanted, masks.shape[1:], strict=True))
        return ellipsoid(t, h, w).to(masks)


def core_loss(masks: Tensor, areas: tuple[float, ...], core: Tensor) -> Tensor:
    """Sum over the areas of mean((r - 1)^2) over the top responses r to the core and mean(r^2) over the others.

    Args:
        masks: (areas, T, h, w).
        areas: share of the voxels that each mask preserves.
        core: (t, k, k), 0 or 1.
    """
    stride = (1, core.shape[1], core.shape[2])
    responses = F.conv3d(masks[:, None], (core / core.sum())[None, None], stride=stride).flatten(1)
    losses = []
    for r, area in zip(responses, areas, strict=True):
        count = min(math.ceil(area * masks[0].numel() / (core.numel() * FILLED)), len(r))
        top = top_share(r.detach(), count)
        losses.append((top * (r - 1).square()).sum() / count)
        losses.append(((1 - top) * r.square()).sum() / max(1, len(r) - count))
    return torch.stack(losses).sum()


def ellipsoid(t: int, h: int, w: int) -> Tensor:
    """1 where a voxel of a box (t, h, w) lies in the ellipsoid through the centres of its outermost voxels, else 0."""
    axes = [torch.linspace(-1, 1, length) if length > 1 else torch.zeros(1) for length in (t, h, w)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return (z.square() + y.square() + x.square() <= 1 + 1e-6).float()
