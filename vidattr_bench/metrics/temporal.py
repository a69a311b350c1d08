"""Localisation in time: agreement of the relevance of each frame with the frames that the label's tubes span."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from vidattr_bench.metric import Case

from ._frames import frames
from ._truth import TruthMetric, chance_iou, expected_iou
from .localisation import pointing_hits, roc_auc


@dataclasses.dataclass(frozen=True)
class _Temporal(TruthMetric):
    """A number from the relevance of each annotated frame; undefined as the truth, and where no frame is empty."""

    family: ClassVar[str] = "temporal"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"localisation": ("",), "temporal": ("",)}

    def _reason(self, case: Case, clip: int) -> str:
        return frames(case, clip).reason

    def _chance(self, case: Case, clip: int) -> float:
        return frames(case, clip).chance


@dataclasses.dataclass(frozen=True)
class TemporalMass(_Temporal):
    """Share of the positive relevance that lies in the frames of the tubes, wherever in the frame.

    The sum of max(a, 0) over the tube frames F, divided by its sum over all annotated frames: never less than
    `tube_mass`. Negative relevance does not count against positive relevance of the same frame. Chance: |F| / t, the
    share of annotated frames that are tube frames. Undefined as the truth (no_label, other_target, not_annotated,
    no_tubes, all_tube), without an empty frame (`no_empty_frame`), and `no_positive_relevance`.
    """

    reference: ClassVar[str] = "Wang 2020, arXiv 1910.01279, section 4.3, along time"
    units: ClassVar[str] = "share of positive relevance, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": "< chance",
        "random": "|F|/t",
        "constant": "|F|/t",
    }

    def _value(self, case: Case, clip: int) -> float | str:
        found = frames(case, clip)
        total = float(found.positive.sum())
        return float(found.positive[found.tube].sum()) / total if total > 0 else "no_positive_relevance"


@dataclasses.dataclass(frozen=True)
class TemporalPointing(_Temporal):
    """Whether the most relevant frame is a tube frame; tied frames share the hit.

    Frames are ranked by the mean of their signed relevance; unknown frames are left out. Chance: |F| / t, what a
    constant map gets. Undefined as `temporal_mass`, but for the mass.
    """

    reference: ClassVar[str] = "Bargal 2018, arXiv 1711.06778 (the pointing game along time)"
    units: ClassVar[str] = "share of hits, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": 0,
        "random": "|F|/t",
        "constant": "|F|/t",
    }

    def _value(self, case: Case, clip: int) -> float:
        found = frames(case, clip)
        return float(pointing_hits(found.relevance[None], found.tube[None]))


@dataclasses.dataclass(frozen=True)
class TemporalIoU(_Temporal):
    """IoU of the |F| most relevant frames with the |F| tube frames.

    Frames are ranked by the mean of their signed relevance; ties at the border count in expectation over their order,
    so that a constant map scores chance: the expected IoU of |F| frames drawn at random, the sum over k of
    P(k) k / (2 |F| - k) with the hypergeometric P of k hits. Undefined as `temporal_pointing`.
    """

    name: ClassVar[str] = "temporal_iou"
    reference: ClassVar[str] = "Jaccard 1912, doi 10.1111/j.1469-8137.1912.tb05611.x, along time"
    units: ClassVar[str] = "IoU, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": "max(0, 2|F|/t - 1)",
        "random": "chance",
        "constant": "chance",
    }

    def _value(self, case: Case, clip: int) -> float:
        return expected_iou(frames(case, clip).levels)

    def _chance(self, case: Case, clip: int) -> float:
        tube = frames(case, clip).tube
        return chance_iou(len(tube), int(tube.sum()))


@dataclasses.dataclass(frozen=True)
class TemporalAuc(_Temporal):
    """Probability that a tube frame is more relevant than an empty one (area under the ROC curve of frames).

    Frames are ranked by the mean of their signed relevance; ties count half, chance is .5. Undefined as
    `temporal_pointing`.
    """

    reference: ClassVar[str] = "Hanley & McNeil 1982, doi 10.1148/radiology.143.1.7063747, along time"
    units: ClassVar[str] = "probability, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 1,
        "inverted_oracle": 0,
        "random": 0.5,
        "constant": 0.5,
    }

    def _value(self, case: Case, clip: int) -> float:
        return roc_auc(frames(case, clip).levels)

    def _chance(self, case: Case, clip: int) -> float:
        return 0.5
