"""A network of optical flow through the main job: flow is computed once, kept, and read by the next run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from vidattr_bench import motion
from vidattr_bench.cli import main
from vidattr_bench.plugins import load
from vidattr_bench.runner import Run

DATA = Path(__file__).parent / "data"


def writer(name: str):
    spec = importlib.util.spec_from_file_location(f"write_{name}", DATA / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`run` with i3d_flow of random weights on a tiny UCF101, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    writer("ucf101").write(tmp_path / "data")
    torch.manual_seed(0)
    torch.save(load("models", "i3d_flow")().network(5).state_dict(), tmp_path / "i3d_flow.pt")

    def run(output: str, options: str = "", *words: str) -> int:
        dataset = f'ucf101:root=data,part=all,length=12,size="[64, 64]",resize=72,flow_side=64{options}'
        named = ["run", "--dataset", dataset, "--model", "i3d_flow:checkpoint=i3d_flow.pt", "--pictures", "0"]
        return main([*named, "--methods", "gradient", "random", "--metrics", "roc_auc", "--output", output, *words])

    return run


@pytest.mark.slow
def test_a_network_of_flow_runs_and_a_second_run_computes_no_flow(command, tmp_path, monkeypatch, capsys):
    assert command("first") == 0
    scores = Run(tmp_path / "first").scores()
    assert set(scores["status"]) == {"ok", "undefined"}
    assert set(scores.query("method == 'gradient' and clip == 'v_Biking_g05_c02'")["status"]) == {"ok"}
    kept = sorted((tmp_path / "results" / "flow").rglob("*.png"))
    # Twelve fields of each of the clips of 20, 11, 6, 9 and 13 frames, or one less than there are frames.
    assert len(kept) == 12 + 10 + 5 + 8 + 12
    monkeypatch.setattr(motion, "optical_flow", lambda *args: pytest.fail("flow was computed again"))
    assert command("second") == 0
    again = Run(tmp_path / "second").scores()
    assert again["value"].equals(scores["value"])
    assert command("second", ",flow_step=2") == 2
    assert "these differ" in capsys.readouterr().err


@pytest.mark.slow
def test_one_clip_whose_flow_is_short_fails_alone_with_status_1(command, tmp_path, capsys):
    fake = writer("flow")
    for name, frames in (("Basketball_g01_c01", 20), ("Biking_g05_c02", 11), ("HandStandPushups_g01_c01", 6)):
        fake.write(tmp_path / "flow", f"v_{name}", fake.flat_fields(frames - 1), "twostreamfusion")
    fake.write(tmp_path / "flow", "v_Punch_g03_c01", fake.flat_fields(4), "twostreamfusion")
    fake.write(tmp_path / "flow", "v_SalsaSpin_g09_c03", fake.flat_fields(12), "tsn")
    assert command("run", ",flow_root=flow") == 1
    assert "holds 4 fields of flow" in "".join(capsys.readouterr())
    failed = Run(tmp_path / "run").scores().query("status == 'failed'")
    assert set(failed["clip"]) == {"v_Punch_g03_c01"}
    assert not (tmp_path / "results" / "flow").exists()
