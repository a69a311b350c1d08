"""What networks with published checkpoints share: what of a file is said, and what of the spec goes before it."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import nn

from vidattr_bench.errors import ModelError
from vidattr_bench.model import ClipInput
from vidattr_bench.models._published import PublishedEntry
from vidattr_bench.zoo import create_model


@dataclasses.dataclass(frozen=True)
class Small(PublishedEntry):
    """A linear classifier of colours whose authors called it `classifier`."""

    name: ClassVar[str] = "small"
    head: ClassVar[str] = "fc"
    feature_layer: ClassVar[str] = ""
    input: ClassVar[ClipInput] = ClipInput(length=5, size=(24, 36))
    mean: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75)
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)

    def network(self, classes):
        net = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
        net.add_module("fc", nn.Linear(3, classes))
        return net

    def adapted(self, state):
        return {name.replace("classifier.", "fc."): tensor for name, tensor in state.items()}


WEIGHTS = {"classifier.weight": torch.eye(3)[:2], "classifier.bias": torch.tensor([0.5, -0.5])}


def lightning(path, **beside):
    state = {**{f"net.{name}": tensor for name, tensor in WEIGHTS.items()}, **beside}
    torch.save({"pytorch-lightning_version": "2.6.6", "epoch": 3, "state_dict": state}, path)
    return path


def test_what_lies_beside_a_renamed_network_is_said(tmp_path):
    path = lightning(tmp_path / "last.ckpt", **{"criterion.weight": torch.ones(2)})
    with pytest.warns(UserWarning, match=r"last\.ckpt: left out, beside the network: criterion\.weight"):
        model = Small(checkpoint=path).build()
    assert torch.equal(model.net.fc.weight, WEIGHTS["classifier.weight"])


def test_what_a_renamed_network_lacks_is_looked_for_beside_it(tmp_path):
    path = lightning(tmp_path / "last.ckpt", **{"fc_out.bias": torch.ones(2)})
    content = torch.load(path)
    del content["state_dict"]["net.classifier.bias"]
    torch.save(content, path)
    expected = r"1 missing: fc\.bias \(near: fc_out\.bias\); 1 beside the network: fc_out\.bias"
    with pytest.raises(ModelError, match=expected):
        Small(checkpoint=path).build()


def test_an_inflated_network_says_what_lies_beside_it(tmp_path):
    """As above, for one of the zoo, by the other port's names."""
    net = create_model("i3d").network(400)
    names = [(".b0.", ".branch_0."), ("Mixed_", "mixed_"), ("Conv3d_", "conv3d_")]
    state = {}
    for name, tensor in net.state_dict().items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        state[f"model.{name}"] = tensor
    state["loss.weight"] = torch.ones(400)
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state}, tmp_path / "i3d.ckpt")
    with pytest.warns(UserWarning, match=r"i3d\.ckpt: left out, beside the network: loss\.weight"):
        model = create_model(f"i3d:checkpoint={tmp_path / 'i3d.ckpt'}").build()
    assert torch.equal(model.net.logits.conv3d.weight, net.logits.conv3d.weight)
