"""Guided Grad-CAM."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor

from vidattr_bench.model import VideoModel

from ._gradients import ChannelPooled, Score
from ._reversed import Unpool
from .grad_cam import GradCAM
from .guided_backprop import GuidedBackprop


@dataclasses.dataclass(frozen=True)
class GuidedGradCAM(ChannelPooled):
    """Guided backpropagation times Grad-CAM enlarged to the clip: the voxels' detail where the class has evidence.

    Attributes:
        pool: max_abs, l2, sum_abs or sum over the channels of guided backpropagation.
        unpool: where its signal leaves a max-pooling window: at the maximum (switches) or at the window's centre.
        cam: Grad-CAM's mean of the gradients over (t, h, w): volume, or over (h, w): frame.
        layer: the layer that Grad-CAM reads; by default the model's feature layer.
        score: the target's logit or probability, of both.
    """

    family = "gradient"
    reference = "Selvaraju et al. 2017, arXiv:1610.02391"
    requires = (*GuidedBackprop.requires, *GradCAM.requires)

    unpool: Unpool = "switches"
    cam: Literal["volume", "frame"] = "volume"
    layer: str | None = None
    score: Score = "logit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None:
            object.__setattr__(self, "requires", GuidedBackprop.requires)

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """Two forwards and two backwards."""
        return (2, 2)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        guided = GuidedBackprop(pool=self.pool, unpool=self.unpool, score=self.score)(model, frames, targets)
        return guided * GradCAM(pool=self.cam, layer=self.layer, score=self.score)(model, frames, targets)
