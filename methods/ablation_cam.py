"""Ablation-CAM."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel

from ._activations import activations_and_logits, replaced_channels
from ._cam import LayerMap
from ._gradients import Score, target_score
from ._masked import CHUNK


@dataclasses.dataclass(frozen=True)
class AblationCAM(LayerMap):
    """Activations of the feature layer, each channel weighted by the relative drop of the target's score without it.

    The map is ReLU(sum_j w_j A_j) with w_j = (y - y_j) / |y|, y the score and y_j the score when channel j is ablated:
    the paper divides by y, which turns the map round where a logit is negative.

    Attributes:
        ablation: what an ablated channel is set to: zero, or its mean over (t, h, w), from which a linear head on the
            layer's global average can tell nothing; for earlier layers, then.
        score: the target's logit or probability.
    """

    family = "CAM"
    reference = "Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360"

    ablation: Literal["zero", "mean"] = "zero"
    score: Score = "logit"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward a channel and one for the activations."""
        x = model.normalise(clip[None])
        channels, *_ = model.output_shape(self.layer_read(model, x), x)
        return (channels + 1, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w) at the resolution of the layer."""
        x = model.normalise(frames)
        layer = self.layer_read(model, x)
        maps = [self._map(model, x[i : i + 1], targets[i : i + 1], layer) for i in range(len(x))]
        return self.rectified(torch.stack(maps))

    def _map(self, model: VideoModel, x: Tensor, target: Tensor, layer: str) -> Tensor:
        """The sum over the channels (t, h, w) for one clip x (1, C, T, H, W)."""
        A, logits = activations_and_logits(model, x, layer)
        clean = target_score(logits, target, self.score)
        drops = clean - self._ablated_scores(model, x, target, layer, A)
        weights = drops / torch.where(clean == 0, 1, clean.abs())
        return torch.einsum("c,cthw->thw", weights, A[0])

    @torch.no_grad()
    def _ablated_scores(self, model: VideoModel, x: Tensor, target: Tensor, layer: str, A: Tensor) -> Tensor:
        """The score without each channel of A, (C,)."""
        values = A.mean((0, 2, 3, 4)) if self.ablation == "mean" else A.new_zeros(A.shape[1])
        scores = []
        for channels in torch.split(torch.arange(A.shape[1], device=A.device), CHUNK):
            with replaced_channels(model.module(layer), channels, values[channels]):
                logits = model.logits(x.expand(len(channels), *x.shape[1:]))
            scores.append(target_score(logits, target.expand(len(channels)), self.score))
        return torch.cat(scores)
