"""Class feature pyramids: the authors' back-step written out, what is followed through a network, graph and picture."""

import json
from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import nn

from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import CLASSES, as_model, explain, small_batch
from vidattr_bench.plugins import create
from vidattr_bench.small_networks import MaxPoolNet, PlainNet, ResidualNet

T, H, W = 6, 20, 28


@pytest.fixture
def batch():
    return small_batch(3)


def plain_readings(net, x):
    """What the head and the convolutions of a PlainNet read, top down, each with the name of what lies below it."""
    seen = [x]
    for module in list(net)[:6]:
        seen.append(module(seen[-1]))
    return [(None, seen[6], "4"), (net[4], seen[4], "2"), (net[2], seen[2], "0")]


def residual_readings(net, x):
    """The same for a ResidualNet along its convolutions, shortcuts left out."""

    def block(layer, x):
        inner = F.relu(layer.bn1(layer.conv1(x)))
        return inner, F.relu(layer.bn2(layer.conv2(inner)) + layer.shortcut(x))

    stem = F.relu(net.bn(net.stem(x)))
    inner1, out1 = block(net.layer1, stem)
    inner2, out2 = block(net.layer2, out1)
    return [
        (None, out2, "layer2.conv2"),
        (net.layer2.conv2, inner2, "layer2.conv1"),
        (net.layer2.conv1, out1, "layer1.conv2"),
        (net.layer1.conv2, inner1, "layer1.conv1"),
        (net.layer1.conv1, stem, "stem"),
    ]


def kept(values, theta):
    """Indices and values of what reaches theta once scaled from the least to the largest, as the authors loop."""
    base = min(values)
    value_range = max(values) - base
    normalised = [(value - base) / value_range for value in values]
    return {j: value for j, value in enumerate(normalised) if value >= theta}


def written_out(readings, class_weights, clip, theta, depth):
    """Kept channels by layer, edges, and the mean of the enlarged activations, loop by loop."""
    layers, edges, volumes = defaultdict(set), {}, {}
    above = kept(class_weights.tolist(), theta)
    name = readings[0][2]
    for j, weight in above.items():
        edges[None, (name, j)] = weight
        volumes[name, j] = readings[0][1][clip, j]
    layers[1, name] = set(above)
    for step in range(1, depth):
        convolution, activations, below = readings[step]
        for i in layers[step, name]:
            kernel = F.avg_pool3d(convolution.weight[i], convolution.weight.shape[2:]).flatten()
            pooled = F.avg_pool3d(activations[clip], activations.shape[2:]).flatten()
            products = kernel * pooled
            for j, weight in kept((products / products.sum()).tolist(), theta).items():
                edges[(name, i), (below, j)] = weight
                layers[step + 1, below].add(j)
                volumes[below, j] = activations[clip, j]
        name = below
    total = torch.zeros(T, H, W)
    for volume in volumes.values():
        zoom = [new / old for new, old in zip((T, H, W), volume.shape, strict=True)]
        total += torch.from_numpy(ndimage.zoom(volume.numpy(), zoom, order=3, grid_mode=True, mode="nearest"))
    return dict(layers), edges, total / len(volumes)


@pytest.mark.parametrize(
    ("build", "readings", "depth"), [(PlainNet, plain_readings, 3), (ResidualNet, residual_readings, 5)]
)
@pytest.mark.parametrize("theta", [0.6, 0.3])
@torch.no_grad()
def test_the_pyramid_is_the_back_step_written_out(build, readings, depth, theta, batch):
    model = as_model(build)
    method = create("methods", f"class_feature_pyramid:theta={theta},depth={depth}")
    found, graphs = explain(method, model, batch), method.graph(model, batch.frames, batch.labels)
    seen = readings(model.net, model.normalise(batch.frames))
    head = model.net[-1] if build is PlainNet else model.net.head
    for clip, (graph, target) in enumerate(zip(graphs, batch.labels.tolist(), strict=True)):
        layers, edges, expected = written_out(seen, head.weight[target], clip, theta, depth)
        assert len(edges) > depth
        told = {(entry["depth"], entry["layer"]): set(entry["channels"]) for entry in graph["layers"]}
        assert told == layers
        weights = {(edge["above"], edge["below"]): edge["weight"] for edge in graph["edges"]}
        assert weights == pytest.approx(edges, rel=1e-4)
        torch.testing.assert_close(found[clip], expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


def test_one_layer_without_a_threshold_is_the_mean_of_the_pooled_activations(batch):
    model = as_model(PlainNet)
    found = create("methods", "class_feature_pyramid:theta=0,depth=1").pyramids(model, batch.frames, batch.labels)
    ((_, A, _), *_) = plain_readings(model.net, model.normalise(batch.frames))
    for clip, pyramid in enumerate(found):
        ((total, count),) = pyramid.volumes()
        assert count == 8
        torch.testing.assert_close(total / count, A[clip].mean(0))


def test_class_weights_are_scaled_by_the_class_or_by_all(batch):
    model = as_model(PlainNet)
    weights = model.net[-1].weight
    low, high = weights.min(), weights.max()
    for scale, expected in (
        ("class", (weights[2] - weights[2].min()) / (weights[2].max() - weights[2].min())),
        ("all", (weights[2] - low) / (high - low)),
    ):
        method = create("methods", f"class_feature_pyramid:depth=1,scale={scale}")
        graph = method.graph(model, batch.frames[2:], batch.labels[2:])[0]
        channels = (expected >= 0.6).nonzero().flatten().tolist()
        assert graph["layers"] == [{"depth": 1, "layer": "4", "channels": channels}]


class Branches(nn.Module):
    """An inception block: branches beside each other, one behind a max-pooling; below it a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv3d(3, 8, 3, (1, 2, 2), 1), nn.Conv3d(8, 12, 3, 1, 1, groups=4)
        self.narrow, self.wide, self.pooled = nn.Conv3d(12, 2, 1), nn.Conv3d(12, 4, 3, 1, 1), nn.Conv3d(12, 3, 1)
        self.head = nn.Linear(9, len(CLASSES))

    def forward(self, x):
        x = F.relu(self.grouped(F.relu(self.stem(x))))
        branches = [self.narrow(x), self.wide(x), self.pooled(F.max_pool3d(x, 3, 1, 1))]
        return self.head(torch.cat(branches, 1).relu().mean((2, 3, 4)))


def test_channels_are_followed_into_branches_and_groups(batch):
    model = as_model(Branches)
    graph = create("methods", "class_feature_pyramid:theta=0").graph(model, batch.frames[:1], batch.labels[:1])[0]
    channels = {(entry["depth"], entry["layer"]): entry["channels"] for entry in graph["layers"]}
    assert channels == {
        (1, "narrow"): [0, 1],
        (1, "wide"): [0, 1, 2, 3],
        (1, "pooled"): [0, 1, 2],
        (2, "grouped"): list(range(12)),
        (3, "stem"): list(range(8)),
    }
    below = defaultdict(set)
    for edge in graph["edges"]:
        below[edge["above"]].add(edge["below"])
    assert below["wide", 3] == {("grouped", j) for j in range(12)}
    for kernel in range(12):
        group = kernel // 3
        assert below["grouped", kernel] == {("stem", 2 * group), ("stem", 2 * group + 1)}


def test_a_pyramid_ends_at_the_clip(batch):
    model = as_model(PlainNet)
    deep, full = (create("methods", f"class_feature_pyramid:depth={depth}") for depth in (9, 3))
    torch.testing.assert_close(explain(deep, model, batch), explain(full, model, batch))


def test_the_map_depends_on_the_class(batch):
    model = as_model(ResidualNet)
    method = create("methods", "class_feature_pyramid")
    other = (batch.labels + 1) % len(CLASSES)
    assert not torch.allclose(explain(method, model, batch), method(model, batch.frames, other))


def test_graph_is_json_and_picture_a_png(batch, tmp_path):
    model = as_model(ResidualNet)
    method = create("methods", "class_feature_pyramid")
    text = json.dumps(method.graph(model, batch.frames, batch.labels))
    assert [graph["target"] for graph in json.loads(text)] == batch.labels.tolist()
    assert model.calls.forwards == 3
    method.picture(model, batch.frames[:1], batch.labels[:1], tmp_path / "pyramid.png")
    with Image.open(tmp_path / "pyramid.png") as picture:
        assert picture.format == "PNG"
        assert picture.getextrema()[0] == (0, 255)


def test_refusals_and_wrong_options(batch):
    with pytest.raises(NotApplicableError, match="linear head"):
        explain(create("methods", "class_feature_pyramid"), as_model(MaxPoolNet), batch)
    with pytest.raises(PluginError, match=r"theta=1\.5"):
        create("methods", "class_feature_pyramid:theta=1.5")

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.Linear(8, len(CLASSES))

        def forward(self, x):
            return self.head(self.norm(self.conv(x).roll(1, 1)).mean((2, 3, 4)))

    with pytest.raises(NotApplicableError, match="cannot be traced to 3-D convolutions"):
        explain(create("methods", "class_feature_pyramid"), as_model(Shuffled), batch)
