"""Sensitivity and consistency: closed forms on small networks, Captum's sensitivity, and what is undefined."""

import dataclasses
import math

import captum.metrics
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vidattr_bench as vb
from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import CLASSES, as_model, explained_case, small_batch, small_model
from vidattr_bench.metrics.robustness import shifted, unevenness
from vidattr_bench.metrics.sensitivity import noisy_clips

T, H, W = 6, 20, 28
MOVES = ("shift_consistency", "flip_equivariance", "reversal_consistency")


def case(model, method, batch=None):
    return explained_case(method, model, batch or small_batch(3))


def brightness(model, frames, targets, draw=0):
    """The map |x|, which never looks at the model."""
    return frames.mean(1).abs()


class Pointwise(nn.Module):
    """Every voxel for itself: 1 x 1 x 1 convolutions and a mean."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(3, 8, 1), nn.Softplus(), nn.Conv3d(8, len(CLASSES), 1))

    def forward(self, x):
        return self.layers(x).mean((2, 3, 4))


class Linear(nn.Module):
    """Logits = weight . x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(CLASSES), 3, T, H, W))

    def forward(self, x):
        return torch.einsum("ncthw,kcthw->nk", x, self.weight)


class Convolutional(nn.Module):
    """Two convolutions that pad with zeros, kernels made symmetric along `axes` of (t, h, w)."""

    def __init__(self, axes=(), kernel=(3, 3, 3)):
        super().__init__()
        padding = [size // 2 for size in kernel]
        self.first, self.second = nn.Conv3d(3, 6, kernel, padding=padding), nn.Conv3d(6, 5, kernel, padding=padding)
        with torch.no_grad():
            for conv in (self.first, self.second):
                for axis in axes:
                    conv.weight.copy_((conv.weight + conv.weight.flip(axis + 2)) / 2)

    def forward(self, x):
        return F.softplus(self.second(F.softplus(4 * self.first(x)))).mean((2, 3, 4))


# Sensitivity


def _with_targets(inputs, targets):
    """Captum hands over all draws of a clip, one after the other, in a tuple of one tensor or as it is."""
    frames = inputs[0] if isinstance(inputs, tuple) else inputs
    return frames, targets.repeat_interleave(len(frames) // len(targets))


@pytest.mark.parametrize("method", ["gradient", "grad_cam", "input_x_gradient"])
def test_captums_sensitivity_on_the_same_noise(method):
    model, batch = small_model(), small_batch(3)
    made = case(model, method, batch)
    metric = vb.create("metrics", "max_sensitivity:radius=0.01,draws=5")
    found = metric.measure(made)
    noisy = torch.cat([noisy_clips(made, clip, 0.01, 5) for clip in range(3)])
    expected = captum.metrics.sensitivity_max(
        lambda inputs: (made.explain(model, *_with_targets(inputs, batch.labels)),),
        batch.frames,
        perturb_func=lambda inputs, radius: noisy,
        perturb_radius=0.01,
        n_perturb_samples=5,
    )
    flips = vb.create("metrics", "flipped_draws:radius=0.01,draws=5")(made)
    assert flips.eq(0).all()
    torch.testing.assert_close(found.values, expected.double(), rtol=1e-5, atol=1e-6)
    assert (found.values > 0).all()


def test_the_average_is_the_mean_of_the_same_draws_and_asks_for_no_further_map():
    model, batch, asked = small_model(), small_batch(2), []
    original = case(model, "gradient", batch).explain

    def explain(*args):
        asked.append(args)
        return original(*args)

    made = case(model, explain, batch)
    worst, mean = (vb.create("metrics", f"{name}_sensitivity:draws=3")(made) for name in ("max", "average"))
    changes = []
    for draw in range(3):
        frames = torch.stack([noisy_clips(made, clip, 0.02, 3)[draw] for clip in range(2)])
        gap = original(model, frames, batch.labels) - made.relevance
        changes.append(gap.flatten(1).norm(dim=1) / made.relevance.flatten(1).norm(dim=1))
    torch.testing.assert_close(mean, torch.stack(changes).double().mean(0), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(worst, torch.stack(changes).double().amax(0), rtol=1e-6, atol=1e-9)
    assert len(asked) == 1 + 3


@pytest.mark.parametrize("method", ["random", "centre"])
def test_a_map_that_ignores_the_clip_does_not_change(method):
    made = case(small_model(), method)
    assert vb.create("metrics", "max_sensitivity")(made).eq(0).all()
    assert vb.create("metrics", "average_sensitivity")(made).eq(0).all()


def test_the_gradient_of_a_linear_model_does_not_change_and_that_of_its_input_is_the_noise():
    model = as_model(Linear, mean=None, std=None)
    torch.testing.assert_close(
        vb.create("metrics", "max_sensitivity")(case(model, "gradient")), torch.zeros(3).double()
    )
    made = case(model, brightness)
    noise = torch.cat([noisy_clips(made, clip, 0.02, 1) for clip in range(3)]) - made.batch.frames
    expected = noise.mean(1).flatten(1).norm(dim=1) / made.relevance.flatten(1).norm(dim=1)
    found = vb.create("metrics", "average_sensitivity:draws=1").measure(made)
    flipped = vb.create("metrics", "flipped_draws:draws=1")(made).bool()
    torch.testing.assert_close(found.values[~flipped], expected.double()[~flipped], rtol=1e-5, atol=1e-9)


class Threshold(nn.Module):
    """Class 1 where the first pixel is brighter than a half, else class 0."""

    def forward(self, x):
        lead = 1000 * (x[:, 0, 0, 0, 0] - 0.5)
        return torch.stack([torch.zeros_like(lead), lead], 1) + 0 * x.sum((1, 2, 3, 4))[:, None]


def test_draws_that_flip_the_prediction_are_left_out_and_counted():
    model, batch = vb.VideoModel(Threshold(), ["dark", "bright"]), small_batch(3)
    frames = batch.frames.clone()
    frames[:, 0, 0, 0, 0] = torch.tensor([0.49, 0.1, 0.5])
    batch = dataclasses.replace(batch, frames=frames, labels=torch.zeros(3, dtype=torch.long))
    made = case(model, brightness, batch)
    draws = [noisy_clips(made, clip, 0.05, 8) for clip in range(3)]
    flips = [int((noisy[:, 0, 0, 0, 0] > 0.5).sum()) for noisy in draws]
    assert 0 < flips[0] < 8
    counted = vb.create("metrics", "flipped_draws:radius=0.05,draws=8")(made)
    assert counted.tolist() == [flips[0] / 8, 0, flips[2] / 8]
    worst = vb.create("metrics", "max_sensitivity:radius=0.05,draws=8")(made)
    for clip, noisy in enumerate(draws):
        kept = noisy[noisy[:, 0, 0, 0, 0] <= 0.5]
        gaps = (kept.mean(1) - made.relevance[clip]).flatten(1).norm(dim=1) / made.relevance[clip].norm()
        assert float(worst[clip]) == pytest.approx(float(gaps.max()), rel=1e-5)


def test_where_every_draw_flips_or_the_map_is_zero_it_is_undefined():
    class Fickle(nn.Module):
        def forward(self, x):
            changed = (x != 0.5).flatten(1).any(1).float()
            return torch.stack([1 - changed, changed], 1)

    batch = small_batch(2)
    batch = dataclasses.replace(batch, frames=torch.full_like(batch.frames, 0.5))
    made = case(vb.VideoModel(Fickle(), ["grey", "other"]), brightness, batch)
    made.relevance[1] = 0
    for name in ("max", "average"):
        assert vb.create("metrics", f"{name}_sensitivity").measure(made).reasons == ("all_draws_flip", "zero_map")
    assert vb.create("metrics", "flipped_draws")(made).tolist() == [1, 1]


# Moves


@pytest.mark.parametrize("metric", MOVES)
@pytest.mark.parametrize("kind", ["spearman", "pearson", "ssim"])
def test_what_sees_every_voxel_for_itself_moves_along(metric, kind):
    text = f"{metric}:similarity={kind},same_prediction=False"
    for made in (case(as_model(Pointwise), "gradient"), case(small_model(), brightness)):
        found = vb.create("metrics", text)(made)
        torch.testing.assert_close(found, torch.ones(3).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("metric", "axis"), [("flip_equivariance", 2), ("reversal_consistency", 0)])
def test_the_gradient_of_a_symmetric_network_is_equivariant(metric, axis):
    symmetric, other = as_model(lambda: Convolutional([axis])), as_model(Convolutional)
    found = vb.create("metrics", metric).measure(case(symmetric, "gradient"))
    torch.testing.assert_close(found.values, torch.ones(3).double(), rtol=0, atol=1e-4)
    unequal = vb.create("metrics", f"{metric}:same_prediction=False")(case(other, "gradient"))
    assert (unequal < 0.99).all()


def test_a_convolution_is_shift_consistent_but_for_its_borders():
    small = vb.create("metrics", "shift_consistency:pixels=3,same_prediction=False")
    values = small(case(as_model(Convolutional), "gradient"))
    assert (values > 0.7).all()
    assert (values < 1).all()


def test_the_gradient_of_a_linear_model_stays_where_it_is():
    made = case(as_model(Linear), "gradient")
    for metric, moved in (
        ("shift_consistency:pixels=4", lambda map_: (map_[:, :-4, :-4], map_[:, 4:, 4:])),
        ("flip_equivariance", lambda map_: (map_, map_.flip(2))),
        ("reversal_consistency", lambda map_: (map_, map_.flip(0))),
    ):
        options = "same_prediction=False"
        text = f"{metric},{options}" if ":" in metric else f"{metric}:{options}"
        found = vb.create("metrics", text)(made)
        expected = [scipy.stats.spearmanr(*(x.flatten() for x in moved(map_))).statistic for map_ in made.relevance]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_noise_of_the_same_seed_does_not_move_along():
    made = case(small_model(), "random", small_batch(40))
    for metric in MOVES:
        values = vb.create("metrics", f"{metric}:same_prediction=False")(made)
        assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(40)
        assert float(values.abs().max()) < 0.1
    centre = case(small_model(), "centre")
    assert vb.create("metrics", "flip_equivariance:same_prediction=False")(centre).tolist() == pytest.approx(
        [1] * 3, abs=1e-3
    )


class Sided(nn.Module):
    """The first class where the left, the upper, the early half is brighter, else the second."""

    def forward(self, x):
        t, _, w = x.shape[2:]
        left = x[..., : w // 2].mean((1, 2, 3, 4)) - x[..., w // 2 :].mean((1, 2, 3, 4))
        early = x[:, :, : t // 2].mean((1, 2, 3, 4)) - x[:, :, t // 2 :].mean((1, 2, 3, 4))
        return torch.stack([left + early, -left - early], 1)


def test_a_clip_whose_prediction_changes_with_the_move_is_undefined():
    batch = small_batch(2)
    ramp = torch.linspace(0, 1, W) + torch.linspace(0, 1, T)[:, None, None]
    frames = (ramp.expand(2, 3, T, H, W) / 2).clone()
    batch = dataclasses.replace(batch, frames=frames, labels=torch.tensor([0, 1]))
    made = case(vb.VideoModel(Sided(), ["before", "behind"]), brightness, batch)
    both = dataclasses.replace(batch, frames=frames.flip(2))
    for metric, given_ in (("flip_equivariance", both), ("reversal_consistency", batch)):
        changing = case(made.model, brightness, dataclasses.replace(given_, frames=given_.frames**2))
        flipped = changing.batch.frames.flip(4 if metric == "flip_equivariance" else 2)
        changes = changing.model(flipped).argmax(1) != changing.model(changing.batch.frames).argmax(1)
        expected = tuple("prediction_changes" if change else "" for change in changes.tolist())
        assert vb.create("metrics", metric).measure(changing).reasons == expected
    assert vb.create("metrics", "reversal_consistency").measure(case(made.model, brightness, batch)).reasons != ("", "")


@pytest.mark.parametrize("metric", MOVES)
def test_constant_maps_have_no_correlation_to_record(metric):
    def first_only(model, frames, targets, draw=0):
        return frames.mean(1) if torch.equal(frames, batch.frames) else torch.full_like(frames[:, 0], 0.3)

    batch = small_batch(2)
    metric = vb.create("metrics", f"{metric}:same_prediction=False")
    for explain in (lambda model, frames, targets, draw=0: torch.ones_like(frames[:, 0]), first_only):
        found = metric.measure(case(small_model(), explain, batch))
        assert found.reasons == ("constant_map",) * 2
        assert found.values.isnan().all()


def test_a_shift_beyond_the_frame_leaves_nothing_in_common():
    metric = vb.create("metrics", f"shift_consistency:pixels={H},same_prediction=False")
    assert metric.measure(case(small_model(), brightness)).reasons == ("nothing_in_common",) * 3


@settings(max_examples=10)
@given(pixels=st.integers(1, 8))
def test_shifting_reflects_what_it_leaves(pixels):
    frames = small_batch(2).frames
    moved = shifted(frames, pixels)
    torch.testing.assert_close(moved[..., pixels:, pixels:], frames[..., :-pixels, :-pixels])
    torch.testing.assert_close(moved[..., pixels - 1, pixels:], frames[..., 1, :-pixels])
    torch.testing.assert_close(moved[..., pixels:, pixels - 1], frames[..., :-pixels, 1])


# A clip that stands still


def test_unevenness_by_hand():
    assert unevenness(torch.ones(6, 4, 5), 0) == 0
    assert unevenness(torch.eye(6)[2].view(6, 1, 1), 0) == pytest.approx(1)
    assert unevenness(torch.tensor([9.0, 1, -1, 2, 0, 9]).view(6, 1, 1), 1) == pytest.approx(0.25 / 0.75)
    assert unevenness(torch.zeros(6, 4, 5), 0) == "zero_map"
    assert unevenness(torch.ones(3, 4, 5), 1) == "short_clip"


@settings(max_examples=10)
@given(seed=st.integers(0, 99), scale=st.floats(0.01, 100), order=st.permutations(range(6)))
def test_unevenness_knows_neither_order_nor_scale_nor_sign(seed, scale, order):
    map_ = torch.rand(6, 4, 5, generator=torch.Generator().manual_seed(seed))
    assert 0 <= unevenness(map_, 0) <= 1
    assert unevenness(-scale * map_[order], 0) == pytest.approx(unevenness(map_, 0), abs=1e-6)


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient"])
def test_a_network_without_a_view_of_time_sees_a_still_clip_evenly(method):
    framewise = as_model(lambda: Convolutional(kernel=(1, 3, 3)))
    found = vb.create("metrics", "static_clip:margin=0")(case(framewise, method))
    torch.testing.assert_close(found, torch.zeros(3).double(), rtol=0, atol=1e-5)


def test_zero_padding_shows_at_the_ends_and_only_there():
    model, batch = as_model(Convolutional), small_batch(2, (12, H, W))
    made = case(model, "gradient", batch)
    everywhere, inside = (vb.create("metrics", f"static_clip:margin={share}")(made) for share in (0, 4 / 12))
    assert (everywhere > 1e-3).all()
    torch.testing.assert_close(inside, torch.zeros(2).double(), rtol=0, atol=1e-5)


def test_a_map_of_the_first_frame_alone_is_as_uneven_as_can_be():
    def first(model, frames, targets, draw=0):
        return F.pad(frames.mean(1)[:, :1], (0, 0, 0, 0, 0, T - 1))

    assert vb.create("metrics", "static_clip:margin=0")(case(small_model(), first)).tolist() == pytest.approx([1] * 3)
    assert vb.create("metrics", "static_clip").measure(case(small_model(), first)).reasons == ("zero_map",) * 3


# The oracle, and what a case without a method can tell


@pytest.mark.parametrize("metric", [*MOVES, "max_sensitivity", "average_sensitivity", "flipped_draws", "static_clip"])
def test_what_cannot_explain_another_clip_is_not_applicable(metric):
    batch = small_batch(1)
    made = vb.Case(small_model(), batch, batch.labels, batch.tubes.float())
    with pytest.raises(NotApplicableError):
        vb.create("metrics", metric).measure(made)


@pytest.mark.parametrize(
    "text", ["max_sensitivity:radius=0", "average_sensitivity:draws=0", "shift_consistency:pixels=0"]
)
def test_options_that_make_no_sense_are_refused(text):
    with pytest.raises(PluginError, match="must be"):
        vb.create("metrics", text)
