"""Where the magnitude of the relevance of a clip lies."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.units import Units, check_unit


@dataclasses.dataclass(frozen=True)
class MassMetric(Metric):
    """A number from where the magnitude |a| of the relevance lies, whatever its sign.

    Attributes:
        unit: what |a| is averaged over first: tubelet, supervoxel, frame or voxel.
    """

    family: ClassVar[str] = "complexity"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"complexity": ("",)}

    unit: str = "tubelet"

    def __post_init__(self) -> None:
        check_unit(self.unit)

    def measure(self, case: Case) -> Measurement:
        """Values of N clips; the model is not asked."""
        return Measurement.of([self._clip(case, clip) for clip in range(len(case))], self._chance(case))

    def _clip(self, case: Case, clip: int) -> float | str:
        units = case.shared.units(clip, self.unit)
        key = ("magnitude", clip, self.unit)
        magnitudes: Tensor = case.memo(key, lambda: units.means(case.relevance[clip].abs()))
        if not bool(magnitudes.any()):
            return "zero_map"
        return "one_unit" if len(magnitudes) == 1 else self._value(magnitudes, units)

    def _chance(self, case: Case) -> list[float] | None:
        """What a map that knows nothing gets, a clip; None: no such level."""
        return None

    @abstractmethod
    def _value(self, magnitudes: Tensor, units: Units) -> float | str:
        """The number, from the mean magnitude (U,) of each unit, not all of them 0."""
