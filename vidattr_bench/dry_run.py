"""`run --dry-run`: cells, forwards and estimated minutes of a run, without computing it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from vidattr_bench import perturbation
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.evaluation import curve_specs
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.plan import prepare
from vidattr_bench.settings import Settings
from vidattr_bench.units import regular_units


class Work(NamedTuple):
    """What one method owes on one clip."""

    cells: int
    forwards: int
    backwards: int


def show(settings: Settings, console: Console) -> None:
    """Print the plan of a run."""
    plan = prepare(settings)
    clips = len(plan.refs(plan.numbers()))
    shape = (plan.data.clip_input.length, *plan.data.clip_input.size)
    clip = plan.data.load(plan.refs(plan.numbers())[0]).frames
    works = {label: per_clip(method, plan.metrics, plan.model, clip) for label, method in plan.methods.items()}
    shared = 1 + len({spec.substrate for spec in curve_specs(plan.metrics)})
    forwards = clips * (shared + sum(work.forwards for work in works.values()))
    backwards = clips * sum(work.backwards for work in works.values())
    console.print(_table(works, clips))
    seconds = forwards * time_forward(plan.model, shape)
    for line in (
        f"folder: {plan.folder}",
        f"clips: {clips} in {len(plan.numbers())} batches; {len(plan.data.missing())} of the split are not on disk",
        f"cells: {clips * sum(work.cells for work in works.values())}",
        f"forwards: {forwards} ({shared} a clip shared by all methods); backwards: {backwards}",
        f"estimated: {(seconds + 2 * seconds * backwards / max(forwards, 1)) / 60:.1f} minutes on this CPU",
    ):
        console.print(line, highlight=False, markup=False)


def per_clip(method: AttributionMethod, metrics: Mapping[str, Metric], model: VideoModel, clip: Tensor) -> Work:
    """Cells, forwards and backwards of one method on one clip (C, T, H, W), without padded tails."""
    cells = sum(metric.family != "cost" for metric in metrics.values())
    try:
        forwards, backwards = method.cost(model, clip)
    except NotApplicableError:
        return Work(method.draws * cells, 0, 0)
    _, t, h, w = clip.shape
    curves = sum(
        perturbation.planned_forwards(spec, regular_units(spec.unit, t, h, w)) for spec in curve_specs(metrics)
    )
    return Work(method.draws * cells, method.draws * (forwards + curves), method.draws * backwards)


def time_forward(model: VideoModel, shape: tuple[int, int, int]) -> float:
    """Seconds a clip of a forward of four clips, the best of three."""
    x = torch.zeros(4, 3, *shape)
    best = float("inf")
    with torch.no_grad():
        for _ in range(3):
            began = time.perf_counter()
            model(x)
            best = min(best, time.perf_counter() - began)
    return best / len(x)


def _table(works: Mapping[str, Work], clips: int) -> Table:
    table = Table(title=f"plan: what {clips} clips cost")
    table.add_column("method")
    for name in Work._fields:
        table.add_column(name, justify="right")
    for label, work in works.items():
        table.add_row(escape(label), *(str(clips * value) for value in work))
    return table
