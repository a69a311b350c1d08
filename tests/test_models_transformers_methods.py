"""Every method on TimeSformer and ViViT with fewer channels: a map that keeps the contract, or why there is none."""

from functools import lru_cache

import pytest
import torch

from vidattr_bench import plugins
from vidattr_bench.applicability import applicability
from vidattr_bench.fixtures import as_model, small_batch
from vidattr_bench.method_checks import every_spec, quickly
from vidattr_bench.model import ClipInput
from vidattr_bench.models import timesformer, vivit

# Embeddings of time and place are for another size than TimeSformer's clips have.
NETWORKS = {
    "timesformer_b": (lambda: timesformer._Network(5, frames=3, side=2, depth=2, width=24, heads=4), (4, 32, 48)),
    "vivit_b": (lambda: vivit._Network(5, grid=(3, 2, 3), depth=2, width=24, heads=4), (6, 32, 48)),
}
REASONS = {
    **dict.fromkeys(("cam", "class_feature_pyramid", "saliency_tubes"), "no linear head"),
    **dict.fromkeys(("deconvnet", "guided_backprop", "guided_grad_cam"), "the network uses GELU"),
    **dict.fromkeys(("hires_cam:back=1", "layer_cam:back=1", "x_grad_cam:back=1"), "runs before"),
    "deep_lift": "DeepLIFT has no rule",
    "excitation_backprop": "torch.fx cannot follow",
    "full_grad": "not linear piece by piece",
    "lrp": "no rule for attention",
}


def scattered(build):
    """A network whose norms, biases and embeddings all matter."""
    net = build()
    for tensor in net.state_dict().values():
        torch.nn.init.normal_(tensor, std=0.3)
    return net


@lru_cache(maxsize=1)
def subject(name):
    build, size = NETWORKS[name]
    wanted = ClipInput(length=size[0], size=size[1:])
    layer = plugins.load("models", name).feature_layer
    options = {"input": wanted, "feature_layer": layer, "mean": [0.5] * 3, "std": [0.25] * 3}
    return as_model(lambda: scattered(build), 1, **options), small_batch(2, size)


@pytest.mark.slow
@pytest.mark.parametrize("text", every_spec())
@pytest.mark.parametrize("name", NETWORKS)
def test_a_verified_map_or_the_expected_reason(name, text):
    reason = applicability(quickly(text), *subject(name))
    expected = REASONS.get(text) or REASONS.get(text.partition(":")[0], "")
    assert expected in reason
    assert bool(reason) == bool(expected), reason
