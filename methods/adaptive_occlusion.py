"""Occlusion by volumes that follow the optical flow."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from vidattr_bench import substrates
from vidattr_bench.flow import optical_flow
from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

from ._flow import follow, similar_motion
from ._gradients import Score
from ._masked import CHUNK, MaskedClip
from ._options import require_positive


@dataclasses.dataclass(frozen=True)
class AdaptiveOcclusion(SignedMethod):
    """How far the target's score drops when a volume that moves with the scene is replaced, added up at each voxel.

    Boxes on a grid in the first frame are carried along by the optical flow at their centres until they leave the clip;
    each is replaced together with those whose motion over the clip is most similar (cosine of their flows). Where no
    volume comes, relevance is 0.

    Attributes:
        size: side of a box as a share of H; the paper's 16 of 112 pixels.
        stride: distance from one box to the next, as a share of the side.
        similar: further volumes that are replaced with each.
        average: the drops at a voxel, each divided by the share of voxels kept, added up and divided by the number of
            volumes: volumes; or their mean over the volumes that cover the voxel: coverage.
        flow_warps: warps of the optical flow at each scale.
        flow_iterations: steps of the optical flow after each warp.
        substrate: what replaces a volume.
        score: the target's logit or probability.

    Raises:
        PluginError: the substrate is unknown.
        ValueError: boxes are empty, larger than a frame, or leave gaps between them, or the flow has no warps or steps.
    """

    family = "perturbation"
    reference = "Uchiyama et al. 2023, arXiv:2207.12859"
    signed = True
    quick = "size=0.4,flow_warps=1,flow_iterations=1"

    size: float = 1 / 7
    stride: float = 0.5
    similar: int = 3
    average: Literal["volumes", "coverage"] = "volumes"
    flow_warps: int = 2
    flow_iterations: int = 5
    substrate: str = "mean"
    score: Score = "prob"

    def __post_init__(self) -> None:
        substrates.create(self.substrate)
        require_positive(self, "flow_warps", "flow_iterations")
        if not (0 < self.size <= 1 and 0 < self.stride <= 1) or self.similar < 0:
            raise ValueError(
                f"size={self.size} and stride={self.stride} must lie in (0, 1], similar={self.similar} not be negative"
            )

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward for the clip itself and one for every volume."""
        return (1 + len(self._starts(clip)), 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        maps = []
        for pixels, x, target in zip(frames, model.normalise(frames), targets, strict=True):
            maps.append(self._added_drops(MaskedClip(model, x, target, self.substrate, self.score), pixels))
        return torch.stack(maps)

    def _added_drops(self, clip: MaskedClip, pixels: Tensor) -> Tensor:
        """What replacing each volume takes from the score, added up at the voxels that it covers, (T, H, W)."""
        boxes, groups = self._volumes(pixels)
        total, coverage = (torch.zeros_like(boxes[0], dtype=clip.x.dtype) for _ in range(2))
        clean = clip.clean_score()
        for group in torch.split(groups, CHUNK):
            volumes = boxes[group].amax(1).to(total)
            drops = clean - clip.scores(volumes)
            if self.average == "volumes":
                drops = drops / (1 - volumes).sum((1, 2, 3)).clamp_min(1) * total.numel()
            total += torch.einsum("m,mthw->thw", drops, volumes)
            coverage += volumes.sum(0)
        return total / (len(boxes) if self.average == "volumes" else coverage.clamp_min(1))

    def _volumes(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The moving boxes of a clip (C, T, H, W), bool (M, T, H, W), and which are replaced together, (M, 1 + n)."""
        flow = optical_flow(pixels, self.flow_warps, self.flow_iterations)
        centres, inside, motion = follow(self._starts(pixels), flow)
        side, (h, w) = self._side(pixels), pixels.shape[2:]
        first = centres - side // 2
        rows, columns = _span(first[..., 0], side, h), _span(first[..., 1], side, w)
        boxes = inside[..., None, None] & rows[..., :, None] & columns[..., None, :]
        return boxes.to(pixels.device), similar_motion(motion, self.similar).to(pixels.device)

    def _starts(self, clip: Tensor) -> Tensor:
        """Centres of the boxes in the first frame of a clip (C, T, H, W), integers (M, 2)."""
        stride = max(round(self.stride * self._side(clip)), 1)
        return torch.cartesian_prod(*(torch.arange(stride // 2, length, stride) for length in clip.shape[2:]))

    def _side(self, clip: Tensor) -> int:
        return max(round(self.size * clip.shape[2]), 1)


def _span(first: Tensor, side: int, length: int) -> Tensor:
    """Which indices of an axis lie in `side` of them from `first` (...), bool (..., length)."""
    index = torch.arange(length)
    return (index >= first[..., None]) & (index < first[..., None] + side)
