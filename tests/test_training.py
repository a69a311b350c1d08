"""Training: it learns, it repeats itself, and what it writes can be loaded again."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vidattr_bench import cli, training
from vidattr_bench.checkpoints import read_metadata
from vidattr_bench.errors import DataError, ModelError
from vidattr_bench.held_out import shared_with_training
from vidattr_bench.plugins import create
from vidattr_bench.training import _Classifier, train
from vidattr_bench.zoo import create_model

QUIET = {"accelerator": "cpu", "devices": 1, "progress": False}


def clips(**options):
    return create("datasets", 'planted_actions:part=dev,clips=10,length=8,size="[24,32]"', **options)


def run(output, **options):
    settings = {"epochs": 1, "batch_size": 5, **QUIET, **options}
    return train(clips(train_clips=10), create("models", "tiny3d"), output, **settings)


def weights(path):
    return create("models", f'tiny3d:checkpoint="{path}"').build().net.state_dict()


def test_equal_seeds_give_equal_files_and_another_seed_other_weights(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(tmp_path / f"{name}.safetensors", seed=seed)
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"]
    assert files[0] == files[1]
    a, c = weights(tmp_path / "a.safetensors"), weights(tmp_path / "c.safetensors")
    assert not torch.equal(a["head.weight"], c["head.weight"])


def test_workers_do_not_change_the_weights(tmp_path):
    for workers in (0, 2):
        run(tmp_path / f"{workers}.safetensors", workers=workers, epochs=2)
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_every_epoch_has_an_order_of_its_own():
    loader = clips(train_clips=40).train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append(list(loader.sampler))
    assert sorted(orders[0]) == list(range(40))
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("world", [2, 3, 40, 41])
def test_ranks_take_turns_in_the_order_of_one(world):
    whole = list(clips(train_clips=40).train_dataloader().sampler)
    shares = []
    for rank in range(world):
        module = clips(train_clips=40)
        module.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        shares.append(list(module.train_dataloader().sampler))
    assert {len(share) for share in shares} == {-(-40 // world)}
    turns = [clip for turn in zip(*shares, strict=True) for clip in turn]
    assert turns == (2 * whole)[: len(turns)]


def test_no_clip_is_held_out_twice():
    held_out = []
    for rank in range(3):
        module = clips()
        module.trainer = SimpleNamespace(global_rank=rank, world_size=3)
        held_out += [id for _, _, ids in module.val_dataloader() for id in ids]
    assert sorted(held_out) == [ref.id for ref in clips().refs()]
    module.trainer.world_size = 11
    with pytest.raises(DataError, match="10 labelled clips for 11 devices"):
        module.val_dataloader()


TELLING = """
import sys
from pathlib import Path
from vidattr_bench import cli, training
step = training._Classifier.training_step
def telling(self, batch, index):
    with Path(__file__).with_name(f"seen-{self.current_epoch}-{self.trainer.global_rank}").open("a") as file:
        file.writelines(f"{clip}\\n" for clip in batch[2])
    return step(self, batch, index)
training._Classifier.training_step = telling
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_see_all_clips_in_another_order_every_epoch(tmp_path):
    script, path = tmp_path / "telling.py", tmp_path / "net.safetensors"
    script.write_text(TELLING)
    data = 'planted_actions:part=dev,clips=9,train_clips=11,length=8,size="[24,32]"'
    command = [sys.executable, script, "train", "--dataset", data, "--epochs", "2", "--batch-size", "3"]
    command += ["--accelerator", "cpu", "--devices", "2", "--output", path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    seen = {path.name: path.read_text().split() for path in tmp_path.glob("seen-*")}
    for epoch in (0, 1):
        shares = seen[f"seen-{epoch}-0"], seen[f"seen-{epoch}-1"]
        assert [len(share) for share in shares] == [6, 6]
        assert len({*shares[0], *shares[1]}) == 11
    assert set(seen["seen-0-0"]) != set(seen["seen-1-0"])
    record = read_metadata(path)["training"]
    assert record["settings"]["devices"] == 2
    assert record["held_out"] == 9
    model, module = create("models", f'tiny3d:checkpoint="{path}"').build(), create("datasets", data)
    module.adapt(model.input)
    predictions = model(torch.stack([module.load(ref).frames for ref in module.refs()])).argmax(1).tolist()
    right = [prediction == ref.label for prediction, ref in zip(predictions, module.refs(), strict=True)]
    assert record["accuracy"] == pytest.approx(sum(right) / 9)


def test_nothing_of_torch_stays_changed(tmp_path):
    before = torch.get_rng_state()
    run(tmp_path / "x.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_checkpoint_says_what_it_is(tmp_path):
    path = tmp_path / "new" / "net.safetensors"
    record = run(path, lr=1e-3)
    metadata = read_metadata(path)
    module = clips()
    assert metadata["classes"] == list(module.classes)
    assert metadata["mean"] == [0.5, 0.5, 0.5]
    assert metadata["input"]["length"] == 8
    assert metadata["input"]["size"] == [24, 32]
    assert metadata["training"] == record
    assert record["settings"] == {"epochs": 1, "lr": 1e-3, "batch_size": 5, "seed": 0, "precision": "32-true"}
    assert record["held_out"] == 10


def test_the_recorded_accuracy_is_that_of_the_model_that_is_loaded(tmp_path):
    path = tmp_path / "net.safetensors"
    record = run(path)
    model, module = create("models", f'tiny3d:checkpoint="{path}"').build(), clips()
    module.adapt(model.input)
    loaded = [module.load(ref) for ref in module.refs()]
    predictions = model(torch.stack([clip.frames for clip in loaded])).argmax(1)
    share = (predictions == torch.tensor([clip.label for clip in loaded])).float().mean()
    assert record["accuracy"] == pytest.approx(share.item())


def test_any_network_of_the_zoo_is_trained_pixels_as_they_are(tmp_path):
    path = tmp_path / "light.safetensors"
    module = create("datasets", 'planted_actions:part=dev,clips=2,length=8,size="[16,24]"', train_clips=4)
    train(module, create("models", "r2plus1d_light"), path, epochs=1, batch_size=2, **QUIET)
    model = create("models", f'r2plus1d_light:checkpoint="{path}"').build()
    assert model.classes == module.classes
    assert not model.declares_normalisation
    assert model.input.size == (16, 24)


def test_a_data_set_without_classes_cannot_be_learnt(tmp_path):
    module = clips()

    class Nameless(type(module)):
        classes = ()

    nameless = Nameless(part="dev", clips=2)
    with pytest.raises(DataError, match="training needs two or more"):
        train(nameless, create("models", "tiny3d"), tmp_path / "x", **QUIET)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(ModelError, match="lower lr"):
        run(tmp_path / "x.safetensors", lr=1e30, epochs=4)
    assert not (tmp_path / "x.safetensors").exists()


def test_it_learns_what_it_is_shown(tmp_path):
    """Ten clips of ten classes; a network that does not learn stays at a loss of log 10 and an accuracy of .1."""
    path, shown = tmp_path / "x.safetensors", clips(train_clips=10, part="train")
    record = run(path, epochs=60)
    model = create("models", f'tiny3d:checkpoint="{path}"').build()
    predictions = model(torch.stack([shown.load(ref).frames for ref in shown.refs()])).argmax(1)
    assert predictions.tolist() == [ref.label for ref in shown.refs()]
    assert record["loss"] < 0.1


# --- what is held out


@pytest.mark.parametrize("part", ["train", "all"])
def test_clips_that_are_trained_on_are_not_held_out(tmp_path, part):
    module = create("datasets", f'planted_actions:part={part},clips=4,train_clips=6,length=8,size="[24,32]"')
    with pytest.raises(DataError, match="6 of the clips held out are trained on too, such as train-0"):
        train(module, create("models", "tiny3d"), tmp_path / "x", epochs=1, **QUIET)
    assert not any(tmp_path.iterdir())


def test_a_held_out_clip_of_a_source_that_is_trained_on_is_said_and_recorded(tmp_path, monkeypatch):
    module = clips(train_clips=10)
    listed = type(module).refs

    def refs(self):
        """Every second clip of the one part and every third of the other come from one of four sources."""
        steps = {"dev": 2, "train": 3}
        return [
            dataclasses.replace(ref, group=f"source {i % 4}" if i % steps[self.part] == 0 else ref.id)
            for i, ref in enumerate(listed(self))
        ]

    monkeypatch.setattr(type(module), "refs", refs)
    shared, notes = shared_with_training(module), []
    # Of part dev 0, 2, 4, 6, 8 from sources 0 and 2; of part train 0, 3, 6, 9 from sources 0, 3, 2 and 1.
    assert (shared.clips, shared.groups, len(shared.kin)) == ((), ("source 0", "source 2"), 5)
    record = train(
        module, create("models", "tiny3d"), tmp_path / "x", epochs=1, batch_size=5, say=notes.append, **QUIET
    )
    assert ["5 of the held-out clips come from 2 sources" in note for note in notes] == [True]
    assert record["held_out_of_trained_sources"] == 5


def test_joined_clips_are_trained_on_where_a_member_is(tmp_path):
    joined = create("datasets", "concatenated:of=(planted_actions:clips=4,train_clips=6,part=all)")
    shared = shared_with_training(joined)
    expected = [ref.id for ref in joined.refs() if "train" in ref.id]
    assert list(shared.clips) == expected != []
    assert shared_with_training(dataclasses.replace(joined, part="test")).clips == ()


def test_a_training_goes_on_with_equal_training_clips_only(tmp_path, monkeypatch):
    """Another fingerprint of part=train alone is other data."""
    kind, path = type(clips()), tmp_path / "x.safetensors"
    stamp, step = kind.fingerprint, _Classifier.training_step

    def dying(self, batch, index):
        if self.global_step == 2:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(_Classifier, "training_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run(path, epochs=2)
    monkeypatch.setattr(kind, "fingerprint", lambda self: stamp(self) + (self.part == "train") * "changed")
    with pytest.raises(ModelError, match="data was"):
        run(path, epochs=2)


FLOW = """
import torch
from torch import nn
import vidattr_bench as vb

def net(classes):
    return nn.Sequential(nn.Conv3d(2, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, classes))

class Noisy(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.3, training=True)

def noisy(classes):
    layers = nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), Noisy(), nn.Dropout(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, classes))

def whole():
    return vb.VideoModel(net(10), [], input=vb.ClipInput(length=8, size=(24, 32)))
"""


@pytest.fixture
def two_channels(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nets_of_two_channels.py").write_text(FLOW)
    yield "nets_of_two_channels"
    sys.modules.pop("nets_of_two_channels", None)


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("i3d_flow", "PlantedActions delivers no optical flow, which the model wants"),
        ("{own}:net", "does not take clips of shape (1, 3, 8, 24, 32)"),
    ],
)
def test_clips_of_another_number_of_channels_are_refused_before_anything(
    tmp_path, capsys, two_channels, command, model, said
):
    """Not cell by cell and not at the first step; by networks of the zoo and of one's own."""
    if model == "i3d_flow" and command == "run":
        net = create("models", "i3d_flow").network(10)
        torch.save(net.state_dict(), tmp_path / "flow.pth")
        model = f"i3d_flow:checkpoint={tmp_path / 'flow.pth'}"
    elif command == "run":
        model = "{own}:whole"
    wanted = ["--dataset", 'planted_actions:part=dev,clips=4,train_clips=4,length=8,size="[24,32]"']
    options = {
        "run": ["--methods", "random", "--metrics", "road", "--output", str(tmp_path / "run")],
        "train": ["--output", str(tmp_path / "out.safetensors"), "--epochs", "1", "--accelerator", "cpu"],
    }
    status = cli.main([command, *wanted, "--model", model.format(own=two_channels), *options[command]])
    told = " ".join(capsys.readouterr().err.split())
    assert status == 2
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "run" / "scores").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_trying_a_clip_on_changes_nothing(tmp_path, monkeypatch, two_channels):
    """Neither modes nor random numbers: the same training with and without it gives the same bytes."""
    model = create_model(f"{two_channels}:noisy")
    options = {"epochs": 1, "batch_size": 4, **QUIET}
    train(clips(train_clips=10), model, tmp_path / "with.safetensors", **options)
    monkeypatch.setattr(training._Classifier, "try_on", lambda self, clip: None)
    train(clips(train_clips=10), model, tmp_path / "without.safetensors", **options)
    assert (tmp_path / "with.safetensors").read_bytes() == (tmp_path / "without.safetensors").read_bytes()


def test_a_factory_of_a_video_model_is_told_what_to_return(tmp_path, capsys, two_channels):
    argv = ["train", "--dataset", "planted_actions:part=dev,clips=4,train_clips=4", "--model", f"{two_channels}:whole"]
    assert cli.main([*argv, "--output", str(tmp_path / "a.safetensors")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "to train it, let the function return the network itself, a torch.nn.Module, and give mean=, std=" in told
