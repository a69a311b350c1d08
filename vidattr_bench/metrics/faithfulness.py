"""Faithfulness: areas under the curves of the model's score as relevant or irrelevant units are removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.units import check_unit, tie_fraction

from ._curves import CurveMetric


def area(fractions: Tensor, scores: Tensor) -> float:
    """Area under a curve by the trapezoid rule on the fractions (P,) actually changed."""
    return float(torch.trapezoid(scores, fractions))


@dataclasses.dataclass(frozen=True)
class Deletion(CurveMetric):
    """Area under the score as the most relevant units are removed first; a faithful map makes it fall early.

    With s the target's score and x_f the clip without its most relevant fraction f of voxels: the integral over f in
    [0, 1] of s(x_f), by the trapezoid rule on the unit boundaries nearest to `steps` equal fractions. On video a mean
    substrate hardly separates methods from chance, hence two substrates by default. The chance level is the row of the
    random control. Undefined: `constant_map` (all units tied); with `normalise=range`, `small_span` (the clean clip's
    score exceeds the empty clip's by less than 5 % of the score's scale: 1 for prob, the range of the clean clip's
    logits else).
    """

    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Petsiuk 2018, arXiv 1806.07421"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {
        "default": ("", "substrate=freeze"),
        "rise": ("substrate=mean",),
        "step": ("substrate=mean", "substrate=mean,unit=supervoxel"),
        "faithfulness": ("", "substrate=freeze"),
    }
    units: ClassVar[str] = "mean score of the target, in [0, 1] for score=prob"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "< random",
        "inverted_oracle": "> random",
        "random": "> oracle",
        "constant": "undefined: constant_map",
    }

    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float:
        return area(fractions, deleted)


@dataclasses.dataclass(frozen=True)
class Insertion(CurveMetric):
    """Area under the score as the most relevant units are inserted first; a faithful map makes it rise early.

    Insertion into the substrate in MoRF order is the LeRF deletion curve read backwards, so no further clip is
    forwarded: the integral over f in [0, 1] of the score of the clip of which only the most relevant fraction f is
    kept. The chance level is the row of the random control. Undefined as `deletion`.
    """

    reference: ClassVar[str] = "Petsiuk 2018, arXiv 1806.07421"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {
        "default": ("", "substrate=freeze"),
        "rise": ("substrate=blur",),
        "step": ("substrate=mean", "substrate=mean,unit=supervoxel"),
        "faithfulness": ("", "substrate=freeze"),
    }
    units: ClassVar[str] = "mean score of the target, in [0, 1] for score=prob"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> random",
        "inverted_oracle": "< random",
        "random": "< oracle",
        "constant": "undefined: constant_map",
    }

    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float:
        return area(fractions, inserted)


@dataclasses.dataclass(frozen=True)
class SRG(CurveMetric):
    """Symmetric relevance gain: the area between the LeRF and the MoRF curve, AUC(LeRF) - AUC(MoRF).

    A random order has expectation 0 whatever the model and the substrate, and the negative of a map without ties has
    the negative gain. Half of it, for imputation over 10 to 90 %, is ROADCombined; for range-normalised curves it is
    ABPC. Freezing removes motion and keeps appearance, so 1 - SRG(freeze) / SRG(blur3d), a ratio of means over clips,
    is the static share of the evidence. Undefined as `deletion`.
    """

    name: ClassVar[str] = "srg"
    reference: ClassVar[str] = "Bluecher 2024, arXiv 2401.06654"
    primary: ClassVar[bool] = True
    derives: ClassVar[str] = "static_share"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {
        "default": ("", "substrate=freeze"),
        "faithfulness": ("", "substrate=freeze"),
        "temporal": ("unit=frame", "unit=frame,substrate=freeze"),
    }
    units: ClassVar[str] = "difference of mean scores of the target, in [-1, 1] for score=prob; chance 0"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> 0",
        "inverted_oracle": "= -oracle",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    def measure(self, case: Case) -> Measurement:
        """Values of N clips and the chance level 0."""
        measured = super().measure(case)
        return dataclasses.replace(measured, chance=torch.zeros(len(case), dtype=torch.float64))

    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float:
        return area(fractions, inserted) - area(fractions, deleted)


@dataclasses.dataclass(frozen=True)
class TieFraction(Metric):
    """Share of units whose mean relevance equals another unit's: how much of a removal order the seed decides.

    An upsampled Grad-CAM has under a hundred distinct values, so on voxels most of its order is a seeded permutation.

    Attributes:
        unit: what is removed at once: tubelet, supervoxel, frame or voxel.
    """

    family: ClassVar[str] = "complexity"
    higher_is_better: ClassVar[bool | None] = None
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"default": ("",), "faithfulness": ("",)}
    units: ClassVar[str] = "share of units, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> random",
        "inverted_oracle": "= oracle",
        "random": "< constant",
        "constant": 1,
    }

    unit: str = "tubelet"

    def __post_init__(self) -> None:
        check_unit(self.unit)

    def measure(self, case: Case) -> Measurement:
        """Values of N clips; the model is not asked."""
        units = [case.shared.units(clip, self.unit) for clip in range(len(case))]
        pairs = zip(units, case.relevance, strict=True)
        return Measurement.of([tie_fraction(unit.means(relevance)) for unit, relevance in pairs])
