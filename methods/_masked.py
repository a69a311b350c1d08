"""The target's score of one clip under many masks, a chunk at a time."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from vidattr_bench import substrates
from vidattr_bench.model import VideoModel

from ._gradients import Score, target_score

CHUNK = 8  # perturbed clips that go through the network at once
CHUNK_WITH_GRADIENTS = 4


@dataclasses.dataclass(frozen=True)
class MaskedClip:
    """One clip whose voxels can be replaced, and the score that is asked for.

    Attributes:
        model: the model under explanation.
        x: (C, T, H, W), the normalised clip.
        target: (), the class.
        substrate: spec of what replaces removed voxels.
        score: the target's logit or probability.
    """

    model: VideoModel
    x: Tensor
    target: Tensor
    substrate: str = "mean"
    score: Score = "logit"

    @cached_property
    def _replace(self) -> substrates.Replace:
        return substrates.bind(self.substrate, self.x, self.model, 0, "")

    @cached_property
    def _clips(self) -> Tensor:
        return self.x.new_empty(CHUNK, *self.x.shape)

    @torch.no_grad()
    def clean_score(self) -> Tensor:
        """The target's score of the clip itself, (); one forward."""
        return self._scores_of(self.x[None])[0]

    @torch.no_grad()
    def scores(self, removed: Tensor) -> Tensor:
        """The target's scores (M,) with masks (M, T, H, W) in [0, 1] removed, 1 = replaced; M forwards in chunks."""
        chunks = torch.split(removed, CHUNK)
        return torch.cat([self._scores_of(self._replace(chunk, self._clips[: len(chunk)])) for chunk in chunks])

    def _scores_of(self, clips: Tensor) -> Tensor:
        return target_score(self.model.logits(clips), self.target.expand(len(clips)), self.score)
