"""One batch -> rows: explain every clip with every method, score every map with every metric, isolate failures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vidattr_bench.clip import Batch, Unreadable
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.ledger import Ledger
from vidattr_bench.metric import Case, Explain, Measurement
from vidattr_bench.model import VideoModel
from vidattr_bench.randomness import derive
from vidattr_bench.rows import Problem, Rows, Subject, curve_rows, describe, outcome, unreadable_rows
from vidattr_bench.shared import Shared, Step
from vidattr_bench.store import MAP, Cell

Progress = Callable[[str, str], None]
SEES_THE_TRUTH = "it sees the truth of the annotated clip and cannot explain another one"


@dataclasses.dataclass(frozen=True)
class Explained:
    """The maps of one method and draw; a clip whose map failed holds zeros and its status and reason."""

    relevance: Tensor
    problems: Mapping[int, Problem]


def evaluate(
    subject: Subject,
    batch: Batch,
    missing: Collection[Cell],
    keep_map: Callable[[str], bool],
    progress: Progress,
) -> Rows:
    """Rows of a batch; clip by clip where one stream is explained, whose model is another one for every clip.

    Where the model itself fails it is clip by clip too, so that only the clip at fault has none.
    """
    try:
        if len(batch) == 1 or not subject.stream:
            return Evaluation(*subject.within(batch)).run(missing, keep_map, progress)
    except Exception as error:
        if len(batch) == 1:
            clip = Unreadable(batch.ids[0], describe(error))
            return Rows(unreadable_rows(subject, clip, batch.groups[0], missing))
    rows = Rows()
    for i in range(len(batch)):
        rows.add(evaluate(subject, batch.select([i]), missing, keep_map, progress))
    return rows


class Evaluation:
    """The work on one batch of readable clips."""

    def __init__(self, subject: Subject, batch: Batch) -> None:
        self.subject, self.batch = subject, batch
        self.ledger = Ledger(subject.model)
        # Label -1, a clip without one, reads the last entry.
        labels = torch.cat([subject.to_model.to(batch.labels), batch.labels.new_tensor([-1])])[batch.labels]
        self.shared = Shared(
            subject.model,
            batch,
            labels,
            labels=labels,
            seed=subject.seed,
            forward_batch=subject.forward_batch,
            step=self._step(batch),
            donor=subject.donor,
        )
        self._apart: dict[int, Shared] = {}
        logits = torch.stack([self.shared.clean_logits(i) for i in range(len(batch))])
        if bool(logits.softmax(1).isnan().any()):
            raise FloatingPointError("the model's probabilities are NaN")
        self.predictions = logits.argmax(1).to(labels)
        self.shared.targets = self.targets = self._targets(labels)
        self.rows = Rows()

    def run(self, missing: Collection[Cell], keep_map: Callable[[str], bool], progress: Progress) -> Rows:
        """Fill the cells in `missing`; keep the first draw's map of the clips that `keep_map` asks for.

        A cell whose metric is `MAP` has no row: it asks for the map alone.
        """
        for label, method in self.subject.methods.items():
            seeds = self.subject.seeds(method)
            wanted = {seed: self._wanted(label, seed, missing) for seed in seeds}
            lacks_map = any(Cell(clip, label, MAP, seeds[0]) in missing for clip in self.batch.ids)
            if lacks_map or any(wanted.values()):  # every draw again, so that the cost is that of all draws
                for seed, metrics in wanted.items():
                    explained = self._run_draw(label, seed, metrics, missing, progress)
                    if seed == seeds[0]:
                        self._keep(label, explained, keep_map)
        self.rows.costs = self.ledger.rows()
        return self.rows

    def _run_draw(
        self, label: str, seed: int, metrics: Sequence[str], missing: Collection[Cell], progress: Progress
    ) -> Explained:
        progress(label, "map")
        explained = self.explain(label, seed)
        if metrics:
            self._score(label, seed, explained, metrics, missing, progress)
        return explained

    def _targets(self, labels: Tensor) -> Tensor:
        if self.subject.target == "predicted":
            return self.predictions.clone()
        if self.subject.target == "label":
            return torch.where(labels < 0, self.predictions, labels)
        return torch.full_like(labels, self.subject.model.classes.index(self.subject.target))

    def _wanted(self, label: str, seed: int, missing: Collection[Cell]) -> list[str]:
        """The metrics that some clip of the batch still lacks; those that explain again last, to find curves made."""
        metrics, ids = self.subject.metrics, self.batch.ids
        wanted = [name for name in metrics if any(Cell(c, label, name, seed) in missing for c in ids)]
        return sorted(wanted, key=lambda name: bool(metrics[name].explains))

    def _step(self, batch: Batch, method: str = "") -> Step:
        # Without `self`: a cycle would keep the batch until Python's collector comes by, which is after many batches.
        ledger = self.ledger
        return lambda name, clip: ledger.step(name, [batch.ids[clip]], method)

    def explain(self, label: str, seed: int) -> Explained:
        """One method's maps; after a failure clip by clip, so that only the clip at fault has none."""
        everyone = list(range(len(self.batch)))
        try:
            return Explained(self._attribute(label, seed, everyone), {})
        except NotApplicableError as error:
            return self._failed(dict.fromkeys(everyone, problem_of(error)))
        except Exception as error:
            if len(everyone) == 1:
                return self._failed({0: problem_of(error)})
        maps, problems = self._failed({}).relevance, {}
        for clip in everyone:
            try:
                maps[clip] = self._attribute(label, seed, [clip])[0]
            except Exception as error:
                problems[clip] = problem_of(error)
        return Explained(maps, problems)

    def _attribute(self, label: str, seed: int, clips: Sequence[int]) -> Tensor:
        batch = self.batch.select(clips)
        method = self.subject.methods[label]
        tubes = batch.tubes if method.needs_truth else None
        with self.ledger.step("attribution", batch.ids, label):
            seeds = self._seeds(label, batch, seed)
            return method(self.subject.model, batch.frames, self.targets[list(clips)], seeds, tubes=tubes)

    def _seeds(self, label: str, batch: Batch, seed: int, *draw: str) -> list[int] | None:
        """One seed a clip where the method draws."""
        stochastic = self.subject.methods[label].stochastic
        return [derive(seed, clip, label, *draw) for clip in batch.ids] if stochastic else None

    def _explainer(self, label: str, batch: Batch, seed: int) -> Explain:
        """The method for clips that are not the annotated ones any more, its seeds filled in."""
        method = self.subject.methods[label]

        def explain(model: VideoModel, frames: Tensor, targets: Tensor, draw: int = 0) -> Tensor:
            if method.needs_truth:
                raise NotApplicableError(SEES_THE_TRUTH)
            seeds = self._seeds(label, batch, seed, *([f"draw {draw}"] if draw else []))
            return method(model, frames, targets, seeds)

        return explain

    def _failed(self, problems: Mapping[int, Problem]) -> Explained:
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
        case = self._case(self.batch, self.shared, label, seed, explained.relevance)
        apart: dict[int, Case] = {}
        for name in wanted:
            progress(label, name)
            cells = {clip: Cell(id, label, name, seed) for clip, id in enumerate(self.batch.ids)}
            cells = {clip: cell for clip, cell in cells.items() if cell in missing}
            usable = [clip for clip in cells if clip not in explained.problems]
            results = self._measure(name, case, apart, usable, label, seed)
            for clip, cell in cells.items():
                result = explained.problems.get(clip) or results[clip]
                self.rows.scores.append(self._row(cell, clip, outcome(result)))
        self._add_curves(label, seed, case, apart, explained)

    def _case(self, batch: Batch, shared: Shared, label: str, seed: int, relevance: Tensor) -> Case:
        return Case(
            self.subject.model,
            batch,
            shared.targets,
            relevance,
            shared=shared,
            cost=self.ledger.cost(batch.ids[0], label, "attribution"),
            explain=self._explainer(label, batch, seed),
            promised_total=self.subject.methods[label].promised_total,
            step=self._step(batch, label),
        )

    def _measure(
        self, name: str, case: Case, apart: dict[int, Case], clips: Sequence[int], label: str, seed: int
    ) -> dict[int, Measurement | Problem]:
        """A measurement of one value for each of `clips`, or why there is none.

        The clips of a batch are measured together; after a failure, and where a metric explains again, apart.
        """
        if clips and not self.subject.metrics[name].explains:
            try:
                together = self._measure_together(name, case, label)
                return {clip: together[clip] for clip in clips}
            except Exception as error:
                if len(case) == 1:
                    return dict.fromkeys(clips, problem_of(error))
        results: dict[int, Measurement | Problem] = {}
        if self.subject.metrics[name].explains and self.subject.methods[label].needs_truth:
            return dict.fromkeys(clips, problem_of(NotApplicableError(SEES_THE_TRUTH)))
        for clip in clips:
            if clip not in apart:
                apart[clip] = self._alone(case, clip, label, seed)
            try:
                (results[clip],) = self._measure_together(name, apart[clip], label)
            except Exception as error:
                results[clip] = problem_of(error)
        return results

    def _measure_together(self, name: str, case: Case, label: str) -> list[Measurement]:
        with self.ledger.step(name, case.batch.ids, label):
            return _split(self.subject.metrics[name].measure(case), len(case))

    def _alone(self, case: Case, clip: int, label: str, seed: int) -> Case:
        """The case of one clip, with what is known of it already."""
        if clip not in self._apart:
            self._apart[clip] = self.shared.alone(clip, self._step(self.batch.select([clip])))
        shared = self._apart[clip]
        alone = self._case(shared.batch, shared, label, seed, case.relevance[[clip]])
        alone.computed = {spec: [curves[clip]] for spec, curves in case.computed.items()}
        return alone

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

    def _add_curves(self, label: str, seed: int, case: Case, apart: Mapping[int, Case], explained: Explained) -> None:
        for clip, clip_id in enumerate(self.batch.ids):
            if clip in explained.problems:
                continue
            found = apart[clip].computed if clip in apart else {}
            key = {"clip": clip_id, "method": label, "seed": seed}
            together = {spec: curves[clip : clip + 1] for spec, curves in case.computed.items()}
            for spec, (curve,) in (found | together).items():
                self.rows.curves += curve_rows(key, spec, curve, int(self.targets[clip]))

    def _keep(self, label: str, explained: Explained, keep_map: Callable[[str], bool]) -> None:
        for clip, clip_id in enumerate(self.batch.ids):
            if clip not in explained.problems and keep_map(clip_id):
                self.rows.maps[clip_id, label] = explained.relevance[clip].cpu()


def problem_of(error: Exception) -> Problem:
    """Status and reason of a cell that has no value because of an error."""
    if isinstance(error, NotApplicableError):
        return "not_applicable", str(error)
    return "failed", describe(error)


def _split(measurement: Measurement, n: int) -> list[Measurement]:
    values, chance, reasons = measurement.values, measurement.chance, measurement.reasons
    if values.shape != (n,) or (chance is not None and chance.shape != (n,)) or len(reasons) not in (0, n):
        shapes = f"{tuple(values.shape)}, {None if chance is None else tuple(chance.shape)} and {len(reasons)}"
        raise ValueError(f"values, chance and reasons of the metric are {shapes} for {n} clips")
    if bool(values.isinf().any()):
        raise FloatingPointError("the value of the metric is infinite")
    return [
        Measurement(values[i : i + 1], None if chance is None else chance[i : i + 1], reasons[i : i + 1])
        for i in range(n)
    ]
