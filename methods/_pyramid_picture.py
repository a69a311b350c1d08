"""A picture of a class feature pyramid: what each layer sees, and which kernels depend on which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from vidattr_bench.model import ClipInput
from vidattr_bench.streams import shown

from ._pyramid import Kernel, Pyramid

_NAMED = 32  # kernels of a layer up to which each has its number written beside it


def draw(pyramid: Pyramid, frames: Tensor, wanted: ClipInput, target: str, path: Path) -> None:
    """Write a PNG: above, each layer's mean activation on the frame where it is strongest; below, the kept kernels.

    Kernels are joined to those that they depend on; the darker a line, the larger the weight.

    Args:
        pyramid: of one clip.
        frames: (C, T, H, W) in [0, 1].
        wanted: what their channels are.
        target: how the class is called.
        path: the file.
    """
    columns = 1 + len(pyramid.layers)
    figure = Figure(figsize=(3 * columns, 8), layout="constrained")
    grid = figure.add_gridspec(2, columns, height_ratios=(1, 2.5))
    _show(figure.add_subplot(grid[0, 0]), frames, wanted, frames.shape[1] // 2, "clip")
    for depth, kept in enumerate(pyramid.layers, start=1):
        axes = figure.add_subplot(grid[0, depth])
        if kept:
            activation = _mean_activation(kept, frames)
            strongest = int(activation.amax((1, 2)).argmax())
            _show(axes, frames, wanted, strongest, f"depth {depth}: {len(kept)} kernels")
            axes.imshow(activation[strongest].cpu().numpy(), cmap="turbo", alpha=0.5)
        else:
            axes.set_axis_off()
    _draw_edges(figure.add_subplot(grid[1, :]), pyramid, target)
    figure.savefig(path, format="png", dpi=110)


def _mean_activation(kept: Mapping[Kernel, Tensor], frames: Tensor) -> Tensor:
    """The mean over the kernels, enlarged to the clip, (T, H, W)."""
    enlarged = [F.interpolate(v[None, None], frames.shape[1:], mode="trilinear")[0, 0] for v in kept.values()]
    return sum(enlarged[1:], enlarged[0]) / len(enlarged)


def _show(axes: Axes, frames: Tensor, wanted: ClipInput, at: int, title: str) -> None:
    axes.imshow(shown(frames, wanted)[at].numpy())
    axes.set_title(f"{title}\nframe {at + 1}", fontsize=9)
    axes.set_axis_off()


def _draw_edges(axes: Axes, pyramid: Pyramid, target: str) -> None:
    """The class on the left, a column of kernels a layer to the right of it."""
    places: dict[Kernel | None, tuple[float, float]] = {None: (0.0, 0.5)}
    for depth, kept in enumerate(pyramid.layers, start=1):
        places |= {kernel: (depth, 1 - (i + 0.5) / len(kept)) for i, kernel in enumerate(sorted(kept))}
    axes.add_collection(
        LineCollection(
            [(places[edge.above], places[edge.below]) for edge in pyramid.edges],
            colors=[(0.1, 0.2, 0.5, 0.1 + 0.6 * edge.weight**4) for edge in pyramid.edges],
            linewidths=0.8,
        )
    )
    depths, heights = zip(*places.values(), strict=True)
    axes.scatter(depths, heights, s=16, color="black", zorder=3)
    axes.annotate(target, places[None], xytext=(-8, 0), textcoords="offset points", ha="right", va="center")
    for depth, kept in enumerate(pyramid.layers, start=1):
        _label(axes, places, sorted(kept), depth)
    axes.set_xlim(-0.6, len(pyramid.layers) + 0.5)
    axes.set_ylim(-0.08, 1.02)
    axes.set_axis_off()


def _label(axes: Axes, places: dict[Kernel | None, tuple[float, float]], kept: list[Kernel], depth: int) -> None:
    names = ", ".join(dict.fromkeys(name for name, _ in kept))
    axes.annotate(names, (depth, -0.05), ha="center", va="top", fontsize=8, annotation_clip=False)
    for name, channel in kept if len(kept) <= _NAMED else []:
        axes.annotate(str(channel), places[name, channel], (4, 2), textcoords="offset points", fontsize=7)
