"""The engine of the `train` command: any network of the zoo on any data set, by Lightning's `Trainer.fit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from vidattr_bench.augmentation import MaskAugmentation, normalisation
from vidattr_bench.checkpoints import save_checkpoint
from vidattr_bench.datamodule import ClipDataModule, Labelled, LabelledClips
from vidattr_bench.errors import DataError, ModelError
from vidattr_bench.finetuning import Start, fine_tunes, starting_point
from vidattr_bench.held_out import Shared, shared_with_training
from vidattr_bench.model import ModelEntry
from vidattr_bench.plugins import label
from vidattr_bench.randomness import derive
from vidattr_bench.resuming import EpochState, on_hardware, resumable, resume_file
from vidattr_bench.skipping import Skipped

_LR = 4e-3


def train(
    dataset: ClipDataModule,
    model: ModelEntry,
    output: Path,
    *,
    epochs: int = 5,
    lr: float | None = None,
    batch_size: int = 16,
    seed: int = 0,
    mask_augment: float = 0.0,
    workers: int = 0,
    accelerator: str = "auto",
    devices: int | str = "auto",
    precision: Any = "32-true",
    progress: bool = True,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Train `model` on the train part of `dataset` and write a checkpoint that its entry can load.

    It starts from scratch, or from the checkpoint that the model's spec names, whose classifier is drawn anew where the
    classes are others. The last weights are kept: nothing is chosen by the accuracy, which is measured once, at the
    end, on the data set's own part. On a CPU, equal arguments and equal numbers of threads give equal weights, killed
    and begun again or not: the state after every epoch lies beside `output`, as `<output>.resume`, until that is
    written. Devices take turns in one order of the clips, so that W of them step on the clips of one with W times the
    `batch_size`. Of a clip that cannot be read the one after it in the list takes the place, in every epoch; a held-out
    one is left out of the accuracy. Both are named, and counted in the record.

    Args:
        dataset: data module whose own `part` is held out.
        model: entry whose network is trained.
        output: safetensors file to write.
        epochs: passes over the train part.
        lr: peak of the one-cycle schedule of AdamW; by default 4e-3, and a tenth of that from a checkpoint.
        batch_size: clips per step on each device.
        seed: of the initial weights, of the order of clips and of what is removed.
        mask_augment: share of the clips of which random tubelets are removed; see `MaskAugmentation`.
        workers: processes that decode or render.
        accelerator: as Lightning's Trainer takes it.
        devices: as Lightning's Trainer takes it.
        precision: as Lightning's Trainer takes it.
        progress: show a progress bar.
        say: told what is taken from a checkpoint, how many held-out clips come from sources that are trained on, from
            which epoch the training goes on, and which clips cannot be read.

    Returns:
        The record that the checkpoint carries: what was trained on what and how, loss, held_out clips, accuracy.

    Raises:
        DataError: the data set names no classes, has no clips or none that can be read, holds out fewer than there are
            devices, or some that are trained on; or `mask_augment` is no share.
        ModelError: the network does not take the data set's clips; the loss is no longer finite; the checkpoint to
            start from does not fit; or what lies beside `output` was left by another training.
        KeyboardInterrupt: the user stopped it.
    """
    if len(dataset.classes) < 2:
        name = label("datasets", dataset)
        raise DataError(f"{name} names {len(dataset.classes)} classes; training needs two or more")
    rate = lr if lr is not None else _LR / 10 if fine_tunes(model) else _LR
    settings: dict[str, Any] = {"epochs": epochs, "lr": rate, "batch_size": batch_size, "seed": seed}
    settings["precision"] = str(precision)
    if mask_augment:
        settings["mask_augment"] = mask_augment
    augmentation, left = MaskAugmentation(mask_augment), resume_file(output)
    with _repeatable(seed):
        start = starting_point(model, dataset.classes)
        dataset.adapt(start.input)
        dataset.batch_size, dataset.seed, dataset.workers = batch_size, seed, workers
        shared = _held_out(dataset)
        identity = _identity(dataset, model, settings, start, shared)
        stamps = [part.fingerprint() for part in (dataset.at("train"), dataset)]
        resumed = {**identity, "data": stamps, "classes": list(dataset.classes)}
        classifier = _Classifier(start, len(dataset.classes), rate, seed, augmentation)
        classifier.try_on(dataset.clip_input.shape)
        hardware = {"accelerator": accelerator, "devices": devices, "precision": precision}
        skipped = Skipped(say)
        trainer = _trainer(epochs, progress, [EpochState(left, resumed), skipped], **hardware)
        before = resumable(left, on_hardware(resumed, trainer))
        _find_readable(dataset)
        if trainer.is_global_zero:
            _announce(say, start, shared, before)
        _fit(trainer, classifier, dataset, before)
    record = _record(identity, trainer, skipped)
    if trainer.is_global_zero:
        save_checkpoint(output, classifier.net, _metadata(dataset, start, record))
        left.unlink(missing_ok=True)
    return record


def _held_out(dataset: ClipDataModule) -> Shared:
    """What the held-out clips share with those that are trained on; raises `DataError` where that is a clip."""
    shared = shared_with_training(dataset)
    if shared.clips:
        raise DataError(
            f"{label('datasets', dataset)}: {len(shared.clips)} of the clips held out are trained on too, such as "
            f"{shared.clips[0]}, and an accuracy on them says nothing; give a part and a split that hold none of them"
        )
    return shared


def _find_readable(dataset: ClipDataModule) -> None:
    """Raise `DataError` where no held-out clip can be read, which else shows after the last epoch only."""
    labelled = LabelledClips(dataset, dataset.refs(), stand_in=True)
    if len(labelled):
        try:
            labelled[0]
        except DataError as error:
            name = label("datasets", dataset)
            raise DataError(f"{name}: not one of the held-out clips can be read: {error}") from error


def _identity(
    dataset: ClipDataModule, model: ModelEntry, settings: dict[str, Any], start: Start, shared: Shared
) -> dict[str, Any]:
    """What is trained on what and how: a training that was stopped goes on only where all of it is equal."""
    # Fingerprints and hashes tell apart what lies at a path, and where that is stays here.
    names = {"dataset": label("datasets", dataset, places=False), "model": label("models", model, places=False)}
    started = {"started_from": dict(start.record)} if start.record else {}
    return {
        **names,
        "settings": settings,
        **started,
        **({"held_out_of_trained_sources": len(shared.kin)} if shared.kin else {}),
    }


def _announce(say: Callable[[str], object], start: Start, shared: Shared, before: Path | None) -> None:
    if start.note:
        say(start.note)
    if shared.kin:
        say(f"{shared}: the accuracy will be higher than on clips of other sources")
    if before is not None:
        say(f"going on from {before}, the state after the last epoch that was whole")


def _fit(trainer: pl.Trainer, classifier: _Classifier, dataset: ClipDataModule, before: Path | None) -> None:
    """Lightning's fit; raises `KeyboardInterrupt` for the exit that it makes of one."""
    try:
        trainer.fit(classifier, datamodule=dataset, ckpt_path=before, weights_only=True)
    except SystemExit as stop:
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise


def _record(identity: dict[str, Any], trainer: pl.Trainer, skipped: Skipped) -> dict[str, Any]:
    figures = {name: value.item() for name, value in trainer.callback_metrics.items()}
    settings = dict(identity["settings"])
    if not figures["held_out"]:
        raise DataError(f"{identity['dataset']}: not one of the held-out clips can be read, so there is no accuracy")
    if trainer.world_size > 1:
        settings["devices"] = trainer.world_size
    return {
        **identity,
        "settings": settings,
        "loss": figures["loss"],
        "accuracy": figures["right"] / figures["held_out"],
        "held_out": figures["held_out"],
        **({"unreadable": skipped.counts} if skipped.counts else {}),
    }


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Torch seeded, and its random state and its choice of algorithms as before afterwards."""
    strict, lenient = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=lenient)


def _trainer(epochs: int, progress: bool, callbacks: list[pl.Callback], **hardware: Any) -> pl.Trainer:
    """A trainer that measures the accuracy once, after the last epoch, and writes nothing but what callbacks do."""
    return pl.Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # it would repeat held-out clips; the data module shares clips out itself
        deterministic="warn",  # some gradients have no deterministic form on a GPU
        enable_progress_bar=progress,
        callbacks=[*callbacks, TQDMProgressBar(refresh_rate=10)] if progress else callbacks,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        **hardware,
    )


def _metadata(dataset: ClipDataModule, start: Start, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "classes": list(dataset.classes),
        "mean": start.mean,
        "std": start.std,
        "input": dataclasses.asdict(dataset.clip_input),
        "feature_layer": start.feature_layer,
        "training": record,
    }


class _Classifier(pl.LightningModule):
    """Cross-entropy on normalised clips, some with parts removed; AdamW with one cycle of the learning rate."""

    def __init__(self, start: Start, classes: int, lr: float, seed: int, augmentation: MaskAugmentation) -> None:
        super().__init__()
        self.net, self.lr, self.seed, self.augmentation = start.net, lr, seed, augmentation
        self.mean, self.std, self.classes = start.mean, start.std, classes

    def forward(self, batch: Labelled, augmented: bool = False) -> Tensor:
        frames, _, ids = batch
        stage = normalisation(self.mean, self.std).to(frames.device)
        x = stage.normalise(frames)
        if augmented and self.augmentation.share:
            x = self.augmentation(x, stage, ids, self.seed, self.current_epoch)
        logits: Tensor = self.net(x)
        if logits.shape != (len(x), self.classes):
            raise ModelError(f"the network gives {tuple(logits.shape)} for {len(x)} clips of {self.classes} classes")
        return logits

    def try_on(self, clip: tuple[int, ...]) -> None:
        """Send a clip of zeros, (C, T, H, W), through; raises `ModelError` where the network does not take it."""
        modes = [(module, module.training) for module in self.modules()]
        try:
            with torch.no_grad():
                self.eval()((torch.zeros(1, *clip), torch.zeros(1), [""]))
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"the network does not take clips of shape {(1, *clip)}: {error}") from error
        finally:
            for module, mode in modes:
                module.training = mode

    def training_step(self, batch: Labelled, index: int) -> Tensor:
        labels = batch[1]
        # Dropout as a function of the step, so that a training that was killed repeats it.
        torch.manual_seed(derive(self.seed, "step", str(self.global_step), str(self.global_rank)))
        loss = nn.functional.cross_entropy(self(batch, augmented=True), labels)
        if not torch.isfinite(loss):
            raise ModelError(f"the loss is {loss.item()} at step {self.global_step}; train with a lower lr")
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Labelled, index: int) -> None:
        labels = batch[1]
        right = (self(batch).argmax(1) == labels).sum() if len(labels) else labels.sum()
        # Sums: Lightning's mean over devices is off where they have unequal numbers of clips.
        for name, count in (("right", right.float()), ("held_out", float(len(labels)))):
            self.log(name, count, reduce_fx="sum", batch_size=max(len(labels), 1), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.lr, total_steps=steps, pct_start=0.15, div_factor=5)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
