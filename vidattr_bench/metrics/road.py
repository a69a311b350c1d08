"""ROAD: remove and debias; what the score loses when removed voxels are imputed from their neighbours."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vidattr_bench.metric import Case, Measurement

from ._curves import CurveMetric


@dataclasses.dataclass(frozen=True)
class _Imputed(CurveMetric):
    """A mean over the inner cuts of the curves, k / steps of the voxels removed for 0 < k < steps.

    Attributes:
        steps: cuts of the removal order; 10 for shares of 10, 20, ..., 90 %.
    """

    reference: ClassVar[str] = "Rong 2022, arXiv 2202.00449"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"road": ("",)}
    units: ClassVar[str] = "change of the target's score, in [-1, 1] for score=prob"

    substrate: str = "impute"
    unit: str = "voxel"
    steps: int = 10

    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float | str:
        if len(fractions) < 3:
            return "no_cut"
        # The cuts mirror, so that LeRF removes the same shares as it keeps.
        return self._compare(deleted[0], deleted[1:-1].mean(), inserted[1:-1].mean())

    @abstractmethod
    def _compare(self, clean: Tensor, morf: Tensor, lerf: Tensor) -> float:
        """The number, from the clean clip's score and the mean scores without the most and the least relevant."""


@dataclasses.dataclass(frozen=True)
class Road(_Imputed):
    """ROADCombined: half of what the score keeps when the least relevant voxels are removed rather than the most.

    The mean over f = 10, 20, ..., 90 % of (s(x without its least relevant share f) - s(x without its most relevant
    share f)) / 2, where noisy linear imputation stands in for removed voxels, so that the model cannot read the shape
    of the removed set: as in the paper in two dimensions, `substrate="impute:dims=3"` over time too. About half of
    `srg` with the same substrate. pytorch-grad-cam's ROADCombined is this on an image with score=prob: it takes the
    change of the score, and the clean score cancels; it cuts at percentiles of the map, where a sparse map loses all
    its zeros at once, here a seeded permutation orders tied voxels; it draws its noise from the global state. A random
    map has expectation 0, which is the chance level. Undefined: as `deletion`, and `no_cut` (fewer than two steps).
    """

    units: ClassVar[str] = "half a difference of mean scores of the target, in [-0.5, 0.5] for score=prob; chance 0"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> 0",
        "inverted_oracle": "= -oracle",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    def measure(self, case: Case) -> Measurement:
        """Values of N clips and the chance level 0."""
        return dataclasses.replace(super().measure(case), chance=torch.zeros(len(case), dtype=torch.float64))

    def _compare(self, clean: Tensor, morf: Tensor, lerf: Tensor) -> float:
        return float(lerf - morf) / 2


@dataclasses.dataclass(frozen=True)
class RoadMorf(_Imputed):
    """ROAD, most relevant first: what the score changes by when the most relevant voxels are imputed; a fall is good.

    The mean over f = 10, 20, ..., 90 % of s(x without its most relevant share f) - s(x), on the curve of `road`;
    pytorch-grad-cam's ROADMostRelevantFirstAverage. The paper shows the accuracy of the model at each share instead.
    The chance level is the row of the random control. Undefined as `road`.
    """

    higher_is_better: ClassVar[bool | None] = False
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "< random",
        "inverted_oracle": "> oracle",
        "random": "> oracle",
        "constant": "undefined: constant_map",
    }

    def _compare(self, clean: Tensor, morf: Tensor, lerf: Tensor) -> float:
        return float(morf - clean)


@dataclasses.dataclass(frozen=True)
class RoadLerf(_Imputed):
    """ROAD, least relevant first: what the score changes by when the least relevant voxels are imputed; a fall is bad.

    The mean over f = 10, 20, ..., 90 % of s(x without its least relevant share f) - s(x), on the curve of `road`;
    pytorch-grad-cam's ROADLeastRelevantFirstAverage. The chance level is the row of the random control. Undefined as
    `road`.
    """

    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> inverted_oracle",
        "inverted_oracle": "< oracle",
        "random": "> inverted_oracle",
        "constant": "undefined: constant_map",
    }

    def _compare(self, clean: Tensor, morf: Tensor, lerf: Tensor) -> float:
        return float(lerf - clean)
