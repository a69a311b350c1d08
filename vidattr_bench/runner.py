"""The main job: plan, explain and score under Lightning's Trainer, commit batch by batch, and show what came out."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from vidattr_bench import perturbation, plugins, provenance, report
from vidattr_bench.arrays import Arrays
from vidattr_bench.datamodule import Work
from vidattr_bench.errors import RunError
from vidattr_bench.evaluation import evaluate
from vidattr_bench.garbage import new_alone
from vidattr_bench.plan import Plan, count_logits, prepare
from vidattr_bench.progress import RunProgress
from vidattr_bench.rows import Rows, Subject, unreadable_rows
from vidattr_bench.settings import Settings, from_mapping
from vidattr_bench.store import Cell, Store, read_yaml


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
        folder: where it lies.
        failed: cells that failed or are missing, and maps to keep that are.
    """

    folder: Path
    failed: int = 0

    def scores(self) -> pd.DataFrame:
        """One row a (clip, method, metric, seed)."""
        return Store(self.folder).scores()

    def costs(self) -> pd.DataFrame:
        """One row a (clip, method, step)."""
        return Store(self.folder).costs()

    def curves(self) -> pd.DataFrame:
        """One row a point of a perturbation curve."""
        return Store(self.folder).curves()

    def summary(self) -> pd.DataFrame:
        """One row a (method, metric, subset) with mean, interval and chance."""
        return report.Results(Store(self.folder)).summary


class Explainer(LightningModule):
    """Explains and scores one batch of the plan a step, and commits its rows.

    Args:
        subject: what the run asks.
        plan: the run's plan.
        store: where rows go.
        arrays: where maps go.
        missing: the cells still owed.
        progress: told of every cell and finished batch.
    """

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        store: Store,
        arrays: Arrays,
        missing: Collection[Cell],
        progress: RunProgress,
    ) -> None:
        super().__init__()
        self.model = subject.model
        self.subject, self.plan, self.progress = subject, plan, progress
        self.store, self.arrays, self.missing = store, arrays, missing
        self.parent = os.getppid()

    def setup(self, stage: str) -> None:
        """Take from rank 0 what all ranks must agree on: the forward batch, and the batches to share out."""
        shared = (self.subject.forward_batch, self.plan.data.pending)
        forward_batch, self.plan.data.pending = self.trainer.strategy.broadcast(shared)
        self.subject = dataclasses.replace(self.subject, forward_batch=forward_batch)

    def predict_step(self, work: Work, batch_idx: int) -> None:
        """Rows of one batch, committed before the next begins."""
        self._stop_if_told()
        rows = Rows()
        if work.batch is not None:
            with torch.inference_mode(False), torch.no_grad():
                rows = evaluate(self.subject, work.batch, self.missing, self.arrays.keeps, self._begin_cell)
            self.arrays.write(work.batch, rows.maps)
        groups = {ref.id: ref.group for ref in self.plan.data.plan[work.number]}
        for clip in work.unreadable:
            rows.scores += unreadable_rows(self.subject, clip, groups[clip.id], self.missing)
        if rows.scores:  # none where maps alone were missing, whose costs are booked already
            self.store.write(work.number, rows.tables())
        self.progress.advance(len(groups))
        del rows
        gc.collect()

    def _begin_cell(self, method: str, metric: str) -> None:
        self._stop_if_told()
        self.progress.cell(method, metric)

    def _stop_if_told(self) -> None:
        """Stop after SIGTERM, which Lightning notes but does not act on here, and where rank 0 has died."""
        orphaned = self.trainer.global_rank > 0 and os.getppid() != self.parent
        if self.trainer.received_sigterm or orphaned:
            raise KeyboardInterrupt


def run(config: Path | None = None, **options: Any) -> Run:
    """Run the benchmark from Python: options as those of `Settings`; lists stand for tuples.

    Raises:
        UserError: bad usage or bad input, before anything has been computed.
    """
    given = read_yaml(config) if config is not None else {}
    return execute(from_mapping({**given, **options}, "run()"), Console(stderr=True))


def execute(settings: Settings, console: Console) -> Run:
    """Do what the settings ask, resuming what an earlier process left in the folder."""
    plan = prepare(settings)
    trainer = trainer_of(settings)
    store = Store(plan.folder)
    store.create()
    if not trainer.is_global_zero:  # rank 0 of the job holds the lock
        return _execute(trainer, plan, store, Console(quiet=True))
    with store.locked():
        return _execute(trainer, plan, store, console)


def _execute(trainer: Trainer, plan: Plan, store: Store, console: Console) -> Run:
    leads, device = trainer.is_global_zero, trainer.strategy.root_device
    provenance.check_resumable(plan, store, device)
    for path in store.set_aside_corrupt() if leads else []:
        console.print(f"set aside, to be computed anew: {path}", highlight=False, markup=False)
    arrays = Arrays(subject_of(plan, 1), plan, store)
    wanted = owed(plan)
    missing = (wanted - store.finished()) | arrays.missing_maps()
    unfinished = {cell.clip for cell in missing} | arrays.undrawn()
    plan.data.pending = [n for n in plan.numbers() if any(ref.id in unfinished for ref in plan.refs([n]))]
    if plan.data.pending:
        count_logits(plan.model, plan.data)
        subject = subject_of(plan, forward_batch_of(plan, store, device, plan.data.pending) if leads else 1)
        if leads:
            provenance.record(plan, store, device, subject.forward_batch)
        share = plan.refs(plan.data.pending[trainer.global_rank :: trainer.world_size])
        with RunProgress(len(share), console) as progress:
            _predict(trainer, Explainer(subject, plan, store, arrays, missing, progress))
    if not leads:
        return Run(store.folder)
    unkept = arrays.missing_maps()
    if unkept:
        console.print(f"maps that could not be made again: {len(unkept)}", style="red", highlight=False)
    # A rank that died wrote none of its cells, and the job may still end well.
    failed = len(wanted - store.finished()) + len(unkept)
    report.finish(store, console)
    return Run(store.folder, failed)


def owed(plan: Plan) -> set[Cell]:
    """Every cell of this shard."""
    subject = subject_of(plan, 1)
    return {cell for ref in plan.refs(plan.numbers()) for cell in subject.cells(ref.id)}


def subject_of(plan: Plan, forward_batch: int) -> Subject:
    """What a plan asks of every clip."""
    constants = {
        "dataset": plugins.label("datasets", plan.data, places=False),
        "split": plan.data.split_name,
        "model": plan.model_name,
        "weights": plan.facts["weights"],
    }
    settings = plan.settings
    return Subject(
        plan.model,
        plan.methods,
        plan.metrics,
        plan.to_model,
        settings.target,
        settings.seed,
        forward_batch,
        constants,
        plan.sampled(),
        plan.donor,
        settings.stream,
    )


def trainer_of(settings: Settings) -> Trainer:
    """Lightning's Trainer for the hardware that the settings name; raises `RunError` where it cannot be had."""
    _quiet_lightning()
    devices = int(settings.devices) if settings.devices.lstrip("-").isdigit() else settings.devices
    try:
        return Trainer(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=settings.num_nodes,
            strategy=settings.strategy,
            precision=settings.precision,  # type: ignore[arg-type]
            inference_mode=False,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except Exception as error:
        raise RunError(f"Lightning cannot set up this run: {error}") from error


def _predict(trainer: Trainer, explainer: Explainer) -> None:
    torch.backends.cudnn.allow_tf32 = False
    try:
        with new_alone():
            trainer.predict(explainer, datamodule=explainer.plan.data, return_predictions=False)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt from error
        raise RunError(f"a plug-in ended the process by sys.exit({error.code!r}); it must raise an error") from error
    trainer.strategy.barrier()


def forward_batch_of(plan: Plan, store: Store, device: torch.device, numbers: Iterable[int]) -> int:
    """Clips per forward: the option, else what the folder's rows were made with, else what is measured to be best.

    Args:
        plan: the run's plan.
        store: the run's folder, which need not exist.
        device: where the model runs.
        numbers: batches of the plan, of whose first clip that can be read copies are sent.
    """
    kept = plan.settings.forward_batch or store.provenance().get("forward_batch")
    if kept is not None:
        return int(kept)
    clip = first_clip(plan, numbers)
    if clip is None:
        return 1
    model = plan.model.to(device)
    return perturbation.measure_forward_batch(model, model.normalise(clip[None].to(device))[0])


def first_clip(plan: Plan, numbers: Iterable[int]) -> Tensor | None:
    """The frames (C, T, H, W) of the first clip of some batches that can be read, None where none can."""
    works = (plan.data.read(n, plan.data.plan[n]) for n in numbers)
    return next((work.batch.frames[0] for work in works if work.batch is not None), None)


def _quiet_lightning() -> None:
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")
