"""Networks with a stream of pixels and one of flow: what they compute from the authors' files, and what they are fed.

The references run on MatConvNet's arrays, pixels of 0 to 255 and its own order of axes and channels.
"""

import dataclasses
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.errors import ModelError, NotApplicableError
from vidattr_bench.fixtures import as_model
from vidattr_bench.models import st_resnet50, two_stream_vgg16
from vidattr_bench.models._two_stream import average
from vidattr_bench.streams import channels_of, of_stream

_spec = importlib.util.spec_from_file_location("matconvnet_data", Path(__file__).parent / "data" / "matconvnet.py")
matconvnet = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(matconvnet)

ENTRIES = {"two_stream_vgg16": two_stream_vgg16.TwoStreamVGG16, "st_resnet50": st_resnet50.STResNet50}
NAMES = tuple(ENTRIES)
SIZES = {"two_stream_vgg16": (7, 40, 72), "st_resnet50": (8, 49, 60)}
FILES = {"two_stream_vgg16": matconvnet.two_stream_vgg16, "st_resnet50": matconvnet.st_resnet}
# At the clip that each declares: the volumes of the feature layers, the one of both streams first.
LAYERS = {
    "two_stream_vgg16": dict.fromkeys(("relu3D5", "spatial.relu5_3", "temporal.relu5_3"), (512, 5, 14, 14)),
    "st_resnet50": dict.fromkeys(("spatial.res5c_relu", "temporal.res5c_relu"), (2048, 11, 7, 7)),
}


def thin(name, classes=matconvnet.CLASSES):
    """The network of the file that tests/data writes."""
    if name == "st_resnet50":
        return st_resnet50._Network(classes, matconvnet.RESIDUAL, matconvnet.WIDTH)
    places = math.prod(matconvnet.PLACES)
    return two_stream_vgg16._Network(classes, matconvnet.WIDTHS, matconvnet.UNITS, places)


def built(name, path, **options):
    """The model that the entry makes of a file, with the thin network in the place of the whole one."""
    entry = type(name, (ENTRIES[name],), {"network": lambda self, classes: thin(name, classes)})
    return entry(checkpoint=path, **options).build()


def clips(name, n=2, seed=0):
    return torch.rand(n, 23, *SIZES[name], generator=torch.Generator().manual_seed(seed))


def random_model(name):
    entry = ENTRIES[name]
    wanted = dataclasses.replace(entry.input, length=SIZES[name][0], size=SIZES[name][1:])
    options = {"mean": entry.mean, "std": entry.std, "feature_layer": entry.feature_layer}
    return as_model(lambda: thin(name), input=wanted, **options)


class Reference:
    """MatConvNet's operations on frames (N T, C, H, W), from the arrays in a file."""

    def __init__(self, network, stream, frames):
        layers, self.params = network
        self.layers, self.stream, self.frames = {name: params for name, _, params in layers}, stream, frames

    def arrays(self, name):
        return [torch.from_numpy(self.params[param]) for param in self.layers[f"{name}_{self.stream}"]]

    def conv(self, name, x, stride=1, padding=0):
        kernel, *bias = self.arrays(name)
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), *(b.flatten() for b in bias), stride=stride, padding=padding)

    def norm(self, name, x):
        mult, bias, moments = self.arrays(name)
        mu, sigma = moments.unbind(1)
        mult, bias, mu, sigma = (v.reshape(1, -1, 1, 1) for v in (mult, bias, mu, sigma))
        return mult * (x - mu) / sigma + bias

    def over_time(self, name, x):
        """A convolution over three frames at every place, the first and the last beside zeros."""
        (kernel,) = self.arrays(name)
        if kernel.shape[1] == 1:
            return self.conv(name, x)
        clip = F.pad(x.unflatten(0, (-1, self.frames)), (0, 0, 0, 0, 0, 0, 1, 1))
        # (1, t, in, out), one frame after the other.
        summed = sum(
            torch.einsum("nfchw,co->nfohw", clip[:, k : k + self.frames], kernel[0, k]) for k in range(kernel.shape[1])
        )
        return summed.flatten(0, 1)

    def windows(self, x):
        """The maximum of each place over five frames, every second time."""
        clip = x.unflatten(0, (-1, self.frames))
        return torch.stack([clip[:, t : t + 5].amax(1) for t in range(0, self.frames - 4, 2)], 1).flatten(0, 1)


def vgg_features(r, x):
    for i, count in enumerate(matconvnet.CONVOLUTIONS, start=1):
        for j in range(1, count + 1):
            x = r.conv(f"conv{i}_{j}", x, padding=1).relu()
        x = F.max_pool2d(x, 2) if i < 5 else x
    return x


def vgg_scores(r, x):
    x = F.max_pool2d(r.windows(x), 2)
    x = r.conv("fc7", r.conv("fc6", x).relu()).relu()
    return r.conv("prediction", x)


def vgg_logits(network, rgb, flow, frames):
    spatial, temporal = (Reference(network, stream, frames) for stream in ("spatial", "temporal"))
    motion = vgg_features(temporal, flow)
    both = torch.cat([vgg_features(spatial, rgb), motion], 1)
    # A 3-D convolution as the sum of 2-D ones of the frame before, the frame itself and the one after it.
    kernel, bias = (torch.from_numpy(network[1][name]) for name in ("conv3Df", "conv3Db"))
    clip = F.pad(both.unflatten(0, (-1, frames)), (0, 0, 0, 0, 0, 0, 1, 1))
    parts = [
        F.conv2d(clip[:, k : k + frames].flatten(0, 1), kernel[:, :, k].permute(3, 2, 0, 1), padding=1)
        for k in range(3)
    ]
    fused = (sum(parts) + bias.reshape(1, -1, 1, 1)).relu()
    return vgg_scores(spatial, fused), vgg_scores(temporal, motion)


def resnet_scores(r, x, motion=()):
    x = r.norm("bn_conv1", r.conv("conv1", x, 2, 3)).relu()
    x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)
    firsts, branch = [], x
    for unit, _, stride in matconvnet.units():
        y = branch[:, :, ::stride, ::stride]
        y = r.norm(f"bn{unit}_branch2a", r.over_time(f"res{unit}_branch2a", y)).relu()
        y = r.norm(f"bn{unit}_branch2b", r.conv(f"res{unit}_branch2b", y, padding=1)).relu()
        y = r.norm(f"bn{unit}_branch2c", r.over_time(f"res{unit}_branch2c", y))
        if unit.endswith("a"):
            x = r.norm(f"bn{unit}_branch1", r.conv(f"res{unit}_branch1", x, stride))
        total = x + y
        x = branch = total.relu()
        if unit.endswith("a"):
            branch = total + motion[len(firsts)] if motion else x
            firsts.append(x)
    classifier = "prediction" if r.stream == "spatial" else "fc1000"
    return r.conv(classifier, r.windows(x).mean((2, 3), keepdim=True)), firsts


def resnet_logits(network, rgb, flow, frames):
    temporal, motion = resnet_scores(Reference(network, "temporal", frames), flow)
    return resnet_scores(Reference(network, "spatial", frames), rgb, motion)[0], temporal


REFERENCES = {"two_stream_vgg16": vgg_logits, "st_resnet50": resnet_logits}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_authors_file_gives_the_authors_logits(tmp_path, name, wrapped):
    network, frames = FILES[name](), clips(name)
    model = built(name, matconvnet.write(tmp_path / "net.mat", network, wrapped=wrapped))
    pixels = 255 * frames.transpose(1, 2).flatten(0, 1)
    rgb = pixels[:, :3] - torch.from_numpy(matconvnet.RGB).float()[:, None, None]
    flow = pixels[:, 3:] - torch.from_numpy(matconvnet.FLOW).float()[:, None, None]
    scores = REFERENCES[name](network, rgb, flow, SIZES[name][0])
    # The mean over the streams of the means over time and space.
    expected = sum(score.unflatten(0, (2, -1)).mean((1, 3, 4)) for score in scores) / 2
    assert scores[0].shape == scores[1].shape
    assert (scores[0] - scores[1]).abs().max() > 0.01 * expected.abs().max()
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(model(frames), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_layers_have_the_published_sizes(name):
    entry = plugins.create("models", name)
    with torch.device("meta"):
        net = entry.network(11).eval()
        clip = torch.empty(1, *entry.input.shape)
    seen, relus = {}, []
    for layer in LAYERS[name]:
        net.get_submodule(layer).register_forward_hook(lambda m, a, out, layer=layer: seen.update({layer: out.shape}))
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda m, a, out: relus.append(m))
    assert net(clip).shape == (1, 11)
    assert {layer: tuple(shape[1:]) for layer, shape in seen.items()} == LAYERS[name]
    assert entry.feature_layer == next(iter(LAYERS[name]))
    assert set(entry.feature_layers.values()) <= set(LAYERS[name])
    # Hooks of a module that is used twice would mix its uses up.
    assert len(relus) == len(set(relus)) == sum(isinstance(m, nn.ReLU) for m in net.modules())
    assert not any(relu.inplace for relu in relus)


def test_parameters_are_those_of_two_networks_on_frames_and_what_joins_them():
    with torch.device("meta"):
        vgg, resnet = torchvision.models.vgg16(num_classes=101), torchvision.models.resnet50(num_classes=101)
        counts = {name: plugins.create("models", name).network(101) for name in NAMES}
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in counts.items()}
    fusion = 27 * 1024 * 512 + 512
    assert counts["two_stream_vgg16"] == 2 * sum(p.numel() for p in vgg.parameters()) + 17 * 64 * 9 + fusion
    # Caffe's first convolution has biases; in the second unit of each stage two kernels are three frames deep.
    over_time = 2 * sum(2 * 2 * 4 * width**2 for width in (64, 128, 256, 512))
    streams = 2 * (sum(p.numel() for p in resnet.parameters()) + 64) + 17 * 64 * 49
    assert counts["st_resnet50"] == streams + over_time


@pytest.mark.parametrize("name", NAMES)
def test_each_stream_names_the_layer_that_holds_its_features(name):
    entry, model, x = ENTRIES[name], random_model(name), clips(name)
    assert set(entry.feature_layers) == set(entry.input.streams) == {"rgb", "flow"}
    layers = entry.feature_layers
    for layer in layers.values():
        assert model.output_shape(layer, x)[1] == SIZES[name][0]
    channels = {"rgb": slice(0, 3), "flow": slice(3, 23)}
    changed = {}
    for stream, part in channels.items():
        other = x.clone()
        other[:, part] = 1 - other[:, part]
        outputs = {s: features(model, layer, x) - features(model, layer, other) for s, layer in layers.items()}
        changed[stream] = {s for s, difference in outputs.items() if difference.any()}
    # Motion goes over into the residual units of the other stream, and nothing comes back.
    reached = {"rgb", "flow"} if name == "st_resnet50" else {"flow"}
    assert changed == {"rgb": {"rgb"}, "flow": reached}


def features(model, layer, frames):
    seen = []
    with model.module(layer).register_forward_hook(lambda m, a, out: seen.append(out)):
        model(frames)
    return seen[0]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_both_streams_in_every_frame(name):
    model, x = random_model(name), clips(name, 1).requires_grad_()
    model(x)[0, 1].backward()
    for channels in (slice(0, 3), slice(3, 23)):
        assert x.grad[0, channels].transpose(0, 1).flatten(1).any(1).all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3, 20, 24])
def test_clips_of_other_channels_are_refused_in_words(name, channels):
    wanted = f"takes clips of 23 channels, and these have {channels}; take a data set .* \\(rgb and flow\\)"
    with pytest.raises(ModelError, match=wanted):
        random_model(name)(torch.rand(1, channels, *SIZES[name]))


def test_the_mean_of_both_streams_is_taken_before_any_softmax():
    spatial, temporal = torch.tensor([[[4.0, 0, 1]]]), torch.tensor([[[0.0, 2, 1]]])
    assert average(spatial, temporal).tolist() == [[2, 1, 1]]
    several = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(average(several, 0 * several), several.mean(1) / 2)


@pytest.mark.parametrize(
    ("name", "rgb"),
    [("two_stream_vgg16", (123.68, 116.779, 103.939)), ("st_resnet50", (123.15163084, 115.90288257, 103.0626238))],
)
def test_pixels_and_flow_are_normalised_as_the_authors_do(name, rgb):
    entry = plugins.create("models", name)
    assert [255 * value for value in entry.mean] == pytest.approx([*rgb, *[128] * 20])
    assert entry.std == (1 / 255,) * 23
    assert entry.input.streams == {"rgb": 3, "flow": 20}


@pytest.mark.parametrize(("name", "frames"), {"two_stream_vgg16": 5, "st_resnet50": 11}.items())
def test_the_number_of_frames_is_an_option(name, frames):
    assert plugins.create("models", name).input.shape == (23, frames, 224, 224)
    longer = plugins.create("models", name, frames=25)
    assert (longer.input.length, longer.input.anchor, longer.input.flow) == (25, "spread", 10)
    with pytest.raises(ModelError, match="frames=4 must be 5 or more"):
        plugins.create("models", name, frames=4)


def test_the_fusion_starts_as_a_smoothed_sum_of_the_streams():
    net = thin("two_stream_vgg16")
    width = matconvnet.WIDTHS[-1]
    kernel = net.conv53D.weight.detach()
    torch.testing.assert_close(kernel.sum((2, 3, 4)), torch.cat([0.25 * torch.eye(width), 0.75 * torch.eye(width)], 1))
    centre, neighbour = kernel[0, 0, 1, 1, 1], kernel[0, 0, 1, 1, 2]
    assert float(neighbour / centre) == pytest.approx(np.exp(-0.5), rel=1e-5)
    torch.testing.assert_close(kernel, kernel.permute(0, 1, 3, 4, 2))


@pytest.mark.parametrize("name", NAMES)
def test_no_single_average_is_scored(name):
    with pytest.raises(NotApplicableError, match="no linear head"):
        random_model(name).linear_head(clips(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_the_layer_before_a_streams_features_is_found_where_one_stream_is_explained(name, stream):
    model, x = random_model(name), clips(name, 1)
    layer = ENTRIES[name].feature_layers[stream]
    view, own = of_stream(model, stream, x), x[:, channels_of(model, stream)]
    before = view.layer_before(layer, own)
    assert view.module(before) is model.module(model.layer_before(layer, x))
