"""LRP: conservation, its rules transcribed literally, Captum's implementation, and networks without rules."""

import copy
import importlib

import captum.attr
import pytest
import torch
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from torch import nn
from torchvision.models.video import r3d_18

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.fixtures import CLASSES, NETWORKS, SmallNet, as_model, explain, small_batch, small_model
from vidattr_bench.plugins import create
from vidattr_bench.small_networks import MaxPoolNet, PlainNet, ResidualNet

canonical = importlib.import_module("vidattr_bench.methods._canonical").canonical
COMPOSITES = ("epsilon_plus", "epsilon_alpha2_beta1")


@pytest.fixture
def batch():
    return small_batch(2)


def lrp(composite):
    return create("methods", f"lrp:composite={composite}")


def logit(model, batch):
    return model(batch.frames).gather(1, batch.labels[:, None])[:, 0]


def without_biases(build):
    """Nothing is added anywhere: no biases, and batch norms that only scale."""
    net = build()
    for module in net.modules():
        for name in ("bias", "running_mean"):
            if isinstance(getattr(module, name, None), torch.Tensor):
                getattr(module, name).data.zero_()
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.running_var, 0.1, 0.9)
    return net


def unbiased_model(build):
    model = as_model(nn.Identity)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.net = without_biases(build).eval().requires_grad_(False)
    return model


class WideResidualNet(ResidualNet):
    """So wide that no unit is without contributions for and against; the z+ rule loses what reaches one without."""

    def __init__(self):
        super().__init__()
        block = type(self.layer1)
        self.stem, self.bn = nn.Conv3d(3, 24, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(24)
        self.layer1, self.layer2 = block(24, 24, 1), block(24, 32, 2)
        self.head = nn.Linear(32, len(CLASSES))


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("build", [PlainNet, WideResidualNet, MaxPoolNet, SmallNet], ids=lambda build: build.__name__)
def test_relevance_adds_up_to_the_logit_where_nothing_is_biased(build, composite, batch):
    model = unbiased_model(build)
    found = explain(create("methods", f"lrp:composite={composite},epsilon=1e-9"), model, batch)
    torch.testing.assert_close(found.flatten(1).sum(1), logit(model, batch), rtol=1e-4, atol=0)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_relevance_adds_up_on_torchvisions_r3d(composite):
    batch = small_batch(1, (4, 36, 28))
    model = unbiased_model(lambda: r3d_18(weights=None, num_classes=len(CLASSES)))
    total = explain(lrp(composite), model, batch).flatten(1).sum(1)
    torch.testing.assert_close(total, logit(model, batch), rtol=2e-3, atol=0)


def test_relevance_does_not_grow_on_torchvisions_r3d_with_random_statistics():
    batch = small_batch(1, (4, 36, 28))
    model = as_model(lambda: r3d_18(weights=None, num_classes=len(CLASSES)))
    total = explain(lrp("epsilon_plus"), model, batch).sum()
    assert 0 < total.abs() < 1.5 * logit(model, batch).abs()


def matrix(layer, size):
    """A convolution or linear layer without its bias as a matrix (inputs, outputs), and its bias for each output."""
    inputs = int(torch.tensor(size).prod())
    zero = layer(torch.zeros(1, *size))
    units = torch.eye(inputs).view(inputs, *size)
    return (layer(units) - zero).flatten(1), zero.flatten()


def stabilised(z, epsilon=1e-6):
    return z + torch.where(z < 0, -epsilon, epsilon)


def epsilon_rule(a, weights, bias, relevance):
    z = a[:, None] * weights
    return (z / stabilised(z.sum(0) + bias) * relevance).sum(1)


def alpha_beta_rule(a, weights, bias, relevance, alpha, beta):
    z = a[:, None] * weights
    positive, negative = z.clamp(min=0), z.clamp(max=0)
    speaks_for = positive / stabilised(positive.sum(0) + bias.clamp(min=0))
    against = negative / stabilised(negative.sum(0) + bias.clamp(max=0))
    return ((alpha * speaks_for - beta * against) * relevance).sum(1)


class TwoLayers(nn.Module):
    """A residual block with batch norm between two convolutions, an average pooling and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 4, (2, 3, 3), (1, 2, 2))
        self.conv2 = nn.Conv3d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(4)
        self.head = nn.Linear(4 * 2 * 2 * 3, len(CLASSES))

    def forward(self, x):
        x = self.conv1(x).relu()
        x = torch.relu(self.norm(self.conv2(x)) + x)
        return self.head(nn.functional.avg_pool3d(x, (1, 2, 1)).flatten(1))


@pytest.mark.parametrize(("composite", "alpha", "beta"), [(COMPOSITES[0], 1, 0), (COMPOSITES[1], 2, 1)])
def test_the_rules_transcribed_literally(composite, alpha, beta):
    batch = small_batch(2, (3, 9, 7))
    model = as_model(TwoLayers, seed=3)
    net, x = model.net, model.normalise(batch.frames)
    found = explain(lrp(composite), model, batch)
    for clip, target, relevance in zip(x, batch.labels, found, strict=True):
        hidden = (4, 2, 4, 3)
        first = matrix(net.conv1, clip.shape)
        second = matrix(lambda a: net.norm(net.conv2(a)), hidden)
        pooling = matrix(lambda a: nn.functional.avg_pool3d(a, (1, 2, 1)), hidden)
        a1 = (clip.flatten() @ first[0] + first[1]).relu()
        inner = a1 @ second[0] + second[1]
        a2 = (inner + a1).relu()
        a3 = a2 @ pooling[0]
        logits = net.head.weight @ a3 + net.head.bias
        torch.testing.assert_close(logits, model.net(clip[None])[0])
        r = torch.zeros(len(CLASSES))
        r[target] = logits[target]
        r = epsilon_rule(a3, net.head.weight.T, net.head.bias, r)
        r = epsilon_rule(a2, *pooling, r)
        share = r / stabilised(inner + a1)
        r = a1 * share + alpha_beta_rule(a1, *second, inner * share, alpha, beta)
        r = alpha_beta_rule(clip.flatten(), *first, r, alpha, beta)
        expected = r.view_as(clip).sum(0)
        torch.testing.assert_close(relevance, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_epsilon_plus_is_captums_in_two_dimensions():
    """Captum has no rule for 3-D convolutions; pixels without normalisation, since its z+ is for positive inputs."""

    class Flat(nn.Sequential):
        def __init__(self, dims):
            conv, average = (nn.Conv2d, nn.AvgPool2d) if dims == 2 else (nn.Conv3d, nn.AvgPool3d)
            lead = (1,) * (dims - 2)
            layers = [conv(3, 5, (*lead, 3, 3)), nn.ReLU(), conv(5, 6, (*lead, 3, 2), (*lead, 2, 2)), nn.ReLU()]
            super().__init__(*layers, average((*lead, 2, 2)), nn.Flatten(), nn.Linear(6 * 2 * 3, len(CLASSES)))

    model = as_model(lambda: Flat(3), mean=None, std=None)
    for name, value in model.net.state_dict().items():
        if "bias" in name:
            value.abs_()  # Captum leaves negative biases in the denominators of z+
    image = Flat(2).eval()
    image.load_state_dict(
        {name: value.view_as(image.state_dict()[name]) for name, value in model.net.state_dict().items()}
    )
    for module in image:
        module.rule = Alpha1_Beta0_Rule() if isinstance(module, nn.Conv2d) else EpsilonRule(1e-6)
    batch = small_batch(2, (1, 12, 16))
    expected = captum.attr.LRP(image).attribute(batch.frames[:, :, 0], target=batch.labels).sum(1)
    torch.testing.assert_close(explain(lrp("epsilon_plus"), model, batch)[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_z_plus_speaks_only_for_and_alpha_beta_also_against_a_positive_head(batch):
    model = unbiased_model(PlainNet)
    model.net[-1].weight.abs_()
    assert explain(lrp("epsilon_plus"), model, batch).min() >= 0
    assert explain(lrp("epsilon_alpha2_beta1"), model, batch).min() < 0


def test_the_canonical_network_computes_the_same_without_batch_norm(batch):
    model = as_model(ResidualNet)
    network = canonical(model, batch.frames)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in network.net.modules())
    torch.testing.assert_close(network(batch.frames), model(batch.frames))
    assert model.weights_hash() == as_model(ResidualNet).weights_hash()


def test_a_mean_over_axes_shares_like_average_pooling(batch):
    class ByMean(SmallNet):
        def forward(self, x):
            return self.head(self.activation1(self.conv1(x)).mean((2, 3, 4)))

    class ByPooling(SmallNet):
        def forward(self, x):
            return self.head(self.average(self.activation1(self.conv1(x))).flatten(1))

    mean, pooling = (explain(lrp("epsilon_plus"), as_model(build), batch) for build in (ByMean, ByPooling))
    torch.testing.assert_close(mean, pooling)


def test_arithmetic_on_sizes_needs_no_rule(batch):
    class BySizes(SmallNet):
        def forward(self, x):
            x = self.activation1(self.conv1(x))
            n, c, t, h, w = x.shape
            return self.head(x.reshape(n * c, t, h * w).mean((1, 2)).reshape(n, c))

    class ByAxes(SmallNet):
        def forward(self, x):
            return self.head(self.activation1(self.conv1(x)).mean((2, 3, 4)))

    for composite in COMPOSITES:
        sizes, axes = (explain(lrp(composite), as_model(build), batch) for build in (BySizes, ByAxes))
        torch.testing.assert_close(sizes, axes)


def test_a_tensor_added_to_itself_gives_each_half(batch):
    class Twice(SmallNet):
        def forward(self, x):
            x = self.conv1(x)
            return self.head(self.average(x + x).flatten(1))

    class Once(SmallNet):
        def forward(self, x):
            return self.head(self.average(self.conv1(x)).flatten(1))

    once, twice = as_model(Once), as_model(Twice)
    twice.net.conv1.weight /= 2
    twice.net.conv1.bias /= 2
    torch.testing.assert_close(explain(lrp("epsilon_plus"), twice, batch), explain(lrp("epsilon_plus"), once, batch))


def test_layers_shared_with_the_model_come_back_as_they_were_after_an_error(batch):
    model = as_model(PlainNet)
    parameters = dict(model.net.named_parameters())
    failing = copy.copy(batch.labels)
    failing[1] = 99
    with pytest.raises(ValueError, match="targets"):
        lrp("epsilon_plus")(model, batch.frames, failing)
    assert all(parameters[name] is parameter for name, parameter in model.net.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.every_module())


class Gated(SmallNet):
    def forward(self, x):
        x = self.conv1(x)
        return self.head(self.average(x * self.average(x)).flatten(1))


class Normed(SmallNet):
    def forward(self, x):
        return self.head(torch.layer_norm(self.average(self.conv1(x)).flatten(1), (8,)))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (NETWORKS["recurrent CNN"], "no rule for LSTM"),
        (NETWORKS["joint attention"], "no rule for attention"),
        (NETWORKS["divided attention"], "no rule for attention"),
        (lambda: SmallNet(nn.Sigmoid), "no rule for Sigmoid"),
        (lambda: SmallNet(lambda: torch.sigmoid), "no rule for the function sigmoid"),
        (Gated, "no rule for the function mul"),
        (Normed, "no rule for the function layer_norm"),
    ],
)
def test_networks_without_rules_are_refused(build, reason, batch):
    model = as_model(build)
    with pytest.raises(NotApplicableError, match=reason):
        explain(lrp("epsilon_plus"), model, batch)
    assert explain(create("methods", "gradient"), model, batch).any()


def test_sign_preserving_activations_pass_relevance_on(batch):
    assert explain(lrp("epsilon_plus"), small_model(nn.GELU), batch).any()
