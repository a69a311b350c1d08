"""Leave one supervoxel out."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench.model import VideoModel
from vidattr_bench.streams import picture_of

from ._supervoxels import SupervoxelClip, SupervoxelMethod


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(SupervoxelMethod):
    """How much the target's score drops when a supervoxel alone is replaced.

    Raises:
        PluginError: the substrate is unknown.
        ValueError: segments, spacing or compactness is not positive.
    """

    family = "perturbation"
    reference = "Zeiler & Fergus 2013, arXiv:1311.2901, on supervoxels"
    signed = True
    quick = "segments=20"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward of the clip and one of each supervoxel's absence."""
        return (int(self.labels(picture_of(clip, model.input)).max()) + 2, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W), constant in each supervoxel."""
        return torch.stack([clip.paint(drops(clip)) for clip in self.clips(model, frames, targets)])


def drops(clip: SupervoxelClip) -> Tensor:
    """The drop (S,) of the score by each supervoxel's absence."""
    everything = torch.ones(1, clip.count, dtype=torch.bool)
    scores = clip.scores(torch.cat([everything, ~torch.eye(clip.count, dtype=torch.bool)]))
    return scores[0] - scores[1:]
