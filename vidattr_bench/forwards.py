"""How many clips a run sends through the model: the formula behind `--dry-run`, to which tests hold every metric.

A clip of the plan costs, with B clips in a forward batch and [n] = n rounded up to a multiple of B:

    [1]                            its clean logits
    + [1] a substrate              both ends of every curve are shared
    + [sets] a RemovalSpec         its random removed sets
    + for every map of it (a method's draws apart)
        the method's cost
        + [2 (P - 2)] a CurveSpec  P points in MoRF order, and as many in LeRF order
        + a metric's own forwards, and the method's cost for every map it asks for again (`Metric.work`)
        + the method's promise, for a metric that reads it

where every spec, and every key of `Metric.work`, counts once however many metrics name it. Metrics that explain again,
and what only they name, count on the sampled clips alone, and not for the oracle. A constant map saves its curves and
a metric's own forwards, and a cell that is not applicable what was left of its work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import CurveSpec, planned_forwards
from vidattr_bench.shared import RemovalSpec, units_of
from vidattr_bench.streams import picture_of


class Work(NamedTuple):
    """Clips sent forward and backward."""

    forwards: int = 0
    backwards: int = 0


def padded(clips: int, forward_batch: int) -> int:
    """Clips in whole forward batches."""
    return math.ceil(clips / forward_batch) * forward_batch


def curve_specs(metrics: Collection[Metric]) -> tuple[CurveSpec, ...]:
    """The perturbation curves that the metrics need, each once."""
    return tuple(dict.fromkeys(spec for metric in metrics for spec in metric.curve_specs()))


def removal_specs(metrics: Collection[Metric]) -> tuple[RemovalSpec, ...]:
    """The random removed sets that the metrics need, each once."""
    return tuple(dict.fromkeys(spec for metric in metrics for spec in metric.removal_specs()))


@dataclasses.dataclass(frozen=True)
class Forwards:
    """The formula for one set of methods and metrics.

    Attributes:
        model: the model under explanation.
        methods: configured methods by row label.
        metrics: configured metrics by row label.
        forward_batch: B, clips per forward of perturbed clips.
    """

    model: VideoModel
    methods: Mapping[str, AttributionMethod]
    metrics: Mapping[str, Metric]
    forward_batch: int = 1

    def of_clip(self, clip: Tensor, sampled: bool) -> Work:
        """All that a run does with one clip (C, T, H, W) in [0, 1]; `sampled`: with metrics that explain again too."""
        works = [self.of_method(label, clip, sampled) for label in self.methods]
        forwards = self.shared(sampled) + sum(work.forwards for work in works)
        return Work(forwards, sum(work.backwards for work in works))

    def shared(self, sampled: bool) -> int:
        """Forwards of one clip that all methods share."""
        metrics = self._asked(sampled and not all(method.needs_truth for method in self.methods.values()))
        ends = {spec.substrate for spec in curve_specs(metrics)}
        removals = sum(padded(spec.sets, self.forward_batch) for spec in removal_specs(metrics))
        return padded(1, self.forward_batch) * (1 + len(ends)) + removals

    def of_method(self, label: str, clip: Tensor, sampled: bool) -> Work:
        """All draws of one method on one clip (C, T, H, W); nothing where it does not apply to the model."""
        method = self.methods[label]
        try:
            forwards, backwards = method.cost(self.model, clip)
        except NotApplicableError:
            return Work()
        metrics = self._asked(sampled and not method.needs_truth)
        curves = sum(self.of_curve(spec, clip) for spec in curve_specs(metrics))
        works = {key: work for metric in metrics for key, work in metric.work(self.model, clip).items()}.values()
        maps = 1 + sum(explains for _, explains in works)
        promises = sum(metric.reads_promise for metric in metrics) * method.promise_cost(self.model, clip)
        forwards = maps * forwards + curves + sum(own for own, _ in works) + promises
        return Work(method.draws * forwards, method.draws * maps * backwards)

    def of_curve(self, spec: CurveSpec, clip: Tensor) -> int:
        """Forwards of one curve of one map, without its ends; an upper bound where units differ in size.

        There the order decides how many cuts fall on boundaries of their own: see `planned_forwards`.
        """
        return planned_forwards(spec, units_of(picture_of(clip, self.model.input), spec.unit), self.forward_batch)

    def _asked(self, explaining: bool) -> list[Metric]:
        """The metrics that are measured on a clip."""
        return [metric for metric in self.metrics.values() if explaining or not metric.explains]
