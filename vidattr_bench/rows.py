"""What a run asks of every clip, and the rows that answer it."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Collection, Iterator, Mapping, Set
from typing import Any

from torch import Tensor

from vidattr_bench.clip import Batch, Unreadable
from vidattr_bench.errors import UserError
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Measurement, Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import Curve, CurveSpec
from vidattr_bench.shared import Donor
from vidattr_bench.store import Cell
from vidattr_bench.streams import channels_of, of_stream

Problem = tuple[str, str]
"""Status and reason of a cell without value."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a run asks, the same for all of its batches.

    Attributes:
        model: the model under explanation.
        methods: configured methods by row label.
        metrics: configured metrics by row label.
        to_model: int64 (K,), the model's class of each class of the data set.
        target: label, predicted, or the name of a class of the model.
        seed: the run's seed.
        forward_batch: clips per forward of the perturbation engine.
        constants: columns that every row of the run shares: dataset, split, model, weights.
        sampled: ids of the clips on which metrics that explain again are measured.
        donor: the frames of another clip for the clip of an id.
        stream: the one stream of the clips that is explained, the others staying as they are; "": all of them together.
    """

    model: VideoModel
    methods: Mapping[str, AttributionMethod]
    metrics: Mapping[str, Metric]
    to_model: Tensor
    target: str
    seed: int
    forward_batch: int
    constants: Mapping[str, str]
    sampled: Set[str] = frozenset()
    donor: Donor | None = None
    stream: str = ""

    def within(self, batch: Batch) -> tuple[Subject, Batch]:
        """The same questions about the explained stream of one clip, and that clip without its other streams."""
        if not self.stream:
            return self, batch
        own, whole = channels_of(self.model, self.stream), self.donor
        donor = None if whole is None else lambda clip: whole(clip)[own]
        model = of_stream(self.model, self.stream, batch.frames)
        narrowed = dataclasses.replace(self, model=model, donor=donor, stream="")
        return narrowed, dataclasses.replace(batch, frames=batch.frames[:, own])

    def seeds(self, method: AttributionMethod) -> range:
        """One seed a draw; runs of different seeds share none."""
        return range(self.seed * method.draws, (self.seed + 1) * method.draws)

    def cells(self, clip: str) -> Iterator[Cell]:
        """Every cell that the run owes for a clip."""
        for label, method in self.methods.items():
            for seed in self.seeds(method):
                for name, metric in self.metrics.items():
                    if metric.family != "cost" and (clip in self.sampled or not metric.explains):
                        yield Cell(clip, label, name, seed)


@dataclasses.dataclass
class Rows:
    """What a batch adds to the run's tables, and the maps that were asked for."""

    scores: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    costs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    maps: dict[tuple[str, str], Tensor] = dataclasses.field(default_factory=dict)

    def add(self, other: Rows) -> None:
        """Append the rows and maps of other clips."""
        self.scores += other.scores
        self.costs += other.costs
        self.curves += other.curves
        self.maps |= other.maps

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The rows by table."""
        return {"scores": self.scores, "costs": self.costs, "curves": self.curves}


def unreadable_rows(subject: Subject, clip: Unreadable, group: str, missing: Collection[Cell]) -> list[dict[str, Any]]:
    """A failed row for every cell of a clip that could not be read."""
    blank = {**subject.constants, "group": group, "label": None, "prediction": None, "target": None, "correct": None}
    result = {"value": float("nan"), "chance": None, "status": "failed", "reason": clip.reason}
    return [{**blank, **cell._asdict(), **result} for cell in subject.cells(clip.id) if cell in missing]


def curve_rows(key: Mapping[str, Any], spec: CurveSpec, curve: Curve, target: int) -> Iterator[dict[str, Any]]:
    """Both orders of a curve, a row a point: the target's probability with that share of voxels removed."""
    for order, fractions, logits in (
        ("morf", curve.fractions, curve.morf),
        ("lerf", 1 - curve.fractions.flip(0), curve.lerf),
    ):
        scores = logits.double().softmax(1)[:, target].tolist()
        shared = {**key, "unit": spec.unit, "substrate": spec.substrate, "steps": spec.steps, "order": order}
        for fraction, score in zip(fractions.tolist(), scores, strict=True):
            yield {**shared, "fraction": fraction, "score": score}


def outcome(result: Measurement | Problem) -> dict[str, Any]:
    """Value, chance, status and reason of one cell."""
    if isinstance(result, tuple):
        return {"value": float("nan"), "chance": None, "status": result[0], "reason": result[1]}
    value = float(result.values[0])
    reason = result.reasons[0] if result.reasons else ""
    if value == value:
        status = "ok"
    else:
        status, reason = "undefined", reason or "undefined"
    return {
        "value": value,
        "chance": None if result.chance is None else float(result.chance[0]),
        "status": status,
        "reason": reason,
    }


def describe(error: Exception) -> str:
    """An error in one line: for the author of a plug-in with the place where it was raised."""
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}".replace("\n", " ")
