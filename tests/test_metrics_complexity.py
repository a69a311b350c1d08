"""How concentrated a map is: closed forms, the formulas of Quantus, and padding that makes a corner hot."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vidattr_bench as vb
from vidattr_bench.errors import PluginError
from vidattr_bench.fixtures import CLASSES, as_model, small_batch, small_model
from vidattr_bench.units import regular_units

T, H, W = 10, 20, 28
SIZE = (T, H, W)
SPECS = [
    *("gini", "entropy", "top_mass", "top_mass:share=0.01", "border_bias", "border_bias:part=corner"),
    *("border_bias:part=space", "border_bias:part=time", "centre_bias", "centre_bias:unit=tubelet"),
    *("border_bias:unit=voxel", "gini:unit=voxel", "entropy:unit=frame"),
]
MODEL = small_model()


def case(*maps, batch=None, **options):
    relevance = torch.stack(maps).float()
    batch = batch or small_batch(len(maps), tuple(relevance.shape[1:]))
    return vb.Case(MODEL, batch, batch.labels, relevance, **options)


def value(spec, relevance, **options):
    return float(vb.create("metrics", spec)(case(relevance, **options)))


def noise(seed=0, size=SIZE, spread=2.0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) ** spread


def one_hot(place=(0, 0, 0), size=SIZE):
    map_ = torch.zeros(size)
    map_[place] = 3.0
    return map_


U = len(regular_units("tubelet", *SIZE).sizes)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("gini", 0),
        ("entropy", 1),
        *((f"top_mass:share={share}", share) for share in (0.01, 0.05, 0.1, 0.5)),
        *((f"border_bias:part={part}", 1) for part in ("ring", "space", "time", "corner")),
        *((f"border_bias:part={part},unit=voxel", 1) for part in ("ring", "space", "time", "corner")),
        ("centre_bias", 0),
    ],
)
@pytest.mark.parametrize("level", [1.0, -0.25])
def test_a_constant_map(spec, expected, level):
    assert value(spec, torch.full(SIZE, level)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("gini", 1 - 1 / U),
        ("entropy", 0),
        ("top_mass", 1),
        ("gini:unit=voxel", 1 - 1 / (T * H * W)),
        ("border_bias:unit=voxel", 1 / (1 - (T - 2) * (H - 2) * (W - 2) / (T * H * W))),
        ("border_bias:unit=voxel,part=space", H * W / (H * W - (H - 2) * (W - 2))),
        ("border_bias:unit=voxel,part=time", T / 2),
        ("border_bias:unit=voxel,part=corner", T * H * W),
    ],
)
def test_a_map_that_is_one_voxel_in_a_corner(spec, expected):
    assert value(spec, one_hot((T - 1, 0, W - 1))) == pytest.approx(expected, abs=1e-9)


def test_a_map_that_is_one_voxel_in_the_middle_has_no_border():
    middle = one_hot((T // 2, H // 2, W // 2))
    assert value("border_bias", middle) == value("border_bias:part=corner", middle) == 0
    assert value("centre_bias", middle) > 0 > value("centre_bias", one_hot())


@pytest.mark.parametrize("spec", SPECS)
def test_no_relevance_at_all_is_undefined(spec):
    found = vb.create("metrics", spec).measure(case(torch.zeros(SIZE), noise()))
    assert found.reasons == ("zero_map", "")
    assert found.values.isnan().tolist() == [True, False]


def test_what_has_no_inside_or_no_second_unit_is_undefined():
    metric = vb.create("metrics", "border_bias:unit=frame")
    assert metric.measure(case(noise())).reasons == ("no_inner_unit",)
    assert value("border_bias:unit=frame,part=time", noise()) > 0
    assert vb.create("metrics", "gini:unit=frame").measure(case(noise(size=(1, H, W)))).reasons == ("one_unit",)
    assert vb.create("metrics", "warped_consistency").measure(case(noise(size=(1, H, W)))).reasons == ("one_frame",)


def quantus_sparseness(a):
    """Quantus, functions/complexity_func.py, gini_coeffiient, with the 1e-7 that it adds to every value."""
    a = np.sort(np.asarray(a, dtype=np.float64).ravel() + 0.0000001)
    return np.sum((2 * np.arange(1, a.shape[0] + 1) - a.shape[0] - 1) * a) / (a.shape[0] * np.sum(a))


def quantus_complexity(a):
    """Quantus, functions/complexity_func.py, entropy: not divided by that of equal shares."""
    a = np.asarray(a, dtype=np.float64).ravel()
    return scipy.stats.entropy(pk=a / np.sum(np.abs(a)))


@pytest.mark.parametrize("seed", range(5))
def test_quantus_formulas(seed):
    map_ = noise(seed, spread=1 + seed)
    assert value("gini:unit=voxel", map_) == pytest.approx(quantus_sparseness(map_.numpy()), abs=1e-5)
    assert value("entropy:unit=voxel", map_) == pytest.approx(quantus_complexity(map_.numpy()) / math.log(map_.numel()))


def test_gini_is_the_mean_difference_between_two_units():
    means = regular_units("tubelet", *SIZE).means(noise(3)).numpy()
    literal = np.abs(means[:, None] - means).mean() / (2 * means.mean())
    assert value("gini", noise(3)) == pytest.approx(literal, abs=1e-12)


def test_top_mass_by_hand():
    map_ = torch.tensor([1.0, 4.0, 2.0, 3.0]).view(4, 1, 1).expand(4, 6, 5)
    assert value("top_mass:share=0.25,unit=frame", map_) == pytest.approx(0.4)
    assert value("top_mass:share=0.375,unit=frame", map_) == pytest.approx(0.55)
    assert value("top_mass:share=0.5,unit=frame", map_) == pytest.approx(0.7)


def literal_centre_bias(map_):
    t, h, w = map_.shape
    total = weighted = even = 0.0
    for i in range(t):
        for y in range(h):
            for x in range(w):
                v, u = (y + 0.5 - h / 2) / h, (x + 0.5 - w / 2) / w
                near = 1 - math.hypot(v, u) / math.hypot(0.5, 0.5)
                mass = abs(float(map_[i, y, x]))
                total, weighted, even = total + mass, weighted + mass * near, even + near
    return weighted / total - even / (t * h * w)


def test_centre_bias_voxel_by_voxel():
    map_ = noise(4, size=(3, 6, 8)) - 0.3
    assert value("centre_bias", map_) == pytest.approx(literal_centre_bias(map_), abs=1e-12)


def literal_ring(map_, part):
    t, h, w = map_.shape
    inside = 0.0
    count = 0
    for place in np.ndindex(t, h, w):
        touches = [i in (0, length - 1) for i, length in zip(place, (t, h, w), strict=True)]
        if {"ring": any(touches), "space": any(touches[1:]), "time": touches[0]}[part]:
            inside, count = inside + abs(float(map_[place])), count + 1
    return (inside / float(map_.abs().sum())) / (count / map_.numel())


@pytest.mark.parametrize("part", ["ring", "space", "time"])
def test_border_bias_voxel_by_voxel(part):
    map_ = noise(5, size=(4, 6, 7)) - 0.3
    found = value(f"border_bias:unit=voxel,part={part}", map_)
    assert found == pytest.approx(literal_ring(map_, part), abs=1e-6)


@settings(max_examples=8)
@given(seed=st.integers(0, 999), scale=st.floats(1e-6, 1e6), flips=st.sets(st.sampled_from([0, 1, 2])))
def test_neither_scale_nor_sign_nor_flips_matter(seed, scale, flips):
    map_ = noise(seed) - 0.3
    both = case(map_, -scale * map_.flip(list(flips)))
    for spec in SPECS:
        original, changed = vb.create("metrics", spec)(both).tolist()
        assert changed == pytest.approx(original, rel=1e-4, abs=1e-6)


@settings(max_examples=8)
@given(seed=st.integers(0, 999))
def test_order_of_units_does_not_matter_to_concentration(seed):
    map_ = noise(seed)
    shuffled = map_.flatten()[torch.randperm(map_.numel(), generator=torch.Generator().manual_seed(seed))].view(SIZE)
    for metric in ("gini", "entropy", "top_mass"):
        assert value(f"{metric}:unit=voxel", shuffled) == pytest.approx(value(f"{metric}:unit=voxel", map_), rel=1e-5)


@settings(max_examples=8)
@given(seed=st.integers(0, 999), power=st.floats(1.1, 4))
def test_what_sharpens_a_map_raises_its_concentration(seed, power):
    map_ = noise(seed)
    for metric, sign in (("gini", 1), ("top_mass", 1), ("entropy", -1)):
        spec = f"{metric}:unit=voxel"
        assert sign * value(spec, map_**power) > sign * value(spec, map_)


def test_random_maps_have_no_bias_in_expectation():
    for spec in ("border_bias", "border_bias:unit=voxel,part=time", "centre_bias"):
        metric = vb.create("metrics", spec)
        found = metric.measure(case(*[noise(seed, spread=1) for seed in range(200)]))
        error = float(found.values.std()) / math.sqrt(200)
        assert abs(float((found.values - found.chance).mean())) < 4 * error


# Padding on one side


class Padded(nn.Module):
    """A strided convolution that answers to the dark, ReLU, and a linear head on the mean; zeros pad `sides`.

    It answers where the mean pixel of a window is below `threshold`. For an even size, stride 2 and kernel 3,
    TensorFlow's `same` padding adds one zero, behind the last pixel.
    """

    def __init__(self, sides, threshold):
        super().__init__()
        self.padding = {"none": (0, 0) * 3, "far": (0, 1) * 3}[sides]
        self.conv, self.relu = nn.Conv3d(3, 6, 3, 2), nn.ReLU()
        self.head = nn.Linear(6, len(CLASSES))
        with torch.no_grad():
            self.conv.weight.copy_(-self.conv.weight.abs())
            self.conv.bias.copy_(-threshold * self.conv.weight.sum((1, 2, 3, 4)))
            self.head.weight.abs_()

    def forward(self, x):
        return self.head(self.relu(self.conv(F.pad(x, self.padding))).mean((2, 3, 4)))


@pytest.mark.parametrize(("method", "threshold", "contrast"), [("gradient", 0.45, 1), ("grad_cam", 0.5, 0.1)])
def test_padding_on_one_side_makes_a_corner_hot(method, threshold, contrast):
    batch = small_batch(8, (10, 20, 28))
    noise_ = torch.rand(batch.frames.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    batch = dataclasses.replace(batch, frames=0.5 + contrast * noise_)
    ring, corner = {}, {}
    for sides in ("none", "far"):
        model = as_model(lambda sides=sides: Padded(sides, threshold), mean=None, std=None, feature_layer="relu")
        maps = vb.create("methods", method)(model, batch.frames, batch.labels)
        made = vb.Case(model, batch, batch.labels, maps)
        ring[sides] = float(vb.create("metrics", "border_bias")(made).mean())
        corner[sides] = float(vb.create("metrics", "border_bias:part=corner")(made).mean())
    assert ring["far"] > 1.1 * ring["none"]
    assert corner["far"] > 1.25 * corner["none"]


# Relevance that moves with the scene


def sliding(map_, dy, dx, t=6):
    """Frames cut from one large picture that slides by (dy, dx) pixels a frame, (t, 40, 56)."""
    return torch.stack([map_[20 - i * dy : 60 - i * dy, 20 - i * dx : 76 - i * dx] for i in range(t)])


def picture(seed):
    noise_ = torch.rand(1, 1, 30, 40, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise_, (80, 96), mode="bicubic")[0, 0].clamp(0, 1)


def sliding_case(*maps, speed=(1, 2)):
    batch = small_batch(len(maps), (6, 40, 56))
    frames = sliding(picture(0), *speed).expand(len(maps), 3, -1, -1, -1).contiguous()
    return case(*maps, batch=dataclasses.replace(batch, frames=frames))


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_a_map_that_moves_with_the_scene_is_consistent(kind):
    with_it, against_it, still = (sliding(picture(1), *speed) for speed in ((1, 2), (-1, -2), (0, 0)))
    random = torch.rand(6, 40, 56, generator=torch.Generator().manual_seed(0))
    metric = vb.create("metrics", f"warped_consistency:correlation={kind}")
    found = metric.measure(sliding_case(with_it, still, against_it, random, torch.ones(6, 40, 56)))
    moving, staying, opposite, noise_, constant = found.values.tolist()
    assert moving > 0.97
    assert moving > staying > opposite
    assert abs(noise_) < 0.05
    assert math.isnan(constant)
    assert found.reasons == ("", "", "", "", "constant_map")
    assert found.chance.eq(0).all()


def test_on_a_still_clip_it_is_the_correlation_of_neighbouring_frames():
    map_ = torch.rand(6, 40, 56, generator=torch.Generator().manual_seed(3))
    map_ = (map_ + map_.roll(1, 0)) / 2
    found = vb.create("metrics", "warped_consistency:correlation=pearson")(sliding_case(map_, speed=(0, 0)))
    expected = np.corrcoef(map_[:-1].flatten().numpy(), map_[1:].flatten().numpy())[0, 1]
    assert float(found) == pytest.approx(expected, abs=1e-4)
    ranks = vb.create("metrics", "warped_consistency")(sliding_case(map_, speed=(0, 0)))
    expected = scipy.stats.spearmanr(map_[:-1].flatten().numpy(), map_[1:].flatten().numpy()).statistic
    assert float(ranks) == pytest.approx(expected, abs=1e-4)


def test_the_flow_of_a_clip_is_found_once_for_all_methods(monkeypatch):
    calls = []
    module = __import__("vidattr_bench.metrics.warping", fromlist=["optical_flow"])
    original = module.optical_flow
    monkeypatch.setattr(module, "optical_flow", lambda *args: calls.append(1) or original(*args))
    first = sliding_case(sliding(picture(1), 1, 2))
    again = vb.Case(first.model, first.batch, first.targets, 1 - first.relevance, shared=first.shared)
    metric = vb.create("metrics", "warped_consistency")
    assert float(metric(first)) == pytest.approx(float(metric(again)), abs=1e-9)
    assert len(calls) == 2, "there and back"


@pytest.mark.parametrize("option", ["flow_warps=0", "flow_iterations=0"])
def test_a_flow_that_cannot_move_is_refused(option):
    with pytest.raises(PluginError, match="must be at least 1"):
        vb.create("metrics", f"warped_consistency:{option}")


@settings(max_examples=10)
@given(seed=st.integers(0, 99), power=st.floats(0.5, 3))
def test_rank_consistency_ignores_monotone_transforms(seed, power):
    map_ = sliding(picture(seed), 0, 1)
    metric = vb.create("metrics", "warped_consistency")
    still = sliding_case(map_, speed=(0, 0))
    assert float(metric(still)) == pytest.approx(float(metric(sliding_case(map_**power, speed=(0, 0)))), abs=1e-3)
