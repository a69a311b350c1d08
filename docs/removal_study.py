"""Does the removal itself mislead? Maps scored by other networks too, one of them trained on clips with parts removed.

    python docs/removal_study.py     # a file for each pair of networks, beside the page; continues where it was
    python docs/removal_tables.py    # the tables of docs/does_removal_mislead.md, from these files

Everything is a function of the shipped weights and of seed 0.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import vidattr_bench as vb
from vidattr_bench.clip import collate
from vidattr_bench.datasets._planted_verification import DILATION, dilate
from vidattr_bench.randomness import derive, generator
from vidattr_bench.shared import Shared
from vidattr_bench.substrates import bind
from vidattr_bench.units import regular_units

RESULTS = Path(__file__).with_name("does_removal_mislead")
MAPS = Path(tempfile.gettempdir()) / "removal_study" / "maps"

NETWORKS = {"0": "tiny3d", "1": "tiny3d:seed=1", "2": "tiny3d:seed=2", "twin": "tiny3d:masked=True"}
# (whose maps, whose curves)
PASSES = (("0", "0"), ("0", "twin"), ("0", "1"), ("1", "1"), ("2", "2"))
METHODS = (
    *("gradient", "input_x_gradient", "integrated_gradients", "blur_integrated_gradients:steps=50"),
    *("guided_backprop", "deconvnet", "grad_cam", "layer_cam:back=1", "excitation_backprop"),
    *("lrp", "lrp:composite=epsilon_alpha2_beta1", "occlusion:frame_stride=4", "rise:masks=300"),
)
CONTROLS = ("oracle", "centre", "edges", "frame_difference", "random")
STEPS = 8
SRG = {"blur3d": f"srg:steps={STEPS}", "freeze": f"srg:steps={STEPS},substrate=freeze"}
FORWARD_BATCH = 14


@cache
def network(name: str) -> vb.VideoModel:
    """A shipped network by its short name."""
    model: vb.VideoModel = vb.create("models", NETWORKS[name]).build()
    return model


@cache
def clips() -> list[vb.Batch]:
    """The 40 test clips, four a batch."""
    module = vb.create("datasets", "planted_actions")
    loaded = [module.load(ref) for ref in module.refs()]
    return [collate(loaded[i : i + 4]) for i in range(0, len(loaded), 4)]


def maps_of(name: str, spec: str) -> list[Tensor]:
    """The maps (N, T, H, W) of a method on a network, a batch each; kept on disk between calls."""
    path = MAPS / f"{name} {spec}.npy"
    if not path.exists():
        method, found = vb.create("methods", spec), []
        for batch in clips():
            seeds = [derive(0, clip, spec) for clip in batch.ids] if method.stochastic else None
            tubes = batch.tubes if method.needs_truth else None
            found.append(method(network(name), batch.frames, batch.labels, seeds, tubes=tubes))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, torch.cat(found).numpy())
    return list(torch.from_numpy(np.load(path)).split([len(batch) for batch in clips()]))


@cache
def shared(name: str, number: int) -> Shared:
    """What all methods share on a batch when a network's curves score them."""
    batch = clips()[number]
    return Shared(network(name), batch, batch.labels, forward_batch=FORWARD_BATCH)


def scores_of(explained: str, scorer: str, spec: str) -> pd.DataFrame:
    """SRG and roc_auc of every clip for the maps of a method on one network, with the curves of another."""
    metrics = {**SRG, "roc_auc": "roc_auc"} if explained == scorer else SRG
    rows = []
    for number, (batch, relevance) in enumerate(zip(clips(), maps_of(explained, spec), strict=True)):
        case = vb.Case(network(scorer), batch, batch.labels, relevance, shared=shared(scorer, number))
        values = {name: vb.create("metrics", metric)(case).tolist() for name, metric in metrics.items()}
        rows.append(pd.DataFrame({"clip": batch.ids, **values}))
    return pd.concat(rows).round(6)


def score() -> None:
    """docs/does_removal_mislead/maps-A-curves-B.csv: a method's scores are kept as soon as they are there."""
    for explained, scorer in PASSES:
        path = RESULTS / f"maps-{explained}-curves-{scorer}.csv"
        known = pd.read_csv(path) if path.exists() else pd.DataFrame({"method": []})
        for spec in (*METHODS, *CONTROLS):
            if spec not in set(known["method"]):
                found = scores_of(explained, scorer, spec)
                known = pd.concat([known, found.assign(method=spec)[["method", *found.columns]]])
                RESULTS.mkdir(parents=True, exist_ok=True)
                known.to_csv(path, index=False)
                print(explained, scorer, spec, found.drop(columns="clip").mean().round(3).to_dict(), flush=True)


def removals(batch: vb.Batch, clip: int) -> dict[str, Tensor]:
    """What is taken away from a clip: all but its dilated tube, the dilated tube, or half of the tubelets at random."""
    _, t, h, w = batch.frames[clip].shape
    frames, heights = DILATION
    tube = dilate(batch.tubes[clip], frames, round(heights * h))
    units = regular_units("tubelet", t, h, w)
    half = torch.rand(len(units.sizes), generator=generator(0, batch.ids[clip], "half")).argsort() * 2 < len(
        units.sizes
    )
    return {"all outside the tube": ~tube, "the tube": tube, "half of the tubelets": half[units.labels]}


def answers(model: vb.VideoModel, batch: vb.Batch, clip: int) -> dict[tuple[str, str], bool]:
    """Whether a clip's label is still predicted, by what is removed and what stands in."""
    x = model.normalise(batch.frames[[clip]])[0]
    masks = removals(batch, clip)
    filled = {
        (what, substrate): bind(substrate, x, model, 0, batch.ids[clip])(mask[None].to(x), torch.empty_like(x)[None])[0]
        for substrate in SRG
        for what, mask in masks.items()
    }
    with torch.no_grad():
        predicted = model.logits(torch.stack([x, *filled.values()])).argmax(1)
    return dict(zip([("nothing", "-"), *filled], (predicted == batch.labels[clip]).tolist(), strict=True))


def rates(clips: int = 400) -> None:
    """docs/does_removal_mislead/rates.csv: of 400 test clips, on how many the label is still predicted."""
    module = vb.create("datasets", f"planted_actions:clips={clips}")
    rows = []
    for ref in module.refs():
        batch = collate([module.load(ref)])
        for name in NETWORKS:
            kept = answers(network(name), batch, 0)
            rows += [
                {"network": name, "removed": what, "substrate": by, "kept": yes} for (what, by), yes in kept.items()
            ]
    counts = pd.DataFrame(rows).groupby(["removed", "substrate", "network"], sort=False)["kept"].agg(["sum", "count"])
    counts.reset_index().to_csv(RESULTS / "rates.csv", index=False)


if __name__ == "__main__":
    score()
    if not (RESULTS / "rates.csv").exists():
        rates()
