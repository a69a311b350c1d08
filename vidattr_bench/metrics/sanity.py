"""Sanity: does a map keep what its method promises?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from vidattr_bench.metric import Case, Measurement, Metric


@dataclasses.dataclass(frozen=True)
class CompletenessGap(Metric):
    """How far the relevance of a clip is from adding up to what the theory of its method says.

    |sum of relevance - promised total|; for integrated gradients the promise is the target's score on the clip minus
    its score on the baseline, and the gap is the error of the numerical integration. Undefined (`promises_nothing`)
    for methods without such a theory.
    """

    family: ClassVar[str] = "sanity"
    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Sundararajan 2017, arXiv 1703.01365, proposition 1"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"sanity": ("",)}
    units: ClassVar[str] = "the scale of the method's score, from 0"
    reads_promise: ClassVar[bool] = True
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "undefined: promises_nothing",
        "inverted_oracle": "undefined: promises_nothing",
        "random": "undefined: promises_nothing",
        "constant": "undefined: promises_nothing",
    }

    def measure(self, case: Case) -> Measurement:
        """One gap a clip."""
        promised = case.promised_total(case.model, case.batch.frames, case.targets)
        if promised is None:
            return Measurement.of(["promises_nothing"] * len(case))
        totals = case.relevance.double().flatten(1).sum(1)
        return Measurement((totals - promised.double().to(totals)).abs().cpu())
