"""A training that is killed and begun again ends in the file that an uninterrupted one writes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vidattr_bench.errors import ModelError
from vidattr_bench.plugins import create
from vidattr_bench.resuming import on_hardware
from vidattr_bench.training import _Classifier, train

QUIET = {"accelerator": "cpu", "devices": 1, "progress": False}
DATA = 'planted_actions:part=dev,clips=4,train_clips=6,length=8,size="[16,24]"'


class Killed(BaseException):
    """What ends a process in the middle of a step."""


def run(output, model="r2plus1d_light", **options):
    """A network with dropout, three steps an epoch."""
    settings = {"epochs": 3, "batch_size": 2, **QUIET, **options}
    return train(create("datasets", DATA), create("models", model), output, **settings)


@pytest.fixture
def kill(monkeypatch):
    """Ends trainings at a step, counted from 0 over all epochs."""

    def at(step):
        steps = _Classifier.training_step

        def dying(self, batch, index):
            if self.global_step == step:
                raise Killed
            return steps(self, batch, index)

        patch = monkeypatch.context()
        inner = patch.__enter__()
        inner.setattr(_Classifier, "training_step", dying)
        return patch

    return at


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "net.safetensors"
    run(path)
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]
    return path.read_bytes()


def stop(kill, path, step, **options):
    patch = kill(step)
    with pytest.raises(Killed):
        run(path, **options)
    patch.__exit__(None, None, None)


@pytest.mark.parametrize("steps", [[4], [3, 8], [2]], ids=lambda steps: "then ".join(map(str, steps)))
def test_it_ends_in_the_same_file(kill, tmp_path, whole, steps):
    path, notes = tmp_path / "net.safetensors", []
    for step in steps:
        stop(kill, path, step)
        assert not path.exists()
    left = tmp_path / "net.safetensors.resume"
    assert left.exists() == (steps[-1] >= 3)
    run(path, say=notes.append)
    assert path.read_bytes() == whole
    assert [str(left) in note for note in notes] == [True] * (steps[-1] >= 3)
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_another_training_is_not_gone_on_with(kill, tmp_path):
    path = tmp_path / "net.safetensors"
    stop(kill, path, 4)
    for options in ({"epochs": 4}, {"lr": 1e-3}, {"seed": 1}, {"model": "tiny3d"}):
        with pytest.raises(ModelError, match=r"net\.safetensors\.resume was left by another training: .* delete"):
            run(path, **options)


def test_other_data_or_classes_are_not_gone_on_with(kill, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    stop(kill, path, 4)
    kind = type(create("datasets", DATA))
    for name, value, said in (
        ("fingerprint", lambda self: "another", "data was"),
        ("classes", property(lambda self: tuple("jihgfedcba")), "classes was"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, value)
            with pytest.raises(ModelError, match=said):
                run(path)


def test_another_number_or_kind_of_devices_is_another_training():
    trainers = [
        SimpleNamespace(world_size=size, strategy=SimpleNamespace(root_device=torch.device(kind)))
        for size, kind in ((1, "cpu"), (2, "cpu"), (1, "cuda"))
    ]
    identities = [str(on_hardware({"seed": 0}, trainer)) for trainer in trainers]
    assert len(set(identities)) == 3


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "net.safetensors"
    (tmp_path / "net.safetensors.resume").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match=r"resume cannot be continued .* delete it to train from the start"):
        run(path)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "net.safetensors.resume")
    with pytest.raises(ModelError, match="left by another training"):
        run(path)


STOPPING = """
import os, signal, sys
from vidattr_bench import cli, training
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without it
step = training._Classifier.training_step
def stopping(self, batch, index):
    if self.global_step == 4:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, batch, index)
training._Classifier.training_step = stopping
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="no signals here")
def test_the_keyboard_stops_it_and_the_same_command_goes_on(tmp_path, whole):
    script, path = tmp_path / "stopping.py", tmp_path / "net.safetensors"
    script.write_text(STOPPING)
    options = ["train", "--dataset", DATA, "--model", "r2plus1d_light", "--epochs", "3", "--batch-size", "2"]
    options += ["--accelerator", "cpu", "--devices", "1", "--output", str(path)]
    # The undisturbed training ran on the one thread of the tests; two threads add up in another order.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    common = {"env": environment, "capture_output": True, "text": True, "timeout": 240}
    stopped = subprocess.run([sys.executable, script, *options], **common)
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped; the same command continues" in stopped.stderr
    assert not path.exists()
    done = subprocess.run([sys.executable, "-m", "vidattr_bench", *options], **common)
    assert done.returncode == 0, done.stderr
    assert "note: going on from" in done.stderr
    assert path.read_bytes() == whole
