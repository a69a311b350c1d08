"""Additivity: does the relevance of a removed set say how far the score falls? One set of forwards for all methods."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.shared import RemovalSpec

from ._curves import Score, target_score

ROUNDING = 1e-10


@dataclasses.dataclass(frozen=True)
class _Falls:
    """What random removed sets of a clip are worth to a map and to the model.

    Attributes:
        q: float64 (M,), summed relevance of each set.
        d: float64 (M,), what the score falls by without it.
        tiny_q: differences of q up to this are rounding.
        tiny_d: differences of d up to this are rounding.
    """

    q: Tensor
    d: Tensor
    tiny_q: float
    tiny_d: float


def _falls(case: Case, clip: int, spec: RemovalSpec, score: Score) -> _Falls:
    """The random sets of a spec, forwarded once a clip for all methods, with a map's sums over them."""
    removals, target = case.shared.removals(clip, spec), int(case.targets[clip])
    clean = target_score(case.shared.clean_logits(clip).cpu().double()[None], target, score)
    scores = target_score(removals.logits, target, score)
    relevance = case.relevance[clip]
    q = case.memo(("removed relevance", clip, spec), lambda: removals.sums(relevance))
    tiny_q = ROUNDING * float(relevance.double().abs().sum())
    tiny_d = ROUNDING * float(torch.cat([clean, scores]).abs().max())
    return _Falls(q, clean - scores, tiny_q, tiny_d)


def _correlation(falls: _Falls, sets: slice) -> float | str:
    """Pearson's correlation of q and d over some of the sets, or which of the two is constant."""
    q, d = falls.q[sets], falls.d[sets]
    for values, tiny, reason in ((q, falls.tiny_q, "constant_relevance"), (d, falls.tiny_d, "constant_score")):
        if float(values.max() - values.min()) <= tiny:
            return reason
    q, d = q - q.mean(), d - d.mean()
    return float((q @ d) / (q.norm() * d.norm()))


@dataclasses.dataclass(frozen=True)
class _Additivity(Metric):
    """A number from the sums of relevance over random removed sets and what the score falls by without them.

    Attributes:
        score: prob, logit or margin (logit minus the largest other logit) of the target.
        substrate: what replaces removed voxels.
        unit: what is removed at once: tubelet, supervoxel, frame or voxel.
    """

    family: ClassVar[str] = "faithfulness"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"faithfulness": ("", "score=logit")}

    score: Score = "prob"
    substrate: str = "blur3d"
    unit: str = "tubelet"

    def __post_init__(self) -> None:
        self.removal_specs()

    def measure(self, case: Case) -> Measurement:
        """Values of N clips."""
        (spec,) = self.removal_specs()
        return Measurement.of([self._value(case, clip, spec) for clip in range(len(case))])

    def _value(self, case: Case, clip: int, spec: RemovalSpec) -> float | str:
        if len(case.shared.units(clip, spec.unit).sizes) == 1:
            return "one_unit"
        low, high = case.relevance[clip].aminmax()
        return self._compare(_falls(case, clip, spec, self.score), bool(low == high))

    @abstractmethod
    def removal_specs(self) -> tuple[RemovalSpec, ...]:
        """The one set of removals it reads; raises `PluginError` or `ValueError` for an impossible option."""

    @abstractmethod
    def _compare(self, falls: _Falls, constant: bool) -> float | str:
        """The number, or why there is none; `constant` says that all of the map is one value."""


@dataclasses.dataclass(frozen=True)
class _OneSize(_Additivity):
    """A number from random sets of one size.

    Attributes:
        share: share of the units in a set.
        draws: sets; the same for all methods.
    """

    share: float = 0.1
    draws: int = 100

    def removal_specs(self) -> tuple[RemovalSpec, ...]:
        """`draws` sets of one share."""
        return (RemovalSpec(self.unit, self.substrate, (self.share,), self.draws),)


@dataclasses.dataclass(frozen=True)
class SensitivityN(_Additivity):
    """Correlation of a random set's summed relevance with what the score falls by without it; mean over set sizes.

    For each share n of the units, `draws` random sets S of n units: Pearson's correlation, over the sets, of
    q(S) = sum of the signed relevance in S and d(S) = s(x) - s(x without S). The value is the mean over `shares`; the
    paper plots it against n, from 1 unit to about 80 % of them with 100 sets each. A map that adds up to the score
    (x * w of a linear model, substrate 0, score=logit) has 1, its negative -1. The chance level is the row of the
    random control: 0 for units of one size, while where sizes differ the sums of any positive map follow them.
    Undefined: `one_unit` (the clip has no other), and, where it is so for one of the set sizes, `constant_map`,
    `constant_relevance` (q is the same for all sets), `constant_score` (d is).

    Attributes:
        shares: shares of the units in a set.
        draws: sets of each share; the same for all methods.
    """

    reference: ClassVar[str] = "Ancona 2018, arXiv 1711.06104, section 4"
    units: ClassVar[str] = "correlation, in [-1, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> 0",
        "inverted_oracle": "= -oracle",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)
    draws: int = 25

    def removal_specs(self) -> tuple[RemovalSpec, ...]:
        """`draws` sets of each of `shares`."""
        return (RemovalSpec(self.unit, self.substrate, self.shares, self.draws),)

    def _compare(self, falls: _Falls, constant: bool) -> float | str:
        if constant:
            return "constant_map"
        starts = range(0, len(falls.q), self.draws)
        found = [_correlation(falls, slice(start, start + self.draws)) for start in starts]
        reasons = [value for value in found if isinstance(value, str)]
        return reasons[0] if reasons else sum(map(float, found)) / len(found)


@dataclasses.dataclass(frozen=True)
class FaithfulnessCorrelation(_OneSize):
    """Correlation of a random set's summed relevance with what the score falls by without it, for sets of one size.

    Over `draws` random sets S that hold `share` of the units: Pearson's correlation of q(S) = sum of the signed
    relevance in S and d(S) = s(x) - s(x without S); `sensitivity_n` for one size. Undefined: `one_unit`,
    `constant_map`, `constant_relevance` (q is the same for all sets), `constant_score` (d is).
    """

    reference: ClassVar[str] = "Bhatt 2020, arXiv 2005.00631, equation 4"
    units: ClassVar[str] = "correlation, in [-1, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> 0",
        "inverted_oracle": "= -oracle",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    def _compare(self, falls: _Falls, constant: bool) -> float | str:
        return "constant_map" if constant else _correlation(falls, slice(None))


@dataclasses.dataclass(frozen=True)
class Infidelity(_OneSize):
    """How far summed relevance, on its best scale, is from what the score falls by without random sets of units.

    With q(S) = sum of the signed relevance in S and d(S) = s(x) - s(x without S) over random sets S:
    E[(beta q - d)^2] / E[d^2] with beta = max(0, E[q d] / E[q^2]). The scale makes maps of any unit comparable; it is
    clamped, since otherwise a map and its negative would get the same score. The denominator makes 1 what a map gets
    that says nothing (beta = 0); 0 is a map that adds up to the score. The paper's infidelity is E[(q - d)^2]; Captum's
    with `normalize=True` is E[(beta q - d)^2] without clamping. Nothing is centred: a constant map gets
    1 - E[d]^2 / E[d^2] for units of one size, and with large sets, where the mean fall dwarfs its spread, all positive
    maps look alike; so sets are small, and it is read beside the row of the random control. Undefined: `one_unit` (the
    clip has no other), `zero_map` (q is 0 for all sets), `no_fall` (d is).
    """

    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Yeh 2019, arXiv 1901.09392, definition 2.1"
    units: ClassVar[str] = "share of the mean squared fall of the score, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "< constant",
        "inverted_oracle": "> constant",
        "none": "not centred: what a map that knows nothing gets depends on the model",
    }

    def _compare(self, falls: _Falls, constant: bool) -> float | str:
        q, d = falls.q, falls.d
        if float(q.abs().max()) <= falls.tiny_q:
            return "zero_map"
        if float(d.abs().max()) <= falls.tiny_d:
            return "no_fall"
        beta = max(0.0, float(q @ d) / float(q @ q))
        return float((beta * q - d).square().mean() / d.square().mean())
