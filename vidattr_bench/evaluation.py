"""One batch -> rows: explain every clip with every method, score every map with every metric, isolate failures."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from vidattr_bench.clip import Batch, Unreadable
from vidattr_bench.errors import NotApplicableError, UserError
from vidattr_bench.ledger import Ledger
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Case, Measurement, Metric, Shared
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import CurveSpec
from vidattr_bench.randomness import derive
from vidattr_bench.store import Cell

Progress = Callable[[str, str], None]
Explain = Callable[[VideoModel, Tensor, Tensor], Tensor]


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
    """

    model: VideoModel
    methods: Mapping[str, AttributionMethod]
    metrics: Mapping[str, Metric]
    to_model: Tensor
    target: str
    seed: int
    forward_batch: int
    constants: Mapping[str, str]

    def cells(self, clip: str) -> Iterator[Cell]:
        """Every cell that the run owes for a clip."""
        for label, method in self.methods.items():
            for draw in range(method.draws):
                for name, metric in self.metrics.items():
                    if metric.family != "cost":
                        yield Cell(clip, label, name, self.seed + draw)


@dataclasses.dataclass
class Rows:
    """What a batch adds to the run's tables, and the maps that were asked for."""

    scores: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    costs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    maps: dict[tuple[str, str], Tensor] = dataclasses.field(default_factory=dict)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The rows by table."""
        return {"scores": self.scores, "costs": self.costs, "curves": self.curves}


@dataclasses.dataclass(frozen=True)
class Explained:
    """The maps of one method and draw; a clip whose map failed holds zeros and its status and reason."""

    relevance: Tensor
    problems: Mapping[int, tuple[str, str]]


def unreadable_rows(subject: Subject, clip: Unreadable, group: str, missing: Collection[Cell]) -> list[dict[str, Any]]:
    """A failed row for every cell of a clip that could not be read."""
    blank = {**subject.constants, "group": group, "label": None, "prediction": None, "target": None, "correct": None}
    result = {"value": float("nan"), "chance": None, "status": "failed", "reason": clip.reason}
    return [{**blank, **cell._asdict(), **result} for cell in subject.cells(clip.id) if cell in missing]


class Evaluation:
    """The work on one batch of readable clips."""

    def __init__(self, subject: Subject, batch: Batch) -> None:
        self.subject, self.batch = subject, batch
        self.ledger = Ledger(subject.model)
        labels = torch.where(batch.labels < 0, -1, subject.to_model.to(batch.labels)[batch.labels.clamp(min=0)])
        self.shared = Shared(
            subject.model,
            batch,
            labels,
            labels=labels,
            seed=subject.seed,
            forward_batch=subject.forward_batch,
            step=self._step(""),
        )
        logits = torch.stack([self.shared.clean_logits(i) for i in range(len(batch))])
        self.predictions = logits.argmax(1).to(labels)
        self.shared.targets = self.targets = self._targets(labels)
        self.rows = Rows()

    def run(self, missing: Collection[Cell], keep_map: Callable[[str], bool], progress: Progress) -> Rows:
        """Fill the cells in `missing`; keep the first draw's map of the clips that `keep_map` asks for."""
        for label, method in self.subject.methods.items():
            for draw in range(method.draws):
                seed = self.subject.seed + draw
                wanted = self._wanted(label, seed, missing)
                if not wanted:
                    continue
                progress(label, "map")
                explained = self._explain(label, seed)
                self._score(label, seed, explained, wanted, missing, progress)
                if draw == 0:
                    self._keep(label, explained, keep_map)
        self.rows.costs = self.ledger.rows()
        return self.rows

    def _targets(self, labels: Tensor) -> Tensor:
        if self.subject.target == "predicted":
            return self.predictions.clone()
        if self.subject.target == "label":
            return torch.where(labels < 0, self.predictions, labels)
        return torch.full_like(labels, self.subject.model.classes.index(self.subject.target))

    def _wanted(self, label: str, seed: int, missing: Collection[Cell]) -> list[str]:
        """The metrics that some clip of the batch still lacks."""
        ids = self.batch.ids
        return [name for name in self.subject.metrics if any(Cell(c, label, name, seed) in missing for c in ids)]

    def _step(self, method: str) -> Callable[[str, int], AbstractContextManager[None]]:
        return lambda name, clip: self.ledger.step(name, [self.batch.ids[clip]], method)

    def _explain(self, label: str, seed: int) -> Explained:
        """The batch at once; after a failure clip by clip, so that only the clip at fault has none."""
        everyone = list(range(len(self.batch)))
        try:
            return Explained(self._attribute(label, seed, everyone), {})
        except NotApplicableError as error:
            return self._failed(dict.fromkeys(everyone, ("not_applicable", str(error))))
        except Exception as error:
            if len(everyone) == 1:
                return self._failed({0: ("failed", describe(error))})
        maps, problems = self._failed({}).relevance, {}
        for clip in everyone:
            try:
                maps[clip] = self._attribute(label, seed, [clip])[0]
            except Exception as error:
                problems[clip] = ("failed", describe(error))
        return Explained(maps, problems)

    def _attribute(self, label: str, seed: int, clips: Sequence[int]) -> Tensor:
        batch = self.batch.select(clips)
        explain = self._explainer(label, batch, seed)
        with self.ledger.step("attribution", batch.ids, label):
            return explain(self.subject.model, batch.frames, self.targets[list(clips)])

    def _explainer(self, label: str, batch: Batch, seed: int | None = None) -> Explain:
        """The method with what it needs beside model, frames and targets filled in."""
        method = self.subject.methods[label]
        draw = self.subject.seed if seed is None else seed
        seeds = [derive(draw, clip, label) for clip in batch.ids] if method.stochastic else None
        tubes = batch.tubes if method.needs_truth else None
        return lambda model, frames, targets: method(model, frames, targets, seeds, tubes=tubes)

    def _failed(self, problems: Mapping[int, tuple[str, str]]) -> Explained:
        return Explained(torch.zeros_like(self.batch.frames[:, 0]), problems)

    def _score(
        self,
        label: str,
        seed: int,
        explained: Explained,
        wanted: Sequence[str],
        missing: Collection[Cell],
        progress: Progress,
    ) -> None:
        case = self._case(label, explained.relevance)
        hopeless = len(explained.problems) == len(self.batch)
        for name in wanted:
            progress(label, name)
            result = None if hopeless else self._measure(name, self.subject.metrics[name], case, label)
            for clip, clip_id in enumerate(self.batch.ids):
                cell = Cell(clip_id, label, name, seed)
                if cell in missing:
                    problem = explained.problems.get(clip)
                    self.rows.scores.append(self._row(cell, clip, _outcome(result, clip, problem)))
        self._add_curves(label, seed, case, explained)

    def _case(self, label: str, relevance: Tensor) -> Case:
        return Case(
            self.subject.model,
            self.batch,
            self.targets,
            relevance,
            shared=self.shared,
            cost=self.ledger.cost(self.batch.ids[0], label, "attribution"),
            explain=self._explainer(label, self.batch),
            promised_total=self.subject.methods[label].promised_total,
            step=self._step(label),
        )

    def _measure(self, name: str, metric: Metric, case: Case, label: str) -> list[Measurement | str]:
        """A measurement a clip, each of one value, or the reason why it failed."""
        try:
            with self.ledger.step(name, self.batch.ids, label):
                return _split(metric.measure(case), len(case))
        except Exception as error:
            if len(case) == 1:
                return [describe(error)]
        results: list[Measurement | str] = []
        for clip in range(len(case)):
            results += self._measure(name, metric, self._alone(case, clip, label), label)
        return results

    def _alone(self, case: Case, clip: int, label: str) -> Case:
        batch, targets = self.batch.select([clip]), self.targets[[clip]]
        shared = Shared(
            self.subject.model,
            batch,
            targets,
            labels=self.shared.labels[[clip]],
            seed=self.subject.seed,
            forward_batch=self.subject.forward_batch,
            step=lambda name, _: self.ledger.step(name, batch.ids),
        )
        relevance = case.relevance[[clip]]
        return Case(
            self.subject.model,
            batch,
            targets,
            relevance,
            shared=shared,
            cost=case.cost,
            explain=self._explainer(label, batch),
            promised_total=case.promised_total,
        )

    def _row(self, cell: Cell, clip: int, outcome: Mapping[str, Any]) -> dict[str, Any]:
        name = self.subject.model.classes.__getitem__
        label, prediction = int(self.shared.labels[clip]), int(self.predictions[clip])
        return {
            **self.subject.constants,
            **cell._asdict(),
            "group": self.batch.groups[clip],
            "label": None if label < 0 else name(label),
            "prediction": name(prediction),
            "target": name(int(self.targets[clip])),
            "correct": None if label < 0 else label == prediction,
            **outcome,
        }

    def _add_curves(self, label: str, seed: int, case: Case, explained: Explained) -> None:
        for spec, curves in case.computed.items():
            for clip, curve in enumerate(curves):
                if clip in explained.problems or curve.reason:
                    continue
                key = {"clip": self.batch.ids[clip], "method": label, "seed": seed}
                target = int(self.targets[clip])
                for order, fractions, logits in (
                    ("morf", curve.fractions, curve.morf),
                    ("lerf", 1 - curve.fractions.flip(0), curve.lerf),
                ):
                    scores = logits.double().softmax(1)[:, target].tolist()
                    self.rows.curves += [
                        {
                            **key,
                            "unit": spec.unit,
                            "substrate": spec.substrate,
                            "order": order,
                            "fraction": f,
                            "score": s,
                        }
                        for f, s in zip(fractions.tolist(), scores, strict=True)
                    ]

    def _keep(self, label: str, explained: Explained, keep_map: Callable[[str], bool]) -> None:
        for clip, clip_id in enumerate(self.batch.ids):
            if clip not in explained.problems and keep_map(clip_id):
                self.rows.maps[clip_id, label] = explained.relevance[clip].cpu()


def describe(error: Exception) -> str:
    """An error in one line: for the author of a plug-in with the place where it was raised."""
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}".replace("\n", " ")


def curve_specs(metrics: Mapping[str, Metric]) -> tuple[CurveSpec, ...]:
    """The perturbation curves that the metrics need, each once."""
    return tuple(dict.fromkeys(spec for metric in metrics.values() for spec in metric.curve_specs()))


def _split(measurement: Measurement, n: int) -> list[Measurement | str]:
    if measurement.values.shape != (n,):
        raise ValueError(f"the metric gave values of shape {tuple(measurement.values.shape)} for {n} clips")
    chance = measurement.chance
    return [
        Measurement(
            measurement.values[i : i + 1],
            None if chance is None else chance[i : i + 1],
            measurement.reasons[i : i + 1],
        )
        for i in range(n)
    ]


def _outcome(results: Sequence[Measurement | str] | None, clip: int, problem: tuple[str, str] | None) -> dict[str, Any]:
    """Value, chance, status and reason of one cell."""
    empty = {"value": float("nan"), "chance": None}
    if problem is not None:
        return {**empty, "status": problem[0], "reason": problem[1]}
    assert results is not None
    result = results[clip]
    if isinstance(result, str):
        return {**empty, "status": "failed", "reason": result}
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
