"""Methods made of other methods: what is kept, averaged, blurred and multiplied, against slow and foreign code."""

import captum.attr
import numpy as np
import pytest
import torch
from scipy import ndimage

from vidattr_bench.errors import PluginError
from vidattr_bench.fixtures import SmallNet, as_model, explain, small_batch, small_model
from vidattr_bench.plugins import create, label
from vidattr_bench.randomness import derive

T, H, W = 6, 20, 28


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def batch():
    return small_batch(3)


def selected(relevance, sigmas, mode, falling):
    """The authors' selection, voxel by voxel, on one map (T, H, W)."""
    slope = ndimage.sobel(relevance, 0, mode=mode)
    assert slope.shape == (T, H, W)
    change = -slope if falling else np.abs(slope)
    kept = change > sigmas * slope.std(ddof=1)
    assert 0 < kept.sum() < kept.size
    return np.where(kept, relevance, 0)


@pytest.mark.parametrize("of", ["gradient", "grad_cam:layer=conv1,relu=false", "edges"])
@pytest.mark.parametrize(("padding", "mode"), [("replicate", "nearest"), ("zero", "constant")])
@pytest.mark.parametrize("edges", ["both", "falling"])
def test_selective_relevance_keeps_what_changes_over_time(of, padding, mode, edges, model, batch):
    method = create("methods", f"selective_relevance:of=({of}),sigmas=1.5,edges={edges},padding={padding}")
    relevance = explain(create("methods", of), model, batch)
    expected = [selected(clip.double().numpy(), 1.5, mode, edges == "falling") for clip in relevance]
    np.testing.assert_allclose(explain(method, model, batch).numpy(), expected, rtol=1e-6)


def test_what_stays_the_same_is_not_relevant_to_motion(model, batch):
    assert not explain(create("methods", "selective_relevance:of=centre"), model, batch).any()
    assert not explain(create("methods", "selective_relevance:of=edges"), model, small_batch(2, (1, H, W))).any()
    at_the_ends = explain(create("methods", "selective_relevance:of=centre,padding=zero"), model, batch)
    assert at_the_ends[:, [0, -1]].any()
    assert not at_the_ends[:, 1:-1].any()


@pytest.mark.parametrize("inner", ["gradient:pool=sum", "grad_cam:relu=false"])
def test_smooth_is_the_mean_over_noisy_copies(inner, model, batch):
    found = explain(create("methods", f"smooth:of=({inner}),samples=6,noise=.2"), model, batch)
    for clip in range(3):
        draws = torch.Generator().manual_seed(derive(0, batch.ids[clip]))
        x = model.normalise(batch.frames[clip : clip + 1])
        maps = []
        for _ in range(6):
            noisy = x + 0.2 * (x.max() - x.min()) * torch.randn(x.shape, generator=draws)
            frames = noisy * model.std + model.mean
            maps.append(create("methods", inner)(model, frames, batch.labels[clip : clip + 1])[0])
        torch.testing.assert_close(found[clip], torch.stack(maps).mean(0), rtol=1e-4, atol=1e-4 * found[clip].max())


def test_smooth_of_the_signed_gradient_is_captums_noise_tunnel(batch):
    model = small_model()
    x = model.normalise(batch.frames[:1])
    sigma = 0.15 * float(x.max() - x.min())
    torch.manual_seed(0)
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model.logits))
    expected = tunnel.attribute(
        x,
        nt_type="smoothgrad",
        nt_samples=400,
        nt_samples_batch_size=50,
        stdevs=sigma,
        target=batch.labels[:1],
        abs=False,
    ).sum(1)
    found = create("methods", "smooth:of=(gradient:pool=sum),samples=400")(
        model, batch.frames[:1], batch.labels[:1], [0]
    )
    plain = create("methods", "gradient:pool=sum")(model, batch.frames[:1], batch.labels[:1])
    scale = expected.norm()
    assert (found - expected).norm() < 0.15 * scale
    assert (plain - expected).norm() > 0.3 * scale


def test_smooth_of_the_signed_gradient_is_smooth_grad(model, batch):
    found = explain(create("methods", "smooth:of=(gradient:pool=sum),samples=6"), model, batch)
    expected = explain(create("methods", "smooth_grad:pool=sum,samples=6"), model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_smooth_without_noise_is_the_method_itself(model, batch):
    plain = explain(create("methods", "grad_cam"), model, batch)
    torch.testing.assert_close(explain(create("methods", "smooth:samples=5,noise=0"), model, batch), plain)


def test_copies_of_a_stochastic_method_draw_independently(model, batch):
    found = explain(create("methods", "smooth:of=random,samples=50"), model, batch)
    assert found.std().item() == pytest.approx((1 / 12 / 50) ** 0.5, rel=0.05)
    assert create("methods", "smooth:of=random").informed is False


def test_blurred_is_scipys_filter_over_time_and_space(model, batch):
    sharp, blurred = (
        explain(create("methods", text), model, batch) for text in ("gradient", "blurred:time=.2,space=.1")
    )
    for clip in range(3):
        sigmas = (0.2 * T, 0.1 * H, 0.1 * H)
        expected = ndimage.gaussian_filter(sharp[clip].numpy(), sigmas, mode="reflect", truncate=3)
        np.testing.assert_allclose(blurred[clip].numpy(), expected, atol=1e-5 * expected.max())


def test_blur_of_the_controls_is_the_same_blur(model, batch):
    for name in ("edges", "frame_difference"):
        own = explain(create("methods", f"{name}:blur=.1"), model, batch)
        wrapped = explain(create("methods", f"blurred:of={name},space=.1,time=0"), model, batch)
        torch.testing.assert_close(own, wrapped)


def test_wrappers_keep_what_is_known_of_the_method_inside(model):
    assert create("methods", "selective_relevance:of=integrated_gradients").signed
    assert not create("methods", "blurred:of=edges").informed
    assert create("methods", "blurred:of=random").stochastic
    assert create("methods", "smooth:samples=7").cost(model, small_batch(1).frames[0]) == (7, 7)
    text = "selective_relevance:of=(grad_cam:pool=frame),sigmas=2.0"
    assert label("methods", create("methods", text)) == text
    with pytest.raises(PluginError, match="sees the truth"):
        create("methods", "blurred:of=oracle")
    with pytest.raises(PluginError, match="samples=0"):
        create("methods", "smooth:samples=0")


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("pool", ["max_abs", "sum"])
def test_guided_grad_cam_is_captums(pool, batch):
    model = as_model(SmallNet)
    x = model.normalise(batch.frames).requires_grad_()
    guided = captum.attr.GuidedGradCam(model.net, model.net.activation2)
    expected = guided.attribute(x, target=batch.labels, interpolate_mode="trilinear").detach()
    expected = expected.abs().amax(1) if pool == "max_abs" else expected.sum(1)
    found = explain(create("methods", f"guided_grad_cam:pool={pool}"), model, batch)
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_guided_grad_cam_is_zero_where_grad_cam_is(model, batch):
    cam = explain(create("methods", "grad_cam:pool=frame,layer=pool"), model, batch)
    found = explain(create("methods", "guided_grad_cam:cam=frame,layer=pool"), model, batch)
    assert (cam == 0).any()
    assert not found[cam == 0].any()
