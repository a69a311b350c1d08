"""The 3-D networks: what they compute from their authors' weights, their layers, and what they are fed."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.checkpoints import save_checkpoint
from vidattr_bench.errors import ModelError, NotApplicableError
from vidattr_bench.fixtures import as_model
from vidattr_bench.model import ClipInput
from vidattr_bench.models import c3d, densenet3d, i3d, mfnet3d, resnet3d

# The same networks with fewer channels and blocks, and a clip on which nothing comes out even.
MIXED = {name: [max(channels // 16, 2) for channels in branches] for name, branches in i3d._MIXED.items()}
THIN = {
    "resnet, B": (lambda: resnet3d._Network((2, 1, 2, 1), 5, "B", resnet3d._Bottleneck, width=4), (3, 17, 49, 60)),
    "resnet, A": (lambda: resnet3d._Network((2, 1, 2, 1), 5, "A", resnet3d._Bottleneck, width=4), (3, 17, 49, 60)),
    "resnet, basic": (lambda: resnet3d._Network((2, 1, 2, 1), 5, "A", resnet3d._Basic, width=4), (3, 17, 49, 60)),
    "densenet": (lambda: densenet3d._Network((2, 3, 2, 1), 5, stem=8, growth=4), (3, 17, 65, 78)),
    "mfnet": (lambda: mfnet3d._Network(5, (2, 1, 2, 1), width=8, stem=4, fibers=2), (3, 15, 49, 60)),
    "i3d": (lambda: i3d._network(3, 5, (4, 4, 12), MIXED), (3, 19, 75, 94)),
    "i3d, flow": (lambda: i3d._network(2, 5, (4, 4, 12), MIXED), (2, 19, 75, 94)),
    "c3d": (lambda: c3d._Network(5, width=4, units=16), (3, 16, 112, 112)),
}
# At the clip that each declares: the volumes of the feature layer, of the last convolutions and the classes.
LAYERS = {
    "resnet3d_18": {"layer3": (256, 2, 7, 7), "layer4": (512, 1, 4, 4)},
    "resnet3d_34": {"layer3": (256, 2, 7, 7), "layer4": (512, 1, 4, 4)},
    "resnet3d_50": {"layer3": (1024, 2, 7, 7), "layer4": (2048, 1, 4, 4)},
    "resnet3d_101": {"layer3": (1024, 2, 7, 7), "layer4": (2048, 1, 4, 4)},
    "resnet3d_152": {"layer3": (1024, 2, 7, 7), "layer4": (2048, 1, 4, 4)},
    "densenet3d_121": {"features.denseblock3": (1024, 2, 7, 7), "features": (1024, 1, 3, 3)},
    "mfnet_3d": {"tail": (768, 8, 7, 7), "conv3": (192, 8, 28, 28)},
    "i3d": {"Mixed_5c": (1024, 8, 7, 7), "average": (1024, 7, 1, 1), "Mixed_4f": (832, 16, 14, 14)},
    "i3d_flow": {"Mixed_5c": (1024, 8, 7, 7), "average": (1024, 7, 1, 1), "Mixed_4f": (832, 16, 14, 14)},
    "c3d": {"relu5b": (512, 2, 7, 7), "pool5": (512, 1, 4, 4)},
}


def conv(s, name, x, stride=1, padding=0, groups=1):
    return F.conv3d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), stride, padding, groups=groups)


def norm(s, name, x, eps=1e-5):
    weights = (s[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *weights, eps=eps)


def linear(s, name, x):
    return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])


def blocks(s, pattern):
    """What the names say there is, in order."""
    return list(dict.fromkeys(found[0] for found in (re.match(pattern, name) for name in s) if found))


def resnet_logits(s, x):
    x = F.max_pool3d(norm(s, "bn1", conv(s, "conv1", x, (1, 2, 2), 3)).relu(), 3, 2, 1)
    for b in blocks(s, r"layer\d\.\d+"):
        stride = 2 if b.endswith(".0") and not b.startswith("layer1") else 1
        if f"{b}.conv3.weight" in s:
            y = norm(s, f"{b}.bn1", conv(s, f"{b}.conv1", x)).relu()
            y = norm(s, f"{b}.bn2", conv(s, f"{b}.conv2", y, stride, 1)).relu()
            y = norm(s, f"{b}.bn3", conv(s, f"{b}.conv3", y))
        else:
            y = norm(s, f"{b}.bn1", conv(s, f"{b}.conv1", x, stride, 1)).relu()
            y = norm(s, f"{b}.bn2", conv(s, f"{b}.conv2", y, 1, 1))
        if f"{b}.downsample.0.weight" in s:
            x = norm(s, f"{b}.downsample.1", conv(s, f"{b}.downsample.0", x, stride))
        elif x.shape != y.shape:
            x = x[:, :, ::stride, ::stride, ::stride]
            x = torch.cat([x, x.new_zeros(len(x), y.shape[1] - x.shape[1], *x.shape[2:])], 1)
        x = (x + y).relu()
    return linear(s, "fc", x.mean((2, 3, 4)))


def densenet_logits(s, x):
    x = F.max_pool3d(norm(s, "features.norm0", conv(s, "features.conv0", x, (1, 2, 2), 3)).relu(), 3, 2, 1)
    for b in blocks(s, r"features\.(denseblock\d\.denselayer\d+|transition\d)"):
        if "transition" in b:
            x = F.avg_pool3d(conv(s, f"{b}.conv", norm(s, f"{b}.norm", x).relu()), 2)
        else:
            y = conv(s, f"{b}.conv.1", norm(s, f"{b}.norm.1", x).relu())
            x = torch.cat([x, conv(s, f"{b}.conv.2", norm(s, f"{b}.norm.2", y).relu(), 1, 1)], 1)
    return linear(s, "classifier", norm(s, "features.norm5", x).relu().mean((2, 3, 4)))


def mfnet_logits(s, x, fibers=2):
    def part(name, x, stride=1, padding=0, groups=1):
        return conv(s, f"{name}.conv", norm(s, f"{name}.bn", x).relu(), stride, padding, groups)

    x = norm(s, "conv1.bn", conv(s, "conv1.conv", x, (1, 2, 2), (1, 2, 2))).relu()
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for b in blocks(s, r"conv\d\.B\d+"):
        first = b.endswith("B01")
        stride = 1 if not first else (2, 1, 1) if b.startswith("conv2") else (1, 2, 2)
        y = x + part(f"{b}.conv_i2", part(f"{b}.conv_i1", x))
        y = part(f"{b}.conv_m1", y, stride, 1, fibers)
        if first:
            x = part(f"{b}.conv_m2", y) + part(f"{b}.conv_w1", x, stride)
        else:
            x = part(f"{b}.conv_m2", y, 1, (0, 1, 1), fibers) + x
    return linear(s, "classifier", norm(s, "tail.bn", x).relu().mean((2, 3, 4)))


def same(x, kernel, stride, fill=0.0):
    """TensorFlow's SAME: ceil(n / stride) windows, as many voxels added as they need, the odd one behind."""
    sides = []
    for n, k, step in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        added = max((-(-n // step) - 1) * step + k - n, 0)
        sides += [added // 2, added - added // 2]
    return F.pad(x, sides, value=fill)


def i3d_logits(s, x):
    def unit(name, x, stride=1):
        kernel = s[f"{name}.conv3d.weight"].shape[2:]
        y = conv(s, f"{name}.conv3d", same(x, kernel, (stride,) * 3), stride)
        return norm(s, f"{name}.bn", y, eps=1e-3).relu()

    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride, fill=-torch.inf), kernel, stride)

    x = pool(unit("Conv3d_1a_7x7", x, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    for b in blocks(s, r"Mixed_\d\w"):
        if b in ("Mixed_4b", "Mixed_5b"):
            size = (3,) * 3 if b == "Mixed_4b" else (2,) * 3
            x = pool(x, size, (2, 2, 2))
        pairs = [unit(f"{b}.b{i}b", unit(f"{b}.b{i}a", x)) for i in (1, 2)]
        pooled = unit(f"{b}.b3b", pool(x, (3, 3, 3), (1, 1, 1)))
        x = torch.cat([unit(f"{b}.b0", x), *pairs, pooled], 1)
    x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
    return conv(s, "logits.conv3d", x).mean((2, 3, 4))


def c3d_logits(s, x):
    for name in ("1", "2", "3a", "3b", "4a", "4b", "5a", "5b"):
        x = conv(s, f"conv{name}", x, 1, 1).relu()
        if not name.endswith("a"):
            size = (1, 2, 2) if name == "1" else 2
            x = F.max_pool3d(x, size, size, (0, 1, 1) if name == "5b" else 0)
    x = linear(s, "fc7", linear(s, "fc6", x.flatten(1)).relu()).relu()
    return linear(s, "fc8", x)


REFERENCES = {"resnet": resnet_logits, "densenet": densenet_logits, "mfnet": mfnet_logits, "i3d": i3d_logits}
REFERENCES["c3d"] = c3d_logits


def clips(size, n=2):
    return torch.rand(n, *size, generator=torch.Generator().manual_seed(1))


def thin(name):
    make, size = THIN[name]
    half = {"mean": [0.5] * size[0], "std": [0.5] * size[0]}
    return as_model(make, input=ClipInput(length=size[1], size=size[2:]), **half), size


@pytest.mark.parametrize("name", THIN)
def test_it_computes_what_the_authors_code_does(name):
    model, size = thin(name)
    logits = model.net(clips(size))
    expected = REFERENCES[name.split(",")[0]](model.net.state_dict(), clips(size))
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_published_sizes(name):
    entry = plugins.create("models", name)
    with torch.device("meta"):
        net = entry.network(11).eval()
        clip = torch.empty(1, len(entry.mean), entry.input.length, *entry.input.size)
    seen, relus = {}, []
    for layer in LAYERS[name]:
        net.get_submodule(layer).register_forward_hook(lambda m, a, out, layer=layer: seen.update({layer: out.shape}))
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda m, a, out: relus.append(m))
    assert net(clip).shape == (1, 11)
    assert {layer: tuple(shape[1:]) for layer, shape in seen.items()} == LAYERS[name]
    assert entry.feature_layer == next(iter(LAYERS[name]))
    # Hooks of a module that is used twice would mix its uses up.
    assert len(relus) == len(set(relus)) == sum(isinstance(m, nn.ReLU) for m in net.modules())
    assert not any(relu.inplace for relu in relus)


@pytest.mark.parametrize(
    ("name", "pooled"),
    {"resnet, B": "layer4", "densenet": "features", "mfnet": "tail", "i3d": None, "c3d": None}.items(),
)
def test_the_pooled_layer(name, pooled):
    model, size = thin(name)
    if pooled is None:
        with pytest.raises(NotApplicableError, match="no linear head"):
            model.linear_head(clips(size))
    else:
        assert model.linear_head(clips(size)).layer == pooled


def test_gradients_pass_a_shortcut_of_type_a():
    x = clips((3, 5, 6, 7)).requires_grad_()
    out = resnet3d._ZeroPadding(added=2, stride=2)(x)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2, ::2])
    assert out.shape == (2, 5, 3, 3, 4)
    assert not out[:, 3:].any()
    out.sum().backward()
    assert x.grad.sum() == 2 * 3 * 3 * 3 * 4


@pytest.mark.parametrize("name", LAYERS)
def test_pixels_are_normalised_as_the_authors_do(name):
    entry = plugins.create("models", name)
    pixel = torch.tensor([30.0, 60.0, 90.0][: len(entry.mean)])
    by_hand = {
        "resnet": lambda: pixel - torch.tensor([114.7748, 107.7354, 99.4750]),
        "densen": lambda: pixel - torch.tensor([114.7748, 107.7354, 99.4750]),
        "mfnet_": lambda: (pixel - torch.tensor([124.0, 117.0, 104.0])) * 0.0167,
        "i3d": lambda: 2 * pixel / 255 - 1,
        "i3d_fl": lambda: 2 * pixel / 255 - 1,
        "c3d": lambda: pixel - torch.tensor([102.0, 98.0, 90.0]),
    }[name[:6]]()
    ours = (pixel / 255 - torch.tensor(entry.mean)) / torch.tensor(entry.std)
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-4)


def test_the_release_of_2020_is_normalised_by_kinetics():
    entry = plugins.create("models", "resnet3d_50:release=2020,shortcut=A")
    assert (entry.mean, entry.std) == ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))
    assert plugins.create("models", "resnet3d_50").std == (1 / 255, 1 / 255, 1 / 255)
    with torch.device("meta"):
        assert not any("downsample" in name for name in entry.network(3).state_dict())


def thin_c3d(monkeypatch):
    monkeypatch.setattr(c3d.C3D, "network", lambda self, classes: c3d._Network(classes, width=4, units=16))
    return c3d._Network(3, width=4, units=16)


def test_c3d_turns_weights_that_expect_blue_first(tmp_path, monkeypatch):
    net = thin_c3d(monkeypatch)
    torch.save(net.state_dict(), tmp_path / "blue.pth")
    turned, straight = (
        plugins.create("models", "c3d", checkpoint=tmp_path / "blue.pth", bgr=bgr).build().net for bgr in (True, False)
    )
    x = clips((3, 16, 112, 112))
    expected = net.eval()(x.flip(1))
    torch.testing.assert_close(turned(x), expected)
    torch.testing.assert_close(straight(x.flip(1)), expected)
    assert not torch.allclose(turned(x), straight(x))


def test_what_train_wrote_is_taken_as_it_is(tmp_path, monkeypatch):
    net = thin_c3d(monkeypatch)
    wanted = ClipInput(length=16, stride=3, size=(112, 112))
    record = {"classes": ["a", "b", "c"], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, net, {**record, "input": dataclasses.asdict(wanted)})
    model = plugins.create("models", "c3d", checkpoint=path).build()
    assert torch.equal(model.net.conv1.weight, net.conv1.weight)
    assert (model.classes, model.input) == (("a", "b", "c"), wanted)
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_classes_come_from_the_file_that_is_given(tmp_path, monkeypatch):
    torch.save(thin_c3d(monkeypatch).state_dict(), tmp_path / "weights.pth")
    names = tmp_path / "names.txt"
    names.write_text("kick\npunch\nthrow\n")
    entry = plugins.create("models", "c3d", checkpoint=tmp_path / "weights.pth", classes_file=names)
    assert entry.build().classes == ("kick", "punch", "throw")
    names.write_text("kick\npunch\n")
    with pytest.raises(ModelError, match=r"names\.txt names 2 classes, and the weights in .*weights\.pth have 3"):
        entry.build()
