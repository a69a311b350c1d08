"""Is the planted truth the truth, for a model? Interventions on the scenes, and how often its answer follows them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vidattr_bench.clip import Clip
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.model import VideoModel

from ._planted_rendering import Scene

# Motion uncovers background beside the box: 4 voxels in a frame 48 high, and the frame before and after.
DILATION = (1, 1 / 12)


class Planted(Protocol):
    """A data module of planted actions."""

    def refs(self) -> list[ClipRef]:
        """The clips of the part."""

    def scene(self, ref: ClipRef) -> Scene:
        """What a clip shows."""

    def clip(self, scene: Scene, ref: ClipRef) -> Clip:
        """Render a scene."""


class Rate(NamedTuple):
    """How many of the cases tried came out so."""

    hits: int
    tried: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share (Wilson 1927, JASA 22:209)."""
        z, n, share = 1.959964, self.tried, self.hits / self.tried
        centre = share + z * z / (2 * n)
        spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def dilate(mask: Tensor, frames: int, voxels: int) -> Tensor:
    """Bool (T, H, W): within `frames` in time and `voxels` in height and width of a True voxel."""
    window = (2 * frames + 1, 2 * voxels + 1, 2 * voxels + 1)
    padding = (frames, voxels, voxels)
    return nn.functional.max_pool3d(mask[None].float(), window, stride=1, padding=padding)[0] > 0


def swap_outside(clip: Clip, other: Clip) -> Tensor:
    """Frames (C, T, H, W) of `clip` inside its dilated tubes, and of `other` everywhere else."""
    _, t, h, w = clip.frames.shape
    tube = torch.stack([tube.mask(t, h, w) for tube in clip.tubes]).any(0)
    frames, heights = DILATION
    return torch.where(dilate(tube, frames, round(heights * h)), clip.frames, other.frames)


def verify(model: VideoModel, module: Planted) -> dict[str, Rate]:
    """Share of clips on which the model's answer does what the planted truth says, by intervention.

    Returns:
        accuracy; "actor removed": the label is still predicted (chance is one over the number of classes); "distractor
        removed", "outside swapped", "outside swapped for a rival": the prediction is still that on the whole clip. The
        outside comes from the next clip with its actor removed, or, for a rival, with its actor.
    """
    answers: dict[str, list[bool]] = defaultdict(list)
    refs = module.refs()
    for ref, following in zip(refs, [*refs[1:], refs[0]], strict=True):
        names, variants = zip(*_variants(module, ref, following), strict=True)
        with torch.no_grad():
            predictions = model(torch.stack(variants)).argmax(1).tolist()
        clean, *changed = predictions
        answers["accuracy"].append(clean == ref.label)
        for name, prediction in zip(names[1:], changed, strict=True):
            answers[name].append(prediction == (ref.label if name == "actor removed" else clean))
    return {name: Rate(sum(kept), len(kept)) for name, kept in answers.items()}


def _variants(module: Planted, ref: ClipRef, following: ClipRef) -> Iterator[tuple[str, Tensor]]:
    """The clip as it is, then every intervention on it."""
    scene, rival = module.scene(ref), module.scene(following)
    clip = module.clip(scene, ref)
    yield "clip", clip.frames
    yield "actor removed", module.clip(scene.without_actor(), ref).frames
    for i in range(len(scene.distractors)):
        yield "distractor removed", module.clip(scene.without_distractor(i), ref).frames
    yield "outside swapped", swap_outside(clip, module.clip(rival.without_actor(), following))
    yield "outside swapped for a rival", swap_outside(clip, module.clip(rival, following))


def table(columns: Sequence[tuple[str, dict[str, Rate]]]) -> str:
    """Markdown: a row an intervention, a column a model."""
    lines = [f"| share of clips | {' | '.join(name for name, _ in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in columns[0][1]:
        cells = []
        for _, rates in columns:
            low, high = rates[row].interval
            cells.append(f"{rates[row].hits}/{rates[row].tried} ({low:.3f}-{high:.3f})")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)
