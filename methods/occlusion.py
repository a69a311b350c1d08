"""Occlusion by windows in time and space."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vidattr_bench import substrates
from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel

from ._gradients import Score
from ._masked import CHUNK, MaskedClip


@dataclasses.dataclass(frozen=True)
class Occlusion(SignedMethod):
    """How far the target's score drops when a window is replaced, averaged over the windows that cover a voxel.

    Windows reach over the borders, so that a voxel at the border is covered as often as any other.

    Attributes:
        frames: length of a window, at most that of the clip.
        size: height and width of a window as shares of H and W.
        frame_stride: frames from one window to the next, at most `frames`.
        stride: steps in height and width from one window to the next, as a share of the window's.
        substrate: what replaces a window.
        score: the target's logit or probability.

    Raises:
        PluginError: the substrate is unknown.
        ValueError: a window is empty or larger than the clip, or windows leave gaps.
    """

    family = "perturbation"
    reference = "Zeiler and Fergus 2014, arXiv:1311.2901"
    signed = True
    variants = ("frame_stride=4",)
    quick = "frame_stride=4,size=0.5"

    frames: int = 4
    size: float = 0.25
    frame_stride: int = 2
    stride: float = 0.5
    substrate: str = "mean"
    score: Score = "logit"

    def __post_init__(self) -> None:
        substrates.create(self.substrate)
        if self.frames < 1 or not 0 < self.size <= 1:
            raise ValueError(f"frames={self.frames} must be at least 1, and size={self.size} lie in (0, 1]")
        if not 1 <= self.frame_stride <= self.frames or not 0 < self.stride <= 1:
            raise ValueError(
                f"frame_stride={self.frame_stride} must lie in 1..{self.frames}, and stride={self.stride} in (0, 1]: "
                "wider strides leave gaps between the windows"
            )

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward for the clip itself and one for every window."""
        t, h, w = self._windows(clip)
        return (1 + len(t) * len(h) * len(w), 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W)."""
        clips = zip(model.normalise(frames), targets, strict=True)
        return torch.stack([self._mean_drop(MaskedClip(model, x, c, self.substrate, self.score)) for x, c in clips])

    def _mean_drop(self, clip: MaskedClip) -> Tensor:
        """The mean drop over the windows at each voxel, (T, H, W)."""
        t, h, w = self._windows(clip.x)
        places = torch.cartesian_prod(*(torch.arange(len(axis), device=clip.x.device) for axis in (t, h, w)))
        scores = [clip.scores(_boxes(t[i], h[j], w[k])) for i, j, k in (part.T for part in torch.split(places, CHUNK))]
        drops = (clip.clean_score() - torch.cat(scores)).view(len(t), len(h), len(w))
        total = torch.einsum("ijk,it,jh,kw->thw", drops, t, h, w)
        return total / torch.einsum("t,h,w->thw", t.sum(0), h.sum(0), w.sum(0))

    def _windows(self, clip: Tensor) -> list[Tensor]:
        """For T, H and W of a clip (C, T, H, W): 1 where a window covers an index, (windows, length)."""
        t, *plane = clip.shape[1:]
        sizes = [min(self.frames, t), *(max(round(self.size * length), 1) for length in plane)]
        strides = [min(self.frame_stride, t), *(max(round(self.stride * size), 1) for size in sizes[1:])]
        return [_cover(*axis).to(clip) for axis in zip((t, *plane), sizes, strides, strict=True)]


def _cover(length: int, size: int, stride: int) -> Tensor:
    """Where the windows of one axis lie, (windows, length); the first and the last may reach over the ends."""
    starts = torch.arange(stride - size, length, stride)[:, None]
    index = torch.arange(length)
    return (index >= starts) & (index < starts + size)


def _boxes(t: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """Windows (M, T, H, W) from their extents (M, T), (M, H) and (M, W)."""
    return t[:, :, None, None] * h[:, None, :, None] * w[:, None, None, :]
