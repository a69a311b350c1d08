"""The control that looks where pixels change."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.streams import picture_of

from ._blur import blur
from ._options import require_not_negative


@dataclasses.dataclass(frozen=True)
class FrameDifference(AttributionMethod):
    """How much each pixel differs from the frame before: mean over the channels of the absolute difference.

    The first frame takes the second's map. Where there is optical flow beside the pixels, it does not count.

    Attributes:
        blur: standard deviation of a Gaussian blur of every frame's map, as a fraction of the height.

    Raises:
        ValueError: blur is negative.
    """

    family = "control"
    reference = "Bobick & Davis 2001, doi:10.1109/34.910878"
    informed = False
    variants = ("", "blur=0.05")

    blur: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative(self, "blur")

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W) in [0, 1]; 0 where a clip has one frame."""
        if frames.shape[2] == 1:
            return torch.zeros_like(frames[:, 0])
        difference = picture_of(frames, model.input).diff(dim=2).abs().mean(1)
        return blur(torch.cat([difference[:, :1], difference], 1), self.blur)
