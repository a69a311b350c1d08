"""Class feature pyramids."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.rewrite import modular

from . import _pyramid
from ._gradients import check_targets
from ._pyramid import Pyramid, Wiring
from ._pyramid_picture import draw
from .saliency_tubes import Zoom, spline_zoom


@dataclasses.dataclass(frozen=True)
class ClassFeaturePyramid(SignedMethod):
    """Mean activation of the kernels that a class depends on, found layer by layer from the class weights down.

    The linear head's weights for the target, min-max scaled, keep the kernels of the top layer that reach a threshold.
    A back-step multiplies the mean of such a kernel over time and space by the mean of each channel that it reads,
    divides by the sum, scales again and keeps the kernels behind the channels that reach the threshold. Shortcuts are
    left out. A kept kernel's activations are enlarged by cubic splines, and the map is their mean.

    What was kept is told by `graph`, ready for JSON, and drawn by `picture`; the command `sheet` writes both.

    The authors' code scales by the weights of all classes (`scale=all`), lets a kernel of a grouped convolution read
    the channels of all groups, and draws one map for each kept kernel.

    Attributes:
        sign: signed or absolute; splines, and layers without ReLU, leave a sign.
        theta: the threshold, from 0 to 1; the paper takes .55 to .65.
        depth: number of layers, the one that the head pools included.
        scale: whether the class weights are scaled by those of the class, or of all classes.
        zoom: aligned keeps the centres of cells in place; authors is scipy's default, which moves them to the border.

    Raises:
        ValueError: `theta` lies outside of 0..1, or `depth` is less than 1.
    """

    family = "CAM"
    reference = "Stergiou et al. 2019, arXiv:1909.08611"
    requires = ("linear_head",)
    signed = True

    theta: float = 0.6
    depth: int = 3
    scale: Literal["class", "all"] = "class"
    zoom: Zoom = "aligned"

    def __post_init__(self) -> None:
        if not 0 <= self.theta <= 1 or self.depth < 1:
            raise ValueError(f"theta={self.theta} must lie in 0..1 and depth={self.depth} be at least 1")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward."""
        return (1, 0)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W); 0 where no kernel is kept. `NotApplicableError` where kernels cannot be traced."""
        size = (frames.shape[2], frames.shape[3], frames.shape[4])
        maps = [self._mean_volume(pyramid, size) for pyramid in self.pyramids(model, frames, targets)]
        return torch.stack(maps).to(frames.device)

    def pyramids(self, model: VideoModel, frames: Tensor, targets: Tensor) -> list[Pyramid]:
        """What is kept for each clip, its activations included."""
        rewritten = modular(model, frames)
        x = rewritten.normalise(frames)
        head = rewritten.linear_head(x)
        check_targets(targets, len(head.weight))
        wiring = Wiring(rewritten, head.layer)
        read = _pyramid.activations_read(rewritten, wiring, x, wiring.readers(self.depth))
        weights = self._scaled(head.weight)[targets]
        clips = ({name: A[i] for name, A in read.items()} for i in range(len(x)))
        return [_pyramid.build(wiring, clip, w, self.theta, self.depth) for clip, w in zip(clips, weights, strict=True)]

    def graph(self, model: VideoModel, frames: Tensor, targets: Tensor) -> list[dict[str, Any]]:
        """For each clip, the channels kept of each layer, by depth, and the edges between them with their weights.

        A kernel is written as [name of its convolution, channel]; the class that stands above the first layer as null.
        """
        pyramids = self.pyramids(model, frames, targets)
        return [{"target": c, **_as_json(pyramid)} for c, pyramid in zip(targets.tolist(), pyramids, strict=True)]

    def picture(self, model: VideoModel, frames: Tensor, targets: Tensor, path: Path) -> None:
        """Draw the pyramid of one clip, frames (1, C, T, H, W), into a PNG file."""
        (pyramid,), (target,) = self.pyramids(model, frames, targets), targets.tolist()
        name = model.classes[target] if model.classes else f"class {target}"
        draw(pyramid, frames[0], model.input, name, path)

    def illustrate(self, model: VideoModel, frames: Tensor, targets: Tensor, stem: Path) -> list[Path]:
        """Write the graph of one clip as JSON and its picture."""
        graph, picture = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".json", ".png"))
        graph.write_text(json.dumps(self.graph(model, frames, targets)[0], indent=1), encoding="utf-8")
        self.picture(model, frames, targets, picture)
        return [graph, picture]

    def _scaled(self, weights: Tensor) -> Tensor:
        """The head's weights (K, C), scaled by row or as a whole."""
        return (
            _pyramid.scaled(weights) if self.scale == "class" else _pyramid.scaled(weights.flatten()).view_as(weights)
        )

    def _mean_volume(self, pyramid: Pyramid, size: tuple[int, int, int]) -> Tensor:
        total, kernels = torch.zeros(size), 0
        for volume, count in pyramid.volumes():
            total += torch.from_numpy(spline_zoom(volume.float().cpu().numpy(), size, self.zoom))
            kernels += count
        return total / max(kernels, 1)


def _as_json(pyramid: Pyramid) -> dict[str, Any]:
    layers = []
    for depth, kept in enumerate(pyramid.layers, start=1):
        for name in dict.fromkeys(layer for layer, _ in kept):
            channels = sorted(channel for layer, channel in kept if layer == name)
            layers.append({"depth": depth, "layer": name, "channels": channels})
    return {"layers": layers, "edges": [dataclasses.asdict(edge) for edge in pyramid.edges]}
