"""GradientSHAP."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

from ._baselines import Baseline, baseline_clips, score_difference
from ._gradients import Score, input_gradient
from ._masked import CHUNK_WITH_GRADIENTS
from ._noisy import standard_noise
from ._options import require_not_negative, require_positive


@dataclasses.dataclass(frozen=True)
class GradientSHAP(SignedMethod):
    """Each voxel's expected share in the target's score, over random baselines and random points on the way to them.

    The gradient at a uniformly drawn point between the clip and a uniformly drawn baseline is multiplied by the
    difference between the two, summed over the channels and averaged over the samples: integrated gradients, expected
    over baselines. The relevance of a clip adds up to its score minus the baselines' mean score in expectation, not in
    every draw.

    Attributes:
        baseline: black, white, mean or blur, or `any` of the four, drawn for each sample.
        samples: points at which the gradient is taken; 200 as in the authors' code.
        noise: standard deviation of Gaussian noise on the clip in each sample, as a share of the clip's range.
        score: the target's logit or probability.

    Raises:
        ValueError: fewer samples than one, or negative noise.
    """

    family = "gradient"
    reference = "Lundberg and Lee 2017, arXiv:1705.07874"
    signed = True
    stochastic = True
    variants = ("samples=50",)
    quick = "samples=5"

    baseline: Baseline | Literal["any"] = "any"
    samples: int = 200
    noise: float = 0.0
    score: Score = "logit"

    def __post_init__(self) -> None:
        require_positive(self, "samples")
        require_not_negative(self, "noise")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward and a backward a sample."""
        return (self.samples, self.samples)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, seeds: list[int]) -> Tensor:
        """Relevance (N, T, H, W); clip by clip, so memory is that of one chunk of samples."""
        clips = zip(model.normalise(frames), self.baselines(model, frames).unbind(1), targets, seeds, strict=True)
        return torch.stack([self._expectation(model, *clip) for clip in clips])

    def _expectation(self, model: VideoModel, x: Tensor, baselines: Tensor, target: Tensor, seed: int) -> Tensor:
        """The mean over samples for one clip x (C, T, H, W) and its baselines (B, C, T, H, W)."""
        draws = torch.Generator().manual_seed(seed)
        which = torch.randint(len(baselines), (self.samples,), generator=draws)
        places = torch.rand(self.samples, 1, 1, 1, 1, generator=draws)
        sigma = self.noise * (x.max() - x.min())
        relevance = torch.zeros_like(x[0])
        for chunk in torch.split(torch.arange(self.samples), CHUNK_WITH_GRADIENTS):
            start = baselines[which[chunk].to(x.device)]
            end = x + sigma * standard_noise(x, len(chunk), draws) if self.noise else x.expand_as(start)
            points = torch.lerp(start, end, places[chunk].to(x))
            gradients = input_gradient(model, points, target.expand(len(chunk)), self.score)
            relevance += (gradients * (end - start)).sum((0, 1))
        return relevance / self.samples

    def baselines(self, model: VideoModel, frames: Tensor) -> Tensor:
        """The baselines that are drawn from, normalised, (B, N, C, T, H, W)."""
        return torch.stack([baseline_clips(model, frames, name) for name in self._drawn_from()])

    def _drawn_from(self) -> tuple[Baseline, ...]:
        return get_args(Baseline) if self.baseline == "any" else (self.baseline,)

    def promise_cost(self, model: VideoModel, clip: Tensor) -> int:
        """The clip and the baseline, for every kind of baseline."""
        return 2 * len(self._drawn_from()) if self.sign == "signed" and not self.noise else 0

    def promised_total(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor | None:
        """The target's score on the clip minus the baselines' mean score; None with noise or absolute relevance."""
        if self.sign == "absolute" or self.noise:
            return None
        x, baselines = model.normalise(frames), self.baselines(model, frames)
        differences = [score_difference(model, x, clips, targets, self.score) for clips in baselines]
        return torch.stack(differences).mean(0)
