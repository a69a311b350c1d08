"""Gradients and controls: closed forms, and what independent implementations give."""

import captum.attr
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from vidattr_bench.errors import PluginError
from vidattr_bench.fixtures import CLASSES, SmallNet, as_model, explain, small_batch, small_model
from vidattr_bench.method_checks import sign_is_declared
from vidattr_bench.model import VideoModel
from vidattr_bench.plugins import create

T, H, W = 6, 20, 28


@pytest.fixture
def model() -> VideoModel:
    return small_model()


@pytest.fixture
def batch():
    return small_batch(3)


class LinearNet(nn.Module):
    """Logits = weight . x: every gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(CLASSES), 3, T, H, W))

    def forward(self, x):
        return torch.einsum("ncthw,kcthw->nk", x, self.weight)


def captum_map(kind, model, batch, **options):
    x = model.normalise(batch.frames).requires_grad_()
    return kind(model.logits).attribute(x, target=batch.labels, **options).detach()


def test_gradient_of_a_linear_model_is_its_weights(batch):
    model = as_model(LinearNet)
    found = create("methods", "gradient:pool=sum")(model, batch.frames, batch.labels)
    torch.testing.assert_close(found, model.net.weight[batch.labels].sum(1))


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("max_abs", lambda g: g.abs().amax(1)),
        ("l2", lambda g: g.norm(dim=1)),
        ("sum_abs", lambda g: g.abs().sum(1)),
        ("sum", lambda g: g.sum(1)),
    ],
)
def test_gradient_is_captums_saliency(model, batch, pool, expected):
    saliency = captum_map(captum.attr.Saliency, model, batch, abs=False)
    torch.testing.assert_close(explain(create("methods", f"gradient:pool={pool}"), model, batch), expected(saliency))


def test_score_prob_is_the_gradient_of_the_probability(model, batch):
    x = model.normalise(batch.frames).requires_grad_()
    model.logits(x).softmax(1)[range(3), batch.labels].sum().backward()
    found = explain(create("methods", "gradient:score=prob"), model, batch)
    torch.testing.assert_close(found, x.grad.abs().amax(1))


def test_absolute_belongs_to_the_signed_pooling(model, batch):
    signed = explain(create("methods", "gradient:pool=sum"), model, batch)
    absolute = explain(create("methods", "gradient:pool=sum,sign=absolute"), model, batch)
    assert (signed < 0).any()
    torch.testing.assert_close(absolute, signed.abs())
    with pytest.raises(PluginError, match="pool=sum"):
        create("methods", "gradient:sign=absolute")


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur"])
def test_integrated_gradients_of_a_linear_model(batch, baseline):
    model, method = as_model(LinearNet), create("methods", f"integrated_gradients:baseline={baseline},steps=3")
    difference = model.normalise(batch.frames) - method.baselines(model, batch.frames)
    expected = (difference * model.net.weight[batch.labels]).sum(1)
    torch.testing.assert_close(explain(method, model, batch), expected, rtol=1e-4, atol=1e-4)
    gap = method.completeness_gap(model, batch.frames, batch.labels)
    torch.testing.assert_close(gap, torch.zeros(3), rtol=0, atol=1e-3)


def test_integrated_gradients_are_captums(model, batch):
    method = create("methods", "integrated_gradients:steps=20")
    black = model.normalise(torch.zeros_like(batch.frames))
    kind = captum.attr.IntegratedGradients
    expected = captum_map(kind, model, batch, baselines=black, n_steps=20, internal_batch_size=3)
    torch.testing.assert_close(explain(method, model, batch), expected.sum(1), rtol=1e-4, atol=1e-6)
    absolute = explain(create("methods", "integrated_gradients:steps=20,sign=absolute"), model, batch)
    torch.testing.assert_close(absolute, expected.sum(1).abs(), rtol=1e-4, atol=1e-6)


def test_the_completeness_gap_closes_with_more_steps(model, batch):
    gaps = [
        create("methods", f"integrated_gradients:steps={steps}").completeness_gap(model, batch.frames, batch.labels)
        for steps in (2, 200)
    ]
    scores = model(batch.frames) - model(torch.zeros_like(batch.frames))
    assert gaps[1].abs().max() < 0.01 * scores.abs().max()
    assert gaps[1].abs().sum() < gaps[0].abs().sum()


def test_the_mean_baseline_is_zero_only_where_a_mean_is_declared(batch):
    method = create("methods", "integrated_gradients:baseline=mean")
    assert not method.baselines(small_model(), batch.frames).any()
    plain = as_model(SmallNet, mean=None, std=None)
    expected = batch.frames.mean((2, 3, 4), keepdim=True).expand_as(batch.frames)
    torch.testing.assert_close(method.baselines(plain, batch.frames), expected)


def test_aliases_are_the_same_methods():
    assert create("methods", "desalinet") == create("methods", "guided_backprop")
    assert create("methods", "salinet:pool=l2") == create("methods", "gradient:pool=l2")


def test_random_draws_are_uniform_and_independent(model, batch):
    maps = explain(create("methods", "random"), model, batch)
    assert maps.min() >= 0
    assert maps.max() < 1
    assert maps.mean().item() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(maps[0].flatten(), maps[1].flatten())[0, 1]) < 0.05


def test_centre_is_constant_in_time_and_symmetric(model, batch):
    relevance = explain(create("methods", "centre:sigma=0.2"), model, batch)[0]
    assert torch.equal(relevance, relevance[:1].expand_as(relevance))
    torch.testing.assert_close(relevance, relevance.flip(1, 2))
    away = ((3 + 0.5) / H - 0.5) ** 2 + ((5 + 0.5) / W - 0.5) ** 2
    assert relevance[0, 3, 5].item() == pytest.approx(np.exp(-0.5 * away / 0.2**2))


def test_frame_difference_is_the_mean_over_channels(model, batch):
    relevance = explain(create("methods", "frame_difference"), model, batch)
    p = batch.frames
    expected = sum((p[:, c, 3] - p[:, c, 2]).abs() for c in range(3)) / 3
    torch.testing.assert_close(relevance[:, 3], expected)
    assert torch.equal(relevance[:, 0], relevance[:, 1])
    assert not explain(create("methods", "frame_difference"), model, small_batch(2, (1, H, W))).any()


def test_edges_are_scipys_sobel(model, batch):
    relevance = explain(create("methods", "edges"), model, batch)
    grey = batch.frames.mean(1)[1, 2].numpy()
    dy, dx = (ndimage.sobel(grey, axis, mode="nearest") / 8 for axis in (0, 1))
    np.testing.assert_allclose(relevance[1, 2].numpy(), np.hypot(dx, dy), atol=1e-6)


@pytest.mark.parametrize("name", ["edges", "frame_difference"])
def test_blurred_controls_are_blurred_frame_by_frame(name, model, batch):
    sharp, blurred = (explain(create("methods", f"{name}{options}"), model, batch) for options in ("", ":blur=0.05"))
    expected = ndimage.gaussian_filter(sharp[2, 4].numpy(), 0.05 * H, mode="reflect", truncate=3)
    np.testing.assert_allclose(blurred[2, 4].numpy(), expected, atol=1e-5)


def test_oracle_is_the_tubes(model, batch):
    assert torch.equal(explain(create("methods", "oracle"), model, batch), batch.tubes.float())


@pytest.mark.parametrize(
    ("text", "signed"),
    [
        ("gradient", False),
        ("gradient:pool=sum", True),
        ("deconvnet:pool=sum", True),
        ("smooth_grad:pool=sum,samples=3", True),
        ("grad_cam:relu=false", True),
        ("rise:masks=8", False),
        ("rise:masks=8,score=logit", True),
        ("smooth:of=(gradient:pool=sum),samples=2", True),
    ],
)
def test_the_options_decide_whether_there_is_a_sign(text, signed):
    method = create("methods", text)
    assert method.signed is signed
    sign_is_declared(method, small_model())
