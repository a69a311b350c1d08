"""Options that make no sense are refused as a method is configured; reversed networks send the probability back too."""

import math
import re

import captum.attr
import pytest
import torch
from torch import nn

from vidattr_bench.errors import PluginError
from vidattr_bench.fixtures import SmallNet, as_model, explain, small_batch
from vidattr_bench.plugins import create, label, load

ON_SUPERVOXELS = ("lime", "kernel_shap", "leave_one_out")
WITH_SUPERVOXELS = (*ON_SUPERVOXELS, "swag_v")
NOT_POSITIVE = [
    *(f"{name}:segments={value}" for name in WITH_SUPERVOXELS for value in (0, -3)),
    *(f"{name}:spacing=0.0" for name in (*WITH_SUPERVOXELS, "xrai_3d")),
    *(f"{name}:compactness={value}" for name in (*WITH_SUPERVOXELS, "xrai_3d") for value in (0.0, -1.0)),
    "xrai_3d:steps=0",
    "xrai_3d:smallest=0",
    "integrated_gradients:steps=0",
    "blur_integrated_gradients:steps=0",
    "blur_integrated_gradients:sigma_max=0.0",
    "gradient_shap:samples=0",
    "smooth_grad:samples=0",
    "lrp:epsilon=0.0",
    "lrp:epsilon=-1e-06",
    "lime:width=0.0",
    "centre:sigma=0.0",
    "smooth:samples=0",
    "temporal_mask:iterations=0",
    "temporal_mask:learning_rate=0.0",
    "adaptive_occlusion:flow_warps=0",
    "adaptive_occlusion:flow_iterations=0",
    "extremal_perturbation:rate=0.0",
]
NEGATIVE = [
    "xrai_3d:dilation=-0.1",
    "lime:ridge=-1.0",
    "blurred:space=-0.1",
    "blurred:time=-0.1",
    "edges:blur=-0.1",
    "frame_difference:blur=-0.1",
    "selective_relevance:sigmas=-1.0",
    "smooth:noise=-0.1",
    "smooth_grad:noise=-0.1",
    "gradient_shap:noise=-0.1",
    "temporal_mask:l1=-0.1",
    "temporal_mask:tv=-0.1",
]
OUTSIDE = [
    f"saliency_tubes:{field}={value}" for field in ("weight_threshold", "activation_threshold") for value in (-0.1, 1.1)
]


def refused(text: str, remedy: str) -> None:
    """The message names the field and the value as the spec has them, and what the value must be."""
    with pytest.raises(PluginError, match=rf"\b{re.escape(text.partition(':')[2])} must {remedy}"):
        create("methods", text)


@pytest.mark.parametrize("text", NOT_POSITIVE)
def test_what_must_be_positive_is_refused_elsewhere(text):
    refused(text, "be positive and finite$")


@pytest.mark.parametrize("text", NEGATIVE)
def test_what_must_not_be_negative_is_refused_there(text):
    refused(text, "be finite and not negative$")


@pytest.mark.parametrize("text", OUTSIDE)
def test_thresholds_on_shares_lie_between_0_and_1_or_there(text):
    refused(text, r"lie in 0\.\.1$")


@pytest.mark.parametrize("value", [-0.5, 0.0, 1.0])
def test_a_threshold_that_no_mask_or_every_mask_exceeds_is_refused(value):
    refused(f"temporal_mask:threshold={value}", "lie between 0 and 1$")


@pytest.mark.parametrize("samples", [1, 0, -5])
def test_lime_needs_more_than_the_whole_clip(samples):
    refused(f"lime:samples={samples}", "be at least 2$")


@pytest.mark.parametrize("segments", ["[]", "[0]", "[20, 0]", "[20, -1]"])
def test_every_size_of_xrai_must_be_positive(segments):
    with pytest.raises(PluginError, match=rf"segments={re.escape(segments)} must name a size, and each be positive"):
        create("methods", f'xrai_3d:segments="{segments}"')


@pytest.mark.parametrize("name", ON_SUPERVOXELS)
def test_an_unknown_substrate_is_refused(name):
    with pytest.raises(PluginError, match=r"unknown substrate 'blurr'; did you mean blur"):
        create("methods", f"{name}:substrate=blurr")


@pytest.mark.parametrize("text", ["rise:sign=absolute", "rise:score=prob,sign=absolute"])
def test_rise_of_probabilities_has_no_sign(text):
    with pytest.raises(PluginError, match="sign=absolute belongs to score=logit"):
        create("methods", text)
    assert create("methods", "rise:score=logit,sign=absolute").signed


def test_checks_of_the_base_classes_still_hold():
    with pytest.raises(PluginError, match="sign=absolute belongs to pool=sum"):
        create("methods", "swag_v:sign=absolute")
    for name in ("blurred", "selective_relevance"):
        with pytest.raises(PluginError, match="sees the truth"):
            create("methods", f"{name}:of=oracle")


@pytest.mark.parametrize(
    "text",
    [
        "lime:ridge=0.0",
        "blurred:space=0.0,time=0.0",
        "edges:blur=0.0",
        "saliency_tubes:activation_threshold=0.0,weight_threshold=1.0",
        "selective_relevance:sigmas=0.0",
        "smooth:noise=0.0",
        "temporal_mask:l1=0.0,threshold=0.5,tv=0.0",
        "xrai_3d:dilation=0.0",
    ],
)
def test_ends_that_make_sense_are_accepted(text):
    method = create("methods", text)
    assert create("methods", label("methods", method)) == method


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "field"),
    [("lime", "ridge"), ("smooth", "noise"), ("swag_v", "spacing"), ("saliency_tubes", "weight_threshold")],
)
def test_python_callers_get_a_value_error_for_what_is_no_finite_number(name, field, value):
    with pytest.raises(ValueError, match=rf"^{field}={value} must"):
        load("methods", name)(**{field: value})


class Probabilities(nn.Sequential):
    """A SmallNet whose output is the softmax, with ReLUs out of place, as Captum's hooks need them."""

    def __init__(self) -> None:
        super().__init__(SmallNet(), nn.Softmax(1))
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False


@pytest.fixture
def batch():
    return small_batch(3)


@pytest.fixture
def models():
    return as_model(SmallNet), as_model(Probabilities)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("deconvnet", captum.attr.Deconvolution), ("guided_backprop", captum.attr.GuidedBackprop)],
)
def test_reversed_networks_send_the_probability_back(name, kind, models, batch):
    model, probabilities = models
    x = model.normalise(batch.frames).requires_grad_()
    expected = kind(probabilities.net).attribute(x, target=batch.labels).detach().abs().amax(1)
    assert expected.any()
    found = explain(create("methods", f"{name}:score=prob"), model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    logits = explain(create("methods", name), model, batch)
    shares = [maps / maps.flatten(1).amax(1)[:, None, None, None] for maps in (found, logits)]
    assert not torch.allclose(*shares)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_guided_grad_cam_sends_the_probability_back(models, batch):
    model, probabilities = models
    x = model.normalise(batch.frames).requires_grad_()
    captums = captum.attr.GuidedGradCam(probabilities.net, probabilities.net[0].activation2)
    expected = captums.attribute(x, target=batch.labels, interpolate_mode="trilinear").detach().sum(1)
    assert expected.any()
    found = explain(create("methods", "guided_grad_cam:pool=sum,score=prob"), model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["gradient", "deconvnet", "guided_backprop", "guided_grad_cam"])
def test_the_logit_stays_the_default_score(name):
    assert label("methods", create("methods", f"{name}:score=logit")) == name
    assert label("methods", create("methods", f"{name}:score=prob")) == f"{name}:score=prob"
