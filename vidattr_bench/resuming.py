"""A training that was killed goes on from its last whole epoch: what it needs for that lies beside its output."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vidattr_bench.checkpoints import load_state
from vidattr_bench.errors import ModelError

_KEY = "vidattr_bench_training"


def resume_file(output: Path) -> Path:
    """Where a training that will write `output` keeps the state of its last epoch."""
    return output.with_name(f"{output.name}.resume")


class EpochState(pl.Callback):
    """Writes weights, optimiser, schedule and position after every epoch but the last, whole or not at all.

    Args:
        path: file to write; each epoch takes the place of the one before.
        identity: what is trained on what and how, as JSON can hold it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, identity

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in the file which training it is of."""
        checkpoint[_KEY] = json.dumps(on_hardware(self.identity, trainer), sort_keys=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        trainer.save_checkpoint(partial, weights_only=False)  # the optimiser's state too
        if trainer.is_global_zero:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self.path)


def on_hardware(identity: Mapping[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    """The identity of a training on so many devices of a kind: order, number and rounding of its steps depend on it."""
    return {**identity, "devices": f"{trainer.world_size} {trainer.strategy.root_device.type}"}


def resumable(path: Path, identity: Mapping[str, Any]) -> Path | None:
    """The file to go on from; None where there is none.

    Raises:
        ModelError: it cannot be read, or was left by a training of other settings.
    """
    if not path.exists():
        return None
    try:
        _, extras = load_state(path)
        left = json.loads(extras.get(_KEY, "{}"))
    except (ModelError, TypeError, ValueError) as error:
        raise ModelError(f"{path} cannot be continued ({error}); delete it to train from the start") from error
    wanted = json.loads(json.dumps(identity))
    names = sorted(name for name in {*left, *wanted} if left.get(name) != wanted.get(name))
    differing = [f"{name} was {left.get(name)!r} and is {wanted.get(name)!r}" for name in names]
    if differing:
        raise ModelError(
            f"{path} was left by another training: {'; '.join(differing)}. Repeat its command to go on with it, delete "
            "it to train from the start, or choose another --output"
        )
    return path
