"""What a metric says that it sends through the model is what the model counts."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from vidattr_bench.clip import Batch
from vidattr_bench.fixtures import small_batch, small_model
from vidattr_bench.forwards import padded
from vidattr_bench.metric import Case, Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.shared import Shared

FORWARD_BATCH = 5


@dataclasses.dataclass
class _Explanations:
    """Explains without the model, and counts the clips."""

    clips: int = 0

    def __call__(self, model: VideoModel, frames: Tensor, targets: Tensor, draw: int = 0) -> Tensor:
        self.clips += len(frames)
        return frames.std(1) + 0.1 * frames.roll(draw, -1).mean(1)


def metric_declares_its_forwards(metric: Metric) -> None:
    """Its curves, removals, own forwards and explanations are what it declares; methods share what they may."""
    batch = small_batch()
    # One that explains again meets every clip on its own.
    batches = [batch.select([clip]) for clip in range(len(batch))] if metric.explains else [batch]
    for clips in batches:
        _check(metric, clips)


def _check(metric: Metric, batch: Batch) -> None:
    model, explain = small_model(), _Explanations()
    shared = Shared(model, batch, batch.labels, forward_batch=FORWARD_BATCH, donor=lambda clip: batch.frames[0].flip(2))
    for clip in range(len(batch)):
        shared.clean_logits(clip)
    expected = sum(_shared_forwards(metric) for _ in batch.ids)
    for first, maps in ((True, batch.frames.std(1)), (False, batch.frames.mean(1).flip(2))):
        before, explained = model.calls.forwards, explain.clips
        case = Case(model, batch, batch.labels, maps, shared=shared, explain=explain)
        metric.measure(case)
        sent, again = model.calls.forwards - before, explain.clips - explained
        declared = sum(_forwards(metric, case, clip) for clip in range(len(batch))) + (expected if first else 0)
        assert sent == declared, f"it declares {declared} forwards for {len(batch)} clips, and sends {sent}"
        wanted = sum(explains for clip in batch.frames for _, explains in metric.work(model, clip).values())
        assert again == wanted, f"it declares {wanted} explanations of {len(batch)} clips, and asks for {again}"
        assert bool(again) == bool(metric.explains), "explains must be positive where it explains again, and only there"
        _read_only_what_is_declared(metric, case)


def _shared_forwards(metric: Metric) -> int:
    """Forwards of one clip that all methods share, its clean logits apart."""
    ends = {spec.substrate for spec in metric.curve_specs()}
    sets = sum(padded(spec.sets, FORWARD_BATCH) for spec in metric.removal_specs())
    return len(ends) * padded(1, FORWARD_BATCH) + sets


def _forwards(metric: Metric, case: Case, clip: int) -> int:
    """Forwards of one map of a clip."""
    points = [len(case.curves(spec)[clip].fractions) for spec in metric.curve_specs()]
    curves = sum(padded(max(2 * (p - 2), 0), FORWARD_BATCH) for p in points)
    return curves + sum(own for own, _ in metric.work(case.model, case.batch.frames[clip]).values())


def _read_only_what_is_declared(metric: Metric, case: Case) -> None:
    undeclared = set(case.computed) - set(metric.curve_specs())
    assert not undeclared, f"it reads curves that curve_specs() does not name: {undeclared}"
