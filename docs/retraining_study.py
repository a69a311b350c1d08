"""KAR and ROAR on planted clips: what can a network still learn with the most relevant tubelets gone, or alone left?

    python docs/retraining_study.py           # trains what retraining.csv of this page still lacks, a row each
    python docs/retraining_study.py --dry-run # says what that is

Hooker et al. 2019, arXiv 1806.10758. Removed tubelets are grey, the clip's colour at 0 after normalisation. Rows are
done in the order of their importance and are a function of (method, mode, share, seed).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import vidattr_bench as vb
from vidattr_bench.clip import Clip, collate
from vidattr_bench.datasets.planted_actions import PlantedActions
from vidattr_bench.models.tiny3d import Tiny3D
from vidattr_bench.randomness import derive
from vidattr_bench.training import train
from vidattr_bench.units import regular_units, removal_order

RESULTS = Path(__file__).with_name("does_removal_mislead") / "retraining.csv"
WORK = Path(tempfile.gettempdir()) / "removal_study"

EXPLAINED = "tiny3d"
METHODS = ("oracle", "random", "grad_cam", "gradient", "frame_difference")
SHARES = (0.1, 0.3, 0.5, 0.9)
SEEDS = (1, 2)
CLIPS = {"train": 2000, "test": 400}
EPOCHS, LR, BATCH = 2, 2e-3, 16
GREY = Tiny3D.mean[0]


@dataclasses.dataclass(frozen=True)
class Condition:
    """One training.

    Attributes:
        mode: roar (the most relevant share is removed), kar (all else is), mask (white where roar removes, else grey:
            what the removed region's shape alone tells), or clean.
        method: whose order; its maps are those of tiny3d for the clip's label.
        share: of the tubelets.
        seed: of the training; it starts from the weights of tiny3d:seed=SEED, another network than the one explained.
    """

    mode: str
    method: str
    share: float
    seed: int


def conditions() -> list[Condition]:
    """All trainings, the most important first."""
    found = [Condition("clean", "-", 0.0, SEEDS[0])]
    for seed, share in itertools.product(SEEDS, SHARES):
        roar = [Condition("roar", method, share, seed) for method in METHODS]
        kar = [dataclasses.replace(condition, mode="kar") for condition in roar]
        mask = [dataclasses.replace(condition, mode="mask") for condition in roar if condition.method != "random"]
        found += [*roar, *mask, *kar]
    return found


@dataclasses.dataclass(eq=False, kw_only=True)
class ReducedActions(PlantedActions):
    """Planted actions with a part of every clip removed.

    Attributes:
        mode, method, share: as `Condition` has them.
    """

    mode: str = "clean"
    method: str = "-"
    share: float = 0.0

    def load(self, ref: Any) -> Clip:
        """The clip, grey where removed."""
        index = int(ref.id.rpartition("-")[2])
        frames = torch.from_numpy(rendered(self.part)[index].copy())
        if self.mode != "clean":
            frames = _shown(frames, self._first(index), self.mode)
        return Clip(ref.id, ref.group, frames, ref.label, (), torch.ones(len(frames[0]), dtype=torch.bool))

    def _first(self, index: int) -> Tensor:
        """The most relevant share of the tubelets, bool (T, H, W)."""
        order = torch.from_numpy(orders(self.part, self.method)[index].astype(np.int64))
        chosen = torch.zeros(len(order), dtype=torch.bool)
        chosen[order[: round(self.share * len(order))]] = True
        return chosen[regular_units("tubelet", *_size()).labels]


@dataclasses.dataclass(frozen=True)
class Started(Tiny3D):
    """Tiny3D that goes on from the shipped weights of its seed."""

    def network(self, classes: int) -> nn.Module:
        """The trained network, ready to be trained again."""
        net = Tiny3D(seed=self.seed).build().net
        return net.train().requires_grad_(True).to(memory_format=torch.contiguous_format)


def _shown(frames: Tensor, first: Tensor, mode: str) -> Tensor:
    """What a mode leaves of a clip whose most relevant voxels are `first`."""
    grey = torch.full_like(frames, GREY)
    if mode == "mask":
        return torch.where(first, torch.ones_like(frames), grey)
    return torch.where(first if mode == "roar" else ~first, grey, frames)


def _size() -> tuple[int, int, int]:
    return (PlantedActions.native.length, *PlantedActions.native.size)


@cache
def source(part: str) -> PlantedActions:
    """The untouched clips."""
    return PlantedActions(part=part, clips=CLIPS["test"], train_clips=CLIPS["train"])


@cache
def rendered(part: str) -> np.ndarray[Any, Any]:
    """Frames (N, C, T, H, W) of a part, rendered once."""
    path = WORK / f"{part}-{CLIPS[part]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = np.stack([source(part).load(ref).frames.numpy() for ref in source(part).refs()])
        np.save(path.with_suffix(".partial.npy"), frames)
        path.with_suffix(".partial.npy").rename(path)
    found: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    return found


@cache
def orders(part: str, method: str) -> np.ndarray[Any, Any]:
    """Tubelets (N, U) of every clip from most to least relevant, as SRG removes them."""
    path = WORK / f"{part}-{CLIPS[part]} {method}.npy"
    if not path.exists():
        model, explain = vb.create("models", EXPLAINED).build(), vb.create("methods", method)
        refs = source(part).refs()
        rows = [_order(model, explain, method, collate([source(part).load(ref)])) for ref in refs]
        np.save(path, np.stack(rows).astype(np.int16))
    found: np.ndarray[Any, Any] = np.load(path)
    return found


def _order(model: vb.VideoModel, explain: vb.AttributionMethod, name: str, batch: vb.Batch) -> np.ndarray[Any, Any]:
    (clip,) = batch.ids
    tubes = batch.tubes if explain.needs_truth else None
    seeds = [derive(0, clip, name)] if explain.stochastic else None
    relevance = explain(model, batch.frames, batch.labels, seeds, tubes=tubes)[0]
    means = regular_units("tubelet", *_size()).means(relevance)
    return removal_order(means, 0, clip, "tubelet").numpy()


def accuracy(condition: Condition) -> dict[str, Any]:
    """Train under a condition and measure the accuracy on test clips changed alike."""
    fields = {name: getattr(condition, name) for name in ("mode", "method", "share")}
    data = ReducedActions(clips=CLIPS["test"], train_clips=CLIPS["train"], **fields)
    settings: dict[str, Any] = {"epochs": EPOCHS, "lr": LR, "batch_size": BATCH, "seed": condition.seed}
    began = time.process_time()
    quiet = {"accelerator": "cpu", "devices": 1, "progress": False}
    record = train(data, Started(seed=condition.seed), WORK / "last.safetensors", **settings, **quiet)
    spent = round(time.process_time() - began, 1)
    return {**dataclasses.asdict(condition), "accuracy": round(record["accuracy"], 6), "cpu_seconds": spent}


def main() -> None:
    """Train under the conditions that have no row yet; every row is kept as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print what is missing, train nothing")
    dry = parser.parse_args().dry_run
    known = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["mode", "method", "share", "seed"])
    done = set(known[["mode", "method", "share", "seed"]].itertuples(index=False, name=None))
    for condition in conditions():
        if dataclasses.astuple(condition) not in done:
            print(condition, flush=True)
            if not dry:
                known = pd.concat([known, pd.DataFrame([accuracy(condition)])], ignore_index=True)
                RESULTS.parent.mkdir(parents=True, exist_ok=True)
                known.to_csv(RESULTS, index=False)


if __name__ == "__main__":
    main()
