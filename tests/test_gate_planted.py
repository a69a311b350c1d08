"""The gate on real runs of planted clips, and a small version of its simulation."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import vidattr_bench as vb
from vidattr_bench.compare import compare

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference" / "planted_actions-tiny3d"
METHODS = ["grad_cam", "saliency_tubes", "gradient"]
METRICS = ["srg", "roc_auc", "tube_mass"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulation():
    """docs/gate_simulation.py."""
    spec = importlib.util.spec_from_file_location("gate_simulation", ROOT / "docs" / "gate_simulation.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_an_unchanged_run_in_other_batches_and_on_other_threads_passes(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        options = {"batch_size": 3, "forward_batch": 5, "pictures": 0}
        run = vb.run(output=tmp_path / "run", methods=METHODS, metrics=METRICS, **options)
    finally:
        torch.set_num_threads(before)
    found = compare(REFERENCE, run.folder, allow_missing=["methods", "metrics"])
    assert (found.verdict, found.exit_status) == ("pass", 0)
    assert found.counts["pass"] == len(METHODS) * (len(METRICS) + 2)
    tested = [cell for cell in found.cells if cell.rule == "test"]
    assert max(abs(cell.difference) for cell in tested) < 1e-3


def test_another_seed_of_stochastic_methods_is_no_regression(tmp_path):
    methods = ["random", "smooth_grad:samples=10"]
    runs = [
        vb.run(output=tmp_path / str(seed), methods=methods, metrics=["roc_auc", "tube_mass"], seed=seed, pictures=0)
        for seed in (0, 1)
    ]
    found = compare(runs[0].folder, runs[1].folder, margins=ROOT / "results" / "margins.yaml")
    assert "regressed" not in found.counts
    assert any(note.startswith("seed: 0 in the reference, 1") for note in found.notes)


def test_unchanged_families_raise_no_alarm_and_losses_of_two_margins_are_found(simulation):
    world = simulation.World(40)
    (alarms,) = simulation.false_alarms(60, [world], (4.8,))
    assert alarms["regressed"] == 0
    (found,) = simulation.power(60, [world], (4.8,))
    assert found["error under margin/4.8"] >= 0.85


def test_flips_of_all_cells_at_once_find_more_than_holm_and_hold_the_level(simulation):
    (row,) = simulation.corrections(20, [simulation.World(40)])
    assert row["max-T, found of 10"] >= 0.9
    assert row["max-T, found"] > row["Holm, found"]
    assert row["max-T, wrong regressed"] <= 0.2  # 5 % in theory, three binomial errors above
