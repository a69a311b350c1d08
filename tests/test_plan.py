"""What a run depends on: the code of its network, and a normalisation that its checkpoint brought."""

import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
import torch

from vidattr_bench import plan
from vidattr_bench.checkpoints import save_checkpoint
from vidattr_bench.finetuning import starting_point
from vidattr_bench.model import VideoModel
from vidattr_bench.settings import Settings
from vidattr_bench.zoo import create_model

DATA = 'planted_actions:part=dev,clips=3,train_clips=2,length=8,size="[16,24]"'


def test_helpers_are_part_of_a_networks_code_in_the_zoo_alone(tmp_path, monkeypatch):
    path, helper = tmp_path / "net.py", tmp_path / "_helper.py"
    path.write_text("from torch import nn\nclass Net(nn.Module):\n    pass\n")
    helper.write_text("SIZE = 1\n")
    spec = importlib.util.spec_from_file_location("net_of_a_zoo", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "net_of_a_zoo", module)
    spec.loader.exec_module(module)
    model = VideoModel(module.Net(), ())
    codes = {}
    for zoo in (tmp_path, tmp_path / "another"):
        monkeypatch.setattr(plan, "_ZOO", zoo)
        for text in ("SIZE = 1\n", "SIZE = 2\n"):
            helper.write_text(text)
            codes[zoo.name, text] = plan.model_code(model)
    assert codes[tmp_path.name, "SIZE = 1\n"] != codes[tmp_path.name, "SIZE = 2\n"]
    assert codes["another", "SIZE = 1\n"] == codes["another", "SIZE = 2\n"]


@pytest.mark.parametrize(
    ("mean", "known"), [((0.5, 0.5, 0.5), None), ((0.5, 0.25, 0.5), [[0.5, 0.25, 0.5], [0.25] * 3])]
)
def test_a_normalisation_that_the_checkpoint_brought_is_a_fact(tmp_path, mean, known):
    """Equal weights that are fed otherwise are another network; what the entry says itself is in its spec."""
    entry, path = create_model("tiny3d"), tmp_path / "net.safetensors"
    data = plan.configure_dataset(DATA)
    record = {"classes": list(data.classes), "mean": mean, "std": entry.std, "input": dataclasses.asdict(entry.input)}
    save_checkpoint(path, entry.network(len(data.classes)), record)
    model = f"tiny3d:checkpoint={path}"
    settings = Settings(dataset=DATA, model=model, methods=("gradient",), metrics=("roc_auc",))
    assert plan.prepare(settings).facts.get("normalisation") == known
    start = starting_point(create_model(model), data.classes)
    assert start.record.get("normalisation") == known


def test_the_shipped_network_has_the_facts_it_always_had():
    settings = Settings(dataset=DATA, model="tiny3d", methods=("gradient",), metrics=("roc_auc",))
    assert "normalisation" not in plan.prepare(settings).facts


def test_the_zoo_is_where_its_networks_are_written():
    with torch.device("meta"):
        net = create_model("tsn_r50").network(2)
    assert Path(inspect.getfile(type(net))).parent == plan._ZOO
