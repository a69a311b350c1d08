"""Networks on frames and on two pathways: what they compute from their authors' weights, and what they are fed."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.errors import ModelError, NotApplicableError
from vidattr_bench.fixtures import as_model
from vidattr_bench.model import ClipInput
from vidattr_bench.models import r50_lstm, slowfast, tsn, videomae, x3d

BLOCKS = (2, 1, 2, 1)
# The same networks with fewer channels and blocks, and a clip on which nothing comes out even.
THIN = {
    "tsn": (lambda: tsn._Network(5, False, BLOCKS, width=8), (5, 49, 60)),
    "tsm": (lambda: tsn._Network(5, True, BLOCKS, width=8), (5, 49, 60)),
    "r50_lstm": (lambda: r50_lstm._Network(5, False, BLOCKS, width=4, units=(12, 10, 6)), (7, 49, 60)),
    "slowfast": (lambda: slowfast._Network(5, BLOCKS, width=16), (20, 49, 60)),
    "x3d": (lambda: x3d._Network(5, (1, 2, 3, 1), (8, 8, 16, 24, 32), units=20), (7, 49, 60)),
    "videomae": (lambda: videomae._Network(5, depth=3, width=24, heads=4), (6, 32, 48)),
}
# At the clip that each declares: the volumes of the feature layer and of others that a map may be asked of.
LAYERS = {
    "tsn_r50": {"base_model.layer4": (2048, 8, 7, 7), "base_model.layer3": (1024, 8, 14, 14)},
    "tsm_r50": {"base_model.layer4": (2048, 8, 7, 7), "base_model.layer3.0.conv1": (256, 8, 28, 28)},
    "r50_lstm": {"resnet.7": (2048, 16, 4, 4), "resnet.8": (2048, 16, 1, 1)},
    "slowfast_r50": {
        "blocks.5": (2304, 8, 7, 7),
        "blocks.4.multipathway_blocks.0": (2048, 8, 7, 7),
        "blocks.4.multipathway_blocks.1": (256, 32, 7, 7),
        "blocks.0.multipathway_fusion": (16, 8, 56, 56),
    },
    "x3d_s": {"blocks.5.pool.pre_act": (432, 13, 5, 5), "blocks.4": (192, 13, 5, 5)},
    "x3d_m": {"blocks.5.pool.pre_act": (432, 16, 7, 7), "blocks.4": (192, 16, 7, 7)},
    "videomae_b": {"volume": (768, 8, 14, 14), "videomae.embeddings": (768, 8, 14, 14)},
}


def norm(s, name, x):
    return F.batch_norm(x, *(s[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))


def linear(s, name, x):
    return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))


def blocks(s, pattern):
    """What the names say there is, in order."""
    return list(dict.fromkeys(found[0] for found in (re.match(pattern, name) for name in s) if found))


def shifted(x, frames):
    """The authors' shift, on frames folded into the batch."""
    clips = x.unflatten(0, (-1, frames))
    out, fold = torch.zeros_like(clips), x.shape[1] // 8
    out[:, :-1, :fold] = clips[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
    return out.flatten(0, 1)


def resnet(s, stem, stages, x, frames):
    """A 2-D ResNet-50 on frames (N T, 3, H, W), with torchvision's strides."""

    def conv(name, x, stride=1, padding=0):
        return F.conv2d(x, s[f"{name}.weight"].squeeze(2), None, stride, padding)

    x = F.max_pool2d(norm(s, stem[1], conv(stem[0], x, 2, 3)).relu(), 3, 2, 1)
    for b in blocks(s, stages):
        stride = 2 if b.endswith(".0") and not b.startswith(("base_model.layer1", "resnet.4")) else 1
        y = conv(f"{b}.conv1.net", shifted(x, frames)) if f"{b}.conv1.net.weight" in s else conv(f"{b}.conv1", x)
        y = norm(s, f"{b}.bn2", conv(f"{b}.conv2", norm(s, f"{b}.bn1", y).relu(), stride, 1)).relu()
        y = norm(s, f"{b}.bn3", conv(f"{b}.conv3", y))
        if f"{b}.downsample.0.weight" in s:
            x = norm(s, f"{b}.downsample.1", conv(f"{b}.downsample.0", x, stride))
        x = (x + y).relu()
    return x.mean((2, 3))


def tsn_logits(s, x):
    """Logits of every frame, and their mean."""
    n, frames = len(x), x.shape[2]
    stem = ("base_model.conv1", "base_model.bn1")
    features = resnet(s, stem, r"base_model\.layer\d\.\d+", x.transpose(1, 2).flatten(0, 1), frames)
    return linear(s, "new_fc", features).unflatten(0, (n, frames)).mean(1)


def r50_lstm_logits(s, x):
    """Frame after frame; the gates are input, forget, output, candidate."""
    hidden = cell = torch.zeros(len(x), s["lstm1.fc_h.weight"].shape[1])
    logits = []
    for frame in x.unbind(2):
        y = resnet(s, ("resnet.0", "resnet.1"), r"resnet\.\d\.\d+", frame, 1)
        y = linear(s, "fc7", linear(s, "fc6", y).relu()).relu()
        i, f, o, g = (linear(s, "lstm1.fc_x", y) + linear(s, "lstm1.fc_h", hidden)).split(hidden.shape[1], 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.relu()
        hidden = o.sigmoid() * cell.relu()
        logits.append(linear(s, "fc8_final", hidden))
    return torch.stack(logits).mean(0)


def conv3d(s, name, x, stride=1, groups=1):
    weight = s[f"{name}.weight"]
    padding = [size // 2 for size in weight.shape[2:]]
    return F.conv3d(x, weight, s.get(f"{name}.bias"), stride, padding, groups=groups)


def slowfast_logits(s, x):
    def stem(name, x):
        x = norm(s, f"{name}.norm", conv3d(s, f"{name}.conv", x, (1, 2, 2))).relu()
        return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def stage(name, x, stride):
        for b in blocks(s, re.escape(name) + r"\.res_blocks\.\d+"):
            step = (1, stride, stride) if b.endswith(".0") else 1
            y = norm(s, f"{b}.branch2.norm_a", conv3d(s, f"{b}.branch2.conv_a", x)).relu()
            y = norm(s, f"{b}.branch2.norm_b", conv3d(s, f"{b}.branch2.conv_b", y, step)).relu()
            y = norm(s, f"{b}.branch2.norm_c", conv3d(s, f"{b}.branch2.conv_c", y))
            if f"{b}.branch1_conv.weight" in s:
                x = norm(s, f"{b}.branch1_norm", conv3d(s, f"{b}.branch1_conv", x, step))
            x = (x + y).relu()
        return x

    frames = x.shape[2]
    paths = [x[:, :, torch.linspace(0, frames - 1, frames // 4).long()], x]
    for i in range(5):
        name = f"blocks.{i}.multipathway"
        for p in range(2):
            path = f"{name}_blocks.{p}"
            paths[p] = stage(path, paths[p], 1 if i == 1 else 2) if i else stem(path, paths[p])
        if i < 4:
            fused = conv3d(s, f"{name}_fusion.conv_fast_to_slow", paths[1], (4, 1, 1))
            paths[0] = torch.cat([paths[0], norm(s, f"{name}_fusion.norm", fused).relu()], 1)
    return linear(s, "blocks.6.proj", torch.cat([path.mean((2, 3, 4)) for path in paths], 1))


def x3d_logits(s, x):
    x = conv3d(s, "blocks.0.conv.conv_t", x, (1, 2, 2))
    x = norm(s, "blocks.0.norm", conv3d(s, "blocks.0.conv.conv_xy", x, 1, x.shape[1])).relu()
    for b in blocks(s, r"blocks\.\d\.res_blocks\.\d+"):
        step = (1, 2, 2) if b.endswith(".0") else 1
        y = norm(s, f"{b}.branch2.norm_a", conv3d(s, f"{b}.branch2.conv_a", x)).relu()
        y = norm(s, f"{b}.branch2.norm_b.0", conv3d(s, f"{b}.branch2.conv_b", y, step, y.shape[1]))
        if f"{b}.branch2.norm_b.1.block.0.weight" in s:
            gate = conv3d(s, f"{b}.branch2.norm_b.1.block.0", y.mean((2, 3, 4), keepdim=True)).relu()
            y = y * conv3d(s, f"{b}.branch2.norm_b.1.block.2", gate).sigmoid()
        y = norm(s, f"{b}.branch2.norm_c", conv3d(s, f"{b}.branch2.conv_c", y * y.sigmoid()))
        if f"{b}.branch1_conv.weight" in s:
            x = conv3d(s, f"{b}.branch1_conv", x, step)
        if f"{b}.branch1_norm.weight" in s:
            x = norm(s, f"{b}.branch1_norm", x)
        x = (x + y).relu()
    x = norm(s, "blocks.5.pool.pre_norm", conv3d(s, "blocks.5.pool.pre_conv", x)).relu()
    x = conv3d(s, "blocks.5.pool.post_conv", x.mean((2, 3, 4), keepdim=True)).relu()
    return linear(s, "blocks.5.proj", x.flatten(1))


def videomae_logits(s, x):
    """Attention written out, and a table of positions as the authors fill it, entry by entry."""

    def layer_norm(name, x, eps=1e-12):
        return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)

    patches = "videomae.embeddings.patch_embeddings.projection"
    x = F.conv3d(x, s[f"{patches}.weight"], s[f"{patches}.bias"], (2, 16, 16)).flatten(2).mT
    n, width = x.shape[1:]
    angles = [[i / 10000 ** (2 * (j // 2) / width) for j in range(width)] for i in range(n)]
    x = x + torch.tensor([[math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(row)] for row in angles])
    for b in blocks(s, r"videomae\.encoder\.layer\.\d+"):
        y = layer_norm(f"{b}.layernorm_before", x)
        heads = []
        for part in range(4):
            query, key, value = (
                linear(s, f"{b}.attention.attention.{name}", y)[..., part * width // 4 : (part + 1) * width // 4]
                for name in ("query", "key", "value")
            )
            heads.append((query @ key.mT / (width // 4) ** 0.5).softmax(-1) @ value)
        x = x + linear(s, f"{b}.attention.output.dense", torch.cat(heads, -1))
        y = F.gelu(linear(s, f"{b}.intermediate.dense", layer_norm(f"{b}.layernorm_after", x)))
        x = x + linear(s, f"{b}.output.dense", y)
    return linear(s, "classifier", layer_norm("fc_norm", x.mean(1), 1e-5))


REFERENCES = {"tsn": tsn_logits, "tsm": tsn_logits, "r50_lstm": r50_lstm_logits}
REFERENCES |= {"slowfast": slowfast_logits, "x3d": x3d_logits, "videomae": videomae_logits}


def clips(size, n=2):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(1))


def thin(name):
    make, size = THIN[name]
    return as_model(make, input=ClipInput(length=size[0], size=size[1:]), mean=[0.5] * 3, std=[0.5] * 3), size


@pytest.mark.parametrize("name", THIN)
def test_it_computes_what_the_authors_code_does(name):
    model, size = thin(name)
    # Norms whose factors are 1 and means 0 would hide that one is left out.
    for module in model.net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            module.bias.data.uniform_(-0.2, 0.2)
    logits = model.net(clips(size))
    expected = REFERENCES[name](model.net.state_dict(), clips(size))
    assert logits.shape == (2, 5)
    assert (expected[0] - expected[1]).abs().max() > 1e-4 * expected.abs().max()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_published_sizes(name):
    entry = plugins.create("models", name)
    with torch.device("meta"):
        net = entry.network(11).eval()
        clip = torch.empty(1, 3, entry.input.length, *entry.input.size)
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


# `base_model` puts out what its `layer4` does.
POOLED = {"tsn": "base_model", "tsm": "base_model", "slowfast": "blocks.5", "r50_lstm": None, "x3d": None}
POOLED["videomae"] = None


@pytest.mark.parametrize(("name", "pooled"), POOLED.items())
def test_the_pooled_layer(name, pooled):
    model, size = thin(name)
    if pooled is None:
        with pytest.raises(NotApplicableError, match="no linear head"):
            model.linear_head(clips(size))
    else:
        assert model.linear_head(clips(size)).layer == pooled


@pytest.mark.parametrize(("name", "reached"), {"tsn": 1, "tsm": 3}.items())
def test_frames_meet_where_channels_are_shifted(name, reached):
    model, size = thin(name)
    seen = []
    model.net.base_model.layer1.register_forward_hook(lambda m, a, out: seen.append(out))
    other = clips(size)
    other[:, :, 0] = 1 - other[:, :, 0]
    model.net(clips(size)), model.net(other)
    changed = (seen[0] != seen[1]).transpose(1, 2).flatten(2).any(2).any(0)
    # Each of the two blocks hands the first frame on by one.
    assert changed.tolist() == [i < reached for i in range(size[0])]


@pytest.mark.parametrize("detached", [False, True])
def test_a_detached_state_changes_gradients_and_no_logit(detached):
    torch.manual_seed(0)
    layer = r50_lstm._ReLULSTM(4, 3, detached)
    x = torch.rand(2, 5, 4, requires_grad=True)
    states = layer(x)
    torch.manual_seed(0)
    assert torch.equal(states, r50_lstm._ReLULSTM(4, 3, not detached)(x))
    states[:, 2].sum().backward()
    reached = x.grad.flatten(2).any(2).any(0).tolist()
    assert reached == ([False, False, True, False, False] if detached else [True, True, True, False, False])
    assert plugins.create("models", "r50_lstm", detached=detached).network(3).lstm1.detached == detached


@pytest.mark.parametrize("name", LAYERS)
def test_pixels_are_normalised_as_the_authors_do(name):
    entry = plugins.create("models", name)
    published = {
        "ts": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "r5": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
        "sl": ((0.45,) * 3, (0.225,) * 3),
        "x3": ((0.45,) * 3, (0.225,) * 3),
        "vi": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }[name[:2]]
    assert (entry.mean, entry.std) == published


def test_hugging_faces_own_network_computes_the_same():
    transformers = pytest.importorskip("transformers", reason="compares with transformers' VideoMAE")
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    config = transformers.VideoMAEConfig(image_size=32, num_frames=6, num_labels=5, **sizes)
    theirs = transformers.VideoMAEForVideoClassification(config).eval()
    model, _ = thin("videomae")
    state = plugins.create("models", "videomae_b").adapted(theirs.state_dict())
    model.net.load_state_dict({name: tensor.normal_(std=0.3) for name, tensor in state.items()})
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    x = clips((6, 32, 32))
    torch.testing.assert_close(model.net(x), theirs(x.transpose(1, 2)).logits, rtol=1e-4, atol=1e-4)


def test_segments_and_dense_sampling_are_options():
    spread = plugins.create("models", "tsm_r50", segments=16).input
    assert (spread.length, spread.anchor) == (16, "spread")
    dense = plugins.create("models", "tsn_r50", dense=True).input
    assert (dense.length, dense.stride, dense.anchor) == (8, 8, "middle")
    with pytest.raises(ModelError, match="segments"):
        plugins.create("models", "tsn_r50", segments=0)
