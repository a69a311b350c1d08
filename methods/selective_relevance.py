"""Selective relevance: what of another map is due to motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from vidattr_bench.method import AttributionMethod, Wrapper
from vidattr_bench.model import VideoModel

from ._options import require_not_negative
from .grad_cam import GradCAM

Edges = Literal["both", "falling"]
Padding = Literal["replicate", "zero"]


@dataclasses.dataclass(frozen=True)
class SelectiveRelevance(Wrapper):
    """Another method's map where it changes over time, and 0 where it stays: the relevance that is due to motion.

    A voxel is kept where the 3-D Sobel derivative of the map along time exceeds a number of standard deviations, taken
    over all voxels of the clip. How many is the user's choice; the authors' demonstration takes 3 of a propagated
    relevance, which is far sparser than a CAM. Their code changed from voxels whose relevance falls to those where it
    falls or rises, and continues the map by zeros: then all that is relevant in the first or last frame seems to move.

    Attributes:
        of: the method whose relevance is selected from.
        sigmas: standard deviations that the derivative must exceed.
        edges: whether relevance that falls is kept, or both that which falls and that which rises.
        padding: what lies beyond the border of the map: its outermost voxels again (replicate), or zero.

    Raises:
        ValueError: sigmas is negative, or the other method needs the tubes.
    """

    reference = "Hiley et al. 2020, arXiv:2003.14285; Hiley et al. 2019, arXiv:1908.01536"

    of: AttributionMethod = dataclasses.field(default_factory=GradCAM)
    sigmas: float = 1.0
    edges: Edges = "both"
    padding: Padding = "replicate"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "sigmas")

    def attribute(
        self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: Sequence[int] | None = None
    ) -> Tensor:
        """Relevance (N, T, H, W)."""
        relevance = self.of(model, frames, targets, seeds)
        slope = temporal_sobel(relevance, self.padding)
        change = slope.abs() if self.edges == "both" else -slope
        threshold = self.sigmas * slope.flatten(1).std(1)
        return relevance * (change > threshold[:, None, None, None])


def temporal_sobel(maps: Tensor, padding: Padding) -> Tensor:
    """The derivative along time of maps (N, T, H, W) by the 3 x 3 x 3 Sobel kernel; positive where they rise."""
    padded = F.pad(maps[:, None], (1,) * 6, mode="constant" if padding == "zero" else "replicate")[:, 0]
    # Differences first: where a map stays the same, they are exactly 0.
    slope = padded[:, 2:] - padded[:, :-2]
    slope = slope[:, :, 2:] + 2 * slope[:, :, 1:-1] + slope[:, :, :-2]
    return slope[..., 2:] + 2 * slope[..., 1:-1] + slope[..., :-2]
