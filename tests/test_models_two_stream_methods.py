"""Every method on networks of two streams: a map that keeps the contract, or why there is none.

The networks are those of the zoo with fewer channels and blocks; how fast a method is on one says nothing.
"""

import dataclasses
from functools import lru_cache

import pytest
import torch
from torch import nn

from vidattr_bench.applicability import applicability
from vidattr_bench.fixtures import as_model, small_batch
from vidattr_bench.method_checks import every_spec, quickly
from vidattr_bench.models import st_resnet50, two_stream_vgg16
from vidattr_bench.streams import channels_of, of_stream

ENTRIES = {"two_stream_vgg16": two_stream_vgg16.TwoStreamVGG16, "st_resnet50": st_resnet50.STResNet50}
NETWORKS = {
    "two_stream_vgg16": (lambda: two_stream_vgg16._Network(5, (4, 4, 5, 6, 6), 8, 2), (5, 40, 72)),
    "st_resnet50": (lambda: st_resnet50._Network(5, (2, 2, 2, 3), 3), (6, 48, 60)),
}
NO_ATTENTION = dict.fromkeys(("attention_rollout", "gradient_attention"), "no attention between tokens")
NO_HEAD = dict.fromkeys(("cam", "class_feature_pyramid", "saliency_tubes"), "no linear head")
# Each stream has a classifier of its own.
NO_CONTRAST = {"excitation_backprop:contrastive=true": "a linear layer or convolution that puts out the logits"}
REASONS = {**NO_ATTENTION, **NO_HEAD, **NO_CONTRAST}
# The other stream is a bias that belongs to no layer.
OF_ONE_STREAM = {"full_grad": "some bias belongs to no"}


@lru_cache(maxsize=1)
def subject(name):
    make, size = NETWORKS[name]
    entry = ENTRIES[name]
    wanted = dataclasses.replace(entry.input, length=size[0], size=size[1:])
    statistics = {"mean": [0.5] * 23, "std": [0.25] * 23}
    layers = {"feature_layer": entry.feature_layer, "feature_layers": entry.feature_layers}
    model = as_model(make, 1, input=wanted, **layers, **statistics)
    return model, with_flow(small_batch(2, size))


@lru_cache(maxsize=1)
def view(name, stream):
    """The model and the batch as one stream sees them, the other one being that of the first clip."""
    model, batch = subject(name)
    part = dataclasses.replace(batch, frames=batch.frames[:, channels_of(model, stream)])
    return of_stream(model, stream, batch.frames[:1]), part


def with_flow(batch):
    """The batch with twenty channels of smooth noise behind its pixels."""
    n, _, t, h, w = batch.frames.shape
    noise = torch.rand(n, 20, max(t // 2, 1), h // 4, w // 4, generator=torch.Generator().manual_seed(5))
    flow = nn.functional.interpolate(noise, (t, h, w), mode="trilinear")
    return dataclasses.replace(batch, frames=torch.cat([batch.frames, flow], 1))


@pytest.mark.slow
@pytest.mark.parametrize("text", every_spec())
@pytest.mark.parametrize("name", NETWORKS)
def test_a_verified_map_or_the_expected_reason(name, text):
    reason = applicability(quickly(text), *subject(name))
    expected = REASONS.get(text) or REASONS.get(text.partition(":")[0], "")
    assert expected in reason
    assert bool(reason) == bool(expected), reason


@pytest.mark.slow
@pytest.mark.parametrize("text", every_spec())
@pytest.mark.parametrize("stream", ["rgb", "flow"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_stream_has_a_map_or_the_expected_reason(name, stream, text):
    model, batch = view(name, stream)
    assert model.feature_layer(model.normalise(batch.frames)) == ENTRIES[name].feature_layers[stream]
    reason = applicability(quickly(text), model, batch)
    expected = REASONS.get(text) or OF_ONE_STREAM.get(text) or REASONS.get(text.partition(":")[0], "")
    assert expected in reason
    assert bool(reason) == bool(expected), reason
