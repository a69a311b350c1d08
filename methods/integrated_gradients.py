"""Integrated gradients."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import remove_all

from ._gradients import Score, target_score

Baseline = Literal["black", "white", "mean", "blur"]
CHUNK = 8  # steps that go through the network at once


@dataclasses.dataclass(frozen=True)
class IntegratedGradients(SignedMethod):
    """Each voxel's share in the difference between the target's score on the clip and on a baseline clip.

    The gradient is integrated (Gauss-Legendre) along the straight path from the baseline to the clip, both normalised,
    multiplied by the difference between the two and summed over the channels. The relevance of a clip adds up to the
    difference of the two scores but for the error of the integration, which `completeness_gap` reports.

    Attributes:
        sign: signed or absolute.
        baseline: white, or black, mean or blur, as the substrates of these names.
        steps: points of the path at which the gradient is taken.
        score: the target's logit or probability.
    """

    reference = "Sundararajan et al. 2017, arXiv:1703.01365"
    signed = True

    baseline: Baseline = "black"
    steps: int = 50
    score: Score = "logit"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward and a backward at every step."""
        return (self.steps, self.steps)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        return self._shares(model, frames, targets).sum(1)

    def completeness_gap(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Sum of the signed relevance minus the difference of the two scores that it should equal, (N,)."""
        with torch.inference_mode(False), torch.enable_grad():
            total = self._shares(model, frames, targets).flatten(1).sum(1)
        return total - self._score_difference(model, frames, targets)

    def promised_total(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor | None:
        """The target's score on the clip minus its score on the baseline; absolute relevance promises nothing."""
        return self._score_difference(model, frames, targets) if self.sign == "signed" else None

    @torch.no_grad()
    def _score_difference(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        clean = target_score(model(frames), targets, self.score)
        return clean - target_score(model.logits(self.baselines(model, frames)), targets, self.score)

    def baselines(self, model: VideoModel, frames: Tensor) -> Tensor:
        """The reference input of each clip, normalised, (N, C, T, H, W)."""
        if self.baseline == "white":
            return model.normalise(torch.ones_like(frames))
        return torch.stack([remove_all(x, self.baseline, model, 0, "") for x in model.normalise(frames)])

    def _shares(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Integrated gradients of every voxel and channel; clip by clip, so memory is that of one chunk of steps."""

        def score(x: Tensor, targets: Tensor) -> Tensor:
            return target_score(model.logits(x), targets, self.score)

        captum = CaptumIntegratedGradients(score)
        x, baselines = model.normalise(frames), self.baselines(model, frames)
        shares = [
            captum.attribute(
                x[i : i + 1],
                baselines[i : i + 1],
                additional_forward_args=targets[i : i + 1],
                n_steps=self.steps,
                internal_batch_size=CHUNK,
            )
            for i in range(len(x))
        ]
        return torch.cat(shares).detach()
