"""Reversed networks: the rules by hand, Captum's and zennit's; functions beside modules; what cannot be reversed."""

import dataclasses

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import zennit.composites
from torch import nn

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.fixtures import CLASSES, SmallNet, as_model, explain, small_batch, small_model
from vidattr_bench.plugins import create

T, H, W = 6, 20, 28


@pytest.fixture
def batch():
    return small_batch(3)


class PlainNet(nn.Sequential):
    """Convolutions, max-pooling and ReLU modules, one of them in place."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(2),
            nn.Conv3d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, len(CLASSES)),
        )


class ReusedReLUNet(nn.Module):
    """One ReLU module, in place, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(3, 6, 3), nn.Conv3d(6, 6, 3)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, len(CLASSES))

    def forward(self, x):
        return self.head(self.relu(self.conv2(self.relu(self.conv1(x)))).mean((2, 3, 4)))


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("build", [PlainNet, SmallNet], ids=lambda build: build.__name__)
@pytest.mark.parametrize(
    ("name", "kind"),
    [("deconvnet", captum.attr.Deconvolution), ("guided_backprop", captum.attr.GuidedBackprop)],
)
def test_reversed_networks_are_captums(build, name, kind, batch):
    out_of_place, model = as_model(build), as_model(build)
    for module in out_of_place.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # Captum's hooks do not survive it
    x = model.normalise(batch.frames).requires_grad_()
    expected = kind(out_of_place.net).attribute(x, target=batch.labels).detach().abs().amax(1)
    torch.testing.assert_close(explain(create("methods", name), model, batch), expected)


@pytest.mark.parametrize(
    ("name", "composite"),
    [("deconvnet", zennit.composites.DeconvNet), ("guided_backprop", zennit.composites.GuidedBackprop)],
)
def test_reversed_networks_are_zennits(name, composite, batch):
    model = as_model(PlainNet)
    x = model.normalise(batch.frames).requires_grad_()
    with composite().context(model.net) as net:
        (expected,) = torch.autograd.grad(net(x)[range(3), batch.labels].sum(), x)
    torch.testing.assert_close(explain(create("methods", f"{name}:pool=sum"), model, batch), expected.sum(1))


class Written(nn.Module):
    """Convolutions, ReLU, max-pooling, LRN and a residual sum, as functions and modules used again, or as modules."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.functional = functional
        self.conv1, self.conv2, self.conv3 = nn.Conv3d(3, 6, 3, 1, 1), nn.Conv3d(6, 6, 3, 1, 1), nn.Conv3d(6, 6, 3)
        self.head = nn.Linear(6, len(CLASSES))
        self.again = nn.ReLU(inplace=True)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool1, self.pool2, self.lrn = (
            nn.MaxPool3d((1, 3, 2), padding=(0, 1, 0)),
            nn.MaxPool3d(2),
            nn.LocalResponseNorm(3, alpha=10.0),
        )

    def forward(self, x):
        if self.functional:
            x = self.again(self.conv1(x))
            x = F.local_response_norm(F.max_pool3d(x, (1, 3, 2), padding=(0, 1, 0)), 3, alpha=10.0)
            x = self.again(x + self.conv2(x))
            x = F.max_pool3d(self.conv3(x).relu(), kernel_size=2)
        else:
            x = self.lrn(self.pool1(self.relu1(self.conv1(x))))
            x = self.relu2(x + self.conv2(x))
            x = self.pool2(self.relu3(self.conv3(x)))
        return self.head(x.mean((2, 3, 4)))


@pytest.mark.parametrize("unpool", ["switches", "centre"])
@pytest.mark.parametrize("name", ["salinet", "deconvnet", "desalinet"])
def test_functions_and_modules_used_again_are_reversed_as_modules_are(name, unpool, batch):
    functional, modules = (as_model(lambda f=f: Written(f)) for f in (True, False))
    method = create("methods", f"{name}:pool=sum,unpool={unpool}")
    found, expected = explain(method, functional, batch), explain(method, modules, batch)
    assert expected.flatten(1).any(1).all()
    torch.testing.assert_close(found, expected)
    other = create("methods", f"{name}:pool=sum,unpool={'centre' if unpool == 'switches' else 'switches'}")
    assert not torch.allclose(explain(other, functional, batch), expected)


class Branching(Written):
    """A network that torch.fx cannot follow: what it does depends on the clip."""

    def forward(self, x):
        return super().forward(x) if x.abs().sum() > 0 else super().forward(-x)


def test_where_torch_fx_cannot_follow_modules_are_hooked_as_they_are(batch):
    branching, plain = as_model(lambda: Branching(False)), as_model(lambda: Written(False))
    for name in ("deconvnet", "guided_backprop", "deconvnet:unpool=centre", "gradient:unpool=centre"):
        method = create("methods", name)
        torch.testing.assert_close(explain(method, branching, batch), explain(method, plain, batch))


def test_where_torch_fx_cannot_follow_functions_are_refused(batch):
    functional = as_model(lambda: Branching(True))
    with pytest.raises(NotApplicableError, match=r"1 of 3 ReLUs .* torch\.fx cannot follow"):
        explain(create("methods", "deconvnet"), functional, batch)
    with pytest.raises(NotApplicableError, match=r"2 max-poolings .* torch\.fx cannot follow"):
        explain(create("methods", "gradient:unpool=centre"), functional, batch)


class CentrePool(nn.Module):
    """Max-pooling whose gradient goes to the centre of each window, by a convolution with one 1 in its kernel."""

    def __init__(self, kernel_size, padding=0) -> None:
        super().__init__()
        self.options = {"stride": kernel_size, "padding": padding}
        self.kernel = torch.zeros(6, 1, *kernel_size)
        self.kernel[:, 0, *(k // 2 for k in kernel_size)] = 1

    def forward(self, x):
        centres = F.conv3d(x, self.kernel, groups=6, **self.options)
        return F.max_pool3d(x, self.kernel.shape[2:], **self.options).detach() + centres - centres.detach()


def test_salinet_that_unpools_to_the_centre_backpropagates_through_all_but_max_pooling(batch):
    model = as_model(lambda: Written(False))
    found = explain(create("methods", "salinet:unpool=centre,pool=sum"), model, batch)
    model.net.pool1, model.net.pool2 = CentrePool((1, 3, 2), (0, 1, 0)), CentrePool((2, 2, 2))
    x = model.normalise(batch.frames).requires_grad_()
    (expected,) = torch.autograd.grad(model.net(x)[range(3), batch.labels].sum(), x)
    torch.testing.assert_close(found, expected.sum(1))


def reversed_by_hand(net, x, targets, rule):
    """The signal at the input of a ReusedReLUNet, step by step."""
    u1 = net.conv1(x)
    u2 = net.conv2(u1.relu())
    y = net.head.weight[targets][:, :, None, None, None].expand_as(u2) / u2[0, 0].numel()
    y = torch.nn.functional.conv_transpose3d(rule(y, u2), net.conv2.weight)
    return torch.nn.functional.conv_transpose3d(rule(y, u1), net.conv1.weight)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("salinet", lambda y, u: y * (u > 0)),
        ("deconvnet", lambda y, u: y * (y > 0)),
        ("desalinet", lambda y, u: y * (y > 0) * (u > 0)),
    ],
)
def test_the_three_rules_at_a_relu_module_used_twice(name, rule, batch):
    model = as_model(ReusedReLUNet)
    expected = reversed_by_hand(model.net, model.normalise(batch.frames), batch.labels, rule).sum(1)
    torch.testing.assert_close(explain(create("methods", f"{name}:pool=sum"), model, batch), expected)


def test_unpooling_to_the_centre_reaches_the_windows_centres(batch):
    class PoolNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.pool, self.head = nn.ReLU(), nn.MaxPool3d(3, stride=(2, 3, 4)), nn.Linear(3, len(CLASSES))

        def forward(self, x):
            return self.head(self.pool(self.relu(x)).mean((2, 3, 4)))

    model = as_model(PoolNet)
    found = explain(create("methods", "deconvnet:unpool=centre,pool=sum_abs"), model, batch)
    expected = torch.zeros(T, H, W, dtype=torch.bool)
    expected[1:4:2, 1:17:3, 1:26:4] = True
    assert torch.equal(found[0] > 0, expected)
    switches = explain(create("methods", "deconvnet:pool=sum_abs"), model, batch)
    assert not torch.equal(switches, found)


def test_lrn_is_passed_through(batch):
    def build():
        norm = nn.LocalResponseNorm(3, alpha=10.0)
        return nn.Sequential(nn.ReLU(), norm, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, len(CLASSES)))

    model = as_model(build)
    found = explain(create("methods", "deconvnet:pool=sum"), model, batch)
    signal = model.net[-1].weight[batch.labels].clamp(min=0).sum(1) / (T * H * W)
    torch.testing.assert_close(found, signal[:, None, None, None].expand_as(found))
    through_norm = explain(create("methods", "gradient:pool=sum"), model, batch)
    assert through_norm.flatten(1).std(1).min() > 0.01 * signal.max()


def test_deconvnet_without_max_pooling_does_not_depend_on_the_clip(batch):
    same_target = dataclasses.replace(batch, labels=torch.zeros(3, dtype=torch.long))
    found = explain(create("methods", "deconvnet"), as_model(ReusedReLUNet), same_target)
    assert found.any()
    torch.testing.assert_close(found, found[:1].expand_as(found))
    switches = explain(create("methods", "deconvnet"), as_model(PlainNet), same_target)
    assert not torch.allclose(switches[0], switches[1])


@pytest.mark.parametrize("name", ["deconvnet", "guided_backprop"])
@pytest.mark.parametrize(
    ("activation", "reason"), [(nn.GELU, "GELU"), (nn.SiLU, "SiLU"), (lambda: lambda x: x.clamp(0), "clamp")]
)
def test_reversed_networks_refuse_what_they_cannot_reverse(name, activation, reason, batch):
    with pytest.raises(NotApplicableError, match=reason):
        explain(create("methods", name), small_model(activation), batch)


def test_a_relu_inside_of_what_torch_ships_is_refused(batch):
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv3d(3, 8, 4, 4), nn.ReLU(), nn.Linear(8, len(CLASSES))
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.head(self.layer(self.relu(self.conv(x)).flatten(2).mT).mean(1))

    with pytest.raises(NotApplicableError, match="1 of 2 ReLUs are functional"):
        explain(create("methods", "deconvnet"), as_model(Transformer), batch)


def test_reversed_networks_refuse_recurrence(batch):
    class Recurrent(ReusedReLUNet):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 6, batch_first=True)

        def forward(self, x):
            sequence = self.relu(self.conv1(x)).mean((3, 4)).mT
            return self.head(self.lstm(sequence)[0][:, -1])

    model = as_model(Recurrent)
    assert explain(create("methods", "gradient"), model, batch)[:, 0].any()
    with pytest.raises(NotApplicableError, match=r"recurrent|sigmoid"):
        explain(create("methods", "deconvnet"), model, batch)


def test_centre_unpooling_refuses_windows_that_differ(batch):
    class Adaptive(SmallNet):
        def forward(self, x):
            x = F.adaptive_max_pool3d(self.activation1(self.bn1(self.conv1(x))), 4)
            return self.head(self.activation2(self.conv2(x)).mean((2, 3, 4)))

    model = as_model(Adaptive)
    assert explain(create("methods", "deconvnet"), model, batch).any()
    with pytest.raises(NotApplicableError, match="adaptive maxima"):
        explain(create("methods", "deconvnet:unpool=centre"), model, batch)
