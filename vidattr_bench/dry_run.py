"""`run --dry-run`: cells, forwards and estimated minutes of a run, without computing it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from vidattr_bench.forwards import Forwards, Work
from vidattr_bench.model import VideoModel
from vidattr_bench.plan import prepare
from vidattr_bench.runner import owed
from vidattr_bench.settings import Settings


def show(settings: Settings, console: Console) -> None:
    """Print the plan of a run."""
    plan = prepare(settings)
    refs = plan.refs(plan.numbers())
    clips, sampled = len(refs), len(plan.sampled() & {ref.id for ref in refs})
    formula = Forwards(plan.model, plan.methods, plan.metrics, settings.forward_batch or 1)
    clip = plan.data.load(refs[0]).frames
    works = {label: _of_method(formula, label, clip, clips, sampled) for label in plan.methods}
    shared = (clips - sampled) * formula.shared(False) + sampled * formula.shared(True)
    forwards = shared + sum(work.forwards for work in works.values())
    backwards = sum(work.backwards for work in works.values())
    cells = Counter(cell.method for cell in owed(plan))
    console.print(_table(works, cells, clips))
    seconds = forwards * time_forward(plan.model, (plan.data.clip_input.length, *plan.data.clip_input.size))
    for line in (
        f"folder: {plan.folder}",
        f"clips: {clips} in {len(plan.numbers())} batches; {len(plan.data.missing())} of the split are not on disk",
        f"cells: {cells.total()}",
        f"forwards: {forwards} ({shared} of them shared by all methods); backwards: {backwards}",
        f"estimated: {(seconds + 2 * seconds * backwards / max(forwards, 1)) / 60:.1f} minutes on this CPU",
    ):
        console.print(line, highlight=False, markup=False)


def _of_method(formula: Forwards, label: str, clip: Tensor, clips: int, sampled: int) -> Work:
    """What one method costs on all clips, of which one stands for the others."""
    each, more = (formula.of_method(label, clip, explaining) for explaining in (False, True))
    return Work(*((clips - sampled) * a + sampled * b for a, b in zip(each, more, strict=True)))


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


def _table(works: Mapping[str, Work], cells: Mapping[str, int], clips: int) -> Table:
    table = Table(title=f"plan: what {clips} clips cost")
    table.add_column("method")
    for name in ("cells", *Work._fields):
        table.add_column(name, justify="right")
    for label, work in works.items():
        table.add_row(escape(label), str(cells[label]), *map(str, work))
    return table
