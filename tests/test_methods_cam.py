"""The CAM family: the formulas written out, Captum, pytorch-grad-cam, and the identity between two methods."""

import importlib

import captum.attr
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from vidattr_bench.errors import NotApplicableError
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
    ("layer", "reason"), [("relu", "runs 2 times"), ("head", "puts out no activations"), ("unused", "runs 0 times")]
)
def test_grad_cam_refuses_a_layer_without_one_volume(layer, reason, batch):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.unused = nn.Conv3d(3, 3, 3), nn.ReLU(), nn.ReLU()
            self.head = nn.Linear(3, len(CLASSES))

        def forward(self, x):
            return self.head(self.relu(self.conv(self.relu(x))).mean((2, 3, 4)))

    with pytest.raises(NotApplicableError, match=reason):
        explain(create("methods", f"grad_cam:layer={layer}"), as_model(Net), batch)


class ChannelLast(nn.Module):
    """A norm over the channels, put last as video transformers do, between a convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv3d(3, 4, 3), nn.LayerNorm(4), nn.Linear(4, len(CLASSES))

    def forward(self, x):
        return self.head(self.norm(self.conv(x).movedim(1, -1)).mean((1, 2, 3)))


@pytest.mark.parametrize("name", ["grad_cam", "score_cam", "excitation_backprop"])
@pytest.mark.parametrize("options", [{}, {"feature_layer": "norm"}], ids=["named", "declared"])
def test_a_layer_with_its_channels_last_is_refused(name, options, batch):
    method = create("methods", name if options else f"{name}:layer=norm")
    with pytest.raises(NotApplicableError, match="'norm' puts out no activations"):
        explain(method, as_model(ChannelLast, **options), batch)


class OneReLU(nn.Module):
    """Two convolutions and one ReLU module for both."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(3, 6, 3, 2, 1), nn.Conv3d(6, 8, 3, 1, 1)
        self.relu1 = nn.ReLU()
        self.relu2 = self.relu1 if shared else nn.ReLU()
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, x):
        return self.head(self.relu2(self.conv2(self.relu1(self.conv1(x)))).mean((2, 3, 4)))


def test_one_relu_for_all_layers_leaves_the_convolution_before_it_to_read(batch):
    shared, plain = as_model(lambda: OneReLU(True)), as_model(lambda: OneReLU(False))
    x = shared.normalise(batch.frames)
    assert shared.feature_layer(x) == "conv2"
    assert shared.layer_before("conv2", x) == "conv1"
    assert torch.equal(native("grad_cam", shared, batch), native("grad_cam:layer=conv2", plain, batch))
    for name in ("cam", "saliency_tubes"):
        torch.testing.assert_close(native(name, shared, batch), native(name, plain, batch))


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
