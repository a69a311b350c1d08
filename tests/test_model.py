"""VideoModel: counts, normalisation, what it finds out about a network, and what it refuses."""

import copy
import pickle

import pytest
import torch
from torch import nn

from vidattr_bench.errors import ModelError, NotApplicableError
from vidattr_bench.fixtures import CLASSES, SmallNet, as_model, model_without, small_batch, small_model
from vidattr_bench.model import VideoModel


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def x(model):
    return model.normalise(small_batch(2).frames)


def test_calling_it_normalises_and_gives_logits(model):
    frames = small_batch(2).frames
    by_hand = torch.stack(
        [(frames[:, c] - m) / s for c, m, s in ((0, 0.45, 0.23), (1, 0.43, 0.22), (2, 0.40, 0.25))], 1
    )
    torch.testing.assert_close(model.normalise(frames), by_hand)
    torch.testing.assert_close(model(frames), model.net(by_hand))
    plain = as_model(SmallNet, mean=None, std=None)
    assert torch.equal(plain.normalise(frames), frames)
    assert (model.declares_normalisation, plain.declares_normalisation) == (True, False)


def test_every_clip_forward_and_backward_is_counted(model, x):
    model.logits(x)
    assert (model.calls.forwards, model.calls.backwards) == (2, 0)
    logits = model.logits(x.clone().requires_grad_())
    logits.sum().backward(retain_graph=True)
    logits[0].sum().backward()
    assert (model.calls.forwards, model.calls.backwards) == (4, 4)
    with torch.inference_mode():
        model(small_batch(3).frames)
    assert (model.calls.forwards, model.calls.backwards) == (7, 4)


def test_it_is_frozen_and_stays_in_eval_mode(model):
    assert not model.training
    assert not model.train().net.bn1.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_feature_layer_is_the_declared_one_or_the_last_volume(model, x):
    assert model.feature_layer(x) == "activation2"
    assert as_model(SmallNet, feature_layer="conv1").feature_layer(x) == "conv1"
    with pytest.raises(NotApplicableError, match="declares"):
        as_model(SmallNet, feature_layer="").feature_layer(x)
    with pytest.raises(NotApplicableError, match="no layer with activations"):
        model_without("feature_layer").feature_layer(x)
    with pytest.raises(ModelError, match="did you mean conv"):
        as_model(SmallNet, feature_layer="conv3")
    with pytest.raises(ModelError, match="did you mean conv"):
        model.module("conv3")


class Frames(nn.Module):
    """A 2-D network over frames, whose volumes are no clips."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, len(CLASSES))

    def forward(self, x):
        n, t = len(x), x.shape[2]
        frames = self.conv(x.transpose(1, 2).flatten(0, 1)).relu().mean((2, 3))
        return self.head(input=frames.view(n, t, -1).mean(1))


def test_frames_as_a_batch_are_no_volume(x):
    with pytest.raises(NotApplicableError):
        as_model(Frames).feature_layer(x)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_linear_head_and_the_layer_it_pools(x, inplace):
    model = as_model(lambda: SmallNet(lambda: nn.ReLU(inplace=inplace)))
    head = model.linear_head(x)
    assert head.layer == "activation2"
    assert torch.equal(head.weight, model.net.head.weight)


class Head(nn.Module):
    """One convolution under a head of the test's choice."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, 8, 3), head

    def forward(self, x):
        return self.head(self.conv(x).relu())


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)],
        lambda: [nn.AdaptiveMaxPool3d(1), nn.Flatten(), nn.Linear(8, 5)],
        lambda: [nn.AdaptiveAvgPool3d((1, 2, 2)), nn.Flatten(), nn.Linear(32, 5)],
        lambda: [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5), nn.Softmax(1)],
        lambda: [nn.Conv3d(8, 5, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten()],
    ],
    ids=["two layers", "maximum", "grid", "softmax", "convolution"],
)
def test_what_is_no_linear_head(x, layers):
    with pytest.raises(NotApplicableError, match="no linear head"):
        as_model(lambda: Head(nn.Sequential(*layers()))).linear_head(x)


def test_the_probe_never_depends_on_the_pixels(model, x):
    assert model.linear_head(torch.zeros_like(x)).layer == "activation2"
    before = copy.copy(model.calls)
    model.feature_layer(x)
    assert model.calls == before


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (nn.Identity(), r"\(2, 3, 6, 20, 28\)"),
        (nn.AdaptiveMaxPool3d(1, return_indices=True), "tuple"),
        (nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(0)), r"\(6,\)"),
    ],
)
def test_what_is_no_classifier(net, found):
    model = VideoModel(net, CLASSES)
    with pytest.raises(ModelError, match=found):
        model(small_batch(2).frames)


def test_mean_and_std_come_together():
    with pytest.raises(ModelError, match="both mean and std"):
        VideoModel(SmallNet(), CLASSES, mean=[0.5, 0.5, 0.5])


def test_the_weights_hash_sees_every_bit(model):
    first = model.weights_hash()
    assert first == small_model().weights_hash() == pickle.loads(pickle.dumps(model)).weights_hash()
    assert first != small_model(seed=1).weights_hash()
    with torch.no_grad():
        model.net.bn2.running_mean[3] = torch.nextafter(model.net.bn2.running_mean[3], torch.tensor(9.0))
    assert model.weights_hash() != first
