"""Randomised networks and other targets: closed forms, literal transcriptions, and what is left untouched."""

import copy
import dataclasses
import math
import re

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vidattr_bench as vb
from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import CLASSES, NETWORKS, SmallNet, as_model, explained_case, small_batch, small_model
from vidattr_bench.metrics._randomised import layers_of, randomised
from vidattr_bench.metrics.randomisation import histogram_entropy, spans
from vidattr_bench.metrics.selectivity import neuron_model
from vidattr_bench.randomness import derive

T, H, W = 6, 20, 28
SCHEMES = ("top_down", "bottom_up", "independent")
ASKING = ("model_randomisation", "efficient_randomisation", "class_selectivity", "neuron_selectivity")


def case(method, model=None, batch=None):
    return explained_case(method, model or small_model(), batch or small_batch(1))


def brightness(model, frames, targets, draw=0):
    return frames.mean(1)


# What is randomised


def test_layers_run_in_order_and_norms_go_with_the_layer_before():
    model = small_model()
    found = layers_of(model, torch.zeros(1, 3, T, H, W))
    assert found.names == (("conv1", "bn1"), ("conv2", "bn2"), ("head",))
    assert found.norms == (("bn1", "bn2"), ("bn2",), ())
    assert not any(module._forward_pre_hooks for module in model.modules())


class HeadFirst(nn.Module):
    """A network whose head is registered before the layers that run before it, with a lone scale on the clip."""

    def __init__(self):
        super().__init__()
        self.head, self.scale, self.conv = nn.Linear(4, len(CLASSES)), nn.GroupNorm(1, 3), nn.Conv3d(3, 4, 3)

    def forward(self, x):
        return self.head(self.conv(self.scale(x)).mean((2, 3, 4)))


def test_the_order_is_that_of_execution_and_what_comes_first_goes_with_the_first_layer():
    found = layers_of(as_model(HeadFirst), torch.zeros(1, 3, T, H, W))
    assert found.names == (("scale", "conv"), ("head",))


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_parameter_of_every_kind_of_network_belongs_to_one_layer(kind):
    model = as_model(NETWORKS[kind])
    names = [name for layer in layers_of(model, torch.zeros(1, 3, T, H, W)).names for name in layer]
    assert len(names) == len(set(names))
    inside = {id(p) for name in names for p in model.net.get_submodule(name).parameters(recurse=False)}
    assert inside == {id(parameter) for parameter in model.net.parameters()}


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_weights_of_the_whole_network_are_drawn_again_and_nothing_else_is_touched(kind):
    made = case(brightness, as_model(NETWORKS[kind]))
    before, state = made.model.weights_hash(), torch.get_rng_state()
    count = len(layers_of(made.model, made.shared.x(0)[None]))
    other = randomised(made, 0, 0, count, 0)
    assert made.model.weights_hash() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert other.calls is made.model.calls
    assert not any(parameter.requires_grad for parameter in other.parameters())
    for (name, old), new in zip(made.model.net.named_parameters(), other.net.parameters(), strict=True):
        assert old.data_ptr() != new.data_ptr()
        if old.ndim > 1:
            assert (old != new).float().mean() > 0.9, name
    assert randomised(made, 0, 0, count, 0).weights_hash() == other.weights_hash(), "made again, it is the same"
    assert randomised(made, 0, 0, count, 1).weights_hash() != other.weights_hash()


def test_only_the_layers_asked_for_change_and_each_module_has_its_own_seed():
    made = case(brightness)
    other = randomised(made, 0, 1, 2, 0)
    changed = [
        name
        for (name, old), new in zip(made.model.net.named_parameters(), other.net.parameters(), strict=True)
        if not torch.equal(old, new)
    ]
    assert set(changed) == {"conv2.weight", "bn2.weight", "bn2.bias"}
    expected = copy.deepcopy(made.model.net.conv2)
    with torch.random.fork_rng():
        torch.manual_seed(derive(0, "clip-0", "randomisation 0 conv2"))
        expected.reset_parameters()
    torch.testing.assert_close(other.net.conv2.weight, expected.weight, rtol=0, atol=0)
    assert torch.equal(other.net.bn2.weight, torch.ones(8))


class Bare(nn.Module):
    """A parameter in a module that cannot reset itself."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(3 + 0.2 * torch.randn(len(CLASSES), 3, T, H, W))

    def forward(self, x):
        return torch.einsum("ncthw,kcthw->nk", x, self.weight)


def test_parameters_without_a_reset_keep_their_mean_and_spread():
    made = case(brightness, as_model(Bare))
    weight = randomised(made, 0, 0, 1, 0).net.weight
    assert not torch.equal(weight, made.model.net.weight)
    torch.testing.assert_close(weight.mean(), made.model.net.weight.mean(), rtol=0, atol=0.01)
    torch.testing.assert_close(weight.std(), made.model.net.weight.std(), rtol=0.02, atol=0)


def test_batch_norms_from_the_first_random_layer_on_take_the_statistics_of_the_clip():
    made = case(brightness, batch=small_batch(2))
    other = randomised(made, 1, 1, 3, 0)
    seen = {}
    for name in ("bn1", "bn2"):
        norm = other.net.get_submodule(name)
        norm.register_forward_hook(lambda module, args, out, name=name: seen.update({name: (args[0], out)}))
    other.logits(made.shared.x(1)[None])
    inside, out = (tensor.transpose(0, 1).flatten(1) for tensor in seen["bn2"])
    torch.testing.assert_close(other.net.bn2.running_mean, inside.mean(1))
    torch.testing.assert_close(other.net.bn2.running_var, inside.var(1, correction=0))
    torch.testing.assert_close(out.mean(1), torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.std(1, correction=0), torch.ones(8), rtol=0, atol=1e-2)
    original = made.model.net
    torch.testing.assert_close(other.net.bn1.running_mean, original.bn1.running_mean, rtol=0, atol=0)
    whole = randomised(made, 1, 0, 3, 0)
    assert not torch.equal(whole.net.bn1.running_mean, original.bn1.running_mean)


@given(count=st.integers(1, 60), wanted=st.integers(1, 12))
def test_steps_are_spread_evenly_and_end_with_the_whole_network(count, wanted):
    down, up, alone = (spans(scheme, count, wanted) for scheme in SCHEMES)
    steps = [stop for _, stop in up]
    assert len(set(steps)) == len(steps) == min(wanted, count)
    assert steps[-1] == count
    gaps = np.diff([0, *steps])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert up == [(0, step) for step in steps]
    assert down == [(count - step, count) for step in steps]
    assert alone == [(step - 1, step) for step in steps]


# MPRT


def literal_mprt(made, scheme, kind):
    """Adebayo 2018: the mean rank correlation of the map with those of the networks with 1, 2 and 3 random layers."""
    blocks = {
        "top_down": [(2, 3), (1, 3), (0, 3)],
        "bottom_up": [(0, 1), (0, 2), (0, 3)],
        "independent": [(0, 1), (1, 2), (2, 3)],
    }[scheme]
    found = []
    for first, last in blocks:
        map_ = made.explain(randomised(made, 0, first, last, 0), made.batch.frames, made.targets)[0]
        a, b = made.relevance[0].flatten(), map_.flatten()
        measure = scipy.stats.spearmanr if kind == "spearman" else scipy.stats.pearsonr
        found.append(measure(a.double(), b.double()).statistic)
    return float(np.mean(found))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_the_value_is_the_mean_similarity_over_the_random_layers(scheme, kind):
    made = case("gradient")
    metric = vb.create("metrics", f"model_randomisation:scheme={scheme},similarity={kind}")
    found = metric.measure(made)
    assert float(found.values) == pytest.approx(literal_mprt(made, scheme, kind), abs=1e-6)
    a, b = (
        made.explain(randomised(made, 0, 0, 3, draw), made.batch.frames, made.targets).flatten().double()
        for draw in range(2)
    )
    floor = (scipy.stats.spearmanr if kind == "spearman" else scipy.stats.pearsonr)(a, b).statistic
    assert float(found.chance) == pytest.approx(floor, abs=1e-6)


@pytest.mark.parametrize("method", ["random", "centre", "frame_difference", brightness])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["spearman", "ssim"])
def test_what_ignores_the_model_keeps_its_map_the_random_control_too(method, scheme, kind):
    found = vb.create("metrics", f"model_randomisation:scheme={scheme},similarity={kind}").measure(case(method))
    assert float(found.values) == pytest.approx(1, abs=1e-9)
    assert float(found.chance) == pytest.approx(1, abs=1e-9)
    assert float(vb.create("metrics", "efficient_randomisation")(case(method))) == 0


def test_other_seeds_would_make_noise_look_sensitive_to_the_model():
    method = vb.create("methods", "random")
    calls = iter(range(1000))

    def reseeded(model, frames, targets, draw=0):
        return method(model, frames, targets, [next(calls)])

    assert float(vb.create("metrics", "model_randomisation")(case("random"))) == pytest.approx(1)
    assert abs(float(vb.create("metrics", "model_randomisation")(case(reseeded)))) < 0.1


def test_the_gradient_of_a_linear_network_is_its_random_weights():
    made = case("gradient", as_model(Bare))
    found = vb.create("metrics", "model_randomisation").measure(made)
    assert abs(float(found.values)) < 0.1
    assert abs(float(found.chance)) < 0.1


def test_a_constant_correlation_is_never_recorded_as_zero():
    def flat_when_random(model, frames, targets, draw=0):
        return frames.mean(1) if model.weights_hash() == trained else torch.full_like(frames[:, 0], 0.7)

    model = small_model()
    trained = model.weights_hash()
    for name in ("model_randomisation", "model_randomisation:similarity=ssim", "efficient_randomisation"):
        metric = vb.create("metrics", name)
        assert metric.measure(case(flat_when_random, model)).reasons == ("constant_randomised_map",)
        made = case(brightness, model)
        made.relevance.fill_(0.3)
        found = metric.measure(made)
        assert found.reasons == ("constant_map",)
        assert found.values.isnan().all()


def test_a_map_whose_magnitude_is_constant_is_a_constant_map_where_magnitudes_are_compared():
    made = case(brightness)
    made.relevance.fill_(0.3)[..., 0] = -0.3
    found = vb.create("metrics", "model_randomisation:absolute=True").measure(made)
    assert found.reasons == ("constant_map",)
    assert vb.create("metrics", "model_randomisation").measure(made).reasons == ("",)


def test_one_constant_map_among_others_is_not_left_out_of_the_mean():
    model = small_model()
    first = model.net.conv1.weight.clone()

    def flat_when_all_is_random(model, frames, targets, draw=0):
        return frames.mean(1) if torch.equal(model.net.conv1.weight, first) else torch.ones_like(frames[:, 0])

    made = case(flat_when_all_is_random, model)
    assert vb.create("metrics", "model_randomisation").measure(made).reasons == ("constant_randomised_map",)


def test_maps_of_random_networks_serve_all_metrics_that_ask_for_them():
    asked = []
    original = case("gradient").explain

    def explain(model, frames, targets, draw=0):
        asked.append(model)
        return original(model, frames, targets, draw)

    made = case(explain)
    metrics = [f"model_randomisation:scheme={scheme}" for scheme in SCHEMES]
    names = [*metrics, "model_randomisation:similarity=ssim", "efficient_randomisation"]
    keys = {}
    for name in names:
        metric = vb.create("metrics", name)
        metric.measure(made)
        keys |= metric.work(made.model, made.batch.frames[0])
    # Three steps down and three up, the last of both the same; the head alone is the first step down and the first
    # layer alone the first step up; a second random network.
    assert len(asked) == 1 + len(keys) == 1 + 5 + 1 + 1


def test_a_clip_gets_the_same_alone_in_any_batch_and_without_gradients():
    together = case("gradient", batch=small_batch(3))
    metric = vb.create("metrics", "model_randomisation")
    values = metric(together)
    for clip in range(3):
        alone = case("gradient", batch=small_batch(3).select([clip]))
        assert float(metric(alone)) == pytest.approx(float(values[clip]), abs=1e-5)
    model, batch = small_model(), small_batch(3)
    with torch.inference_mode():
        inside = case("gradient", model, batch)
        torch.testing.assert_close(metric(inside), values, rtol=0, atol=1e-5)


def test_nothing_stays_behind_even_after_an_error():
    def failing(model, frames, targets, draw=0):
        if model.weights_hash() != trained:
            raise RuntimeError("no map of a random network")
        return frames.mean(1)

    model = small_model()
    trained, state = model.weights_hash(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="random network"):
        vb.create("metrics", "model_randomisation")(case(failing, model))
    assert model.weights_hash() == trained
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class FailsIfAsked(nn.Module):
    """A network that fails after its first layer when it is told to."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.fails = nn.Conv3d(3, 4, 3), nn.Linear(4, len(CLASSES)), False

    def forward(self, x):
        x = self.conv(x)
        if self.fails:
            raise RuntimeError("out of order")
        return self.head(x.mean((2, 3, 4)))


@pytest.mark.parametrize("name", ["model_randomisation", "neuron_selectivity"])
def test_no_hook_of_ours_stays_behind_when_the_network_fails(name):
    made = case(brightness, as_model(FailsIfAsked, feature_layer="conv"))
    made.model.net.fails = True
    with pytest.raises(RuntimeError, match="out of order"):
        vb.create("metrics", name)(made)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.model.modules())


@pytest.mark.parametrize("kind", ["recurrent CNN"])
def test_gradients_of_a_recurrent_network_reach_the_first_frames(kind):
    batch = small_batch(2)
    for method in ("gradient", "input_x_gradient", "integrated_gradients"):
        relevance = vb.create("methods", method)(as_model(NETWORKS[kind]), batch.frames, batch.labels)
        assert relevance.flatten(2).any(2).all(), method


# Entropy


def quantus_efficient_mprt(original, changed, bins=100):
    """Quantus, metrics/randomisation/efficient_mprt.py and functions/complexity_func.py, discrete_entropy."""
    a, b = (scipy.stats.entropy(pk=np.histogram(map_, bins=bins)[0]) for map_ in (original, changed))
    return (b - a) / a


def test_efficient_randomisation_is_quantus_formula():
    made = case("gradient")
    changed = made.explain(randomised(made, 0, 0, 3, 0), made.batch.frames, made.targets)[0]
    for bins in (100, 17):
        found = vb.create("metrics", f"efficient_randomisation:bins={bins}").measure(made)
        expected = quantus_efficient_mprt(made.relevance[0].double().numpy(), changed.double().numpy(), bins)
        assert float(found.values) == pytest.approx(expected, abs=1e-9)
        assert found.chance.tolist() == [0]


def test_histogram_entropy_by_hand():
    assert histogram_entropy(torch.tensor([0.0, 1.0]).repeat(8).view(2, 2, 4), 100) == pytest.approx(math.log(2))
    assert histogram_entropy(torch.arange(40.0).view(2, 4, 5), 40) == pytest.approx(math.log(40))
    assert histogram_entropy(torch.arange(40.0).view(2, 4, 5), 4) == pytest.approx(math.log(4))


@settings(max_examples=10)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), offset=st.floats(-5, 5))
def test_entropy_knows_neither_scale_nor_order(seed, scale, offset):
    map_ = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = histogram_entropy(map_, 10)
    assert histogram_entropy(map_ * scale + offset, 10) == pytest.approx(expected, abs=0.05)
    assert histogram_entropy(map_.flip(0, 2), 10) == expected


# Other classes and neurons


def test_class_selectivity_is_the_difference_to_the_map_of_another_class():
    made = case("gradient", batch=small_batch(3))
    found = vb.create("metrics", "class_selectivity:classes=4").measure(made)
    for clip in range(3):
        differences = []
        for other in set(range(5)) - {clip}:
            maps = made.explain(made.model, made.batch.frames, torch.full((3,), other))
            differences.append(
                1 - scipy.stats.spearmanr(made.relevance[clip].flatten(), maps[clip].flatten()).statistic
            )
        assert float(found.values[clip]) == pytest.approx(np.mean(differences), abs=1e-5)
    assert found.chance.abs().max() < 1e-9


def test_another_class_is_never_the_target_and_depends_on_the_clip_alone():
    metric = vb.create("metrics", "class_selectivity")
    batch = dataclasses.replace(small_batch(20), labels=torch.arange(20) % 5)
    others = metric._others(case("gradient", batch=batch))
    assert others.shape == (1, 20)
    assert (others[0] != batch.labels).all()
    assert len(set(others[0].tolist())) > 2
    assert torch.equal(metric._others(case("gradient", batch=batch.select([7]))), others[:, [7]])


@pytest.mark.parametrize("metric", ["class_selectivity", "neuron_selectivity"])
def test_what_ignores_the_target_is_not_selective(metric):
    for method in ("centre", "frame_difference", "random"):
        found = vb.create("metrics", metric).measure(case(method))
        assert float(found.values) == pytest.approx(0, abs=1e-9)
        assert float(found.chance) == pytest.approx(1 if method == "random" else 0, abs=0.1)


def test_opposite_logits_have_opposite_gradients():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(3, 4, 3, padding=1)

        def forward(self, x):
            score = nn.functional.softplus(self.conv(x)).mean((1, 2, 3, 4))
            return torch.stack([score, -score], 1)

    batch = dataclasses.replace(small_batch(2), labels=torch.tensor([0, 1]))
    made = case("input_x_gradient", vb.VideoModel(Two(), ["for", "against"]), batch)
    assert vb.create("metrics", "class_selectivity")(made).tolist() == pytest.approx([2, 2])
    assert vb.create("metrics", "class_selectivity:absolute=True")(made).tolist() == pytest.approx([0, 0], abs=1e-9)


def test_one_class_has_no_other():
    class One(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3, 4))[:, None]

    found = vb.create("metrics", "class_selectivity").measure(case(brightness, vb.VideoModel(One(), ["only"])))
    assert found.reasons == ("one_class",)


def test_a_neuron_is_the_largest_activation_of_a_channel():
    model, batch = small_model(), small_batch(2)
    x = model.normalise(batch.frames)
    neurons = neuron_model(model, "activation2", x[:1])
    seen = []
    handle = model.net.activation2.register_forward_hook(lambda module, args, output: seen.append(output))
    model.logits(x)
    handle.remove()
    torch.testing.assert_close(neurons.logits(x), seen[0].amax((2, 3, 4)))
    assert neurons.calls is model.calls
    assert neurons.classes == tuple(f"channel {i}" for i in range(8))
    assert neurons.feature_layer(x) == model.feature_layer(x)
    assert not any(module._forward_hooks for module in model.modules())


def test_neuron_selectivity_of_gradients_voxel_by_voxel():
    made = case("gradient", batch=small_batch(2))
    metric = vb.create("metrics", "neuron_selectivity")
    found = metric.measure(made)
    layer = made.model.feature_layer(made.model.normalise(made.batch.frames))
    for clip in range(2):
        x = made.shared.x(clip)[None].clone().requires_grad_()
        seen = []
        handle = made.model.module(layer).register_forward_hook(lambda module, args, output: seen.append(output))  # noqa: B023
        made.model.logits(x)
        handle.remove()
        drawn = metric._neurons(made, clip, layer)
        assert len(set(drawn)) == 2
        gradients = [torch.autograd.grad(seen[0][0, c].amax(), x, retain_graph=True)[0] for c in drawn]
        method = made.explain(
            neuron_model(made.model, layer, x.detach()), made.batch.frames, torch.tensor([drawn[0]] * 2)
        )
        ours = [gradient.abs().amax(1) for gradient in gradients]
        if not torch.allclose(method[clip], ours[0][0], rtol=1e-3, atol=1e-7):
            ours = [gradient.sum(1) for gradient in gradients]
        expected = 1 - scipy.stats.spearmanr(*(map_.flatten() for map_ in ours)).statistic
        assert float(found.values[clip]) == pytest.approx(expected, abs=1e-3)


def test_methods_that_need_what_neurons_lack_are_not_applicable():
    with pytest.raises(NotApplicableError, match="linear head"):
        vb.create("metrics", "neuron_selectivity")(case("cam"))
    with pytest.raises(NotApplicableError):
        vb.create("metrics", "neuron_selectivity")(
            case("gradient", as_model(NETWORKS["joint attention"], feature_layer=""))
        )


@pytest.mark.parametrize("method", ["lrp", "excitation_backprop"])
@pytest.mark.parametrize("build", [SmallNet, NETWORKS["residual CNN"]])
def test_rules_for_every_step_do_not_apply_to_neurons_and_the_reason_is_no_traceback(method, build):
    with pytest.raises(NotApplicableError) as raised:
        vb.create("metrics", "neuron_selectivity")(case(method, as_model(build)))
    assert "IndexError" not in str(raised.value)
    assert re.search("read off layer '.*' by a hook|has no rule for", str(raised.value))


def test_silent_channels_are_not_drawn():
    class Silent(SmallNet):
        """Of eight channels all but `left` are silent."""

        left = 1

        def __init__(self):
            super().__init__()
            self.mask = torch.zeros(8)
            self.mask[: self.left] = 1

        def forward(self, x):
            x = self.pool(self.activation1(self.bn1(self.conv1(x)))) * self.mask[:, None, None, None]
            x = self.activation2(x)
            return self.head(self.average(x).flatten(1))

    model = as_model(Silent, feature_layer="activation2")
    assert vb.create("metrics", "neuron_selectivity").measure(case("gradient", model)).reasons == ("no_two_neurons",)


@pytest.mark.parametrize("metric", ASKING)
def test_the_oracle_cannot_be_asked_again(metric):
    batch = small_batch(1)
    made = vb.Case(small_model(), batch, batch.labels, batch.tubes.float())
    with pytest.raises(NotApplicableError):
        vb.create("metrics", metric).measure(made)


@pytest.mark.parametrize(
    "text", ["model_randomisation:layers=0", "efficient_randomisation:bins=1", "class_selectivity:classes=0"]
)
def test_options_that_make_no_sense_are_refused(text):
    with pytest.raises(PluginError, match="must be"):
        vb.create("metrics", text)


@pytest.mark.parametrize(("text", "explains"), [("", 4), (":layers=5", 6), (":scheme=independent", 5)])
def test_how_often_it_explains_follows_from_its_options(text, explains):
    assert vb.create("metrics", f"model_randomisation{text}").explains == explains
    assert vb.create("metrics", "class_selectivity:classes=3").explains == 4
    assert vb.create("metrics", "max_sensitivity:draws=7").explains == 7
