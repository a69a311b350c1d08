"""The control that looks at contours."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.streams import picture_of

from ._blur import blur
from ._options import require_not_negative


@dataclasses.dataclass(frozen=True)
class Edges(AttributionMethod):
    """Sobel gradient magnitude of every frame's mean over the channels, of the pixels where there is flow beside them.

    Attributes:
        blur: standard deviation of a Gaussian blur of every frame's map, as a fraction of the height.

    Raises:
        ValueError: blur is negative.
    """

    family = "control"
    reference = "Adebayo et al. 2018, arXiv:1810.03292"
    informed = False
    variants = ("", "blur=0.05")

    blur: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative(self, "blur")

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W), not negative; the frame continues beyond its border by its outermost pixels."""
        padded = F.pad(picture_of(frames, model.input).mean(1), (1, 1, 1, 1), mode="replicate")
        return blur(torch.hypot(_slope(padded), _slope(padded.mT).mT), self.blur)


def _slope(padded: Tensor) -> Tensor:
    """The horizontal Sobel derivative of (..., H + 2, W + 2), (..., H, W), in units of the pixel a pixel."""
    across = padded[..., 2:] - padded[..., :-2]
    return (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8
