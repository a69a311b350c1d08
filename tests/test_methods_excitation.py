"""Excitation backprop: its equation written out, other implementations of it, conservation, and LSTMs by hand."""

import importlib

import numpy as np
import pytest
import torch
import zennit.composites
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import video

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.fixtures import CLASSES, SmallNet, as_model, small_batch, small_model
from vidattr_bench.plugins import create
from vidattr_bench.rewrite import modular
from vidattr_bench.small_networks import PlainNet, ResidualNet, SmallLRCN

rules = importlib.import_module("vidattr_bench.methods._excitation")
graph = importlib.import_module("vidattr_bench.methods._excitation_graph")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-7}


@pytest.fixture
def batch():
    return small_batch(2)


def excitation_backprop(model, batch, **options):
    """The map at native resolution."""
    return create("methods", "excitation_backprop", **options).attribute(model, batch.frames, batch.labels)


class TinyNet(nn.Module):
    """Every rule once, with a filter whose batch norm turns its sign, and functional ReLUs."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 4, (2, 3, 3), (1, 2, 3))
        self.pool = nn.MaxPool3d((1, 1, 2))
        self.conv2 = nn.Conv3d(4, 4, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(4)
        self.average = nn.AvgPool3d((1, 2, 1))
        self.head = nn.Linear(4 * 2 * 2 * 2, len(CLASSES))

    def forward(self, x):
        x = self.pool(self.conv1(x).relu())
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.head(self.average(x).flatten(1))


def tiny_model():
    model = as_model(TinyNet)
    with torch.no_grad():
        model.net.conv1.weight *= 3
        model.net.bn2.weight *= torch.tensor([1.0, -1, 1, -1])
    return model


def handed_down(p, u, weights):
    """Equation 10 of Zhang et al., unit by unit; u (J,), p (I,), weights (I, J)."""
    result = np.zeros(len(u))
    for j in range(len(u)):
        for i in range(len(p)):
            total = sum(max(weights[i, k], 0) * max(u[k], 0) for k in range(len(u)))
            if total > 0:
                result[j] += max(u[j], 0) * max(weights[i, j], 0) * p[i] / total
    return result


def matrix(layer, shape):
    """The weights (I, J) of a linear layer that takes tensors of a shape, without its bias."""
    with torch.no_grad():
        size = int(np.prod(shape))
        outputs = layer(torch.eye(size).view(size, *shape)) - layer(torch.zeros(1, *shape))
    return outputs.reshape(size, -1).T.double().numpy()


def flat(tensor):
    return tensor.detach().double().numpy().ravel()


def test_the_equation_unit_by_unit():
    model, batch, target = tiny_model(), small_batch(1, (3, 9, 13)), 1
    batch.frames[:] = torch.rand(batch.frames.shape, generator=torch.Generator().manual_seed(0))
    batch.labels[:] = target
    net = model.net
    with torch.no_grad():
        low = net.pool(net.conv1(model.normalise(batch.frames)).relu())
        inner = net.bn2(net.conv2(low))
        top = torch.relu(inner + low)
    assert top.shape[1:] == (4, 2, 4, 2) == low.shape[1:]
    p = handed_down(np.eye(len(CLASSES))[target], flat(net.average(top)), net.head.weight.detach().double().numpy())
    p_top = handed_down(p, flat(top), matrix(net.average, top.shape[1:]))
    positive = np.maximum(flat(inner), 0), np.maximum(flat(low), 0)
    total = sum(positive)
    p_inner, p_shortcut = (np.where(total > 0, part / np.where(total > 0, total, 1), 0) * p_top for part in positive)
    p_low = p_shortcut + handed_down(p_inner, flat(low), matrix(lambda x: net.bn2(net.conv2(x)), low.shape[1:]))
    assert p_inner.sum() > 0.1
    assert p_shortcut.sum() > 0.1
    for layer, expected, shape in [
        ("bn2", p_inner, top.shape),
        ("average", p, (1, 4, 2, 2, 2)),
        ("pool", p_low, low.shape),
    ]:
        found = excitation_backprop(model, batch, layer=layer)
        torch.testing.assert_close(found, torch.tensor(expected).view(shape).sum(1).float(), **TOLERANCE)


def plain_pass(net, x, target, down_to, contrast_at=None):
    """PlainNet as TorchRay has it: p' = x * f*(w+, p / (f(x, w+) + 1e-20)) for every linear f, subtracting the contrast
    at one layer.
    """
    inputs = []
    for layer in net:
        inputs.append(x)
        x = layer(x)
    p = {sign: torch.eye(len(CLASSES))[target][None] for sign in (1, -1)}
    for index in range(len(net) - 1, down_to, -1):
        signs = {key: (key if index == len(net) - 1 else 1) for key in p}
        p = {key: backward(net[index], inputs[index], value, signs[key]) for key, value in p.items()}
        if index - 1 == contrast_at:
            p = {1: p[1] - p[-1]}
    return p[1]


def backward(layer, x, p, sign):
    x = x.detach().requires_grad_()
    if isinstance(layer, (nn.ReLU, nn.Flatten)):
        return torch.autograd.grad(layer(x), x, p)[0]
    if isinstance(layer, nn.AdaptiveAvgPool3d):
        positive = layer(x)
    elif isinstance(layer, nn.Linear):
        positive = nn.functional.linear(x, (sign * layer.weight).clamp(min=0))
    else:
        weight = (sign * layer.weight).clamp(min=0)
        positive = nn.functional.conv3d(x, weight, None, layer.stride, layer.padding)
    return torch.autograd.grad(positive, x, p / (positive + 1e-20))[0] * x.detach()


@pytest.mark.parametrize("layer", [1, 3, 5])
def test_torchrays_procedure(batch, layer):
    model = as_model(PlainNet)
    found = excitation_backprop(model, batch, layer=str(layer))
    x = model.normalise(batch.frames)
    expected = [plain_pass(model.net, x[i : i + 1], t, layer).sum(1) for i, t in enumerate(batch.labels)]
    torch.testing.assert_close(found, torch.cat(expected), **TOLERANCE)


@pytest.mark.parametrize("contrast_at", [7, 6, 5, 3])
def test_the_contrast_is_the_same_at_every_layer(batch, contrast_at):
    model = as_model(PlainNet)
    found = excitation_backprop(model, batch, layer="3", contrastive=True)
    x = model.normalise(batch.frames)
    expected = [
        plain_pass(model.net, x[i : i + 1], t, 3, contrast_at).sum(1).clamp(min=0) for i, t in enumerate(batch.labels)
    ]
    torch.testing.assert_close(found, torch.cat(expected), **TOLERANCE)
    assert (found == 0).any()


@pytest.mark.parametrize("layer", [1, 3, 5])
def test_zennits_composite(batch, layer):
    model = as_model(PlainNet)
    found = excitation_backprop(model, batch, layer=str(layer))
    composite = zennit.composites.ExcitationBackprop(stabilizer=1e-20, zero_params=["bias"])
    kept = []
    with composite.context(model.net) as net:
        x = model.normalise(batch.frames).requires_grad_()
        for i, module in enumerate(net):
            x = module(x)
            if i == layer:
                kept.append(x)
        (p,) = torch.autograd.grad(x, kept[0], torch.eye(len(CLASSES))[batch.labels])
    torch.testing.assert_close(found, p.sum(1), **TOLERANCE)


def without_biases(model):
    """A model in which a unit is excited by the units below or not at all, and every class by some."""
    with torch.no_grad():
        for module in model.net.modules():
            if isinstance(getattr(module, "bias", None), torch.Tensor):
                module.bias.zero_()
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.zero_()
        list(model.net.modules())[-1].weight.abs_()
    return model


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (PlainNet, ["0", "1", "2", "3", "4", "5"]),
        (SmallNet, ["conv1", "bn1", "activation1", "pool", "activation2"]),
        (ResidualNet, ["stem", "bn", "layer1", "layer2"]),
        (lambda: video.r3d_18(num_classes=5), ["stem", "layer1", "layer2", "layer3", "layer4"]),
        (lambda: video.r2plus1d_18(num_classes=5), ["stem.2", "stem", "layer2", "layer4"]),
    ],
    ids=["plain", "small", "residual", "r3d_18", "r2plus1d_18"],
)
def test_it_adds_up_to_one_at_every_layer(batch, build, layers):
    model = without_biases(as_model(build))
    for layer in layers:
        totals = excitation_backprop(model, batch, layer=layer).flatten(1).sum(1)
        torch.testing.assert_close(
            totals, torch.ones(2), rtol=1e-4, atol=1e-4, msg=lambda text, at=layer: f"{at}: {text}"
        )


def test_what_no_unit_excites_is_lost(batch):
    model = as_model(PlainNet)
    with torch.no_grad():
        model.net[4].weight[:4] = -1
        model.net[4].bias[:4] = 100
        model.net[8].weight[:] = 0.5
        model.net[8].weight[:, 4:] = -1
    assert excitation_backprop(model, batch, layer="5").flatten(1).sum(1).tolist() == pytest.approx([1, 1])
    assert not excitation_backprop(model, batch, layer="3").any()


@pytest.mark.parametrize("contrastive", [False, True])
def test_batch_norm_is_folded(batch, contrastive):
    model = small_model()
    with torch.no_grad():
        model.net.bn2.weight[::2] *= -1
        model.net.bn1.weight[1::2] *= -1
    folded = as_model(SmallNet)
    for i in "12":
        fused = fuse_conv_bn_eval(getattr(model.net, f"conv{i}"), getattr(model.net, f"bn{i}"))
        setattr(folded.net, f"conv{i}", fused.requires_grad_(False))
        setattr(folded.net, f"bn{i}", nn.Identity())
    folded.net.head = model.net.head
    for layer in ("conv1", "pool", "activation2"):
        maps = [excitation_backprop(m, batch, layer=layer, contrastive=contrastive) for m in (model, folded)]
        torch.testing.assert_close(*maps, **TOLERANCE)


def test_changed_weights_change_the_map(batch):
    model, other = small_model(seed=0), small_model(seed=1)
    before = excitation_backprop(model, batch, layer="pool")
    model.net.load_state_dict(other.net.state_dict())
    after = excitation_backprop(model, batch, layer="pool")
    assert torch.equal(after, excitation_backprop(other, batch, layer="pool"))
    assert not torch.allclose(before, after)


class NormFirst(nn.Module):
    """A batch norm that no convolution can take in, before activations that it makes negative."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6)
        self.head = nn.Conv3d(6, len(CLASSES), 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x).relu()))
        return self.head(x).mean((2, 3, 4))


def test_a_batch_norm_of_its_own_is_a_layer_of_one_weight_a_channel(batch):
    model = as_model(NormFirst)
    with torch.no_grad():
        model.net.norm.weight[::2] *= -1
    p, before = (excitation_at(model, batch, layer) for layer in ("norm", "conv"))
    with torch.no_grad():
        u = model.net.conv(model.normalise(batch.frames)).relu()
    kept = (u > 0) & (model.net.norm.weight > 0).view(1, -1, 1, 1, 1)
    torch.testing.assert_close(before, p * kept, **TOLERANCE)
    assert (p > 0)[~kept].any()


def excitation_at(model, batch, layer):
    """Probabilities at a layer, channel by channel."""
    rewritten, activations = modular(model, batch.frames), importlib.import_module("vidattr_bench.methods._activations")
    x = model.normalise(batch.frames)
    with graph.excitation(rewritten.net, rewritten.module(layer), False):
        return activations.activations_and_gradients(rewritten, x, batch.labels, layer)[1]


class MeanFirst(NormFirst):
    """The same function with the mean before the linear layer."""

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x).relu()))
        return self.head(x.mean((2, 3, 4), keepdim=True)).flatten(1)


@pytest.mark.parametrize("contrastive", [False, True])
def test_the_mean_of_logits_is_the_logits_of_the_mean(batch, contrastive):
    after, before = as_model(NormFirst), as_model(MeanFirst)
    for model in (after, before):
        model.net.head.bias.sub_(10)
    assert (after(batch.frames) < 0).all()
    maps = [excitation_backprop(model, batch, layer="norm", contrastive=contrastive) for model in (after, before)]
    torch.testing.assert_close(*maps, **TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"batch_first": True, "bias": False}, {"num_layers": 3}])
def test_an_unrolled_lstm_puts_out_what_the_lstm_does(options):
    lstm = seeded(lambda: nn.LSTM(4, 3, **options)).requires_grad_(False)
    x = torch.rand(5, 2, 4)
    start = tuple(torch.rand(lstm.num_layers, 5 if lstm.batch_first else 2, 3) for _ in "hc")
    for given in ((x,), (x, start)):
        torch.testing.assert_close(rules.unrolled(lstm, *given), lstm(*given), rtol=1e-5, atol=1e-6)


def seeded(make):
    torch.manual_seed(0)
    return make()


def test_two_steps_of_an_lstm_in_closed_form():
    """One unit: what reaches x_1 came through the cell, and through h_1 and its cell."""
    lstm = nn.LSTM(2, 1).requires_grad_(False)
    weights = {
        "weight_ih_l0": [[0.3, -0.2], [0.1, 0.4], [0.7, 0.5], [-0.3, 0.2]],
        "weight_hh_l0": [[0.1], [0.3], [0.6], [-0.2]],
    }
    for name, value in {**weights, "bias_ih_l0": [0.2, 0.3, -0.1, 0.1], "bias_hh_l0": [0.0] * 4}.items():
        getattr(lstm, name).copy_(torch.tensor(value))
    x = torch.tensor([[0.8, 0.3], [0.4, 0.9]])
    i1, _, g1, o1 = gates(lstm, x[0], 0.0)
    c1 = i1 * g1
    h1 = o1 * np.tanh(c1)
    i2, f2, g2, _ = gates(lstm, x[1], h1)
    w, v = x.new_tensor([0.7, 0.5]), 0.6
    through_cell = f2 * c1 / (f2 * c1 + i2 * g2)
    below = float(w @ x[1] + v * h1)
    expected = torch.stack(
        [
            (through_cell + (1 - through_cell) * v * h1 / below) * w * x[0] / (w @ x[0]),
            (1 - through_cell) * w * x[1] / below,
        ]
    )
    given = x[:, None].requires_grad_()
    (p,) = torch.autograd.grad(rules.unrolled(lstm, given)[0][-1, 0, 0], given)
    torch.testing.assert_close(p[:, 0], expected, rtol=1e-5, atol=1e-7)
    assert float(p.sum()) == pytest.approx(1)


def gates(lstm, x, h):
    total = lstm.weight_ih_l0 @ x + lstm.weight_hh_l0[:, 0] * float(h) + lstm.bias_ih_l0
    i, f, g, o = total.double().numpy()
    return sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def positive_lstm(build=SmallLRCN):
    """A recurrent network whose states are positive, so that nothing is lost."""
    model = as_model(build)
    with torch.no_grad():
        for parameter in (*model.net.lstm.parameters(), model.net.head.weight):
            parameter.abs_()
    return model


def test_over_all_frames_it_adds_up_to_one(batch):
    model = positive_lstm()
    for layer in ("cnn", "cnn.4"):
        p = excitation_backprop(model, batch, layer=layer).sum((2, 3))
        assert p.shape == (2, 6)
        torch.testing.assert_close(p.sum(1), torch.ones(2), rtol=1e-5, atol=0)
        assert (p > 0).all()


def test_an_lstm_that_forgets_hands_everything_to_the_last_frame(batch):
    model = positive_lstm()
    with torch.no_grad():
        model.net.lstm.bias_ih_l0[7:14] = -100
        model.net.lstm.weight_hh_l0.zero_()
    p = excitation_backprop(model, batch, layer="cnn").sum((2, 3))
    torch.testing.assert_close(p, torch.eye(6)[-1].expand(2, 6), rtol=1e-5, atol=1e-6)


def lstm_pass(net, features, target):
    """Probabilities (T, features) of an LSTM's inputs, units and steps one by one, with signed states."""
    w, v = net.lstm.weight_ih_l0.double().numpy(), net.lstm.weight_hh_l0.double().numpy()
    bias = (net.lstm.bias_ih_l0 + net.lstm.bias_hh_l0).double().numpy()
    h, c, steps = np.zeros(7), np.zeros(7), []
    for x in features:
        i, f, g, o = np.split(w @ x + v @ h + bias, 4)
        kept, new = sigmoid(f) * c, sigmoid(i) * np.tanh(g)
        steps.append((np.concatenate([x, h]), kept, new))
        c = kept + new
        h = sigmoid(o) * np.tanh(c)
    candidate = np.concatenate([w, v], 1)[14:21]
    p_h, p_c = handed_down(np.eye(len(CLASSES))[target], h, net.head.weight.double().numpy()), np.zeros(7)
    result = np.zeros(features.shape)
    for t in reversed(range(len(features))):
        below, kept, new = steps[t]
        p_cell, p_c, p_new = p_h + p_c, np.zeros(7), np.zeros(7)
        for unit in range(7):
            total = max(kept[unit], 0) + max(new[unit], 0)
            if total > 0:
                p_c[unit] = p_cell[unit] * max(kept[unit], 0) / total
                p_new[unit] = p_cell[unit] * max(new[unit], 0) / total
        p_below = handed_down(p_new, below, candidate)
        result[t], p_h = p_below[:32], p_below[32:]
    return result


def test_an_lstm_step_by_step():
    model, batch = as_model(SmallLRCN), small_batch(3)
    found = excitation_backprop(model, batch, layer="cnn")
    features = model.net.cnn(model.normalise(batch.frames)).transpose(1, 2).flatten(2).double().numpy()
    expected = np.stack([lstm_pass(model.net, x, t) for x, t in zip(features, batch.labels, strict=True)])
    np.testing.assert_allclose(found.numpy(), expected.reshape(3, 6, 8, 2, 2).sum(2), rtol=1e-4, atol=1e-7)
    assert expected[:, :-1].sum() > 0.1


class Recurrent(SmallLRCN):
    """A recurrent network whose states are averaged over time."""

    def __init__(self, lstm=None, states=7):
        super().__init__()
        self.lstm = lstm or self.lstm
        self.head = nn.Linear(states, len(CLASSES))

    def forward(self, x):
        states, _ = self.lstm(self.cnn(x).transpose(1, 2).flatten(2))
        return self.head(states.mean(1))


def test_states_of_all_steps_count(batch):
    p = excitation_backprop(positive_lstm(Recurrent), batch, layer="cnn").sum((2, 3))
    torch.testing.assert_close(p.sum(1), torch.ones(2), rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Recurrent(nn.GRU(32, 7, batch_first=True)), "no rule for GRU"),
        (lambda: Recurrent(nn.LSTM(32, 7, batch_first=True, bidirectional=True), 14), "an LSTM in two directions"),
        (lambda: Recurrent(nn.LSTM(32, 7, batch_first=True, proj_size=3), 3), "an LSTM with projections"),
    ],
)
def test_other_recurrent_layers_are_refused(batch, build, reason):
    with pytest.raises(NotApplicableError, match=reason):
        excitation_backprop(as_model(build), batch)


def test_what_has_no_rule_is_named_where_it_lies_above_the_layer(batch):
    model = small_model(nn.GELU)
    with pytest.raises(NotApplicableError, match="no rule for GELU"):
        excitation_backprop(model, batch, layer="pool")
    assert excitation_backprop(model, batch, layer="activation2").shape == (2, 6, 5, 7)


def test_the_contrast_needs_a_classifier(batch):
    model = as_model(lambda: nn.Sequential(*PlainNet(), nn.ReLU()))
    assert excitation_backprop(model, batch).shape == (2, 6, 5, 7)
    with pytest.raises(NotApplicableError, match="puts out the logits"):
        excitation_backprop(model, batch, contrastive=True)
