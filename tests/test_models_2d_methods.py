"""Every method on networks on frames and on two pathways: a map that keeps the contract, or why there is none.

The networks are those of the zoo with fewer channels and blocks; how fast a method is on one says nothing.
"""

from functools import lru_cache

import pytest

from vidattr_bench import plugins
from vidattr_bench.applicability import applicability
from vidattr_bench.fixtures import as_model, small_batch
from vidattr_bench.method_checks import every_spec, quickly
from vidattr_bench.model import ClipInput
from vidattr_bench.models import r50_lstm, slowfast, tsn, videomae, x3d

BLOCKS = (1, 1, 2, 1)
NETWORKS = {
    "tsn_r50": (lambda: tsn._Network(5, False, BLOCKS, width=4), (5, 48, 60)),
    "tsm_r50": (lambda: tsn._Network(5, True, BLOCKS, width=8), (5, 48, 60)),
    "r50_lstm": (lambda: r50_lstm._Network(5, False, BLOCKS, width=4, units=(12, 10, 6)), (5, 48, 60)),
    "slowfast_r50": (lambda: slowfast._Network(5, BLOCKS, width=16), (8, 48, 60)),
    "x3d_s": (lambda: x3d._Network(5, (1, 2, 1, 1), (8, 8, 8, 16, 16), units=20), (7, 48, 60)),
    "videomae_b": (lambda: videomae._Network(5, depth=2, width=24, heads=4), (6, 32, 48)),
}
NO_ATTENTION = dict.fromkeys(("attention_rollout", "gradient_attention"), "no attention between tokens")
NO_HEAD = dict.fromkeys(("cam", "class_feature_pyramid", "saliency_tubes"), "no linear head")
REVERSING = ("deconvnet", "guided_backprop", "guided_grad_cam")
CURVED = {**NO_HEAD, "deep_lift": "DeepLIFT has no rule", "full_grad": "not linear piece by piece"}
EXCITATION = {"excitation_backprop": "torch.fx cannot follow"}
REASONS = {
    "tsn_r50": NO_ATTENTION,
    "tsm_r50": NO_ATTENTION,
    "r50_lstm": {
        **NO_ATTENTION,
        **CURVED,
        **EXCITATION,
        **dict.fromkeys(REVERSING, "the network uses sigmoid"),
        "lrp": "torch.fx cannot follow",
    },
    "slowfast_r50": NO_ATTENTION,
    "x3d_s": {**NO_ATTENTION, **CURVED, **dict.fromkeys(REVERSING, "uses SiLU, sigmoid"), "lrp": "no rule for Sigmoid"},
    "videomae_b": {
        **CURVED,
        **EXCITATION,
        **dict.fromkeys(REVERSING, "the network uses GELU"),
        **dict.fromkeys(("hires_cam:back=1", "layer_cam:back=1", "x_grad_cam:back=1"), "runs before"),
        "lrp": "no rule for attention",
    },
}


@lru_cache(maxsize=1)
def subject(name):
    make, size = NETWORKS[name]
    wanted = ClipInput(length=size[0], size=size[1:])
    layer = plugins.load("models", name).feature_layer
    model = as_model(make, 1, input=wanted, feature_layer=layer, mean=[0.5] * 3, std=[0.25] * 3)
    return model, small_batch(2, size)


@pytest.mark.slow
@pytest.mark.parametrize("text", every_spec())
@pytest.mark.parametrize("name", NETWORKS)
def test_a_verified_map_or_the_expected_reason(name, text):
    reason = applicability(quickly(text), *subject(name))
    expected = REASONS[name].get(text) or REASONS[name].get(text.partition(":")[0], "")
    assert expected in reason
    assert bool(reason) == bool(expected), reason
