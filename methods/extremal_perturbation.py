"""Extremal perturbations, with a mask for every frame."""

from __future__ import annotations

import dataclasses

from ._extremal import MaskOptimisation


@dataclasses.dataclass(frozen=True)
class ExtremalPerturbation(MaskOptimisation):
    """Sum of masks, each of a given area, that preserve the target's score when all else is blurred.

    A mask is a smooth maximum over a grid of parameters a frame, which begin at 1. They descend on -log softmax(target)
    + weight mean((sort(mask) - reference)^2) and are clamped to [0, 1] after every step; the weight begins at 300 and
    grows by 1.0008668 a step. These are the settings that STEP took for video; TorchRay's for images differ: 800 steps,
    rate .01, growth 1.0035, the logit as the reward, sigma 21, random flips, and the masks before the last step.

    With fewer iterations the weight grows less: to 849 at 1200, to 303 at 10. At the rate of .05 masks need some 300
    steps to reach their areas, so that a small budget takes a greater rate; what it preserves is decided by the
    gradients near the unmasked clip.

    Attributes:
        region: what areas are shares of: the frame alone, or padded by the margin into which the smoothing spills.
            In the frame alone, masks at its border cost less and win.
    """

    family = "perturbation"
    reference = "Fong et al. 2019, arXiv:1910.08485"
    variants = ('areas="[0.1]",iterations=10,rate=1',)
    quick = "iterations=2"
