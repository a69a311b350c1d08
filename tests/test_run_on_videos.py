"""The main job on video files in UCF101's layout: what is wrong with one file costs no other its rows."""

import importlib.util
import sys
from pathlib import Path

import pytest

from vidattr_bench.cli import main
from vidattr_bench.runner import Run

NETWORK = """
import torch
from torch import nn
import vidattr_bench as vb

def net():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5))
    return vb.VideoModel(layers, [], input=vb.ClipInput(length=5, stride=2, anchor="start", size=(24, 36)))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "video_network", raising=False)
    (tmp_path / "video_network.py").write_text(NETWORK)
    path = Path(__file__).parent / "data" / "ucf101.py"
    spec = importlib.util.spec_from_file_location("ucf101_maker", path)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker.write(tmp_path / "data")


def run(root, folder, capsys, dataset="part=all,subset=101", *words):
    command = ["run", "--dataset", f"ucf101:root={root},{dataset}", "--model", "video_network:net", "--pictures", "0"]
    command += ["--methods", "centre", "oracle", "gradient", "--metrics", "roc_auc", "srg:steps=4", "--output", folder]
    status = main([str(word) for word in (*command, *words)])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def statuses(folder):
    scores = Run(folder).scores()
    return scores.pivot_table(index="clip", columns=["method", "metric"], values="status", aggfunc="first")


def test_every_clip_on_disk_gets_its_rows(root, tmp_path, capsys):
    status, _ = run(root, tmp_path / "run", capsys)
    assert status == 0
    table = statuses(tmp_path / "run")
    assert len(table) == 5
    localised = table["oracle", "roc_auc"]
    assert localised["v_Basketball_g01_c01"] == localised["v_Biking_g05_c02"] == "ok"
    assert localised["v_Punch_g03_c01"] == "undefined"
    values = (
        Run(tmp_path / "run").scores().query("method == 'oracle' and metric == 'roc_auc' and status == 'ok'")["value"]
    )
    assert len(values) >= 2
    assert (values == 1.0).all()
    assert Run(tmp_path / "run").summary().query("method == 'gradient' and subset == 'all'")["groups"].min() >= 2


def test_a_truncated_and_a_disguised_video_fail_alone_with_status_1(root, tmp_path, capsys):
    truncated = root / "UCF-101/Basketball/v_Basketball_g01_c01.avi"
    truncated.write_bytes(truncated.read_bytes()[:-2000])
    disguised = root / "UCF-101/Punch/v_Punch_g03_c01.avi"
    disguised.write_text("ffconcat version 1.0\nfile v_HandStandPushups_g01_c01.avi\n")
    status, said = run(root, tmp_path / "run", capsys)
    assert status == 1
    assert "v_Punch_g03_c01.avi" in said
    table = statuses(tmp_path / "run")
    assert set(table.loc["v_Basketball_g01_c01"]) == set(table.loc["v_Punch_g03_c01"]) == {"failed"}
    assert "failed" not in set(table.drop(["v_Basketball_g01_c01", "v_Punch_g03_c01"]).to_numpy().ravel())


def test_an_empty_split_ends_with_status_2(root, tmp_path, capsys):
    for video in [*root.glob("UCF-101/*/*"), *root.glob("rgb-images/*/*/*")]:
        video.unlink()
    for folder in root.glob("rgb-images/*/*"):
        folder.rmdir()
    status, said = run(root, tmp_path / "run", capsys)
    assert status == 2
    assert str(root) in said
    assert not (tmp_path / "run").exists()


def test_the_class_map_says_which_class_is_which(root, tmp_path, capsys):
    network = (tmp_path / "video_network.py").read_text()
    (tmp_path / "video_network.py").write_text(network.replace("layers, []", "layers, [f'c{i}' for i in range(5)]"))
    status, said = run(root, tmp_path / "run", capsys)
    assert status == 2
    assert "--class-map" in said
    names = [line.split()[1] for line in (root / "splits/classInd.txt").read_text().splitlines()]
    rows = [f"{name},c{i}" for i, name in enumerate(reversed(names))]
    (tmp_path / "map.csv").write_text("\n".join(rows))
    status, _ = run(root, tmp_path / "run", capsys, "part=all,subset=101", "--class-map", tmp_path / "map.csv")
    assert status == 0
    scores = Run(tmp_path / "run").scores()
    wanted = f"c{len(names) - 1 - names.index('Basketball')}"
    assert set(scores.query("clip == 'v_Basketball_g01_c01'")["label"]) == {wanted}
