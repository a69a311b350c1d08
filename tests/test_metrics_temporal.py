"""Localisation in time: closed forms, scikit-learn, brute force over the order of ties, symmetries."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch, Clip, Tube, collate
from vidattr_bench.metric import Case, Measurement
from vidattr_bench.model import VideoModel

T, H, W = 7, 5, 9
NAMES = ("temporal_mass", "temporal_pointing", "temporal_iou", "temporal_auc")
RANKED = NAMES[1:]


def dyadic(*shape: int, seed: int = 0, levels: int = 256) -> torch.Tensor:
    """Relevance whose sums are exact in whatever order."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(-levels, levels, shape, generator=draws).float() / 64


def clip_with(start: int, frames: int, name: str = "clip", **options) -> Clip:
    """One tube on `frames` frames from `start` on, in a corner off the diagonal."""
    tubes = (Tube(1, start, torch.tensor([[5.0, 0.0, 8.0, 2.0]] * frames)),) if frames else ()
    facts = {"label": 1, "annotated": torch.ones(T, dtype=torch.bool), **options}
    return Clip(name, "group", torch.zeros(3, T, H, W), facts["label"], tubes, facts["annotated"])


def case_of(clips: Clip | list[Clip], relevance: torch.Tensor | None = None, **options) -> Case:
    batch = collate(clips if isinstance(clips, list) else [clips])
    maps = batch.tubes.float() if relevance is None else relevance
    targets = options.pop("targets", torch.ones(len(batch), dtype=torch.int64))
    return Case(VideoModel(nn.Flatten(), ["a", "b"]), batch, targets, maps if maps.ndim == 4 else maps[None], **options)


def measured(name: str, case: Case) -> Measurement:
    return plugins.create("metrics", name).measure(case)


def value(name: str, case: Case) -> float:
    return float(measured(name, case).values)


def by_frame(*relevance: float) -> torch.Tensor:
    """A map whose frames have these means, all at one place."""
    maps = torch.zeros(T, H, W)
    maps[:, 3, 1] = torch.tensor(relevance) * H * W
    return maps


@pytest.mark.parametrize("name", NAMES)
def test_oracle_constant_and_inverse_have_their_closed_forms(name):
    case = case_of(clip_with(2, 3))
    share = 3 / 7
    # P(k of 3 hits among 7) is 4, 18, 12, 1 of 35, with IoU 0, 1/5, 1/2, 1.
    chance_iou = (18 / 5 + 12 / 2 + 1) / 35
    constant = {"temporal_auc": 0.5, "temporal_iou": chance_iou}.get(name, share)
    inverse = {"temporal_mass": 3 * (H * W - 6) / (T * H * W - 18)}.get(name, 0.0)
    assert value(name, case) == 1
    assert value(name, case_of(clip_with(2, 3), 1 - case.relevance)) == pytest.approx(inverse, abs=1e-12)
    for level in (0.1, 1.0, 7.3):
        result = measured(name, case_of(clip_with(2, 3), torch.full((T, H, W), level)))
        assert float(result.values) == pytest.approx(constant, abs=1e-12)
        assert float(result.chance) == pytest.approx(constant, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_only_time_matters_and_not_the_place_in_the_frame(name):
    elsewhere = torch.zeros(T, H, W)
    elsewhere[2:5, 4, 0] = 1
    assert value(name, case_of(clip_with(2, 3), elsewhere)) == 1


def test_signed_relevance_counts_in_ranks_and_not_in_the_mass():
    # Frame 0 has the most positive relevance, but a small mean.
    relevance = by_frame(0, 0, 3, 2, 1, 0, 0)
    relevance[0, 0, 0], relevance[0, 0, 1] = 6 * H * W, -5.5 * H * W
    case = case_of(clip_with(2, 3), relevance)
    assert value("temporal_mass", case) == pytest.approx(6 / 12)
    assert [value(name, case) for name in RANKED] == [1, 1, 1]


def test_ties_share_the_hit_of_the_most_relevant_frame():
    assert value("temporal_pointing", case_of(clip_with(2, 3), by_frame(4, 0, 4, 4, 0, 0, 0))) == pytest.approx(2 / 3)
    assert value("temporal_pointing", case_of(clip_with(2, 3), by_frame(4, 0, 4, 5, 0, 0, 0))) == 1
    assert value("temporal_pointing", case_of(clip_with(2, 3), by_frame(4, 6, 4, 5, 0, 0, 0))) == 0


@settings(max_examples=25)
@given(st.lists(st.integers(-2, 2), min_size=T, max_size=T), st.integers(0, T - 1), st.integers(1, T - 1))
def test_frames_agree_with_scikit_learn_and_with_all_orders_of_ties(means, start, frames):
    frames = min(frames, T - start)
    if frames == T:
        return
    tube = torch.zeros(T, dtype=torch.int64)
    tube[start : start + frames] = 1
    case = case_of(clip_with(start, frames), by_frame(*map(float, means)))
    assert value("temporal_auc", case) == pytest.approx(roc_auc_score(tube, means), abs=1e-12)
    orders = [order for order in itertools.permutations(range(T)) if sorted_down([means[i] for i in order])]
    ious = [iou(set(order[:frames]), set(tube.nonzero().flatten().tolist())) for order in orders]
    assert value("temporal_iou", case) == pytest.approx(sum(ious) / len(ious), abs=1e-12)
    pointed = [int(tube[order[0]]) for order in orders]
    assert value("temporal_pointing", case) == pytest.approx(sum(pointed) / len(pointed), abs=1e-12)


def sorted_down(values: list[int]) -> bool:
    return all(a >= b for a, b in itertools.pairwise(values))


def iou(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([(0,), (1,), (2,), (0, 1, 2)]), st.integers(2, 256))
def test_flips_of_clip_truth_and_map_together_change_nothing(seed, dims, levels):
    plain, relevance = collate([clip_with(1, 4)]), dyadic(T, H, W, seed=seed, levels=levels)
    frames, tubes = plain.frames.flip([d + 2 for d in dims]), plain.tubes.flip([d + 1 for d in dims])
    flipped = Batch(["clip"], frames, plain.labels, tubes, plain.annotated)
    model = VideoModel(nn.Flatten(), ["a", "b"])
    for name in NAMES:
        one = value(name, Case(model, plain, plain.labels, relevance[None]))
        assert one == value(name, Case(model, flipped, plain.labels, relevance.flip(dims)[None]))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.permutations(range(T)))
def test_frames_in_another_order_give_the_same(seed, order):
    plain, relevance = collate([clip_with(1, 4)]), dyadic(T, H, W, seed=seed)
    permuted = Batch(["clip"], plain.frames[:, :, order], plain.labels, plain.tubes[:, order], plain.annotated)
    model = VideoModel(nn.Flatten(), ["a", "b"])
    for name in NAMES:
        one = value(name, Case(model, plain, plain.labels, relevance[None]))
        assert one == pytest.approx(value(name, Case(model, permuted, plain.labels, relevance[order][None])), abs=1e-12)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([0.25, 3.0, 1024.0]), st.sampled_from([-2.0, 0.0, 5.0]))
def test_a_rising_line_of_the_map_leaves_ranks_alone_and_a_scale_the_mass(seed, scale, shift):
    relevance, clip = dyadic(T, H, W, seed=seed), clip_with(1, 4)
    for name in RANKED:
        assert value(name, case_of(clip, relevance)) == value(name, case_of(clip, scale * relevance + shift))
    scaled = value("temporal_mass", case_of(clip, scale * relevance))
    assert scaled == pytest.approx(value("temporal_mass", case_of(clip, relevance)), abs=1e-12)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_mass_in_the_tubes_frames_is_no_less_than_mass_in_the_tubes(seed):
    case = case_of(clip_with(2, 3), dyadic(T, H, W, seed=seed))
    assert value("temporal_mass", case) >= value("tube_mass", case)


def test_values_do_not_depend_on_the_order_or_number_of_clips():
    clips = [clip_with(2, 3, name="a"), clip_with(0, 1, name="b"), clip_with(4, 3, name="c")]
    relevance, order = dyadic(3, T, H, W), [2, 0, 1]
    for name in NAMES:
        together = measured(name, case_of(clips, relevance)).values
        assert torch.equal(measured(name, case_of([clips[i] for i in order], relevance[order])).values, together[order])
        assert value(name, case_of(clips[1], relevance[1])) == float(together[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_whose_truth_is_unknown_is_left_out(name):
    known = torch.tensor([True, False, True, True, True, True, False])
    disturbed = case_of(clip_with(2, 3)).relevance[0] + by_frame(0, 9, 0, 0, 0, 0, 9)
    result = measured(name, case_of(clip_with(2, 3, annotated=known), disturbed))
    assert float(result.values) == 1
    share = 3 / 5
    # P(k of 3 hits among 5) is 0, 3, 6, 1 of 10.
    chance = {"temporal_auc": 0.5, "temporal_iou": (3 / 5 + 6 / 2 + 1) / 10}.get(name, share)
    assert float(result.chance) == pytest.approx(chance)
    assert value(name, case_of(clip_with(2, 3), disturbed)) < 1


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_truth_in_time_is_undefined_with_its_reason(name):
    clips = [
        clip_with(0, 0, name="no_tubes"),
        clip_with(0, T, name="no_empty_frame"),
        clip_with(2, 3, name="not_annotated", annotated=torch.zeros(T, dtype=torch.bool)),
        clip_with(2, 3, name="no_label", label=None),
        clip_with(2, 3, name="other_target"),
        clip_with(2, 3, name=""),
    ]
    result = measured(name, case_of(clips, dyadic(6, T, H, W), targets=torch.tensor([1, 1, 1, 1, 0, 1])))
    assert result.reasons == tuple(clip.id for clip in clips)
    assert result.values.isnan().tolist() == result.chance.isnan().tolist() == [True] * 5 + [False]


def test_a_map_without_positive_relevance_has_no_mass():
    result = measured("temporal_mass", case_of(clip_with(2, 3), -dyadic(T, H, W).abs()))
    assert result.reasons == ("no_positive_relevance",)


def test_frames_of_a_part_that_is_all_tube_give_truth_without_boxes():
    """Two clips joined: the label's part is tube from edge to edge, the other part is empty."""
    whole = Clip(
        "joined",
        "g",
        torch.zeros(3, T, H, W),
        1,
        (Tube(1, 0, torch.tensor([[0.0, 0.0, W, H]] * 3)),),
        torch.ones(T).bool(),
    )
    assert value("temporal_auc", case_of(whole, by_frame(3, 2, 4, 1, 2.5, 0, 0))) == pytest.approx(11 / 12)
