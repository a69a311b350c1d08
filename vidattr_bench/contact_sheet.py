"""`sheet`: explain a few clips with every method and draw all maps of a clip on one page, without scoring them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from vidattr_bench import pictures
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import RunError, did_you_mean
from vidattr_bench.evaluation import Evaluation
from vidattr_bench.plan import Plan, count_logits, prepare
from vidattr_bench.rows import Subject
from vidattr_bench.runner import subject_of
from vidattr_bench.settings import Settings
from vidattr_bench.streams import shown
from vidattr_bench.text import printable, slug


def write(settings: Settings, clips: Sequence[str], folder: Path, console: Console) -> list[Path]:
    """Write `<clip>.png` a clip into `folder`, and what else a method illustrates; what has no map is told.

    Args:
        settings: data set, model, methods, target, seed; `limit` clips, evenly spaced, where `clips` names none.
        clips: ids of clips of the split.
        folder: where the pages go.
        console: told of every page, and of every method that gave no map.

    Raises:
        UserError: bad usage or input, or a clip that the split does not hold.
    """
    plan = prepare(settings)
    count_logits(plan.model, plan.data)
    subject = subject_of(plan, 1)
    return list(_pages(subject, plan, _chosen(plan, clips), folder, console))


def _chosen(plan: Plan, clips: Sequence[str]) -> list[ClipRef]:
    refs = {ref.id: ref for ref in (plan.data.refs() if clips else plan.refs(plan.numbers()))}
    for clip in clips:
        if clip not in refs:
            raise RunError(f"the split {plan.data.split_name} has no clip {clip!r}; {did_you_mean(clip, refs)}")
    return [refs[clip] for clip in clips] if clips else list(refs.values())


def _pages(subject: Subject, plan: Plan, refs: Sequence[ClipRef], folder: Path, console: Console) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, ref in enumerate(refs):
        work = plan.data.read(number, [ref])
        if work.batch is None:
            console.print(printable(f"{ref.id}: {work.unreadable[0].reason}"), style="red", markup=False)
            continue
        with torch.inference_mode(False), torch.no_grad():
            evaluation = Evaluation(*subject.within(work.batch))
            maps = _maps(evaluation, console)
            files = list(_illustrations(evaluation, list(maps), folder / slug(ref.id)))
        path = folder / f"{slug(ref.id)}.png"
        pixels = shown(work.batch.frames[0], subject.model.input, subject.stream).numpy()
        pictures.contact_sheet(pixels, maps, work.batch.tubes[0].numpy()).save(path)
        for file in (path, *files):
            console.print(str(file), markup=False, highlight=False)
        yield path


def _maps(evaluation: Evaluation, console: Console) -> dict[str, NDArray[np.float32]]:
    """The map of every method that has one; the others are told."""
    maps = {}
    for label, method in evaluation.subject.methods.items():
        explained = evaluation.explain(label, evaluation.subject.seeds(method)[0])
        if 0 in explained.problems:
            reason = ": ".join(explained.problems[0])
            console.print(printable(f"{evaluation.batch.ids[0]}: {label}: {reason}"), markup=False)
        else:
            maps[label] = explained.relevance[0].cpu().numpy()
    return maps


def _illustrations(evaluation: Evaluation, labels: Sequence[str], stem: Path) -> Iterator[Path]:
    """What else methods show of the clip."""
    frames, targets = evaluation.batch.frames, evaluation.targets
    for label in labels:
        method = evaluation.subject.methods[label]
        yield from method.illustrate(
            evaluation.subject.model, frames, targets, stem.with_name(f"{stem.name}-{slug(label)}")
        )
