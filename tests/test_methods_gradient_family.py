"""The gradient family: closed forms, identities, and what independent implementations give."""

from itertools import pairwise

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr._core.gradient_shap import InputBaselineXGradient
from scipy import ndimage
from torch import nn
from torchvision.models.video import r3d_18

from vidattr_bench import requirements
from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import CLASSES, SIZE, SmallNet, as_model, explain, small_batch, small_model
from vidattr_bench.methods._biases import bias_gradients
from vidattr_bench.methods._noisy import standard_noise
from vidattr_bench.methods._rescale import recorded, rescaled
from vidattr_bench.methods.full_grad import full_gradient
from vidattr_bench.plugins import create
from vidattr_bench.randomness import derive

T, H, W = SIZE
NOISY = ("smooth_grad", "smooth_grad_squared", "var_grad")
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


class LinearNet(nn.Module):
    """Logits = weight . x: every gradient is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(CLASSES), 3, T, H, W))

    def forward(self, x):
        return torch.einsum("ncthw,kcthw->nk", x, self.weight)


class QuadraticNet(LinearNet):
    """Logits = weight . x^2: the gradient, 2 weight x, is linear in x, and the midpoint rule exact."""

    def forward(self, x):
        return super().forward(x.square())


class PlainNet(nn.Module):
    """Convolutions with activations between them, and no max-pooling; a linear head on the global average."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(3, 6, 3, (1, 2, 2), 1), nn.Conv3d(6, 8, 3, 1, 1)
        self.norm, self.activation = nn.BatchNorm3d(6), activation()
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, x):
        x = self.activation(self.norm(self.conv1(x)))
        return self.head(self.activation(self.conv2(x)).mean((2, 3, 4)))


class PoolingNet(PlainNet):
    """The same with max-pooling over windows that overlap."""

    def forward(self, x):
        x = F.max_pool3d(self.activation(self.norm(self.conv1(x))), 3, 2, 1)
        return self.head(self.activation(self.conv2(x)).mean((2, 3, 4)))


class Untraceable(PlainNet):
    """The same with a look at the data that torch.fx cannot follow, so that its one ReLU module stays used twice."""

    def forward(self, x):
        assert float(x.abs().max()) < 1e9
        return super().forward(x)


class LinearLayers(nn.Sequential):
    """A convolution with a bias, the global average and a linear head: no gradient at the bias is 0."""

    def __init__(self):
        super().__init__(nn.Conv3d(3, 6, 3, 2, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, len(CLASSES)))


class FrameByFrame(nn.Module):
    """2-D convolutions frame by frame, averaged over the frames at the end."""

    def __init__(self, time_axis=1):
        super().__init__()
        self.time_axis = time_axis
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Linear(6, len(CLASSES))

    def forward(self, x):
        frames = x.movedim(2, self.time_axis)
        features = F.max_pool2d(torch.relu(self.norm(self.conv(frames.flatten(0, 1)))), 3, 2).mean((2, 3))
        return self.head(features).unflatten(0, frames.shape[:2]).mean(self.time_axis)


class Shifted(nn.Module):
    """A parameter that is no layer's bias is added to the activations."""

    def __init__(self):
        super().__init__()
        self.net, self.shift = PlainNet(), nn.Parameter(torch.rand(3, 1, 1, 1))

    def forward(self, x):
        return self.net(x + self.shift)


def gradients(model, x, targets):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(model.net(x)[range(len(x)), targets].sum(), x)[0]


def differences(method, model, batch):
    return method.promised_total(model, batch.frames, batch.labels)


def test_input_x_gradient_is_captums():
    model, batch = small_model(), small_batch(3)
    x = model.normalise(batch.frames).requires_grad_()
    expected = captum.attr.InputXGradient(model.logits).attribute(x, target=batch.labels).sum(1)
    torch.testing.assert_close(explain(create("methods", "input_x_gradient"), model, batch), expected.detach(), **CLOSE)


def test_input_x_gradient_of_a_linear_model_adds_up_to_its_logit():
    model, batch = as_model(LinearNet), small_batch(3)
    total = explain(create("methods", "input_x_gradient"), model, batch).flatten(1).sum(1)
    torch.testing.assert_close(total, model(batch.frames)[range(3), batch.labels], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur"])
@pytest.mark.parametrize("name", ["integrated_gradients", "deep_lift", "gradient_shap"])
def test_from_every_baseline_a_linear_models_difference_is_shared_out_exactly(name, baseline):
    model, batch = as_model(LinearNet), small_batch(2)
    p = batch.frames
    pixels = {"black": torch.zeros_like(p), "white": torch.ones_like(p), "mean": model.mean.expand_as(p)}
    blurred = torch.from_numpy(ndimage.gaussian_filter(p.numpy(), (0, 0, 0, 0.1 * H, 0.1 * H), truncate=3))
    reference = pixels.get(baseline, blurred)
    expected = ((p - reference) / model.std * model.net.weight[batch.labels]).sum(1)
    method = create("methods", f"{name}:baseline={baseline}")
    torch.testing.assert_close(explain(method, model, batch), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(differences(method, model, batch), expected.flatten(1).sum(1), rtol=1e-4, atol=1e-3)


def test_integrated_gradients_do_not_depend_on_chunks(monkeypatch):
    model, batch, method = small_model(), small_batch(1), create("methods", "integrated_gradients:steps=7")
    expected = explain(method, model, batch)
    monkeypatch.setattr("vidattr_bench.methods.integrated_gradients.CHUNK_WITH_GRADIENTS", 3)
    torch.testing.assert_close(explain(method, model, batch), expected, **CLOSE)


def frame_by_frame(x, sigma):
    """The clips blurred by scipy."""
    return torch.from_numpy(ndimage.gaussian_filter(x.numpy(), (0, 0, 0, sigma, sigma), mode="reflect", truncate=3))


def test_blur_integrated_gradients_of_a_linear_model():
    model, batch = as_model(LinearNet), small_batch(2)
    x = model.normalise(batch.frames)
    expected = ((x - frame_by_frame(x, 0.15 * H)) * model.net.weight[batch.labels]).sum(1)
    method = create("methods", "blur_integrated_gradients:sigma_max=0.15,steps=6")
    torch.testing.assert_close(explain(method, model, batch), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(differences(method, model, batch), expected.flatten(1).sum(1), rtol=1e-4, atol=1e-3)


def test_blur_integrated_gradients_are_the_integral_along_the_path():
    """A literal transcription: step by step, with scipy's blur and a gradient each."""
    model, batch, steps = small_model(), small_batch(2), 9
    x, sigmas = model.normalise(batch.frames), np.linspace(0.2 * H, 0, steps + 1)
    expected = torch.zeros(2, T, H, W)
    for start, end in pairwise(sigmas):
        change = frame_by_frame(x, end) - frame_by_frame(x, start)
        expected += (gradients(model, frame_by_frame(x, (start + end) / 2), batch.labels) * change).sum(1)
    found = explain(create("methods", f"blur_integrated_gradients:sigma_max=0.2,steps={steps}"), model, batch)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_blur_integrated_gradients_are_the_papers_riemann_sum_in_the_limit():
    """Xu et al., equation 6, as their code has it: gradient times the blur's derivative by sigma, sigma_max to 0."""
    model, batch, steps, step = as_model(QuadraticNet), small_batch(1), 800, 0.01
    x = model.normalise(batch.frames)
    expected = torch.zeros(1, T, H, W)
    for sigma in np.arange(steps) * 0.2 * H / steps:
        slope = (frame_by_frame(x, sigma + step) - frame_by_frame(x, sigma)) / step
        expected -= (gradients(model, frame_by_frame(x, sigma), batch.labels) * slope).sum(1) * 0.2 * H / steps
    found = explain(create("methods", "blur_integrated_gradients:sigma_max=0.2"), model, batch)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_blur_integrated_gradients_add_up():
    model, batch = small_model(), small_batch(3)
    gaps = []
    for steps in (4, 200):
        method = create("methods", f"blur_integrated_gradients:steps={steps}")
        total = explain(method, model, batch).flatten(1).sum(1)
        gaps.append(
            (total - differences(method, model, batch)).abs().max() / differences(method, model, batch).abs().max()
        )
    assert gaps[1] < 0.01
    assert gaps[1] < gaps[0]


@pytest.mark.parametrize("pool", ["max_abs", "l2", "sum_abs", "sum"])
def test_smooth_grad_without_noise_is_the_gradient(pool):
    model, batch = small_model(), small_batch(2)
    expected = explain(create("methods", f"gradient:pool={pool}"), model, batch)
    for noise, samples in ((0, 1), (1e-7, 5)):
        spec = f"smooth_grad:pool={pool},noise={noise},samples={samples}"
        torch.testing.assert_close(explain(create("methods", spec), model, batch), expected, **CLOSE)


def test_squares_without_noise_are_the_squared_gradient_and_the_variance_is_zero():
    model, batch = small_model(), small_batch(2)
    g = gradients(model, model.normalise(batch.frames), batch.labels)
    squared = explain(create("methods", "smooth_grad_squared:noise=0,samples=2,pool=sum"), model, batch)
    torch.testing.assert_close(squared, g.square().sum(1), rtol=1e-4, atol=1e-9)
    assert explain(create("methods", "var_grad:noise=0,samples=6"), model, batch).max() < 1e-9 * g.square().max()


@pytest.mark.parametrize(
    ("name", "kind"), [("smooth_grad", "smoothgrad"), ("smooth_grad_squared", "smoothgrad_sq"), ("var_grad", "vargrad")]
)
def test_noisy_gradients_are_captums_noise_tunnel_fed_with_the_same_noise(name, kind, monkeypatch):
    model, batch, samples = small_model(), small_batch(1), 7
    x = model.normalise(batch.frames)
    seed = derive(0, batch.ids[0])
    noise = standard_noise(x[0], samples, torch.Generator().manual_seed(seed)) * 0.15 * (x.max() - x.min())
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise.clone())
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model.logits))
    expected = tunnel.attribute(
        x,
        nt_type=kind,
        nt_samples=samples,
        stdevs=1.0,
        target=batch.labels,
        abs=False,
        draw_baseline_from_distrib=False,
    )
    found = explain(create("methods", f"{name}:samples={samples},pool=sum"), model, batch)
    torch.testing.assert_close(found, expected.sum(1).detach(), rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_signs_cancel_before_the_channels_are_pooled():
    """Where the gradient is 2 w x, noise of mean 0 leaves its mean, and makes the squares larger by (2 w sigma)^2."""
    model, batch = as_model(QuadraticNet), small_batch(1)
    w, x = model.net.weight[0], model.normalise(batch.frames)[0]
    sigma = 0.15 * (x.max() - x.min())
    for name, expected in {
        "smooth_grad": (2 * w * x).abs().amax(0),
        "smooth_grad_squared": (4 * w.square() * (x.square() + sigma**2)).amax(0),
        "var_grad": (4 * w.square() * sigma**2).amax(0),
    }.items():
        found = explain(create("methods", f"{name}:samples=400"), model, batch)[0]
        assert (found - expected).norm() < 0.12 * expected.norm(), name


@pytest.mark.parametrize("name", [*NOISY, "gradient_shap:noise=0.1,samples=25"])
def test_draws_do_not_depend_on_chunks(name, monkeypatch):
    """On a clip whose numbers do not come in sixteens either, as torch draws them."""
    model, batch = small_model(), small_batch(1, (5, 17, 23))
    method = create("methods", name)
    expected = explain(method, model, batch)
    for module in ("_noisy", "gradient_shap"):
        monkeypatch.setattr(f"vidattr_bench.methods.{module}.CHUNK_WITH_GRADIENTS", 3)
    torch.testing.assert_close(explain(method, model, batch), expected, **CLOSE)


def test_a_variance_needs_two_samples():
    with pytest.raises(PluginError, match="samples=1: a variance needs at least two"):
        create("methods", "var_grad:samples=1")


def test_absolute_belongs_to_the_signed_pooling():
    model, batch = small_model(), small_batch(2)
    signed = explain(create("methods", "smooth_grad:pool=sum"), model, batch)
    assert (signed < 0).any()
    torch.testing.assert_close(
        explain(create("methods", "smooth_grad:pool=sum,sign=absolute"), model, batch), signed.abs()
    )
    with pytest.raises(PluginError, match="pool=sum"):
        create("methods", "smooth_grad:sign=absolute")
    with pytest.raises(PluginError, match="sign"):
        create("methods", "var_grad:sign=absolute")


def test_gradient_shap_is_captums_fed_with_the_same_draws(monkeypatch):
    model, batch, samples = small_model(), small_batch(1), 6
    method = create("methods", f"gradient_shap:samples={samples}")
    draws = torch.Generator().manual_seed(derive(0, batch.ids[0]))
    which, places = torch.randint(4, (samples,), generator=draws), torch.rand(samples, generator=draws)
    monkeypatch.setattr(np.random, "uniform", lambda *range_and_size: places.double().numpy())
    x = model.normalise(batch.frames).expand(samples, -1, -1, -1, -1)
    baselines = method.baselines(model, batch.frames)[which, 0]
    shares = InputBaselineXGradient(model.logits).attribute(x, baselines, target=batch.labels.expand(samples))
    torch.testing.assert_close(explain(method, model, batch), shares.detach().mean(0).sum(0)[None], **CLOSE)


def test_gradient_shap_expects_integrated_gradients():
    model, batch = small_model(), small_batch(1)
    integrated = [
        explain(create("methods", f"integrated_gradients:baseline={b}"), model, batch) for b in ("black", "white")
    ]
    expected = [
        explain(create("methods", f"gradient_shap:samples=400,baseline={b}"), model, batch) for b in ("black", "white")
    ]
    for exact, sampled in zip(integrated, expected, strict=True):
        assert (exact - sampled).norm() < 0.1 * exact.norm()
    every = create("methods", "gradient_shap:samples=400")
    gap = explain(every, model, batch).sum() - differences(every, model, batch)
    assert gap.abs() < 0.1 * differences(every, model, batch).abs()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus])
def test_deep_lift_is_captums_where_activations_are_used_once(activation):
    class OnceNet(PlainNet):
        def __init__(self):
            super().__init__(activation)
            self.last = activation()

        def forward(self, x):
            x = self.activation(self.norm(self.conv1(x)))
            return self.head(self.last(self.conv2(x)).mean((2, 3, 4)))

    model, batch = as_model(OnceNet), small_batch(3)
    x, black = model.normalise(batch.frames), model.normalise(torch.zeros_like(batch.frames))
    expected = captum.attr.DeepLift(model.net).attribute(x, black, target=batch.labels).detach()
    torch.testing.assert_close(explain(create("methods", "deep_lift"), model, batch), expected.sum(1), **CLOSE)


NETS = {
    "batch norm, max-pooling, residual sum": SmallNet,
    "functional ReLUs": lambda: SmallNet(lambda: torch.relu),
    "a ReLU used twice": PlainNet,
    "a ReLU used twice that stays so": Untraceable,
    "in place": lambda: SmallNet(lambda: nn.ReLU(inplace=True)),
    "overlapping max-pooling": PoolingNet,
    "GELU": lambda: PlainNet(nn.GELU),
    "SiLU": lambda: PoolingNet(nn.SiLU),
    "Hardswish in place": lambda: PlainNet(lambda: nn.Hardswish(inplace=True)),
    "PReLU": lambda: PlainNet(nn.PReLU),
    "frames in the batch": FrameByFrame,
    "clips among the frames": lambda: FrameByFrame(time_axis=0),
}


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur"])
@pytest.mark.parametrize("build", NETS.values(), ids=NETS)
def test_deep_lift_adds_up(build, baseline):
    """Shrikumar et al., section 3.1: the contributions add up to the difference from the reference."""
    model, batch, method = as_model(build), small_batch(3), create("methods", f"deep_lift:baseline={baseline}")
    total = explain(method, model, batch).flatten(1).sum(1)
    torch.testing.assert_close(total, differences(method, model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("clip", "baseline", "expected"),
    [
        ((1.0, 5.0), (3.0, 2.0), (0.0, 2.0)),  # a gain of 2 goes to where the clip's maximum lies
        ((3.0, 2.0), (1.0, 5.0), (0.0, -2.0)),  # a loss of 2 goes to where the baseline's maximum lay
        ((4.0, 1.0), (3.0, 2.0), (1.0, 0.0)),
        ((3.0, 1.0), (2.0, 3.0), (0.0, 0.0)),
    ],
)
def test_deep_lift_shares_out_a_maximum_by_hand(clip, baseline, expected):
    net = nn.MaxPool3d((1, 1, 2))
    x, reference = (torch.tensor(values).view(1, 1, 1, 1, 2) for values in (clip, baseline))
    with torch.no_grad(), recorded(net) as references:
        net(reference)
    x.requires_grad_()
    with rescaled(net, references):
        (multipliers,) = torch.autograd.grad(net(x).sum(), x)
    shares = multipliers * (x.detach() - reference)
    torch.testing.assert_close(shares.flatten(), torch.tensor(expected))


def test_deep_lift_of_a_clip_that_is_its_own_baseline_is_zero():
    model, batch = small_model(), small_batch(1)
    batch.frames.zero_()
    assert not explain(create("methods", "deep_lift"), model, batch).any()


def test_deep_lift_has_no_rule_for_products_and_attention():
    class Gated(PlainNet):
        def forward(self, x):
            x = self.activation(self.conv1(x))
            return self.head((x.sigmoid() * x).mean((2, 3, 4)).repeat(1, 2)[:, :8])

    for build, reason in ((Gated, "product of activations"), (lambda: SmallNet(lambda: F.gelu), "GELU")):
        with pytest.raises(NotApplicableError, match=reason):
            explain(create("methods", "deep_lift"), as_model(build), small_batch(1))


RELU_NETS = {
    "batch norm, max-pooling, residual sum": SmallNet,
    "functional ReLUs": lambda: SmallNet(lambda: torch.relu),
    "in place": lambda: SmallNet(lambda: nn.ReLU(inplace=True)),
    "overlapping max-pooling": PoolingNet,
    "PReLU": lambda: PlainNet(nn.PReLU),
    "2-D frames": FrameByFrame,
    "r3d_18": lambda: r3d_18(num_classes=len(CLASSES)),
}


@pytest.mark.parametrize("build", RELU_NETS.values(), ids=RELU_NETS)
def test_input_and_biases_times_their_gradients_add_up_to_the_logit(build):
    """Srinivas and Fleuret, proposition 1."""
    model, batch = as_model(build), small_batch(2)
    for x, target in zip(model.normalise(batch.frames), batch.labels, strict=True):
        logit, terms = full_gradient(model, x, target)
        assert logit == model.net(x[None])[0, target]
        torch.testing.assert_close(torch.stack([term.sum() for term in terms]).sum(), logit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [SmallNet, LinearLayers])
def test_full_grad_is_the_papers_sum(build):
    """A literal transcription: psi of each term, its channels enlarged one by one."""
    model, batch = as_model(build), small_batch(2)
    expected = torch.zeros(2, T, H, W)
    for i, x in enumerate(model.normalise(batch.frames)):
        _, terms = full_gradient(model, x, batch.labels[i])
        for term in [term for term in terms if term.ndim == 5]:
            values = term[0].abs()
            psi = (values - values.min()) / (values.max() - values.min())
            for channel in psi:
                expected[i] += F.interpolate(channel[None, None], (T, H, W), mode="trilinear")[0, 0]
    torch.testing.assert_close(explain(create("methods", "full_grad"), model, batch), expected, **CLOSE)


def test_bias_gradients_are_the_gradients_of_the_biases():
    """Summed over where it is added, bias times gradient is the bias parameter times its own gradient."""
    model, batch = small_model(), small_batch(1)
    net = model.net
    with bias_gradients(net) as terms:
        net(model.normalise(batch.frames).requires_grad_())[0, 0].backward()
    biases = [net.head.bias, net.bn2.bias, net.bn1.bias, net.conv1.bias]
    for norm in (net.bn1, net.bn2):
        norm.weight.requires_grad_()
    for bias in biases:
        bias.requires_grad_()
    net(model.normalise(batch.frames))[0, 0].backward()
    shift = {
        bias: -norm.running_mean * norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        for norm in (net.bn1, net.bn2)
        for bias in (norm.bias,)
    }
    assert len(terms) == len(biases)
    for term, bias in zip(terms, biases, strict=True):
        expected = (bias.detach() + shift.get(bias, 0)) * bias.grad
        found = term[0] if term.ndim == 2 else term.sum((0, 2, 3, 4))
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Sigmoid, nn.ReLU6])
def test_full_grad_needs_a_piecewise_linear_network(activation):
    with pytest.raises(NotApplicableError, match="not linear piece by piece"):
        explain(create("methods", "full_grad"), small_model(activation), small_batch(1))


class Divided(SmallNet):
    """The features by a constant tensor, or the other way round."""

    def __init__(self, by_features):
        super().__init__()
        self.by_features = by_features
        self.register_buffer("divisor", torch.full((1, 8), 2.0))

    def forward(self, x):
        x = self.average(self.conv1(x)).flatten(1) + 3
        return self.head(self.divisor / x if self.by_features else x / self.divisor)


@pytest.mark.parametrize("requirement", ["piecewise_linear", "rescale_rules"])
def test_a_quotient_is_linear_in_its_numerator_alone(requirement):
    check, frames = getattr(requirements, requirement), small_batch(1).frames
    assert check(as_model(lambda: Divided(by_features=False)), frames) is None
    assert "a division by activations" in check(as_model(lambda: Divided(by_features=True)), frames)


REARRANGEMENTS = {
    "flip": lambda x: x.flip(1),
    "repeat": lambda x: x.repeat(1, 1, 1, 1, 2),
    "unfold": lambda x: x.unfold(2, 2, 2).mean(5),
}


class Rearranged(SmallNet):
    """A network that hands the clip on in another arrangement first."""

    def __init__(self, rearrange):
        super().__init__()
        self.rearrange = rearrange

    def forward(self, x):
        return super().forward(self.rearrange(x))


@pytest.mark.parametrize("requirement", ["piecewise_linear", "rescale_rules"])
@pytest.mark.parametrize("rearrange", REARRANGEMENTS.values(), ids=REARRANGEMENTS)
def test_what_only_rearranges_a_clip_is_linear(requirement, rearrange):
    frames = small_batch(1).frames
    assert getattr(requirements, requirement)(as_model(lambda: Rearranged(rearrange)), frames) is None


def test_full_grad_refuses_biases_that_belong_to_no_layer():
    with pytest.raises(NotApplicableError, match=r"add up to .*, not to the logit"):
        explain(create("methods", "full_grad"), as_model(Shifted), small_batch(1))
