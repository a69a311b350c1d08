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


NET = """
import torch
from torch import nn
from vidattr_bench import ClipInput, VideoModel

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rgb, self.rgb_relu = nn.Conv3d(3, 4, 3, 2, 1), nn.ReLU()
        self.flow, self.flow_relu = nn.Conv3d(4, 4, 3, 2, 1), nn.ReLU()
        self.fusion, self.relu, self.head = nn.Conv3d(8, 6, 1), nn.ReLU(), nn.Linear(6, 5)

    def forward(self, x):
        both = torch.cat([self.rgb_relu(self.rgb(x[:, :3])), self.flow_relu(self.flow(x[:, 3:]))], 1)
        return self.head(self.relu(self.fusion(both)).mean((2, 3, 4)))

def net():
    torch.manual_seed(0)
    wanted = ClipInput(length=4, size=(32, 40), flow=2)
    return VideoModel(Net(), [], input=wanted, feature_layers={"rgb": "rgb_relu", "flow": "flow_relu"})
"""


@pytest.mark.slow
def test_both_streams_of_a_network_in_two_runs_and_one_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    writer("ucf101").write(tmp_path / "data")
    (tmp_path / "two_streams_of_a_test.py").write_text(NET)
    given = ["--dataset", "ucf101:root=data,part=all,flow_side=32", "--model", "two_streams_of_a_test:net"]
    methods = ["--methods", "grad_cam", "integrated_gradients", "random"]
    for stream in ("rgb", "flow"):
        words = ["--metrics", "srg", "roc_auc", "--pictures", "1", "--output", stream, "--stream", stream]
        assert main(["run", *given, *methods, *words]) == 0
    rows = {stream: Run(tmp_path / stream).scores() for stream in ("rgb", "flow")}
    assert all(set(found["model"]) == {f"model/{stream}"} for stream, found in rows.items())
    srg = {stream: found.query("metric == 'srg' and method == 'grad_cam'")["value"] for stream, found in rows.items()}
    assert not srg["rgb"].equals(srg["flow"])
    assert main(["run", *given, *methods, "--metrics", "srg", "--output", "flow"]) == 2
    assert "these differ: stream" in capsys.readouterr().err
    assert main(["table", "rgb", "flow", "--format", "markdown"]) == 0
    shown = capsys.readouterr().out
    assert "stream rgb" in shown
    assert "stream flow" in shown
    assert main(["compare", "rgb", "flow"]) == 2
    assert main(["sheet", *given, *methods, "--stream", "flow", "--output", "sheet"]) == 0
    assert list((tmp_path / "sheet").glob("*.png"))
