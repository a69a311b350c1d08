"""Checkpoints of every common kind give the same weights; what is no checkpoint is refused, and never run."""

import argparse
import ast
import collections
import pickle
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vidattr_bench import checkpoints
from vidattr_bench.errors import ModelError

ROOT = Path(checkpoints.__file__).resolve().parents[1]
NAMES = ["run", "jump", "wave"]


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, (1, 3, 5)), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(4, 3))


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in make_net().state_dict().items()}


LAYOUTS = {
    "bare": lambda: prefixed(""),
    "ordered": lambda: make_net().state_dict(),
    "state_dict": lambda: {"state_dict": prefixed(""), "class_names": NAMES, "epoch": 3},
    "model_state_dict": lambda: {"model_state_dict": prefixed(""), "class_names": NAMES, "epoch": 3},
    "pytorchvideo": lambda: {"model_state": prefixed(""), "class_names": NAMES, "epoch": 3},
    "model": lambda: {"model": prefixed(""), "class_names": NAMES, "epoch": 3},
    "data parallel": lambda: {"state_dict": prefixed("module."), "class_names": NAMES, "epoch": 3},
    "lightning net": lambda: {"state_dict": prefixed("net."), "class_names": NAMES, "epoch": 3},
    "lightning model": lambda: {"state_dict": prefixed("model."), "class_names": NAMES, "epoch": 3},
    "compiled lightning": lambda: {"state_dict": prefixed("model._orig_mod."), "class_names": NAMES, "epoch": 3},
}


def lightning(prefix, **beside):
    """A file as a Lightning trainer writes it, of a module with the network under `prefix`, and more beside it."""
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {**prefixed(prefix), **beside},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"root": Path("data"), "arguments": argparse.Namespace(lr=0.1)},
    }


@pytest.mark.parametrize("prefix", ["net.", "model.", "net.module.", "model._orig_mod."])
def test_the_network_is_taken_out_of_a_lightning_module(tmp_path, prefix):
    path, net = tmp_path / "last.ckpt", make_net()
    torch.save(lightning(prefix, **{"criterion.weight": torch.ones(3)}), path)
    nn.init.zeros_(net[3].weight)
    with pytest.warns(UserWarning, match=r"last\.ckpt: left out, beside the network: criterion\.weight"):
        extras = checkpoints.load_checkpoint(path, net)
    assert all(torch.equal(tensor, make_net().state_dict()[name]) for name, tensor in net.state_dict().items())
    assert extras["hyper_parameters"]["arguments"].lr == 0.1


def test_a_lightning_module_that_is_the_network_is_taken_whole(tmp_path, recwarn):
    outer = nn.Module()
    outer.model, outer.head = make_net(), nn.Linear(3, 2)
    torch.save(
        lightning("model.", **{"head.weight": torch.ones(2, 3), "head.bias": torch.ones(2)}), tmp_path / "a.ckpt"
    )
    checkpoints.load_checkpoint(tmp_path / "a.ckpt", outer)
    assert outer.head.bias.tolist() == [1, 1]
    assert torch.equal(outer.model[3].weight, make_net()[3].weight)
    assert not [warning for warning in recwarn if "left out" in str(warning.message)]


def test_a_head_beside_the_network_is_said_to_be_there(tmp_path):
    content = lightning("model.")
    content["state_dict"]["fc.weight"] = content["state_dict"].pop("model.3.weight")
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match=r"a\.ckpt .* 1 missing: 3\.weight.*; 1 beside the network: fc\.weight"):
        checkpoints.load_checkpoint(tmp_path / "a.ckpt", make_net())


def with_an_object(content):
    content["thing"] = collections.ChainMap({"a": 1})
    return content


REFUSED = {
    "lightning": lambda: with_an_object(lightning("net.")),
    "under model": lambda: with_an_object({"model": make_net().state_dict()}),
    "network": make_net,
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_the_remedy_for_a_refused_file_works(tmp_path, monkeypatch, content):
    """What the message says is run as it stands."""
    path = tmp_path / "it's last.ckpt"
    torch.save(content(), path)
    with pytest.raises(ModelError, match=r"could run code") as refused:
        checkpoints.load_state(path)
    command = shlex.split(str(refused.value).splitlines()[-1])
    assert command[:2] == ["python", "-c"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["-c", *command[3:]])
    exec(command[2], {})
    state, _ = checkpoints.load_state(tmp_path / "weights.pth")
    assert torch.equal(state["3.weight"], make_net().state_dict()["3.weight"])


def test_missing_names_come_with_what_is_near_them():
    state = {name.replace("3.", "classifier.3."): tensor for name, tensor in make_net().state_dict().items()}
    expected = r"2 missing: 3\.weight \(near: classifier\.3\.weight\), 3\.bias .*; 2 left over: classifier\.3\.weight"
    with pytest.raises(ModelError, match=expected):
        checkpoints.fit(make_net(), state, Path("w.pth"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(tmp_path, layout, zipped):
    path = tmp_path / "weights.pth"
    torch.save(LAYOUTS[layout](), path, _use_new_zipfile_serialization=zipped)
    state, extras = checkpoints.load_state(path)
    expected = make_net().state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert extras == ({} if layout in ("bare", "ordered") else {"class_names": NAMES, "epoch": 3})


def test_our_own_file_gives_weights_and_metadata(tmp_path):
    checkpoints.save_checkpoint(tmp_path / "own.safetensors", make_net(), {"classes": NAMES})
    state, extras = checkpoints.load_state(tmp_path / "own.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in make_net().state_dict().items())
    assert checkpoints.class_names(extras, tmp_path) == tuple(NAMES)


def test_tied_weights_are_written_and_read(tmp_path):
    def tied():
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
        return net

    net, other = tied(), tied()
    checkpoints.save_checkpoint(tmp_path / "tied.safetensors", net, {})
    checkpoints.load_checkpoint(tmp_path / "tied.safetensors", other)
    assert torch.equal(other[1].weight, net[0].weight)
    assert other[1].weight is other[0].weight


@pytest.mark.parametrize(("text", "message"), [("{", "no readable safetensors"), ("[]", "must be a JSON object")])
def test_damaged_metadata_is_named(tmp_path, text, message):
    save_file(prefixed(""), tmp_path / "own.safetensors", {"vidattr_bench": text})
    with pytest.raises(ModelError, match=rf"own\.safetensors.*{message}"):
        checkpoints.load_state(tmp_path / "own.safetensors")


def test_safetensors_is_known_by_its_content(tmp_path):
    save_file(prefixed("module."), tmp_path / "weights.bin")
    state, extras = checkpoints.load_state(tmp_path / "weights.bin")
    assert set(state) == set(make_net().state_dict())
    assert extras == {}


def test_fit_loads_what_load_state_reads(tmp_path):
    torch.save(prefixed("module."), tmp_path / "weights.pth")
    net = make_net()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    checkpoints.fit(net, checkpoints.load_state(tmp_path / "weights.pth")[0], tmp_path / "weights.pth")
    assert all(torch.equal(tensor, make_net().state_dict()[name]) for name, tensor in net.state_dict().items())


def test_a_network_that_wraps_another_takes_the_inner_weights():
    outer = nn.Module()
    outer.model = make_net()
    nn.init.zeros_(outer.model[3].weight)
    checkpoints.fit(outer, checkpoints.unwrap(prefixed("model.")), Path("weights.pth"))
    assert torch.equal(outer.model[3].weight, make_net()[3].weight)


def test_unwrap_takes_off_only_what_all_names_share():
    assert checkpoints.unwrap({"net.a": 1, "head.b": 2}) == {"net.a": 1, "head.b": 2}
    assert checkpoints.unwrap({}) == {}


def test_fit_leaves_the_count_of_batches_alone():
    state = {name: tensor for name, tensor in make_net().state_dict().items() if "num_batches" not in name}
    checkpoints.fit(make_net(), state, Path("old.pth"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("3.bias"), "1 missing: 3.bias"),
        (lambda s: s.update({"4.bias": torch.zeros(2)}), "1 left over: 4.bias"),
        (lambda s: s.update({"3.bias": torch.zeros(5)}), r"1 of another shape: 3.bias \(5,\) for \(3,\)"),
        (lambda s: s.update({"0.bias": torch.full((4,), torch.nan)}), "1 not finite: 0.bias"),
        (lambda s: [s.pop(name) for name in list(s)[:6]], "6 missing: .* and 2 more"),
    ],
)
def test_fit_names_what_does_not_fit_and_changes_nothing(change, message):
    state, net = dict(make_net().state_dict()), make_net()
    state = {name: tensor + 1 for name, tensor in state.items()}
    change(state)
    with pytest.raises(ModelError, match=f"some.pth.*{message}"):
        checkpoints.fit(net, state, Path("some.pth"))
    assert all(torch.equal(tensor, make_net().state_dict()[name]) for name, tensor in net.state_dict().items())


class Exploit:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["evil.pth", "evil.ckpt", "evil.safetensors"])
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize(
    "inside", [lambda e: e, lambda e: {"state_dict": prefixed(""), "epoch": e}], ids=["bare", "extra"]
)
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, write, name, inside):
    marker = tmp_path / "executed"
    write(inside(Exploit(marker)), tmp_path / name)
    with pytest.raises(ModelError, match=name):
        checkpoints.load_state(tmp_path / name)
    assert not marker.exists()


def test_the_exploit_would_run_in_an_ordinary_unpickler(tmp_path):
    pickle.loads(pickle.dumps(Exploit(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_a_refusal_says_what_to_do(tmp_path):
    torch.save(Exploit(tmp_path / "executed"), tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"refused.*could run code.*save net.state_dict\(\) alone"):
        checkpoints.load_state(tmp_path / "evil.pth")


def damaged(path):
    torch.save(prefixed(""), path)
    path.write_bytes(path.read_bytes()[:-400])


def damaged_safetensors(path):
    save_file(prefixed(""), path)
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is no checkpoint"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is no checkpoint"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "is no checkpoint"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(64)), "cannot be read"),
        (damaged, "cannot be read"),
        (damaged_safetensors, "no readable safetensors"),
        (lambda path: torch.save(torch.zeros(3), path), "holds a Tensor, not weights"),
        (lambda path: torch.save([torch.zeros(3)], path), "holds a list, not weights"),
        (lambda path: torch.save({}, path), "holds no state dict"),
        (lambda path: torch.save({"epoch": 3, "lr": 0.1}, path), "holds no state dict but epoch, lr"),
        (lambda path: torch.save(make_net(), path), "refused"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, write, message):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(ModelError, match=f"weights.pth.*{message}|{message}.*weights.pth"):
        checkpoints.load_state(path)


def test_class_names_come_from_any_usual_key():
    path = Path("weights.pth")
    for key in ("class_names", "classes", "categories"):
        assert checkpoints.class_names({key: NAMES}, path) == tuple(NAMES)
    assert checkpoints.class_names({"class_to_idx": {"wave": 2, "run": 0, "jump": 1}}, path) == tuple(NAMES)
    assert checkpoints.class_names({"classes": 3, "epoch": 1}, path) == ()
    with pytest.raises(ModelError, match=r"weights\.pth: class_to_idx"):
        checkpoints.class_names({"class_to_idx": {"wave": 3, "run": 0, "jump": 1}}, path)


def test_a_wrong_record_of_the_clip_is_named():
    record = {"mean": [0.5] * 3, "std": [0.2] * 3, "input": {"length": 4, "size": [5, 6]}}
    assert checkpoints.preprocessing(record, Path("a"))["input"].size == (5, 6)
    assert checkpoints.preprocessing({"mean": [0.5]}, Path("a")) == {}
    pixels_as_they_are = checkpoints.preprocessing({**record, "mean": None, "std": None}, Path("a"))
    assert (pixels_as_they_are["mean"], pixels_as_they_are["std"]) == (None, None)
    for wrong in ({"input": {"lenght": 4}}, {"input": 4}, {"mean": ["x"]}, {"std": 3}):
        with pytest.raises(ModelError, match=r"weights\.pth describes"):
            checkpoints.preprocessing({**record, **wrong}, Path("weights.pth"))


def test_weights_are_unpickled_in_one_place():
    calls = []
    for folder in ("vidattr_bench", "methods", "datasets"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            calls += [(path.name, node) for node in nodes if isinstance(node, ast.Call) and is_torch_load(node.func)]
    assert [name for name, _ in calls] == ["checkpoints.py"]
    assert {k.arg: ast.unparse(k.value) for k in calls[0][1].keywords}["weights_only"] == "True"


def is_torch_load(function):
    return ast.unparse(function) in ("torch.load", "torch.hub.load_state_dict_from_url")
