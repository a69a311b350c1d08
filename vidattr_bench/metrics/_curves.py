"""What metrics that read perturbation curves share: the score of logits, and the curve's options."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.perturbation import Curve, CurveSpec

Score = Literal["prob", "logit", "margin"]

SMALLEST_SPAN = 0.05


def target_score(logits: Tensor, target: int, score: Score) -> Tensor:
    """Score (P,) of a class from logits (P, K): probability, logit, or logit minus the largest other logit.

    Raises:
        NotApplicableError: a margin of the only class there is.
    """
    if score == "prob":
        return logits.softmax(1)[:, target]
    if score == "logit":
        return logits[:, target]
    others = torch.arange(logits.shape[1]) != target
    if not bool(others.any()):
        raise NotApplicableError("score=margin compares with other classes, and the model has one class")
    return logits[:, target] - logits[:, others].amax(1)


def score_scale(clean: Tensor, score: Score) -> float:
    """The score's own scale: 1 for probabilities, else the range of the clean clip's logits (K,)."""
    return 1.0 if score == "prob" else float(clean.max() - clean.min())


@dataclasses.dataclass(frozen=True)
class CurveMetric(Metric):
    """A number from the MoRF and LeRF curves of one clip.

    Attributes:
        substrate: what replaces removed voxels.
        unit: what is removed at once: tubelet, supervoxel, frame or voxel.
        steps: cuts of the removal order.
        score: prob, logit or margin (logit minus the largest other logit) of the target.
        normalise: `range` maps the clean clip's score to 1 and the empty clip's to 0.
    """

    family: ClassVar[str] = "faithfulness"

    substrate: str = "blur3d"
    unit: str = "tubelet"
    steps: int = 32
    score: Score = "prob"
    normalise: Literal["none", "range"] = "none"

    def __post_init__(self) -> None:
        self.curve_specs()

    def curve_specs(self) -> tuple[CurveSpec, ...]:
        """The one curve it reads; raises `PluginError` for an unknown unit or substrate."""
        return (CurveSpec(self.unit, self.substrate, self.steps),)

    def measure(self, case: Case) -> Measurement:
        """Values of N clips; undefined: `constant_map`, `small_span`, and what the metric adds."""
        (spec,) = self.curve_specs()
        pairs = zip(case.curves(spec), case.targets.tolist(), strict=True)
        return Measurement.of([self._value(curve, target) for curve, target in pairs])

    def _value(self, curve: Curve, target: int) -> float | str:
        if curve.reason:
            return curve.reason
        morf, lerf = (target_score(logits, target, self.score) for logits in (curve.morf, curve.lerf))
        scale = score_scale(curve.morf[0], self.score)
        if self.normalise == "range":
            empty, span = morf[-1].clone(), morf[0] - morf[-1]
            if float(span) < SMALLEST_SPAN * scale:
                return "small_span"
            morf, lerf, scale = (morf - empty) / span, (lerf - empty) / span, 1.0
        return self._read(curve.fractions, morf, lerf.flip(0), scale)

    @abstractmethod
    def _read(self, fractions: Tensor, deleted: Tensor, inserted: Tensor, scale: float) -> float | str:
        """The number, or why there is none.

        Args:
            fractions: (P,), shares f of voxels, from 0 to 1.
            deleted: (P,), scores of the clip without its most relevant share f.
            inserted: (P,), scores of the clip of which only its most relevant share f is kept.
            scale: what a large difference of scores is.
        """
