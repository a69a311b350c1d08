"""Two clips joined: what lies where, who is paired with whom, and what controls score."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
import torch

from vidattr_bench.clip import collate
from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create, label, load

pairs = importlib.import_module(load("datasets", "concatenated").__module__.replace("concatenated", "_pairs"))
WANTED = ClipInput(length=7, size=(24, 37))


def module(options: str = "", wanted: ClipInput = WANTED):
    data = create("datasets", f"concatenated:{options}")
    data.adapt(wanted)
    return data


def refs_of(groups: dict[str, str]) -> list[ClipRef]:
    """Clips a0, a1, ... of the groups, with a label a letter."""
    return [ClipRef(f"{g}{i}", g, ord(x) - ord("a")) for g, labels in groups.items() for i, x in enumerate(labels)]


# --- pixels and truth


@pytest.mark.parametrize(("axis", "dim"), [("time", 1), ("height", 2), ("width", 3)])
def test_each_half_is_its_member_and_the_truth_is_the_targets_half(axis, dim):
    data = module(f"of=(planted_actions:clips=12),axis={axis}")
    source = create("datasets", "planted_actions:clips=12")
    sides = set()
    for pair in data._pairs.values():
        clip = data.load(pair.ref)
        assert clip.frames.shape == (3, 7, 24, 37)
        mask, n = collate([clip]).tubes[0], (7, 24, 37)[dim - 1]
        cut = n // 2
        halves = clip.frames.split([cut, n - cut], dim)
        for half, inside, member in zip(
            halves,
            mask.split([cut, n - cut], dim - 1),
            (pair.target, pair.partner) if pair.target_first else (pair.partner, pair.target),
            strict=True,
        ):
            source.adapt(dataclasses.replace(WANTED, length=half.shape[1]))
            whole = source.load(member).frames
            # Every pixel of a squeezed clip is the mean of those it replaces, so that the mean of the clip stays near.
            assert half.mean() == pytest.approx(whole.mean().item(), abs=0.01)
            assert axis != "time" or torch.equal(half, whole)
            assert bool(inside.all()) == (member == pair.target)
            assert bool(inside.any()) == (member == pair.target)
        assert clip.annotated.all()
        sides.add(pair.target_first)
    assert sides == {False, True}


@pytest.mark.parametrize("axis", ["time", "width"])
def test_frames_that_fill_up_a_short_member_are_unknown(axis, monkeypatch):
    data = module(f"of=(planted_actions:clips=4),axis={axis}", ClipInput(length=8, size=(24, 37)))
    load_whole = type(data._source).load

    def short(self, ref):
        clip = load_whole(self, ref)
        clip.frames[:, 3:] = 0
        return clip

    monkeypatch.setattr(type(data._source), "load", short)
    known = data.load(data.refs()[0]).annotated.tolist()
    assert known == ([True, True, True, False] * 2 if axis == "time" else [True] * 3 + [False] * 5)


def test_an_even_width_is_squeezed_by_averaging_two_columns():
    data = module("of=(planted_actions:clips=4),axis=width", ClipInput(length=3, size=(24, 36)))
    source = create("datasets", "planted_actions:clips=4")
    source.adapt(data.clip_input)
    pair = next(pair for pair in data._pairs.values() if pair.target_first)
    whole = source.load(pair.target).frames
    expected = (whole[..., 0::2] + whole[..., 1::2]) / 2
    assert torch.allclose(data.load(pair.ref).frames[..., :18], expected, atol=1e-6)


def test_options_of_the_joined_data_set_are_kept_and_its_size_is_refused():
    data = module("of=(planted_actions:clips=6,scenes=3,part=dev)")
    assert data.part == "dev"
    assert data.split_name == "dev/time"
    assert data.load(data.refs()[0]).frames.shape == (3, 7, 24, 37)
    assert "of=(planted_actions:clips=6,part=dev,scenes=3)" in label("datasets", data)
    for option in ("length=8", "size='[8,8]'"):
        with pytest.raises(DataError, match="of its own; give it to concatenated"):
            module(f"of=(planted_actions:{option})")
    with pytest.raises(DataError, match="did you mean width"):
        module("axis=with")


def test_joins_of_joins_are_made_of_the_clips_themselves():
    data = module("of=(concatenated:of=(planted_actions:clips=12))")
    own = {ref.id for ref in create("datasets", "planted_actions:clips=12").refs()}
    made = data.made_of(data.refs()[0])
    assert len(made) == 4
    assert {ref.id for ref in made} <= own


def test_what_has_no_two_halves_cannot_be_joined():
    still = module("axis=time", ClipInput(length=1, size=(24, 36)))
    with pytest.raises(DataError, match="two at least"):
        still.load(still.refs()[0])


def test_training_joins_clips_of_the_training_part():
    data = module("of=(planted_actions:clips=6,train_clips=8)")
    data.batch_size, data.workers = 4, 0
    ids = [id for _, _, batch in data.train_dataloader() for id in batch]
    assert len(ids) == 8
    assert all(name.startswith("train-") for id in ids for name in id.split("+"))
    assert all(ref.id.startswith("test-") for ref in data.refs())


def test_a_member_that_cannot_be_read_costs_the_clips_it_is_in(tmp_path):
    spec = importlib.util.spec_from_file_location("ucf_fake", Path(__file__).parent / "data" / "ucf101.py")
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    fake.write(tmp_path)
    (tmp_path / "UCF-101/Punch/v_Punch_g03_c01.avi").write_bytes(b"nothing")
    data = module(f"of=(ucf101:root={tmp_path},part=all)", ClipInput(length=4, size=(24, 36)))
    work = data.read(0, data.refs())
    assert {one.id for one in work.unreadable} == {ref.id for ref in data.refs() if "Punch" in ref.id}
    assert work.batch is not None
    assert "v_Basketball_g01_c02" in data.missing()


# --- pairs


@pytest.mark.parametrize("seed", range(4))
def test_pairs_share_no_source_with_pairs_of_another_group(seed):
    refs = refs_of({f"g{i}": "abcde"[i % 5] * (1 + i % 3) for i in range(31)} | {"mixed": "abc"})
    joined = pairs.join(refs, seed)
    left_out = [ref for ref in refs if ref not in [pair.target for pair in joined]]
    assert [ref for ref in refs if ref not in left_out] == [pair.target for pair in joined]
    assert {ref.group for ref in left_out} <= {"mixed"}
    sources: dict[str, set[str]] = {}
    for pair in joined:
        assert pair.target.label != pair.partner.label
        assert pair.target.group != pair.partner.group
        sources.setdefault(pair.group, set()).update((pair.target.group, pair.partner.group))
    assert sum(map(len, sources.values())) == len({ref.group for ref in refs})
    assert len(sources) >= 14


def test_pairs_are_a_function_of_seed_and_clips_alone():
    refs = refs_of({f"g{i}": "abc"[i % 3] * 2 for i in range(12)})
    first = {pair.target.id: pair for pair in pairs.join(refs, 0)}
    again = {pair.target.id: pair for pair in pairs.join(refs[::-1], 0)}
    assert first == again
    assert first != {pair.target.id: pair for pair in pairs.join(refs, 1)}


def test_partners_of_each_other_are_joined_alike_so_that_sides_are_even():
    joined = pairs.join(refs_of({f"g{i}": "ab"[i % 2] * 3 for i in range(200)}), 0)
    by_members = {(pair.target.id, pair.partner.id): pair for pair in joined}
    assert all((b, a) in by_members for a, b in by_members)
    assert all(by_members[b, a].target_first != pair.target_first for (a, b), pair in by_members.items())
    assert Counter(pair.target_first for pair in joined) == {True: 300, False: 300}


def test_the_order_is_no_function_of_label_or_name():
    joined = pairs.join(refs_of({f"g{i}": "ab"[i % 2] for i in range(4000)}), 0)
    for chosen in (lambda pair: pair.target.label == 0, lambda pair: pair.target.id < pair.partner.id):
        sides = [pair.target_first for pair in joined if chosen(pair)]
        # A fair coin thrown 2000 times stays within 4.5 standard deviations of one half.
        assert abs(sum(sides) / len(sides) - 0.5) < 4.5 * 0.5 / 2000**0.5


@pytest.mark.parametrize("seed", range(20))
def test_no_two_groups_that_could_be_joined_are_left_over(seed):
    """Of 6, 5 or 4 sources of one class and one each of six others, all but an odd one can be matched."""
    others = {f"x{i}": "bcdefg"[i] for i in range(6)}
    for frequent in (6, 5, 4):
        joined = pairs.join(refs_of({f"a{i}": "a" for i in range(frequent)} | others), seed)
        assert len({pair.group for pair in joined}) == (frequent + 6) // 2


@pytest.mark.parametrize("seed", range(3))
def test_where_one_class_is_frequent_there_are_as_many_groups_as_sources_of_the_others(seed):
    """Of 40 sources of a and 3 of b: every joined clip holds one of the 3, so that no more groups are independent."""
    joined = pairs.join(refs_of({f"a{i:02}": "a" for i in range(40)} | {f"b{i}": "bb" for i in range(3)}), seed)
    assert len(joined) == 46
    # The clips of b take turns as partners: of 13 or 14 clips of a, each of the two gets 6 or 7.
    assert set(Counter(pair.partner.id for pair in joined if pair.target.label == 0).values()) <= {6, 7}
    of_source: dict[str, set[str]] = {}
    for pair in joined:
        for member in (pair.target, pair.partner):
            of_source.setdefault(member.group, set()).add(pair.group)
    assert len(of_source) == 43
    assert all(len(groups) == 1 for groups in of_source.values())
    assert Counter(len(name.split(" + ")) for name in {pair.group for pair in joined}) == {5: 3}
    assert all(name.endswith(" more") for name in {pair.group for pair in joined})


@pytest.mark.parametrize("seed", range(6))
def test_groups_of_several_classes_are_not_parted_by_groups_of_one_of_them(seed):
    """Joined to a group of a alone, each of the two would leave its ten clips of a without a partner."""
    refs = refs_of({"m1": "a" * 10 + "b", "m2": "a" * 10 + "b", "n1": "a", "n2": "a"})
    joined = pairs.join(refs, seed)
    assert [pair.target for pair in joined] == refs
    assert {pair.group for pair in joined} == {"m1 + m2 + n1 + n2"}


def test_groups_left_over_join_others_and_lone_clips_are_left_out():
    joined = pairs.join(refs_of({"g": "a", "h": "b", "i": "a", "j": "a"}), 0)
    assert {pair.group for pair in joined} == {"g + h + i + j"}
    assert {pair.target.id for pair in joined} == {"g0", "h0", "i0", "j0"}
    # Of these, only the b has a clip of another class in the other group.
    assert {pair.target.id for pair in pairs.join(refs_of({"g": "aab", "h": "a"}), 0)} == {"g2", "h0"}


@pytest.mark.parametrize("groups", [{"g": "ab"}, {"g": "a", "h": "aa"}, {}])
def test_what_cannot_be_joined_is_said(groups):
    with pytest.raises(DataError, match="no two of different classes and groups"):
        pairs.join(refs_of(groups), 0)


def test_clips_without_label_are_left_out():
    refs = [*refs_of({"g": "a", "h": "b"}), ClipRef("x", "x", None)]
    assert len(pairs.join(refs, 0)) == 2
