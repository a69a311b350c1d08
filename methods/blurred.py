"""Another method, blurred."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from vidattr_bench.method import AttributionMethod, Wrapper
from vidattr_bench.model import VideoModel

from ._blur import blur
from ._options import require_not_negative
from .gradient import Gradient


@dataclasses.dataclass(frozen=True)
class Blurred(Wrapper):
    """Another method's map, blurred by a Gaussian over time and space.

    Blur alone brings maps at the resolution of voxels closer to tubes and to coarse units of removal: what a method
    gains by it is no merit of another one whose maps are coarse by design.

    Attributes:
        of: the method whose map is blurred.
        space: standard deviation along rows and columns, as a share of the height H.
        time: standard deviation along time, as a share of the length T.

    Raises:
        ValueError: a standard deviation is negative, or the other method needs the tubes.
    """

    reference = "Rao et al. 2022, arXiv:2205.10435"
    variants = ()

    of: AttributionMethod = dataclasses.field(default_factory=Gradient)
    space: float = 0.05
    time: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "space", "time")

    def attribute(
        self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: Sequence[int] | None = None
    ) -> Tensor:
        """Relevance (N, T, H, W)."""
        return blur(self.of(model, frames, targets, seeds), self.space, self.time)
