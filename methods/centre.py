"""The control that looks at the middle."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel

from ._options import require_positive


@dataclasses.dataclass(frozen=True)
class Centre(AttributionMethod):
    """A Gaussian about the middle of every frame: where photographers, and so data sets, put what matters.

    Attributes:
        sigma: standard deviation as a fraction of the height and of the width.

    Raises:
        ValueError: sigma is not positive.
    """

    family = "control"
    reference = "Tatler 2007, doi:10.1167/7.14.4"
    informed = False

    sigma: float = 0.25

    def __post_init__(self) -> None:
        require_positive(self, "sigma")

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W) in (0, 1]."""
        n, _, t, h, w = frames.shape
        frame = torch.outer(self._profile(h), self._profile(w))
        return frame.to(frames.device).expand(n, t, h, w)

    def _profile(self, cells: int) -> Tensor:
        distances = (torch.arange(cells) + 0.5) / cells - 0.5
        return torch.exp(-0.5 * (distances / self.sigma) ** 2)
