"""Localisation: agreement of the relevance with the action tubes of the clip's label, on annotated frames only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from vidattr_bench.metric import Case

from ._truth import Levels, Truth, TruthMetric, levels, near, truth


@dataclasses.dataclass(frozen=True)
class _Localisation(TruthMetric):
    """Agreement of a map with the voxels of the label's tubes."""

    family: ClassVar[str] = "localisation"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"default": ("",), "localisation": ("",)}


def pointing_hits(relevance: Tensor, near: Tensor) -> Tensor:
    """Share (F,) of the maxima of each row of relevance (F, V) that lie near G (F, V): ties share the hit."""
    maxima = relevance == relevance.amax(1, keepdim=True)
    return (maxima & near).sum(1).double() / maxima.sum(1)


@dataclasses.dataclass(frozen=True)
class PointingGame(_Localisation):
    """Share of tube frames whose most relevant voxel lies in the tube, or within a disc of tolerance around it.

    Tied maxima share the hit: a constant map scores the chance level, which is the share of voxels within tolerance of
    G. `scope=clip` asks for the one most relevant voxel of all annotated frames, empty ones included. Undefined as
    the truth (no_label, other_target, not_annotated, no_tubes, all_tube).

    Attributes:
        scope: frame (each tube frame points once, the clip's value is their mean) or clip.
        tolerance: radius of the disc as a share of the height H.
    """

    reference: ClassVar[str] = "Zhang 2016, arXiv 1608.00507, section 4.1"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"default": ("",), "localisation": ("", "scope=clip")}
    units: ClassVar[str] = "share of hits, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": "< chance",
        "random": "chance",
        "constant": "chance",
    }

    scope: Literal["frame", "clip"] = "frame"
    tolerance: float = 0.0625

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance} must be a share of the height, in [0, 1)")

    def _value(self, case: Case, clip: int) -> float | str:
        found = truth(case, clip)
        if bool(self._rows(found, found.inside).all()):
            return "all_tube"
        relevance = self._rows(found, found.of(case.relevance[clip]))
        return float(pointing_hits(relevance, self._rows(found, near(case, clip, self.tolerance))).mean())

    def _chance(self, case: Case, clip: int) -> float:
        return float(self._rows(truth(case, clip), near(case, clip, self.tolerance)).double().mean())

    def _rows(self, found: Truth, maps: Tensor) -> Tensor:
        """The voxels among which each maximum is sought: a row a tube frame, or one for the clip."""
        return maps[found.inside.any(2).any(1)].flatten(1) if self.scope == "frame" else maps.reshape(1, -1)


@dataclasses.dataclass(frozen=True)
class TubeMass(_Localisation):
    """Share of the positive relevance that lies in the tubes (relevance mass, energy-based pointing game).

    The sum of max(a, 0) over G, divided by its sum over all known voxels. Chance: |G| / N, what a constant positive map
    gets. As a skill take the logarithm of the ratio of means, since a clip may have no mass in G. Undefined as the
    truth, and `no_positive_relevance`.
    """

    reference: ClassVar[str] = "Wang 2020, arXiv 1910.01279, section 4.3; Arras 2022, arXiv 2003.07258"
    derives: ClassVar[str] = "log2_skill"
    units: ClassVar[str] = "share of positive relevance, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": 0,
        "random": "|G|/N",
        "constant": "|G|/N",
    }

    def _value(self, case: Case, clip: int) -> float | str:
        found = truth(case, clip)
        positive = found.of(case.relevance[clip]).double().clamp(min=0)
        total = float(positive.sum())
        return float(positive[found.inside].sum()) / total if total > 0 else "no_positive_relevance"


def rank_accuracy(levels: Levels) -> float:
    """Share of the |G| most relevant voxels that lie in G, in expectation over the order of ties."""
    size = int(levels.hits.sum())
    return float((levels.taken(size) * levels.hits).sum()) / size


def roc_auc(levels: Levels) -> float:
    """Probability that a voxel in G is more relevant than one outside it, ties counting half."""
    outside = levels.sizes - levels.hits
    below = outside.sum() - outside.cumsum(0)
    won = (levels.hits * (2 * below + outside)).sum()
    return float(won) / (2 * float(levels.hits.sum()) * float(outside.sum()))


def average_precision(levels: Levels) -> float:
    """Precision at each distinct relevance, weighted by the recall gained there."""
    precision = levels.hits.cumsum(0).double() / levels.sizes.cumsum(0)
    return float((precision * levels.hits).sum()) / int(levels.hits.sum())


@dataclasses.dataclass(frozen=True)
class RankAccuracy(_Localisation):
    """Share of the |G| most relevant voxels that lie in the tubes (relevance rank accuracy).

    Ties at the border of the top |G| count in expectation, so a constant map scores chance, |G| / N. Undefined as the
    truth.
    """

    reference: ClassVar[str] = "Arras 2022, arXiv 2003.07258"
    units: ClassVar[str] = "share of voxels, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": "max(0, 2 - N/|G|)",
        "random": "|G|/N",
        "constant": "|G|/N",
    }

    def _value(self, case: Case, clip: int) -> float | str:
        return rank_accuracy(levels(case, clip))


@dataclasses.dataclass(frozen=True)
class RocAuc(_Localisation):
    """Probability that a voxel inside the tubes is more relevant than one outside them (area under the ROC curve).

    Computed from mid-ranks over all known voxels: ties count half, chance is .5. Undefined as the truth.
    """

    reference: ClassVar[str] = "Hanley & McNeil 1982, doi 10.1148/radiology.143.1.7063747"
    primary: ClassVar[bool] = True
    units: ClassVar[str] = "probability, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": 0,
        "random": 0.5,
        "constant": 0.5,
    }

    def _value(self, case: Case, clip: int) -> float | str:
        return roc_auc(levels(case, clip))

    def _chance(self, case: Case, clip: int) -> float:
        return 0.5


@dataclasses.dataclass(frozen=True)
class AveragePrecision(_Localisation):
    """Mean precision of finding the tubes' voxels by falling relevance, weighted by the recall gained at each value.

    The sum over distinct values of (R_n - R_(n-1)) P_n, without interpolation, as scikit-learn defines it. Chance:
    |G| / N, what a constant map gets; a random order gets (H + (|G| - 1) (N - H) / (N - 1)) / N with H the sum of 1 / i
    for i to N, which is more by less than ln N / N. Undefined as the truth.
    """

    reference: ClassVar[str] = "scikit-learn, average_precision_score"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"localisation": ("",)}
    units: ClassVar[str] = "mean precision, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": "|G|/N",
        "random": "(H + (|G|-1)(N-H)/(N-1))/N",
        "constant": "|G|/N",
    }

    def _value(self, case: Case, clip: int) -> float | str:
        return average_precision(levels(case, clip))
