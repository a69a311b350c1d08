"""Cost: what an attribution took, per clip; its calls of the model are exact, so gate on them, not on seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from vidattr_bench.metric import Case, Measurement, Metric


@dataclasses.dataclass(frozen=True)
class _CostMetric(Metric):
    """One field of the case's cost, the same for every clip of the batch; undefined (`not_measured`) without one."""

    family: ClassVar[str] = "cost"
    higher_is_better: ClassVar[bool | None] = False
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"default": ("",)}
    theory: ClassVar[Mapping[str, str | float]] = {"none": "what the attribution took; the map plays no part"}
    field: ClassVar[str] = ""

    def measure(self, case: Case) -> Measurement:
        """Values of N clips."""
        spent = float(getattr(case.cost, self.field))
        return Measurement.of(["not_measured" if spent != spent else spent] * len(case))


@dataclasses.dataclass(frozen=True)
class Seconds(_CostMetric):
    """Wall-clock seconds of the attribution, a clip: the batch's time divided by its clips."""

    units: ClassVar[str] = "s a clip, >= 0"
    field: ClassVar[str] = "seconds"


@dataclasses.dataclass(frozen=True)
class Forwards(_CostMetric):
    """Clips that the method sent forward through the model for one explained clip, counted exactly."""

    units: ClassVar[str] = "clips a clip, >= 0"
    field: ClassVar[str] = "forwards"


@dataclasses.dataclass(frozen=True)
class Backwards(_CostMetric):
    """Clips for which the method sent a gradient back through the model for one explained clip, counted exactly."""

    units: ClassVar[str] = "clips a clip, >= 0"
    field: ClassVar[str] = "backwards"


@dataclasses.dataclass(frozen=True)
class PeakMemory(_CostMetric):
    """Peak memory of the device during the attribution of the clip's batch, the network included."""

    units: ClassVar[str] = "bytes, >= 0"
    field: ClassVar[str] = "memory"
