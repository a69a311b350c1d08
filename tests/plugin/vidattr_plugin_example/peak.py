"""A metric of a third party."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from vidattr_bench import Case, Measurement, Metric


@dataclasses.dataclass(frozen=True)
class Peak(Metric):
    """How far the largest relevance of a clip rises above the mean."""

    family = "complexity"
    higher_is_better = None
    units = "the map's own, >= 0"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "1 - |G|/N",
        "inverted_oracle": "|G|/N",
        "random": "> constant",
        "constant": 0,
    }

    def measure(self, case: Case) -> Measurement:
        """Values of N clips."""
        maps = case.relevance.flatten(1).double()
        return Measurement((maps.amax(1) - maps.mean(1)).cpu())
