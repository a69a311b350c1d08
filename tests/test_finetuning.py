"""Fine-tuning: what is taken from a checkpoint, what is drawn anew, and what the written file says for `run`."""

import dataclasses
import json
import re

import pytest
import torch
from torch import nn

from vidattr_bench import cli
from vidattr_bench.checkpoints import load_state, read_metadata
from vidattr_bench.errors import ModelError
from vidattr_bench.finetuning import starting_point
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel
from vidattr_bench.plugins import create, label
from vidattr_bench.training import train
from vidattr_bench.zoo import create_model

QUIET = {"accelerator": "cpu", "devices": 1, "progress": False}
DATA = 'planted_actions:part=dev,clips=4,train_clips=4,length=8,size="[24,32]"'
KINETICS = 400


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory):
    """A 3D-ResNet of 400 classes, its weights named as DataParallel leaves them, beside an epoch."""
    path = tmp_path_factory.mktemp("weights") / "resnet 3d.pth"
    torch.manual_seed(1)
    net = create_model("resnet3d_18:width=4").network(KINETICS)
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"arch": "resnet-18", "epoch": 1, "state_dict": state}, path)
    return path


def entry(path):
    return create_model(f'resnet3d_18:width=4,checkpoint="{path}"')


def test_the_classifier_alone_is_drawn_anew(authors_file):
    start = starting_point(entry(authors_file), ("run", "jump"))
    given, _ = load_state(authors_file)
    own = start.net.state_dict()
    assert own.keys() == given.keys()
    assert {name for name in own if not torch.equal(own[name], given[name])} == {"fc.weight", "fc.bias"}
    assert own["fc.weight"].shape == (2, 32)
    assert start.record["drawn_anew"] == ["fc"]
    assert start.note == f"fine-tuning {authors_file}: {len(own) - 2} tensors are taken; fc drawn anew for 2 classes"
    assert start.feature_layer == "layer3"
    assert all(parameter.requires_grad for parameter in start.net.parameters())


def test_without_a_checkpoint_nothing_is_taken():
    start = starting_point(create_model("resnet3d_18:width=4"), ("run", "jump"))
    assert start.record == {}
    assert start.note == ""


@dataclasses.dataclass(frozen=True)
class Small(ModelEntry):
    """A network whose checkpoint has three classes of the given names."""

    names: tuple[str, ...] = ()
    checkpoint: str = "small.pth"
    fixed: int | None = None

    def network(self, classes):
        layers = [nn.Conv3d(3, 5, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, self.fixed or classes)]
        return nn.Sequential(*layers)

    def build(self):
        return VideoModel(self.network(3), self.names, [0.25] * 3, [0.5] * 3, "0", ClipInput(length=7), "small")


@pytest.fixture(autouse=True)
def _named(monkeypatch):
    def named(kind, plugin, **options):
        return "small" if isinstance(plugin, Small) else label(kind, plugin, **options)

    monkeypatch.setattr("vidattr_bench.finetuning.label", named)


@pytest.mark.parametrize(
    ("names", "wanted", "anew"),
    [
        (("a", "b", "c"), ("a", "b", "c"), []),
        (("a", "b", "c"), ("a", "c", "b"), ["3"]),
        (("a", "b", "c"), ("x", "y", "z"), ["3"]),
        ((), ("x", "y", "z"), []),
        ((), ("x", "y"), ["3"]),
    ],
    ids=["the same", "in another order", "as many others", "nameless", "fewer"],
)
def test_the_classifier_stays_where_its_classes_do(names, wanted, anew):
    start = starting_point(Small(names=names), wanted)
    assert start.record["drawn_anew"] == anew
    assert start.input.length == 7
    assert (start.mean, start.std, start.feature_layer) == ([0.25] * 3, [0.5] * 3, "0")


def test_a_network_of_a_fixed_number_of_classes_cannot_have_others():
    with pytest.raises(ModelError, match=r"small is a network of 3 classes and cannot be made one of 2 others"):
        starting_point(Small(names=("a", "b", "c"), fixed=3), ("x", "y"))


def test_logits_of_another_number_than_the_classes_are_named(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Fixed(type(create_model("tiny3d"))):
        def network(self, classes):
            return super().network(3)

    with pytest.raises(ModelError, match=r"gives \(1, 3\) for 1 clips of 10 classes"):
        train(create("datasets", DATA), Fixed(), tmp_path / "x", epochs=1, batch_size=4, **QUIET)


def test_the_file_says_all_that_run_has_to_know(authors_file, tmp_path):
    path, notes = tmp_path / "out.safetensors", []
    record = train(create("datasets", DATA), entry(authors_file), path, epochs=1, say=notes.append, **QUIET)
    metadata, model = read_metadata(path), entry(path).build()
    assert notes == [starting_point(entry(authors_file), "ab").note.replace("for 2", "for 10")]
    assert record["settings"]["lr"] == pytest.approx(4e-4)
    assert record["started_from"]["drawn_anew"] == ["fc"]
    assert metadata["feature_layer"] == "layer3"
    assert model.classes == create("datasets", DATA).classes
    assert (model.input.length, model.input.size) == (8, (24, 32))
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(entry(path).mean))
    again = starting_point(entry(path), model.classes)
    assert again.record["drawn_anew"] == []


OWN = """
from torch import nn
def make(classes):
    volumes = nn.Conv3d(3, 5, 3), nn.Conv3d(5, 6, 3)
    return nn.Sequential(*volumes, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, classes))
"""


def test_the_feature_layer_of_a_network_of_ones_own_is_kept(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "network_of_ones_own.py").write_text(OWN)
    spec, path = "network_of_ones_own:make", tmp_path / "own.safetensors"
    train(create("datasets", DATA), create_model(f"{spec},feature_layer=0"), path, epochs=1, **QUIET)
    assert create_model(f'{spec},checkpoint="{path}"').build().declared_feature_layer == "0"
    assert create_model(f'{spec},checkpoint="{path}",feature_layer=1').build().declared_feature_layer == "1"


def test_mixed_precision_trains_other_weights_in_full_precision(authors_file, tmp_path):
    states = {}
    for precision in ("32-true", "bf16-mixed"):
        path = tmp_path / f"{precision}.safetensors"
        record = train(create("datasets", DATA), entry(authors_file), path, epochs=1, precision=precision, **QUIET)
        assert record["settings"]["precision"] == precision
        states[precision] = load_state(path)[0]
    assert {tensor.dtype for tensor in states["bf16-mixed"].values()} == {torch.float32, torch.int64}
    assert not torch.equal(states["bf16-mixed"]["conv1.weight"], states["32-true"]["conv1.weight"])
    torch.testing.assert_close(
        states["bf16-mixed"]["layer1.0.conv1.weight"], states["32-true"]["layer1.0.conv1.weight"], atol=2e-3, rtol=0
    )


@pytest.mark.slow
def test_two_commands_from_published_weights_to_a_table(authors_file, tmp_path, capsys):
    """Planted actions as UCF101 lies on disk: `train` on them, then `run`, which is told the file alone."""
    from vidattr_bench.datasets.planted_actions import main

    root, out, results = tmp_path / "ucf 101", tmp_path / "net.safetensors", tmp_path / "results"
    main(["write", str(root), "--clips", "10", "--train-clips", "40"])
    data = f'ucf101:root="{root}"'
    training = ["train", "--dataset", f'{data},length=8,size="[48,64]"', "--epochs", "3", "--batch-size", "8"]
    training += ["--model", f'resnet3d_18:width=4,checkpoint="{authors_file}"', "--output", str(out)]
    assert cli.main([*training, "--accelerator", "cpu"]) == 0
    said = capsys.readouterr()
    assert "fc drawn anew for 10 classes" in said.err
    assert re.search(r"^held_out: 10", said.out, re.M)
    command = ["run", "--dataset", data, "--model", f'resnet3d_18:width=4,checkpoint="{out}"', "--output", str(results)]
    command += ["--methods", "grad_cam", "random", "--metrics", "localisation", "--accelerator", "cpu"]
    assert cli.main(command) == 0
    table = json.dumps(capsys.readouterr().out)
    assert "grad_cam" in table
    assert "roc_auc" in table
