"""Baselines: the reference inputs that a clip is compared with, and what the target's score changes by on the way."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import remove_all

from ._gradients import Score, target_score

Baseline = Literal["black", "white", "mean", "blur"]


def baseline_clips(model: VideoModel, frames: Tensor, baseline: Baseline) -> Tensor:
    """The baseline of each clip of frames (N, C, T, H, W), normalised, in the same shape.

    White pixels, or what the substrate of that name puts in the place of every voxel.
    """
    if baseline == "white":
        return model.normalise(torch.ones_like(frames))
    return torch.stack([remove_all(x, baseline, model, 0, "") for x in model.normalise(frames)])


@torch.no_grad()
def score_difference(model: VideoModel, x: Tensor, baselines: Tensor, targets: Tensor, score: Score) -> Tensor:
    """The target's score on each normalised clip minus that on its baseline, (N,); both are (N, C, T, H, W)."""
    clean, reference = (target_score(model.logits(clips), targets, score) for clips in (x, baselines))
    return clean - reference
