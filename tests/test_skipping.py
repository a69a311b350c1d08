"""Clips that cannot be read end no training: what stands in for them, what is said, and what is recorded."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vidattr_bench.checkpoints import read_metadata
from vidattr_bench.errors import DataError
from vidattr_bench.plugins import create
from vidattr_bench.training import _Classifier, train

QUIET = {"accelerator": "cpu", "devices": 1, "progress": False}
DATA = 'planted_actions:part=dev,clips=5,train_clips=6,length=8,size="[16,24]"'


@pytest.fixture
def damaged(monkeypatch):
    """Planted actions of which some clips cannot be read; returns the ids of both parts in order."""
    module = create("datasets", DATA)
    load, damaged = type(module).load, set()

    def damaged_load(self, ref):
        if ref.id in damaged:
            raise DataError(f"{ref.id}.avi: is damaged; copy it again")
        return load(self, ref)

    monkeypatch.setattr(type(module), "load", damaged_load)
    ids = [[ref.id for ref in dataclasses.replace(module, part=part).refs()] for part in ("train", "dev")]
    damaged.update([ids[0][2], ids[0][3], ids[1][1], ids[1][4]])
    return ids


def run(path, **options):
    settings = {"epochs": 2, "batch_size": 2, **QUIET, **options}
    return train(create("datasets", DATA), create("models", "tiny3d"), path, **settings)


def test_the_next_clip_of_the_list_stands_in(damaged):
    train_ids, dev_ids = damaged
    module = create("datasets", DATA)
    module.batch_size = 2
    loader = module.train_dataloader()
    order = list(loader.sampler)
    assert sorted(order) == list(range(6))
    shown = [id for _, _, ids in loader for id in ids]
    assert shown == [train_ids[4 if i in (2, 3) else i] for i in order]
    assert loader.dataset.unreadable.tolist() == [0, 0, 1, 1, 0, 0]
    held_out = list(module.val_dataloader())
    assert [list(ids) for _, _, ids in held_out] == [dev_ids[:1], dev_ids[2:4], []]
    assert [len(labels) for _, labels, _ in held_out] == [1, 2, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_they_are_named_once_and_counted(damaged, tmp_path, workers):
    (_, _, first, second, *_), (_, third, *_) = damaged
    path, notes = tmp_path / "net.safetensors", []
    record = run(path, say=notes.append, workers=workers)
    assert record["unreadable"] == {"trained_on": 2, "held_out": 2}
    assert record["held_out"] == 3
    assert read_metadata(path)["training"] == record
    assert len(notes) == 4
    # The last epoch measures the accuracy before it ends; the first one names what was trained on.
    stood_in, left_out = "the clip after it in the list stands in for it", "the accuracy is that on the others"
    for note, id, then in zip(notes, (first, second, third), (stood_in, stood_in, left_out), strict=False):
        assert note == f"{id} cannot be read, {then}: {id}.avi: is damaged; copy it again"


def test_the_accuracy_is_that_on_the_clips_that_can_be_read(damaged, tmp_path):
    path = tmp_path / "net.safetensors"
    record = run(path)
    model, module = create("models", f'tiny3d:checkpoint="{path}"').build(), create("datasets", DATA)
    module.adapt(model.input)
    good = [ref for i, ref in enumerate(module.refs()) if i not in (1, 4)]
    predictions = model(torch.stack([module.load(ref).frames for ref in good])).argmax(1)
    right = sum(int(found) == ref.label for found, ref in zip(predictions, good, strict=True))
    assert record["accuracy"] == pytest.approx(right / 3)


def test_a_training_that_is_killed_and_goes_on_ends_in_the_same_file(damaged, tmp_path, monkeypatch):
    whole, path = tmp_path / "whole.safetensors", tmp_path / "net.safetensors"
    run(whole, workers=2)
    step = _Classifier.training_step

    def dying(self, batch, index):
        if self.global_step == 4:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(_Classifier, "training_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    run(path)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("part", "said"), [("train", "none of the 6 clips of part=train"), ("dev", "not one of the")])
def test_where_none_can_be_read_there_is_no_training(tmp_path, monkeypatch, part, said):
    kind = type(create("datasets", DATA))
    load = kind.load

    def damaged_load(self, ref):
        if self.part == part:
            raise DataError(f"{ref.id}.avi: is damaged")
        return load(self, ref)

    monkeypatch.setattr(kind, "load", damaged_load)
    # Not after hours of training, whose weights would be lost.
    monkeypatch.setattr(_Classifier, "training_step", lambda *args: pytest.fail("a step was made"))
    with pytest.raises(DataError, match=said):
        run(tmp_path / "x", epochs=1)
    assert not (tmp_path / "x").exists()


def test_a_mistake_in_a_data_set_is_not_skipped(tmp_path, monkeypatch):
    def load(self, ref):
        raise TypeError("a slip")

    monkeypatch.setattr(type(create("datasets", DATA)), "load", load)
    with pytest.raises(TypeError, match="a slip"):
        run(tmp_path / "x", epochs=1)
