"""Score-CAM."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidattr_bench import substrates
from vidattr_bench.model import VideoModel

from ._activations import activations
from ._cam import LayerMap
from ._gradients import Score
from ._masked import CHUNK, MaskedClip


@dataclasses.dataclass(frozen=True)
class ScoreCAM(LayerMap):
    """Activations of the feature layer, each channel weighted by the score of the clip seen through that channel.

    A channel becomes a mask: enlarged linearly to the clip's size, then scaled to [0, 1], 0 where it is constant. The
    clip shows where the mask is 1, and the substrate where it is 0. The map is ReLU(sum_j w_j A_j).

    Attributes:
        weight: the score's increase over that of the substrate alone, or the score itself.
        normalise: softmax of the weights over the channels, or none.
        score: the target's logit or probability.
        substrate: what shows outside the mask.

    Raises:
        PluginError: the substrate is unknown.
        ValueError: `weight=score` with a softmax, from which the score of the substrate cancels.
    """

    family = "CAM"
    reference = "Wang et al. 2020, arXiv:1910.01279"

    weight: Literal["increase", "score"] = "increase"
    normalise: Literal["softmax", "none"] = "softmax"
    score: Score = "logit"
    substrate: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        substrates.create(self.substrate)
        if self.normalise == "softmax" and self.weight == "score":
            raise ValueError("weight=score belongs to normalise=none; a softmax makes it weight=increase")

    @property
    def _needs_substrate_score(self) -> bool:
        return self.normalise == "none" and self.weight == "increase"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward a channel, one for the activations, and one for the substrate where its score is needed."""
        x = model.normalise(clip[None])
        channels, *_ = model.output_shape(self.layer_read(model, x), x)
        return (channels + 1 + self._needs_substrate_score, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w) at the resolution of the layer."""
        x = model.normalise(frames)
        layer = self.layer_read(model, x)
        clips = [MaskedClip(model, x[i], target, self.substrate, self.score) for i, target in enumerate(targets)]
        return self.rectified(torch.stack([self._map(clip, layer) for clip in clips]))

    def _map(self, clip: MaskedClip, layer: str) -> Tensor:
        """The sum over the channels (t, h, w)."""
        A = activations(clip.model, clip.x[None], layer)[0]
        scores = torch.cat([clip.scores(1 - masks(channels, clip.x)) for channels in torch.split(A, CHUNK)])
        return torch.einsum("c,cthw->thw", self._weights(clip, scores), A)

    def _weights(self, clip: MaskedClip, scores: Tensor) -> Tensor:
        if self.normalise == "softmax":
            return scores.softmax(0)
        return scores - clip.scores(torch.ones_like(clip.x[:1])) if self._needs_substrate_score else scores


def masks(A: Tensor, x: Tensor) -> Tensor:
    """Channels (M, t, h, w) enlarged to the size of the clip x (C, T, H, W) and scaled to [0, 1], (M, T, H, W)."""
    enlarged = F.interpolate(A[None], x.shape[1:], mode="trilinear", align_corners=False)[0]
    low, high = enlarged.amin((1, 2, 3), keepdim=True), enlarged.amax((1, 2, 3), keepdim=True)
    # Asked of A: enlarging rounds, and scaling would blow up what rounding leaves of a constant.
    constant = A.amin((1, 2, 3), keepdim=True) == A.amax((1, 2, 3), keepdim=True)
    return torch.where(constant, 0, (enlarged - low) / (high - low))
