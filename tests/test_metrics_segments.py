"""The response to a changed segment: closed forms on linear models, symmetries, what gives no response."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch
from vidattr_bench.errors import PluginError
from vidattr_bench.metric import Case, Measurement
from vidattr_bench.metrics.segments import frozen, permuted, segment_length, shuffled_order
from vidattr_bench.model import VideoModel

T, H, W = 8, 3, 5
CHANGES = ("freeze", "shuffle", "reverse")


class Linear(nn.Module):
    """Logits that weigh each frame's mean, so that a changed frame has a known price."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.double())
        self.clips = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clips += len(x)
        return x.double().mean((1, 3, 4)) @ self.weight.T


def frames_of(*brightness: float) -> torch.Tensor:
    return torch.tensor(brightness)[None, :, None, None].expand(3, -1, H, W).clone()


def case_of(frames: torch.Tensor, relevance: torch.Tensor, weight: torch.Tensor | None = None, **options) -> Case:
    """Clips (N, 3, T, H, W); relevance of every frame (N, T)."""
    n, _, t, _, _ = frames.shape
    weight = torch.stack([torch.arange(t).double(), torch.zeros(t)]) if weight is None else weight
    tubes, known = torch.zeros(n, t, H, W, dtype=torch.bool), torch.ones(n, t, dtype=torch.bool)
    ids = options.pop("ids", [f"clip-{i}" for i in range(n)])
    batch = Batch(ids, frames, torch.zeros(n, dtype=torch.int64), tubes, known)
    maps = relevance[..., None, None].expand(n, t, H, W).clone()
    return Case(VideoModel(Linear(weight), ["a", "b"]), batch, batch.labels, maps, **options)


def measured(case: Case, change: str, **options) -> Measurement:
    return plugins.create("metrics", f"segment_response:change={change},score=logit", **options).measure(case)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("t", "share", "length"), [(16, 0.25, 4), (6, 0.25, 2), (10, 0.25, 3), (3, 0.9, 2), (9, 0.01, 2)]
)
def test_a_segment_has_at_least_two_frames_and_leaves_one_out(t, share, length):
    assert segment_length(t, share) == length


def test_a_frozen_segment_shows_the_frame_before_it_or_else_the_one_after_it():
    assert frozen(3, 2, 6).tolist() == [0, 1, 2, 2, 2, 5]
    assert frozen(0, 2, 6).tolist() == [2, 2, 2, 3, 4, 5]
    assert permuted(3, torch.tensor([2, 0, 1]), 6).tolist() == [0, 1, 2, 5, 3, 4]


def test_the_true_order_is_never_drawn():
    orders = {tuple(shuffled_order(3, 0, str(i)).tolist()) for i in range(200)}
    assert len(orders) == 5
    assert (0, 1, 2) not in orders
    assert torch.equal(shuffled_order(5, 1, "a"), shuffled_order(5, 1, "a"))


# The most relevant segment is frames 4 and 5, the least relevant one frames 1 and 2; frame t weighs t.
RELEVANCE = torch.tensor([[0.0, -3.0, -3.0, 0.0, 4.0, 4.0, 0.0, 0.0]])
BRIGHT = (0.1, 0.4, 0.2, 0.0, 0.5, 0.7, 0.9, 0.3)


def test_values_of_a_linear_model_by_hand():
    case = case_of(frames_of(*BRIGHT)[None], RELEVANCE)
    # freeze: 4 and 5 show frame 3, 1 and 2 show frame 0.
    dropped = 4 * (0.5 - 0.0) + 5 * (0.7 - 0.0)
    contrast = 1 * (0.4 - 0.1) + 2 * (0.2 - 0.1)
    assert float(measured(case, "freeze").values) == pytest.approx(dropped - contrast, abs=1e-6)
    # reverse and, of two frames, shuffle: each pair is exchanged.
    dropped = (4 - 5) * 0.5 + (5 - 4) * 0.7
    contrast = (1 - 2) * 0.4 + (2 - 1) * 0.2
    for change in ("reverse", "shuffle"):
        assert float(measured(case, change).values) == pytest.approx(dropped - contrast, abs=1e-6)


def literal(case: Case, clip: int, change: str, length: int) -> float:
    """The definition in words: try every segment, change the best and the worst, and ask for the target's logit."""
    relevance, frames = case.relevance[clip, :, 0, 0].tolist(), case.batch.frames[clip]
    sums = [sum(relevance[start : start + length]) for start in range(len(relevance) - length + 1)]
    answers = []
    for start in (sums.index(max(sums)), sums.index(min(sums))):
        shown = [frames[:, i] for i in range(frames.shape[1])]
        segment = shown[start : start + length]
        if change == "freeze":
            segment = [shown[start - 1] if start else shown[length]] * length
        elif change == "reverse":
            segment = segment[::-1]
        else:
            order = shuffled_order(length, case.seed, case.batch.ids[clip])
            segment = [segment[i] for i in order.tolist()]
        shown[start : start + length] = segment
        answers.append(float(case.model.logits(torch.stack(shown, 1)[None])[0, 0]))
    return answers[1] - answers[0]


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(CHANGES), st.integers(3, 11), st.sampled_from([0.2, 0.5, 0.8]))
def test_values_agree_with_a_literal_transcription(seed, change, t, share):
    relevance, weight = random(2, t, seed=seed) - 0.5, random(2, t, seed=seed + 1) - 0.5
    case = case_of(random(2, 3, t, H, W, seed=seed + 2), relevance, weight)
    found = measured(case, change, length=share).values
    expected = [literal(case, clip, change, segment_length(t, share)) for clip in range(2)]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(CHANGES))
def test_the_negative_map_has_the_negative_response_and_a_rising_line_the_same(seed, change):
    frames, relevance = random(2, 3, T, H, W, seed=seed), (random(2, T, seed=seed + 1) * 4096).floor()
    found = measured(case_of(frames, relevance), change).values
    assert torch.equal(measured(case_of(frames, -relevance), change).values, -found)
    assert torch.equal(measured(case_of(frames, 8 * relevance - 32), change).values, found)


def test_a_static_clip_a_palindrome_and_a_model_without_order_do_not_respond():
    relevance = random(1, T)
    static = frames_of(*[0.3] * T)[None]
    for change in CHANGES:
        assert float(measured(case_of(static, relevance), change).values) == 0
    # Every segment of an odd-even alternation of three frames reads the same backwards.
    palindrome = frames_of(*[0.1, 0.8] * (T // 2))[None]
    assert float(measured(case_of(palindrome, relevance), "reverse", length=3 / T).values) == 0
    assert float(measured(case_of(palindrome, relevance), "freeze", length=3 / T).values) != 0
    orderless = torch.stack([torch.ones(T), torch.zeros(T)])
    clips = random(1, 3, T, H, W, seed=4)
    for change in ("reverse", "shuffle"):
        assert float(measured(case_of(clips, relevance, orderless), change).values) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("change", CHANGES)
def test_a_random_map_has_expectation_0(change):
    n = 400
    frames = random(1, 3, T, H, W, seed=5).expand(n, -1, -1, -1, -1)
    found = measured(case_of(frames, random(n, T, seed=6)), change)
    assert torch.equal(found.chance, torch.zeros(n, dtype=torch.float64))
    assert float(found.values.mean()) == pytest.approx(0, abs=4 * float(found.values.std()) / n**0.5)


def test_the_order_of_tied_segments_is_that_of_the_seed_and_the_clip_alone():
    relevance = torch.tensor([[0.0, 0, 1, 1, 0, 0, 1, 1]])
    frames = random(1, 3, T, H, W, seed=7)
    by_id = {id: float(measured(case_of(frames, relevance, ids=[id]), "freeze").values) for id in "abcdefgh"}
    assert len(set(by_id.values())) > 1
    together = case_of(frames.expand(8, -1, -1, -1, -1), relevance.expand(8, -1), ids=list("abcdefgh"))
    assert measured(together, "freeze").values.tolist() == list(by_id.values())


@pytest.mark.parametrize("change", CHANGES)
def test_it_sends_forward_what_it_declares(change):
    case = case_of(random(1, 3, T, H, W), random(1, T))
    metric = plugins.create("metrics", f"segment_response:change={change}")
    case.shared.forward_batch = 2
    metric.measure(case)
    assert case.model.net.clips == metric.own_forwards(case.model, case.batch.frames[0]) == 2


def test_constant_maps_and_short_clips_are_undefined():
    assert measured(case_of(random(1, 3, T, H, W), torch.ones(1, T)), "freeze").reasons == ("constant_map",)
    assert measured(case_of(random(1, 3, 2, H, W), random(1, 2)), "freeze").reasons == ("too_short",)
    with pytest.raises(PluginError, match="share of the frames"):
        plugins.create("metrics", "segment_response", length=1.0)
