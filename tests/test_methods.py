"""What each map is: closed forms, identities between methods, and independent implementations."""

import dataclasses
import importlib

import captum.attr
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import CLASSES, SmallNet, as_model, explain, model_without, small_batch, small_model
from vidattr_bench.model import VideoModel
from vidattr_bench.plugins import create

T, H, W = 6, 20, 28


@pytest.fixture
def model() -> VideoModel:
    return small_model()


@pytest.fixture
def batch():
    return small_batch(3)


class PlainNet(nn.Sequential):
    """Convolutions, max-pooling and ReLU modules, one of them in place."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(2),
            nn.Conv3d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, len(CLASSES)),
        )


class ReusedReLUNet(nn.Module):
    """One ReLU module, in place, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(3, 6, 3), nn.Conv3d(6, 6, 3)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, len(CLASSES))

    def forward(self, x):
        return self.head(self.relu(self.conv2(self.relu(self.conv1(x)))).mean((2, 3, 4)))


class LinearNet(nn.Module):
    """Logits = weight . x: every gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(CLASSES), 3, T, H, W))

    def forward(self, x):
        return torch.einsum("ncthw,kcthw->nk", x, self.weight)


def captum_map(kind, model, batch, **options):
    x = model.normalise(batch.frames).requires_grad_()
    net = model.net if kind in (captum.attr.Deconvolution, captum.attr.GuidedBackprop) else model.logits
    return kind(net).attribute(x, target=batch.labels, **options).detach()


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


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("build", [PlainNet, SmallNet], ids=lambda build: build.__name__)
@pytest.mark.parametrize(
    ("name", "kind"),
    [("deconvnet", captum.attr.Deconvolution), ("guided_backprop", captum.attr.GuidedBackprop)],
)
def test_reversed_networks_are_captums(build, name, kind, batch):
    out_of_place, model = as_model(build), as_model(build)
    for module in out_of_place.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # Captum's hooks do not survive it
    expected = captum_map(kind, out_of_place, batch).abs().amax(1)
    torch.testing.assert_close(explain(create("methods", name), model, batch), expected)


def reversed_by_hand(net, x, targets, rule):
    """The signal at the input of a ReusedReLUNet, step by step."""
    u1 = net.conv1(x)
    u2 = net.conv2(u1.relu())
    y = net.head.weight[targets][:, :, None, None, None].expand_as(u2) / u2[0, 0].numel()
    y = torch.nn.functional.conv_transpose3d(rule(y, u2), net.conv2.weight)
    return torch.nn.functional.conv_transpose3d(rule(y, u1), net.conv1.weight)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("salinet", lambda y, u: y * (u > 0)),
        ("deconvnet", lambda y, u: y * (y > 0)),
        ("desalinet", lambda y, u: y * (y > 0) * (u > 0)),
    ],
)
def test_the_three_rules_at_a_relu_module_used_twice(name, rule, batch):
    model = as_model(ReusedReLUNet)
    expected = reversed_by_hand(model.net, model.normalise(batch.frames), batch.labels, rule).sum(1)
    torch.testing.assert_close(explain(create("methods", f"{name}:pool=sum"), model, batch), expected)


def test_unpooling_to_the_centre_reaches_the_windows_centres(batch):
    class PoolNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.pool, self.head = nn.ReLU(), nn.MaxPool3d(3, stride=(2, 3, 4)), nn.Linear(3, len(CLASSES))

        def forward(self, x):
            return self.head(self.pool(self.relu(x)).mean((2, 3, 4)))

    model = as_model(PoolNet)
    found = explain(create("methods", "deconvnet:unpool=centre,pool=sum_abs"), model, batch)
    expected = torch.zeros(T, H, W, dtype=torch.bool)
    expected[1:4:2, 1:17:3, 1:26:4] = True
    assert torch.equal(found[0] > 0, expected)
    switches = explain(create("methods", "deconvnet:pool=sum_abs"), model, batch)
    assert not torch.equal(switches, found)


def test_lrn_is_passed_through(batch):
    def build():
        norm = nn.LocalResponseNorm(3, alpha=10.0)
        return nn.Sequential(nn.ReLU(), norm, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, len(CLASSES)))

    model = as_model(build)
    found = explain(create("methods", "deconvnet:pool=sum"), model, batch)
    signal = model.net[-1].weight[batch.labels].clamp(min=0).sum(1) / (T * H * W)
    torch.testing.assert_close(found, signal[:, None, None, None].expand_as(found))
    through_norm = explain(create("methods", "gradient:pool=sum"), model, batch)
    assert through_norm.flatten(1).std(1).min() > 0.01 * signal.max()


def test_deconvnet_without_max_pooling_does_not_depend_on_the_clip(batch):
    same_target = dataclasses.replace(batch, labels=torch.zeros(3, dtype=torch.long))
    found = explain(create("methods", "deconvnet"), as_model(ReusedReLUNet), same_target)
    assert found.any()
    torch.testing.assert_close(found, found[:1].expand_as(found))
    switches = explain(create("methods", "deconvnet"), as_model(PlainNet), same_target)
    assert not torch.allclose(switches[0], switches[1])


@pytest.mark.parametrize("name", ["deconvnet", "guided_backprop"])
@pytest.mark.parametrize(
    ("activation", "reason"),
    [(lambda: torch.relu, "functional"), (nn.GELU, "GELU"), (nn.SiLU, "SiLU"), (lambda: lambda x: x.clamp(0), "clamp")],
)
def test_reversed_networks_refuse_what_they_cannot_reverse(name, activation, reason, batch):
    with pytest.raises(NotApplicableError, match=reason):
        explain(create("methods", name), small_model(activation), batch)


def test_a_relu_off_the_path_does_not_hide_a_functional_one(batch):
    class Hidden(SmallNet):
        def forward(self, x):
            self.activation1(x)
            return super().forward(x)

    activations = iter([nn.ReLU(), torch.relu])
    model = as_model(lambda: Hidden(lambda: next(activations)))
    with pytest.raises(NotApplicableError, match="1 of 2 ReLUs are functional"):
        explain(create("methods", "deconvnet"), model, batch)


def test_reversed_networks_refuse_recurrence(batch):
    class Recurrent(ReusedReLUNet):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 6, batch_first=True)

        def forward(self, x):
            sequence = self.relu(self.conv1(x)).mean((3, 4)).mT
            return self.head(self.lstm(sequence)[0][:, -1])

    model = as_model(Recurrent)
    assert explain(create("methods", "gradient"), model, batch)[:, 0].any()
    with pytest.raises(NotApplicableError, match=r"recurrent|sigmoid"):
        explain(create("methods", "deconvnet"), model, batch)


def test_centre_unpooling_refuses_functional_pooling(batch):
    class Functional(SmallNet):
        def forward(self, x):
            x = torch.nn.functional.max_pool3d(self.activation1(self.bn1(self.conv1(x))), 2)
            return self.head(self.activation2(self.conv2(x)).mean((2, 3, 4)))

    model = as_model(Functional)
    assert explain(create("methods", "deconvnet"), model, batch).any()
    with pytest.raises(NotApplicableError, match="1 max-poolings are functional"):
        explain(create("methods", "deconvnet:unpool=centre"), model, batch)


def test_aliases_are_the_same_methods():
    assert create("methods", "desalinet") == create("methods", "guided_backprop")
    assert create("methods", "salinet:pool=l2") == create("methods", "gradient:pool=l2")


def native(text, model, batch):
    with torch.enable_grad():
        return create("methods", text).attribute(model, batch.frames, batch.labels)


@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam_is_captums(model, batch, relu):
    x = model.normalise(batch.frames).requires_grad_()
    layer = captum.attr.LayerGradCam(model.net, model.net.activation2)
    expected = layer.attribute(x, target=batch.labels, relu_attributions=relu).detach()
    found = native(f"grad_cam:relu={relu}", model, batch)
    torch.testing.assert_close(found, expected[:, 0])
    resized = torch.nn.functional.interpolate(expected, (T, H, W), mode="trilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(explain(create("methods", f"grad_cam:relu={relu}"), model, batch), resized)


def test_grad_cam_by_frame_is_the_formula_written_out(model, batch):
    A = model.net.pool(model.net.activation1(model.net.bn1(model.net.conv1(model.normalise(batch.frames)))))
    A = A.detach().requires_grad_()
    logits = model.net.head(model.net.average(model.net.activation2(A + model.net.bn2(model.net.conv2(A)))).flatten(1))
    (g,) = torch.autograd.grad(sum(logits[i, c] for i, c in enumerate(batch.labels)), A)
    n, channels, t, h, w = A.shape
    for pool in ("frame", "volume"):
        expected = torch.zeros(n, t, h, w)
        for clip in range(n):
            for j in range(channels):
                for time in range(t):
                    weight = g[clip, j, time].mean() if pool == "frame" else g[clip, j].mean()
                    expected[clip, time] += weight * A[clip, j, time].detach()
        torch.testing.assert_close(native(f"grad_cam:layer=pool,pool={pool}", model, batch), expected.relu())


def test_grad_cam_averages_over_time_too(model, batch):
    volume, frame = (
        native(f"grad_cam:layer=conv1,pool={pool},relu=false", model, batch) for pool in ("volume", "frame")
    )
    assert not torch.allclose(volume, frame, rtol=0.05)


def test_an_in_place_relu_after_the_feature_layer_leaves_it_alone(batch):
    inplace, plain = (as_model(lambda i=i: SmallNet(lambda: nn.ReLU(inplace=i))) for i in (True, False))
    for layer in ("bn1", "bn2"):
        text = f"grad_cam:layer={layer},relu=false"
        torch.testing.assert_close(native(text, inplace, batch), native(text, plain, batch))


@pytest.mark.parametrize(
    ("layer", "reason"), [("relu", "runs 2 times"), ("head", r"puts out \(3, 5\)"), ("unused", "runs 0 times")]
)
def test_grad_cam_refuses_a_layer_without_one_volume(layer, reason, batch):
    class Net(ReusedReLUNet):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.ReLU()

    with pytest.raises(NotApplicableError, match=reason):
        explain(create("methods", f"grad_cam:layer={layer}"), as_model(Net), batch)


def test_grad_cam_of_one_frame_is_pytorch_grad_cams():
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Net(nn.Module):
        def __init__(self, flat: bool) -> None:
            super().__init__()
            conv = nn.Conv2d if flat else nn.Conv3d
            sides = ((3, 3), (1, 1)) if flat else ((1, 3, 3), (0, 1, 1))
            self.conv1, self.conv2 = conv(3, 6, sides[0], 2, sides[1]), conv(6, 8, sides[0], 1, sides[1])
            self.head = nn.Linear(8, len(CLASSES))

        def forward(self, x):
            return self.head(self.conv2(self.conv1(x).relu()).relu().flatten(2).mean(2))

    video = as_model(lambda: Net(flat=False))
    image = Net(flat=True).eval()
    weights = video.net.state_dict()
    image.load_state_dict({k: v if v.ndim < 5 else v.squeeze(2) for k, v in weights.items()})
    batch = small_batch(3, (1, H, W))
    with pytorch_grad_cam.GradCAM(image, [image.conv2]) as cam:
        targets = [ClassifierOutputTarget(int(label)) for label in batch.labels]
        expected = torch.from_numpy(cam(video.normalise(batch.frames)[:, :, 0], targets))
    found = native("grad_cam:layer=conv2", video, batch)
    resized = torch.nn.functional.interpolate(found, (H, W), mode="bilinear", align_corners=False)[:, 0]
    for ours, theirs in zip(resized, expected, strict=True):
        ours = (ours - ours.min()) / (ours.max() - ours.min() + 1e-7)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_saliency_tubes_are_grad_cam_without_relu_up_to_one_factor(model, batch):
    tubes = create("methods", "saliency_tubes").volume(model, batch.frames, batch.labels)
    cam = native("grad_cam:relu=false", model, batch)
    torch.testing.assert_close(tubes, cam * cam[0].numel())


def test_saliency_tubes_need_a_linear_head(batch):
    with pytest.raises(NotApplicableError, match="linear head"):
        explain(create("methods", "saliency_tubes"), model_without("linear_head"), batch)


def test_saliency_tubes_thresholds(model, batch):
    def volume(options):
        return create("methods", f"saliency_tubes{options}").volume(model, batch.frames, batch.labels)

    weights = model.net.head.weight[batch.labels]
    scaled = (weights - weights.amin(1, keepdim=True)) / (weights.amax(1, keepdim=True) - weights.amin(1, keepdim=True))
    assert ((scaled >= 0.6).sum(1) < weights.shape[1]).all()
    torch.testing.assert_close(volume(":weight_threshold=0.0,activation_threshold=0.0"), volume(""))
    only_largest = volume(":weight_threshold=1.0")
    assert torch.equal(only_largest.sign(), weights.amax(1).sign()[:, None, None, None] * (only_largest != 0))
    sparse = volume(":activation_threshold=0.9")
    assert (sparse == 0).sum() > (volume("") == 0).sum()


def test_spline_zoom_keeps_centres_where_the_authors_do_not():
    zoom = importlib.import_module("vidattr_bench.methods.saliency_tubes").spline_zoom
    size = (8, 28, 40)
    cell = np.zeros((2, 7, 5), dtype=np.float32)
    cell[0, 2, 1] = 1.0
    rows = {kind: ndimage.center_of_mass(zoom(cell, size, kind).clip(0)) for kind in ("aligned", "authors")}
    centre = ((0 + 0.5) * 4 - 0.5, (2 + 0.5) * 4 - 0.5, (1 + 0.5) * 8 - 0.5)
    np.testing.assert_allclose(rows["aligned"][1:], centre[1:], atol=0.6)
    assert abs(rows["authors"][1] - centre[1]) > abs(rows["aligned"][1] - centre[1])
    assert zoom(cell, size).shape == size
    np.testing.assert_allclose(zoom(cell[:1], size), zoom(cell[:1], size)[:1].repeat(8, 0), atol=1e-6)


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
