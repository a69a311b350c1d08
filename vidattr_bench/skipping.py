"""Clips that a training cannot read: named after the epoch that found them, and counted for the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytorch_lightning as pl
from torch import Tensor

from vidattr_bench.datamodule import LabelledClips
from vidattr_bench.errors import DataError


class Skipped(pl.Callback):
    """Which clips could not be read so far, on any device.

    Args:
        say: told of each of them once.

    Attributes:
        trained_on: ids of those that other clips stood in for.
        held_out: ids of those on which the accuracy was not measured.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.trained_on: tuple[str, ...] = ()
        self.held_out: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of both; empty where every clip was read."""
        found = {"trained_on": len(self.trained_on), "held_out": len(self.held_out)}
        return found if any(found.values()) else {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look which clips of the training part could not be read."""
        assert trainer.train_dataloader is not None
        remedy = "the clip after it in the list stands in for it"
        self.trained_on = self._look(trainer, pl_module, trainer.train_dataloader.dataset, self.trained_on, remedy)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look which clips of the held-out part could not be read."""
        assert trainer.val_dataloaders is not None
        remedy = "the accuracy is that on the others"
        self.held_out = self._look(trainer, pl_module, trainer.val_dataloaders.dataset, self.held_out, remedy)

    def _look(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        clips: LabelledClips,
        known: tuple[str, ...],
        then: str,
    ) -> tuple[str, ...]:
        gathered = cast(Tensor, pl_module.all_gather(clips.unreadable.to(pl_module.device, copy=True)))
        marks = gathered.reshape(-1, len(clips)).any(0).tolist()
        found = [ref for ref, marked in zip(clips.refs, marks, strict=True) if marked]
        for ref in found if trainer.is_global_zero else ():
            if ref.id not in known:
                self.say(f"{ref.id} cannot be read, {then}: {_reason(clips, ref.id)}")
        return tuple(ref.id for ref in found)


def _reason(clips: LabelledClips, id: str) -> str:
    """Why it cannot be read; the process that tried may have been another."""
    ref = next(ref for ref in clips.refs if ref.id == id)
    try:
        clips.module.load(ref)
    except DataError as error:
        return str(error)
    return "it could be read just now"
