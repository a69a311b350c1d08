"""A data module's plan and batches: what is wrong with one clip costs no other its place, here or in a worker."""

import dataclasses
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch

from vidattr_bench.clip import Clip, Tube
from vidattr_bench.datamodule import ClipDataModule, ClipRef
from vidattr_bench.errors import DataError
from vidattr_bench.model import ClipInput

T, H, W = 4, 6, 5


@dataclasses.dataclass(eq=False, kw_only=True)
class Greys(ClipDataModule):
    """Three grey clips; the second is wrong in one respect."""

    length: int = T
    size: tuple[int, int] = (H, W)
    wrong: str = ""

    @property
    def classes(self):
        return ("open", "close")

    def refs(self):
        return [ClipRef(id, "g", 0) for id in ("a", "a" if self.wrong == "twice" else "b", "c")]

    def load(self, ref):
        clip = Clip(ref.id, "g", torch.full((3, T, H, W), 0.5), 1, (tube(),), torch.ones(T, dtype=torch.bool))
        return dataclasses.replace(clip, **WRONG[self.wrong]) if ref.id == "b" and self.wrong else clip


def tube(start=1, boxes=((0, 0, 2, 2),)):
    return Tube(1, start, torch.tensor(boxes))


WRONG = {
    "other clip": {"id": "z"},
    "size": {"frames": torch.zeros(3, T, H, W + 1)},
    "channels": {"frames": torch.zeros(1, T, H, W)},
    "length": {"frames": torch.zeros(3, T + 1, H, W), "annotated": torch.ones(T + 1, dtype=torch.bool)},
    "not a number": {"frames": torch.full((3, T, H, W), float("nan"))},
    "class": {"label": 2},
    "late tube": {"tubes": (tube(start=T),)},
    "early tube": {"tubes": (tube(start=-1),)},
    "annotation": {"annotated": torch.ones(T + 1, dtype=torch.bool)},
    "boxes": {"tubes": (tube(boxes=((0, 0, 2),)),)},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_clip_that_breaks_the_contract_costs_no_other_its_place(wrong):
    data = Greys(wrong=wrong)
    work = data.read(0, data.refs())
    assert list(work.batch.ids) == ["a", "c"]
    assert [clip.id for clip in work.unreadable] == ["b"]
    assert work.unreadable[0].reason


def test_two_clips_of_one_name_are_refused():
    with pytest.raises(DataError, match="two clips called 'a'"):
        Greys(wrong="twice").batches(2)


def test_a_spawned_worker_needs_no_trainer():
    data = Greys()
    data.plan, data.pending, data.workers = data.batches(2), [0, 1], 1
    data.trainer = SimpleNamespace(global_rank=1, world_size=2, lock=threading.Lock())
    loader = data.predict_dataloader()
    spawned = torch.utils.data.DataLoader(
        loader.dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert [list(work.batch.ids) for work in spawned] == [["c"]]
    assert data.trainer is not None


def test_another_part_is_one_module_that_stays_behind():
    data = Greys(wrong="size")
    assert data.at("test") is data
    train = data.at("train")
    assert (train.part, train.wrong) == ("train", "size")
    assert data.at("train") is train
    assert pickle.loads(pickle.dumps(data)).__dict__["_others"] == {}


def test_another_part_is_of_the_clips_that_are_asked_for_last():
    """Its fingerprint is, too: whether flow is in it depends on the clips."""
    data = Greys(size=None)
    for wanted in (ClipInput(size=(8, 7)), ClipInput(size=(7, 8), stride=3)):
        data.adapt(wanted)
        data.seed = wanted.stride
        train = data.at("train")
        assert train.clip_input == data.clip_input == dataclasses.replace(wanted, length=T)
        assert train.seed == wanted.stride


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pending", [[0, 1, 2], [2, 0], [1], []])
def test_ranks_share_the_pending_batches_out_without_losing_or_repeating_one(world, pending):
    shared_out = []
    for rank in range(world):
        data = Greys()
        data.plan, data.pending = data.batches(1), list(pending)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        shared_out += [work.number for work in data.predict_dataloader()]
    assert sorted(shared_out) == sorted(pending)
