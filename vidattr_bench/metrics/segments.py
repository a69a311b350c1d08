"""Temporal faithfulness: what the model's answer owes to the motion of the most relevant segment of the clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vidattr_bench import randomness
from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.units import removal_order

from ._curves import Score, target_score

Change = Literal["freeze", "shuffle", "reverse"]


def segment_length(t: int, share: float) -> int:
    """Frames of a segment: `share` of T to the nearest whole, at least 2 and at most T - 1."""
    return min(max(int(share * t + 0.5), 2), t - 1)


def extreme_segments(relevance: Tensor, length: int, seed: int, clip_id: str) -> tuple[int, int] | None:
    """First frames of the most and the least relevant segment, by the mean relevance (T,) of their frames.

    The least relevant is the last in the order of the most relevant; ties are in the order of a permutation of
    (seed, clip). None where all segments are tied.
    """
    means = relevance.unfold(0, length, 1).mean(1)
    if bool((means == means[0]).all()):
        return None
    order = removal_order(means, seed, clip_id, "segment")
    return int(order[0]), int(order[-1])


def frozen(start: int, length: int, t: int) -> Tensor:
    """The frames (T,) that are shown when a segment is replaced by the frame before it, or else by the one after it."""
    shown = torch.arange(t)
    shown[start : start + length] = start - 1 if start else length
    return shown


def permuted(start: int, order: Tensor, t: int) -> Tensor:
    """The frames (T,) that are shown when a segment is put in the order (L,) of its frames."""
    shown = torch.arange(t)
    shown[start : start + len(order)] = start + order
    return shown


def shuffled_order(length: int, seed: int, clip_id: str) -> Tensor:
    """A random order (L,) of a clip's segments other than the true one."""
    draws = randomness.generator(seed, clip_id, "shuffled segment")
    true = order = torch.arange(length)
    while torch.equal(order, true):
        order = torch.randperm(length, generator=draws)
    return order


@dataclasses.dataclass(frozen=True)
class SegmentResponse(Metric):
    """How much more the target's score falls when the most relevant segment is changed than when the least relevant is.

    The most relevant segment M and the least relevant one L are the `length` share of consecutive frames (at least 2)
    with the largest and the smallest mean relevance. With s the target's score and x_S the clip whose segment S is
    changed, the value is [s(x) - s(x_M)] - [s(x) - s(x_L)] = s(x_L) - s(x_M). Its expectation is 0 for a random map
    whose negative is as likely, and without ties it changes sign with the map. The changes act on the normalised
    frames: freeze shows the frame before the segment (the one after it, where there is none), as the substrate freeze
    does; reverse plays the segment backwards; shuffle puts it in one random order of (seed, clip), never the true one,
    which M, L and all methods share. A static clip gives 0; to shuffle and reverse, so does a model that reads no
    order, and to reverse a palindrome. Ties among segments are broken by a permutation of (seed, clip). Two forwards a
    map. Undefined: `constant_map` (all segments tied), `too_short` (fewer than 3 frames).

    Attributes:
        change: freeze, shuffle or reverse.
        length: the segment's share of the frames, in (0, 1).
        score: prob, logit or margin (logit minus the largest other logit) of the target.
    """

    family: ClassVar[str] = "temporal"
    reference: ClassVar[str] = "Manttari 2020, arXiv 2002.00367 (freezing and reversing)"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"temporal": ("", "change=shuffle", "change=reverse")}
    units: ClassVar[str] = "difference of scores of the target, in [-1, 1] for score=prob; chance 0"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> 0",
        "inverted_oracle": "= -oracle",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    change: Change = "freeze"
    length: float = 0.25
    score: Score = "prob"

    def __post_init__(self) -> None:
        if not 0 < self.length < 1:
            raise ValueError(f"length={self.length} must be a share of the frames, in (0, 1)")

    def own_forwards(self, model: VideoModel, clip: Tensor) -> int:
        """The clip with either segment changed."""
        return 2 if clip.shape[1] > 2 else 0

    def measure(self, case: Case) -> Measurement:
        """Values of N clips and the chance level 0."""
        return Measurement.of([self._value(case, clip) for clip in range(len(case))], [0.0] * len(case))

    def _value(self, case: Case, clip: int) -> float | str:
        t = case.relevance.shape[1]
        if t < 3:
            return "too_short"
        length, clip_id = segment_length(t, self.length), case.batch.ids[clip]
        relevance = case.shared.units(clip, "frame").means(case.relevance[clip])
        segments = extreme_segments(relevance, length, case.seed, clip_id)
        if segments is None:
            return "constant_map"
        x = case.shared.x(clip)
        changed = torch.stack([x[:, self._shown(start, length, t, case.seed, clip_id)] for start in segments])
        scores = target_score(case.forward(changed).cpu().double(), int(case.targets[clip]), self.score)
        return float(scores[1] - scores[0])

    def _shown(self, start: int, length: int, t: int, seed: int, clip_id: str) -> Tensor:
        """The frames (T,) that are shown when the segment from frame `start` on is changed."""
        if self.change == "freeze":
            return frozen(start, length, t)
        backwards = torch.arange(length).flip(0)
        return permuted(start, backwards if self.change == "reverse" else shuffled_order(length, seed, clip_id), t)
