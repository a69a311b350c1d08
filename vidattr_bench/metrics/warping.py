"""Warping: whether relevance moves with what moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.flow import optical_flow, visible, warp
from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.streams import picture_of

from ._similarity import Similarity, similarity


@dataclasses.dataclass(frozen=True)
class WarpedConsistency(Metric):
    """Whether relevance moves with what moves: the map of each frame against the next one's, carried back by the flow.

    The correlation, over all pixels that both frames show, of a_t(y, x) with a_{t+1} at the place to which the optical
    flow (TV-L1, Zach 2007, of the clip's grey values) carries (y, x), read bilinearly. Pixels that leave the frame or
    get covered are left out: those from which the flow there and back does not return (Sundaram 2010). A random map has
    expectation 0. Maps that are smooth in time are consistent too, whatever they show. Undefined: `constant_map`,
    `one_frame`, `no_visible_pixels`.

    Attributes:
        correlation: spearman (of ranks) or pearson.
        flow_warps: warps of the optical flow at each scale.
        flow_iterations: steps of the optical flow after each warp.

    Raises:
        ValueError: fewer than one warp or step, with which nothing would seem to move.
    """

    family: ClassVar[str] = "complexity"
    reference: ClassVar[str] = "Lai 2018, arXiv 1808.00449 (temporal warping error)"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"complexity": ("",)}
    units: ClassVar[str] = "correlation, in [-1, 1]; chance 0"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> 0",
        "inverted_oracle": "= oracle",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    correlation: Literal["spearman", "pearson"] = "spearman"
    flow_warps: int = 2
    flow_iterations: int = 5

    def __post_init__(self) -> None:
        if self.flow_warps < 1 or self.flow_iterations < 1:
            raise ValueError(f"flow_warps={self.flow_warps}, flow_iterations={self.flow_iterations} must be at least 1")

    def measure(self, case: Case) -> Measurement:
        """Values of N clips and the chance level 0; the flow of a clip is shared by all methods.

        Raises:
            NotApplicableError: the clips are of optical flow alone, in which nothing can be followed.
        """
        if not case.model.input.pixels:
            raise NotApplicableError("clips of optical flow alone have no pixels that could be followed")
        return Measurement.of([self._clip(case, clip) for clip in range(len(case))], [0.0] * len(case))

    def _clip(self, case: Case, clip: int) -> float | str:
        frames = picture_of(case.batch.frames[clip], case.model.input)
        if frames.shape[1] == 1:
            return "one_frame"
        key = ("flow", clip, self.flow_warps, self.flow_iterations)
        flow, seen = case.shared.memo(key, lambda: _flow(frames, self.flow_warps, self.flow_iterations))
        if not bool(seen.any()):
            return "no_visible_pixels"
        return warped_correlation(case.relevance[clip].cpu(), flow, seen, self.correlation)


def _flow(frames: Tensor, warps: int, iterations: int) -> tuple[Tensor, Tensor]:
    """The flow (T - 1, 2, H, W) of a clip, and which pixels the next frame still shows, bool (T - 1, H, W)."""
    flow = optical_flow(frames, warps, iterations)
    back = optical_flow(frames.flip(1), warps, iterations).flip(0)
    return flow, visible(flow, back)


def warped_correlation(relevance: Tensor, flow: Tensor, seen: Tensor, kind: Similarity) -> float | str:
    """The correlation of a map (T, H, W) with itself one frame later, carried back by the flow."""
    carried, _ = warp(relevance[1:].double(), flow)
    found = similarity(relevance[:-1][seen], carried[seen], kind)
    return "constant_map" if found is None else found
