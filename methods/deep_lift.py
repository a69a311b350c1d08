"""DeepLIFT."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.rewrite import hookable

from ._baselines import Baseline, baseline_clips, score_difference
from ._gradients import input_gradient
from ._rescale import recorded, rescaled


@dataclasses.dataclass(frozen=True)
class DeepLIFT(SignedMethod):
    """Each voxel's share in the difference between the target's logit on the clip and on a baseline clip.

    The difference is handed back layer by layer: at an activation in proportion to what it puts out over what goes in,
    clip minus baseline in both (the rescale rule), at a max-pooling to the voxels where the two maxima lie, through
    linear layers by their weights; then it is summed over the channels. The relevance of a clip adds up to the
    difference of the two logits.

    Attributes:
        baseline: white, or black, mean or blur, as the substrates of these names.
    """

    family = "gradient"
    reference = "Shrikumar et al. 2017, arXiv:1704.02685"
    signed = True
    requires = ("rescale_rules",)

    baseline: Baseline = "black"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """The baseline goes forward, the clip forward and backward."""
        return (2, 1)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W); clip by clip, so memory is that of one clip and of its baseline's activations."""
        hooked = hookable(model, frames)
        clips = zip(model.normalise(frames), self.baselines(model, frames), targets, strict=True)
        return torch.stack([_shares(hooked, *clip) for clip in clips])

    def baselines(self, model: VideoModel, frames: Tensor) -> Tensor:
        """The baseline of each clip, normalised, (N, C, T, H, W)."""
        return baseline_clips(model, frames, self.baseline)

    def promise_cost(self, model: VideoModel, clip: Tensor) -> int:
        """The clip and the baseline."""
        return 2 if self.sign == "signed" else 0

    def promised_total(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor | None:
        """The target's logit on the clip minus that on the baseline; absolute relevance promises nothing."""
        if self.sign == "absolute":
            return None
        return score_difference(model, model.normalise(frames), self.baselines(model, frames), targets, "logit")


def _shares(model: VideoModel, x: Tensor, baseline: Tensor, target: Tensor) -> Tensor:
    """Multipliers times differences of one clip x (C, T, H, W), summed over the channels."""
    with torch.no_grad(), recorded(model.net) as references:
        model.logits(baseline[None])
    with rescaled(model.net, references):
        multipliers = input_gradient(model, x[None], target[None])[0]
    return (multipliers * (x - baseline)).sum(0)
