"""Integrated gradients."""

from __future__ import annotations

import dataclasses

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

from ._baselines import Baseline, baseline_clips, score_difference
from ._gradients import Score, target_score
from ._masked import CHUNK_WITH_GRADIENTS
from ._options import require_positive


@dataclasses.dataclass(frozen=True)
class IntegratedGradients(SignedMethod):
    """Each voxel's share in the difference between the target's score on the clip and on a baseline clip.

    The gradient is integrated (Gauss-Legendre) along the straight path from the baseline to the clip, both normalised,
    multiplied by the difference between the two and summed over the channels. The relevance of a clip adds up to the
    difference of the two scores but for the error of the integration, which `completeness_gap` reports. A voxel in
    which the clip equals the baseline gets no relevance.

    Attributes:
        baseline: white, or black, mean or blur, as the substrates of these names.
        steps: points of the path at which the gradient is taken.
        score: the target's logit or probability.

    Raises:
        ValueError: there are no steps.
    """

    family = "gradient"
    reference = "Sundararajan et al. 2017, arXiv:1703.01365"
    signed = True
    quick = "steps=5"

    baseline: Baseline = "black"
    steps: int = 50
    score: Score = "logit"

    def __post_init__(self) -> None:
        require_positive(self, "steps")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward and a backward at every step."""
        return (self.steps, self.steps)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W); clip by clip, so memory is that of one chunk of steps."""

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
                internal_batch_size=CHUNK_WITH_GRADIENTS,
            ).sum(1)
            for i in range(len(x))
        ]
        return torch.cat(shares).detach()

    def baselines(self, model: VideoModel, frames: Tensor) -> Tensor:
        """The baseline of each clip, normalised, (N, C, T, H, W)."""
        return baseline_clips(model, frames, self.baseline)

    def completeness_gap(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Sum of the signed relevance minus the difference of the two scores that it should equal, (N,)."""
        with torch.inference_mode(False), torch.enable_grad():
            total = self.attribute(model, frames, targets).flatten(1).sum(1)
        return total - self._score_difference(model, frames, targets)

    def promise_cost(self, model: VideoModel, clip: Tensor) -> int:
        """The clip and the baseline."""
        return 2 if self.sign == "signed" else 0

    def promised_total(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor | None:
        """The target's score on the clip minus its score on the baseline; absolute relevance promises nothing."""
        return self._score_difference(model, frames, targets) if self.sign == "signed" else None

    def _score_difference(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        x, baselines = model.normalise(frames), self.baselines(model, frames)
        return score_difference(model, x, baselines, targets, self.score)
