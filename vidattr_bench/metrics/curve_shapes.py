"""Faithfulness beyond areas: numbers read on the curves that deletion and insertion share, without more forwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ._curves import SMALLEST_SPAN, CurveMetric


@dataclasses.dataclass(frozen=True)
class _ShareMetric(CurveMetric):
    """A mean over the cuts whose share of voxels lies in [low, high].

    Attributes:
        low: smallest share of voxels.
        high: largest share of voxels.
    """

    low: float = 0.05
    high: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low={self.low} and high={self.high} must be shares in [0, 1], the low one first")

    def _mean_loss(self, fractions: Tensor, scores: Tensor, clean: Tensor) -> float | str:
        """Mean of `clean` - scores (P,) over the cuts in the range."""
        chosen = (fractions >= self.low) & (fractions <= self.high)
        return float((clean - scores[chosen]).mean()) if bool(chosen.any()) else "no_cut"


@dataclasses.dataclass(frozen=True)
class Sufficiency(_ShareMetric):
    """What the score loses when only the most relevant units are kept; little, where they suffice.

    The mean of s(x) - s(only the most relevant fraction f kept) over the cuts with f in [`low`, `high`]: with 32 steps
    on equal units k / 32 for k = 2 ... 16. ERASER averages over the fractions 1, 5, 10, 20 and 50 % of the tokens and
    over f = 0, and removes tokens altogether; here the substrate stands in their place. The chance level is the row of
    the random control. Undefined: as `deletion`, and `no_cut` (none lies in the range).

    Attributes:
        low: smallest fraction kept.
        high: largest fraction kept.
    """

    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "DeYoung 2020 (ERASER), arXiv 1911.03429, equation 2"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"faithfulness": ("", "substrate=freeze")}
    units: ClassVar[str] = "loss of the target's score, in [-1, 1] for score=prob"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "< random",
        "inverted_oracle": "> random",
        "random": "> oracle",
        "constant": "undefined: constant_map",
    }

    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float | str:
        return self._mean_loss(fractions, inserted, deleted[0])


@dataclasses.dataclass(frozen=True)
class Comprehensiveness(_ShareMetric):
    """What the score loses when the most relevant units are removed; much, where the map names all of the evidence.

    The mean of s(x) - s(x without its most relevant fraction f) over the cuts with f in [`low`, `high`], as
    `sufficiency` takes them. The chance level is the row of the random control. Undefined as `sufficiency`.

    Attributes:
        low: smallest fraction removed.
        high: largest fraction removed.
    """

    reference: ClassVar[str] = "DeYoung 2020 (ERASER), arXiv 1911.03429, equation 1"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"faithfulness": ("", "substrate=freeze")}
    units: ClassVar[str] = "loss of the target's score, in [-1, 1] for score=prob"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "> random",
        "inverted_oracle": "< random",
        "random": "< oracle",
        "constant": "undefined: constant_map",
    }

    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float | str:
        return self._mean_loss(fractions, deleted, deleted[0])


@dataclasses.dataclass(frozen=True)
class MinimalMask(CurveMetric):
    """Smallest fraction of the clip, most relevant units first, that keeps `level` of the clean clip's score.

    The first cut f of the insertion curve with s(only the most relevant fraction f kept) >= level * s(x); later cuts
    may fall below again. It is reached at the latest with the whole clip; 0 means that the substrate alone has the
    score. Resolution 1 / `steps`. The chance level is the row of the random control. Undefined: as `deletion`, and
    `small_score` (s(x) is under 5 % of the score's scale: 1 for prob, the range of the clean clip's logits else).

    Attributes:
        level: share of the clean clip's score to reach, in (0, 1].
    """

    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Dabkowski 2017, arXiv 1705.07857 (smallest sufficient region)"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"faithfulness": ("", "substrate=freeze")}
    units: ClassVar[str] = "share of voxels, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "< random",
        "inverted_oracle": "> random",
        "random": "> oracle",
        "constant": "undefined: constant_map",
    }

    level: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.level <= 1:
            raise ValueError(f"level={self.level} must be a share in (0, 1]")

    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float | str:
        clean = float(inserted[-1])
        if clean < SMALLEST_SPAN * scale:
            return "small_score"
        return float(fractions[inserted >= self.level * clean][0])


@dataclasses.dataclass(frozen=True)
class Monotonicity(CurveMetric):
    """Share of steps at which the score does not fall as units are inserted in ascending order of relevance.

    From the empty clip the least relevant units are inserted first, which is the MoRF deletion curve read backwards:
    the share of its steps with s(later) >= s(earlier). AIX360 asks for all steps at once (1 here is its `True`). A
    linear model, asked unit by unit, gives any order the share of its units that do no harm, and a random order, which
    spreads the evidence over all steps, often scores best: read it beside the row of the random control. Undefined as
    `deletion`.
    """

    reference: ClassVar[str] = "Luss 2019, arXiv 1905.12698; Arya 2019 (AIX360), arXiv 1909.03012"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"faithfulness": ("", "substrate=freeze")}
    units: ClassVar[str] = "share of steps, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "none": "the order of tied units, which the seed draws, decides most steps",
        "constant": "undefined: constant_map",
    }

    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float:
        return float((deleted.flip(0).diff() >= 0).double().mean())
