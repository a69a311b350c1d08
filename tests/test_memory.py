"""Memory: a batch is gone when its rows are written, and a run over many clips holds no more than one over few."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from vidattr_bench import evaluation, plugins
from vidattr_bench.fixtures import small_batch, small_model
from vidattr_bench.garbage import new_alone
from vidattr_bench.rows import Subject

SCRIPT = Path(__file__).parent / "benchmarks" / "memory.py"


@pytest.fixture
def _without_the_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_without_the_collector")
def test_a_batch_is_freed_when_its_rows_are_there():
    """Not when the collector comes by: cycles of its objects would keep its clips for hundreds of batches."""
    batch, model = small_batch(), small_model()
    metrics = {name: plugins.create("metrics", name) for name in ("deletion:steps=3", "max_sensitivity:draws=2")}
    methods = {"gradient": plugins.create("methods", "gradient")}
    classes = torch.arange(len(model.classes))
    subject = Subject(model, methods, metrics, classes, "predicted", 0, 4, {}, set(batch.ids), None)
    work = evaluation.Evaluation(subject, batch)
    missing = {cell for clip in batch.ids for cell in subject.cells(clip)}
    rows = work.run(missing, lambda clip: False, lambda method, metric: None)
    assert {row["status"] for row in rows.scores} == {"ok"}
    shared = weakref.ref(work.shared)
    del work
    assert shared() is None


def test_the_collector_looks_at_what_is_new():
    class Held:
        def __init__(self) -> None:
            self.itself = self

    before = gc.get_freeze_count()
    with new_alone():
        assert gc.get_freeze_count() > before
        kept = weakref.ref(Held())
        gc.collect()
        assert kept() is None
    assert gc.get_freeze_count() == 0


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
@pytest.mark.parametrize("options", [["--large"], ["--videos"]], ids=["rendered", "decoded"])
def test_memory_stays_flat(options):
    """docs/performance.md has the figures over 2000 clips; 1.5 % of what torch takes by itself is 14 MB."""
    command = [sys.executable, str(SCRIPT), "--clips", "160", "--every", "8", *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    measured = dict(line.split(",") for line in done.stdout.splitlines() if "," in line)
    assert len(measured) == 21
    assert float(measured["growth"]) < 1.5
