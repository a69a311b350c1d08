"""`run --dry-run`: cells, forwards and estimated minutes of a run, without computing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from vidattr_bench.errors import DataError
from vidattr_bench.forwards import Forwards, Work
from vidattr_bench.perturbation import batch_seconds
from vidattr_bench.plan import prepare
from vidattr_bench.provenance import device_name
from vidattr_bench.runner import first_clip, forward_batch_of, owed, trainer_of
from vidattr_bench.settings import Settings
from vidattr_bench.store import Store
from vidattr_bench.streams import channels_of, of_stream


def show(settings: Settings, console: Console) -> None:
    """Print the plan of a run; raises `DataError` where no clip of it can be read."""
    plan = prepare(settings)
    device = trainer_of(settings).strategy.root_device
    model, clip = plan.model.to(device), first_clip(plan, plan.numbers())
    if clip is None:
        raise DataError(f"no clip of the split {plan.data.split_name} of {settings.dataset} can be read")
    clip = clip.to(device)
    if settings.stream:
        whole, own = clip[None], channels_of(model, settings.stream)
        model, clip = of_stream(model, settings.stream, whole), clip[own]
    size = forward_batch_of(plan, Store(plan.folder), device, plan.numbers())
    refs = plan.refs(plan.numbers())
    clips, sampled = len(refs), len(plan.sampled() & {ref.id for ref in refs})
    formula = Forwards(model, plan.methods, plan.metrics, size)
    works = {label: _of_method(formula, label, clip, clips, sampled) for label in plan.methods}
    shared = (clips - sampled) * formula.shared(False) + sampled * formula.shared(True)
    forwards = shared + sum(work.forwards for work in works.values())
    backwards = sum(work.backwards for work in works.values())
    cells = Counter(cell.method for cell in owed(plan))
    console.print(_table(works, cells, clips))
    # A backward pass takes about twice as long as a forward one.
    seconds = (forwards + 2 * backwards) * batch_seconds(model, model.normalise(clip[None])[0], size) / size
    found = "" if settings.forward_batch else " (kept in the folder or measured now; --forward-batch sets it)"
    for line in (
        f"folder: {plan.folder}",
        f"clips: {clips} in {len(plan.numbers())} batches; {len(plan.data.missing())} of the split are not on disk",
        f"cells: {cells.total()}",
        f"forward batch: {size}{found}",
        f"forwards: {forwards} ({shared} of them shared by all methods); backwards: {backwards}",
        "counted with padding, and the first clip for all: fewer where maps are constant or units differ in size",
        f"estimated: {seconds / 60:.1f} minutes on {device_name(device)}",
    ):
        console.print(line, highlight=False, markup=False)


def _of_method(formula: Forwards, label: str, clip: Tensor, clips: int, sampled: int) -> Work:
    """What one method costs on all clips, of which one stands for the others."""
    each, more = (formula.of_method(label, clip, explaining) for explaining in (False, True))
    return Work(*((clips - sampled) * a + sampled * b for a, b in zip(each, more, strict=True)))


def _table(works: Mapping[str, Work], cells: Mapping[str, int], clips: int) -> Table:
    table = Table(title=f"plan: what {clips} clips cost")
    table.add_column("method")
    for name in ("cells", *Work._fields):
        table.add_column(name, justify="right")
    for label, work in works.items():
        table.add_row(escape(label), str(cells[label]), *map(str, work))
    return table
