"""What networks with published checkpoints share: what of a file is said, and what of the spec goes before it."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from vidattr_bench.checkpoints import save_checkpoint
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


RECORD = {"classes": ["a", "b"], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "feature_layer": ""}


def trained(path, text, **clip):
    """A file as `train` writes it of a network of the zoo, trained on clips of its own."""
    entry = create_model(text)
    wanted = dataclasses.asdict(dataclasses.replace(entry.input, **clip))
    record = {**RECORD, "mean": entry.mean, "std": entry.std, "input": wanted}
    save_checkpoint(path, entry.network(2), record)
    return path


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("segments=5", r"\(segments\) ask for length 5, and .*a\.safetensors was trained with length 7;"),
        ("segments=8", r"\(segments\) ask for length 8, and .* trained with length 7; leave out the option"),
        ("segments=7,dense=true", r"\(segments, dense\) ask for stride 9, anchor middle, and .* stride 1, anchor spr"),
    ],
)
def test_an_option_that_contradicts_what_train_recorded_is_refused(tmp_path, asked, said):
    """Not overridden without a word, not even where it repeats the default."""
    path = trained(tmp_path / "a.safetensors", "tsn_r50", length=7, size=(32, 48), resize=None)
    with pytest.raises(ModelError, match=said):
        create_model(f"tsn_r50:{asked},checkpoint={path}").build()


def test_an_option_that_agrees_with_what_train_recorded_is_taken(tmp_path):
    path = trained(tmp_path / "a.safetensors", "tsn_r50", length=7, size=(32, 48), resize=None)
    for text in ("tsn_r50:segments=7,checkpoint=", "tsn_r50:checkpoint="):
        model = create_model(f"{text}{path}").build()
        assert (model.input.length, model.input.size, model.input.resize) == (7, (32, 48), None)


@pytest.mark.parametrize("release", [2018, 2020])
def test_a_normalisation_that_train_did_not_use_is_refused(tmp_path, release):
    path = trained(tmp_path / "a.safetensors", f"resnet3d_18:width=4,release={release}", length=7)
    other = {2018: 2020, 2020: 2018}[release]
    with pytest.raises(ModelError, match=r"\(release\) ask for mean \(.*and .* was trained with mean \("):
        create_model(f"resnet3d_18:width=4,release={other},checkpoint={path}").build()
    for given in ("", f",release={release}"):
        model = create_model(f"resnet3d_18:width=4{given},checkpoint={path}").build()
        expected = create_model(f"resnet3d_18:release={release}").mean
        assert model.mean.flatten().tolist() == pytest.approx(expected)
        assert model.input.length == 7


def test_a_normalisation_is_compared_up_to_the_rounding_of_its_record(tmp_path):
    """A fine-tuning records what it takes from float32 tensors."""
    text, path = "resnet3d_18:width=4,release=2020", tmp_path / "a.safetensors"
    entry = create_model(text)
    mean = torch.tensor(entry.mean).tolist()
    assert mean != list(entry.mean)
    record = {**RECORD, "mean": mean, "std": entry.std, "input": dataclasses.asdict(entry.input)}
    save_checkpoint(path, entry.network(2), record)
    assert create_model(f"{text},checkpoint={path}").build().classes == ("a", "b")


@pytest.mark.parametrize("variant", ["base", "hr"])
def test_an_option_that_shapes_the_network_asks_nothing_of_the_clips(variant):
    """It cannot be left out, and the data set may have asked for other clips."""
    asked = {"mean": (0.45,) * 3, "std": (0.225,) * 3, "input": ClipInput(length=16, stride=8)}
    path = Path("a.safetensors")
    create_model(f"timesformer_b:variant={variant}")._refuse_others(asked, path)
    for release, anchor, other in (("ssv2", "spread", "middle"), ("kinetics", "middle", "spread")):
        entry = create_model(f"timesformer_b:variant={variant},release={release}")
        entry._refuse_others({**asked, "input": ClipInput(anchor=anchor)}, path)
        with pytest.raises(ModelError, match=rf"\(release\) ask for anchor {anchor}, and .* with anchor {other}"):
            entry._refuse_others({**asked, "input": ClipInput(anchor=other)}, path)


def test_options_describe_the_authors_weights(tmp_path):
    """A file that `train` did not write says nothing of clips, and nothing is refused."""
    torch.save(create_model("resnet3d_18:width=4").network(3).state_dict(), tmp_path / "a.pth")
    model = create_model(f"resnet3d_18:width=4,release=2020,checkpoint={tmp_path / 'a.pth'}").build()
    assert model.mean.flatten().tolist() == pytest.approx([0.4345, 0.4051, 0.3775])


def test_shipped_weights_and_a_file_are_not_both_taken(tmp_path):
    path = trained(tmp_path / "a.safetensors", "tiny3d")
    for option in ("seed=1", "masked=true"):
        with pytest.raises(ModelError, match=r"seed and masked choose among .*, and checkpoint=.*a\.s"):
            create_model(f"tiny3d:{option},checkpoint={path}").build()
    assert create_model(f"tiny3d:checkpoint={path}").build().classes == ("a", "b")
