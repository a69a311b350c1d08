"""SWAG over time and space."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel
from vidattr_bench.requirements import require
from vidattr_bench.streams import picture_of
from vidattr_bench.supervoxels import supervoxels
from vidattr_bench.units import Units

from ._gradients import ChannelPooled, Score, input_gradient
from ._options import require_positive
from .guided_backprop import GuidedBackprop


@dataclasses.dataclass(frozen=True)
class SWAGV(ChannelPooled):
    """Mean over each supervoxel of the gradient of the target's score, pooled over the channels.

    Attributes:
        gradient: plain, or that of guided backpropagation.
        segments: number of supervoxels, about.
        spacing: the distance from a frame to the next, in pixels: below 1 supervoxels reach over many frames.
        compactness: what distance counts against colour.
        score: the target's logit or probability.

    Raises:
        ValueError: segments, spacing or compactness is not positive, or there is no sign for `sign=absolute`.
    """

    family = "perturbation"
    reference = "Hartley et al. 2021, doi:10.1109/WACV48630.2021.00047; for video Hartley et al., WACV 2022"

    gradient: Literal["plain", "guided"] = "plain"
    segments: int = 200
    spacing: float = 0.2
    compactness: float = 10.0
    score: Score = "logit"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "segments", "spacing", "compactness")

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W), constant in each supervoxel; `gradient=guided` needs what `guided_backprop` does."""
        maps, pictures = self.pooled(self._gradients(model, frames, targets)), picture_of(frames, model.input)
        return torch.stack([self._averaged(clip, values) for clip, values in zip(pictures, maps, strict=True)])

    def _gradients(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """(N, C, T, H, W)."""
        if self.gradient == "plain":
            return input_gradient(model, model.normalise(frames), targets, self.score)
        for name in GuidedBackprop.requires:
            require(name, model, frames)
        return GuidedBackprop(score=self.score).signal(model, frames, targets)

    def _averaged(self, clip: Tensor, values: Tensor) -> Tensor:
        """The mean over each supervoxel of values (T, H, W)."""
        units = Units.of(supervoxels(clip, self.segments, self.spacing, self.compactness))
        return units.means(values)[units.labels].to(values)
