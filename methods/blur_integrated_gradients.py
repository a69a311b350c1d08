"""Blur integrated gradients."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.substrates import gaussian_blur

from ._baselines import score_difference
from ._gradients import Score, input_gradient
from ._masked import CHUNK_WITH_GRADIENTS
from ._options import require_positive


@dataclasses.dataclass(frozen=True)
class BlurIntegratedGradients(SignedMethod):
    """Each voxel's share in what the target's score gains while the clip comes into focus.

    The gradient is integrated along the path of the normalised clip blurred frame by frame by a Gaussian whose standard
    deviation falls from `sigma_max` to 0, and summed over the channels: at the middle of each step it is multiplied by
    what the step changes. Edges are reflected; the authors' code pads with zeros. The relevance of a clip adds up to
    its score minus that of the fully blurred clip, but for the error of the integration.

    Attributes:
        sigma_max: where the path begins, as a share of the height H; the authors' 50 pixels of 224.
        steps: steps of the path, equal in sigma.
        score: the target's logit or probability.

    Raises:
        ValueError: sigma_max or steps is not positive.
    """

    family = "gradient"
    reference = "Xu et al. 2020, arXiv:2004.03383"
    signed = True
    variants = ("steps=50",)
    quick = "steps=5"

    sigma_max: float = 0.22
    steps: int = 100
    score: Score = "logit"

    def __post_init__(self) -> None:
        require_positive(self, "sigma_max", "steps")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward and a backward at every step."""
        return (self.steps, self.steps)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W); clip by clip, so memory is that of one chunk of steps."""
        return torch.stack([self._integral(model, *one) for one in zip(model.normalise(frames), targets, strict=True)])

    def _integral(self, model: VideoModel, x: Tensor, target: Tensor) -> Tensor:
        """The integral for one clip x (C, T, H, W), in chunks of steps."""
        ends = torch.linspace(self.sigma_max, 0, self.steps + 1)
        middles = (ends[1:] + ends[:-1]) / 2
        relevance = torch.zeros_like(x[0])
        for i in range(0, self.steps, CHUNK_WITH_GRADIENTS):
            path = self._blurred(x, ends[i : i + CHUNK_WITH_GRADIENTS + 1])
            clips = self._blurred(x, middles[i : i + CHUNK_WITH_GRADIENTS])
            gradients = input_gradient(model, clips, target.expand(len(clips)), self.score)
            relevance += (gradients * path.diff(dim=0)).sum((0, 1))
        return relevance

    def _blurred(self, x: Tensor, shares: Tensor) -> Tensor:
        """The clip x (C, T, H, W) at each standard deviation, (M, C, T, H, W)."""
        h = x.shape[2]
        return torch.stack([gaussian_blur(x, (0.0, share * h, share * h)) for share in shares.tolist()])

    def promise_cost(self, model: VideoModel, clip: Tensor) -> int:
        """The clip and the fully blurred one."""
        return 2 if self.sign == "signed" else 0

    def promised_total(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor | None:
        """The target's score on the clip minus that on the fully blurred clip; absolute relevance promises nothing."""
        if self.sign == "absolute":
            return None
        x = model.normalise(frames)
        start = torch.cat([self._blurred(clip, torch.tensor([self.sigma_max])) for clip in x])
        return score_difference(model, x, start, targets, self.score)
