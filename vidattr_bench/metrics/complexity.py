"""Complexity: how concentrated a map is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vidattr_bench.metric import Case
from vidattr_bench.units import Units

from ._mass import MassMetric


@dataclasses.dataclass(frozen=True)
class Gini(MassMetric):
    """Inequality of the magnitude of relevance between the units of a clip: 0 where all have the same.

    With the U mean magnitudes m sorted in ascending order: sum_i (2 i - U - 1) m_i / (U sum_i m_i), i from 1; all in
    one unit gives 1 - 1/U. The authors ask for sparse maps; a random map of one unit gets the best value, so it says
    nothing about faithfulness. Undefined: `zero_map`, `one_unit`.
    """

    reference: ClassVar[str] = "Chalasani 2020, arXiv 1810.06583"
    units: ClassVar[str] = "in [0, 1)"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> 0",
        "inverted_oracle": "> 0",
        "random": "> 0",
        "constant": 0,
    }

    def _value(self, magnitudes: Tensor, units: Units) -> float:
        ordered = magnitudes.sort().values
        u = len(ordered)
        weights = 2 * torch.arange(1, u + 1).to(ordered) - u - 1
        return float((weights * ordered).sum() / (u * ordered.sum()))


@dataclasses.dataclass(frozen=True)
class Entropy(MassMetric):
    """Entropy of the share of relevance that each unit of a clip has, divided by that of equal shares.

    With p the mean magnitudes of U units divided by their sum: - sum_i p_i ln p_i / ln U; 1 where all are equal, 0
    where one unit has all. Where it is low, few units matter: low complexity. Undefined: `zero_map`
    and `one_unit`.
    """

    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Bhatt 2020, arXiv 2005.00631 (there not divided)"
    units: ClassVar[str] = "share of the largest entropy, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "< 1",
        "inverted_oracle": "< 1",
        "random": "< 1",
        "constant": 1,
    }

    def _value(self, magnitudes: Tensor, units: Units) -> float:
        shares = magnitudes / magnitudes.sum()
        return float(torch.special.entr(shares).sum() / math.log(len(shares)))


@dataclasses.dataclass(frozen=True)
class TopMass(MassMetric):
    """Share of the magnitude of relevance that the units with the most of it hold.

    The sum of the k largest mean magnitudes divided by that of all U, k = share U; of the next unit the missing
    fraction counts, so that a constant map gets exactly `share`. Undefined: `zero_map`, `one_unit`.

    Attributes:
        share: share of the units, in (0, 1).

    Raises:
        ValueError: a share outside (0, 1).
    """

    higher_is_better: ClassVar[bool | None] = None
    reference: ClassVar[str] = "Gini's Lorenz curve read from the top; Hurley 2009, arXiv 0811.4706"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"complexity": ("share=0.01", "", "share=0.1")}
    units: ClassVar[str] = "share of the magnitude, in [share, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> constant",
        "inverted_oracle": "> constant",
        "random": "> constant",
        "constant": "share",
    }

    share: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"share={self.share} must lie in (0, 1)")

    def _chance(self, case: Case) -> list[float] | None:
        return [self.share] * len(case)

    def _value(self, magnitudes: Tensor, units: Units) -> float:
        ordered = magnitudes.sort(descending=True).values
        taken = (self.share * len(ordered) - torch.arange(len(ordered)).to(ordered)).clamp(0, 1)
        return float((taken * ordered).sum() / ordered.sum())
