"""TimeSformer and ViViT: published names and shapes, the authors' computation written out, and what attention gives.

Sources: transformers (models/timesformer/modeling_timesformer.py, models/vivit/modeling_vivit.py, before and after
version 5), TimeSformer (timesformer/models/vit.py, timesformer/datasets, configs), scenic (projects/vivit/configs).
"""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.video import R3D_18_Weights

from vidattr_bench import plugins
from vidattr_bench.errors import ModelError, NotApplicableError
from vidattr_bench.fixtures import as_model
from vidattr_bench.model import ClipInput
from vidattr_bench.models import timesformer, vivit
from vidattr_bench.tokens import tokens_of

KINETICS = tuple(R3D_18_Weights.DEFAULT.meta["categories"])
HEADS, DEPTH, WIDTH = 4, 3, 24


def linear(name, out, channels):
    return {f"{name}.weight": (out, channels), f"{name}.bias": (out,)}


def norms(*names):
    return {f"{name}.{key}": (768,) for name in names for key in ("weight", "bias")}


def timesformer_shapes():
    """transformers' names, as facebook/timesformer-base-finetuned-k400 has them."""
    embeddings = "timesformer.embeddings"
    shapes = {f"{embeddings}.cls_token": (1, 1, 768), f"{embeddings}.position_embeddings": (1, 197, 768)}
    shapes |= {f"{embeddings}.time_embeddings": (1, 8, 768)}
    shapes |= {f"{embeddings}.patch_embeddings.projection.weight": (768, 3, 16, 16)}
    shapes |= {f"{embeddings}.patch_embeddings.projection.bias": (768,)}
    for i in range(12):
        layer = f"timesformer.encoder.layer.{i}"
        for attention in ("attention", "temporal_attention"):
            shapes |= linear(f"{layer}.{attention}.attention.qkv", 2304, 768)
            shapes |= linear(f"{layer}.{attention}.output.dense", 768, 768)
        shapes |= linear(f"{layer}.intermediate.dense", 3072, 768) | linear(f"{layer}.output.dense", 768, 3072)
        shapes |= norms(*(f"{layer}.{name}" for name in ("layernorm_before", "layernorm_after", "temporal_layernorm")))
        shapes |= linear(f"{layer}.temporal_dense", 768, 768)
    return shapes | norms("timesformer.layernorm") | linear("classifier", 400, 768)


def authors_timesformer():
    """The authors' names of the same weights, in the same order."""
    shapes = {"cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "time_embed": (1, 8, 768)}
    shapes |= {"patch_embed.proj.weight": (768, 3, 16, 16), "patch_embed.proj.bias": (768,)}
    for i in range(12):
        block = f"blocks.{i}"
        for attention in ("attn", "temporal_attn"):
            shapes |= linear(f"{block}.{attention}.qkv", 2304, 768) | linear(f"{block}.{attention}.proj", 768, 768)
        shapes |= linear(f"{block}.mlp.fc1", 3072, 768) | linear(f"{block}.mlp.fc2", 768, 3072)
        shapes |= norms(*(f"{block}.{name}" for name in ("norm1", "norm2", "temporal_norm1")))
        shapes |= linear(f"{block}.temporal_fc", 768, 768)
    return shapes | norms("norm") | linear("head", 400, 768)


def vivit_shapes(
    layers="encoder.layer", parts="attention.query attention.key attention.value output.dense", mlp=("", "")
):
    """transformers' names, as google/vivit-b-16x2-kinetics400 has them."""
    embeddings = "vivit.embeddings"
    shapes = {f"{embeddings}.cls_token": (1, 1, 768), f"{embeddings}.position_embeddings": (1, 3137, 768)}
    shapes |= {f"{embeddings}.patch_embeddings.projection.weight": (768, 3, 2, 16, 16)}
    shapes |= {f"{embeddings}.patch_embeddings.projection.bias": (768,)}
    first, second = (given or name for given, name in zip(mlp, ("intermediate.dense", "output.dense"), strict=True))
    for i in range(12):
        layer = f"vivit.{layers}.{i}"
        for part in parts.split():
            shapes |= linear(f"{layer}.attention.{part}", 768, 768)
        shapes |= linear(f"{layer}.{first}", 3072, 768) | linear(f"{layer}.{second}", 768, 3072)
        shapes |= norms(f"{layer}.layernorm_before", f"{layer}.layernorm_after")
    return shapes | norms("vivit.layernorm") | linear("classifier", 400, 768)


PUBLISHED = {"timesformer_b": timesformer_shapes(), "vivit_b": vivit_shapes()}
# Shapes by the names of a file, what it puts in front of them, and under which key.
FILES = {
    "timesformer_b": (timesformer_shapes(), "", None),
    "timesformer_b, the authors'": (authors_timesformer(), "model.", "model_state"),
    "vivit_b": (vivit_shapes(), "", None),
    "vivit_b, version 5": (vivit_shapes("layers", "q_proj k_proj v_proj o_proj", ("mlp.fc1", "mlp.fc2")), "", None),
}


def values(shapes):
    """A number for each name, filling its shape without taking up its space."""
    return {name: torch.tensor(1 + i % 991).float().expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def flat(shape):
    """A kernel that is one frame deep as the 2-D one that it stands for."""
    return (*shape[:2], *shape[3:]) if len(shape) == 5 and shape[2] == 1 else shape


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        own = plugins.create("models", name).network(400).state_dict()
    assert {key: flat(tuple(tensor.shape)) for key, tensor in own.items()} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_says_how_many_parameters_there_are(name):
    said = re.search(r"(\d[\d ]+) parameters", plugins.find("models", name).summary)[1]
    assert int(said.replace(" ", "")) == sum(map(math.prod, PUBLISHED[name].values()))


def test_numbers_of_parameters_that_others_publish():
    # configs/recognition/timesformer/metafile.yml of mmaction2; joint attention lacks what is for time alone.
    count = {name: math.prod(shape) for name, shape in timesformer_shapes().items()}
    assert round(sum(count.values()) / 1e6) == 122
    assert round(sum(n for name, n in count.items() if ".temporal_" not in name) / 1e6, 2) == 86.11


@pytest.mark.parametrize("file", FILES)
def test_every_name_of_a_file_finds_its_place(file):
    shapes, _, _ = FILES[file]
    name = file.partition(",")[0]
    adapted = plugins.create("models", name).adapted(values(shapes))
    assert list(adapted) == list(PUBLISHED[name])
    for found, given in zip(adapted.values(), values(shapes).values(), strict=True):
        assert found.flatten()[0] == given.flatten()[0]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_the_authors_file_loads_strictly(tmp_path, file):
    shapes, prefix, key = FILES[file]
    state = {prefix + name: tensor for name, tensor in values(shapes).items()}
    torch.save(state if key is None else {"epoch": 14, "cfg": "TRAIN:", key: state}, tmp_path / "weights.pyth")
    model = plugins.create("models", file.partition(",")[0], checkpoint=tmp_path / "weights.pyth").build()
    loaded = model.net.state_dict()
    for name, tensor in zip(PUBLISHED[file.partition(",")[0]], values(shapes).values(), strict=True):
        assert torch.equal(loaded[name], tensor.reshape(loaded[name].shape))
    assert model.classes == KINETICS
    assert model.declares_normalisation


def test_weights_of_the_other_kind_of_attention_are_refused(tmp_path):
    joint = {name: tensor for name, tensor in values(authors_timesformer()).items() if "temporal" not in name}
    torch.save({"model_state": joint}, tmp_path / "TimeSformer_jointST_8x32_224_K400.pyth")
    model = plugins.create("models", "timesformer_b", checkpoint=tmp_path / "TimeSformer_jointST_8x32_224_K400.pyth")
    with pytest.raises(ModelError, match=r"96 missing: timesformer\.encoder\.layer\.0\.temporal_"):
        model.build()


def test_pixels_and_frames_are_those_of_the_authors():
    entry = plugins.create("models", "timesformer_b")
    assert (entry.mean, entry.std) == ((0.45,) * 3, (0.225,) * 3)  # lib/config/defaults.py
    # temporal_sampling of timesformer/datasets/decoder.py, for 8 frames at a rate of 32.
    theirs = torch.linspace(0, 8 * 32 - 1, 8).long()
    ours = entry.input.stride * torch.arange(entry.input.length)
    assert (theirs - ours).abs().max() == 3
    entry = plugins.create("models", "vivit_b")
    pixels = (torch.tensor([0.0, 1.0]) - entry.mean[0]) / entry.std[0]
    assert pixels.tolist() == [-1, 1]  # zero_centering
    assert (entry.input.length, entry.input.stride, entry.input.resize) == (32, 2, 256)


def test_something_something_is_an_option():
    entry = plugins.create("models", "timesformer_b", release="ssv2")
    assert (entry.input.length, entry.input.anchor) == (8, "spread")
    kernel = torch.arange(2 * 3 * 4).float().view(2, 3, 2, 2)
    found = entry.adapted({"patch_embed.proj.weight": kernel})
    assert torch.equal(found[timesformer._KERNEL], kernel[:, [2, 1, 0], None])
    plain = plugins.create("models", "timesformer_b").adapted({"patch_embed.proj.weight": kernel})
    assert torch.equal(plain[timesformer._KERNEL], kernel[:, :, None])


# README.md, and the names of files in configs.
VARIANTS = {
    ("kinetics", "hr"): (16, 16, 448),
    ("kinetics", "large"): (96, 4, 224),
    ("ssv2", "hr"): (16, None, 448),
    ("ssv2", "large"): (64, None, 224),
}


@pytest.mark.parametrize(("options", "published"), VARIANTS.items())
def test_variants_have_the_published_clips_and_embeddings(options, published):
    entry = plugins.create("models", "timesformer_b", release=options[0], variant=options[1])
    frames, rate, side = published
    assert (entry.input.length, entry.input.size, entry.input.resize) == (frames, (side, side), side)
    if rate:
        theirs = torch.linspace(0, frames * rate - 1, frames).long()
        assert (theirs - entry.input.stride * torch.arange(frames)).abs().max() <= 3
    with torch.device("meta"):
        embeddings = entry.network(2).timesformer.embeddings
    assert embeddings.position_embeddings.shape == (1, 1 + (side // 16) ** 2, 768)
    assert embeddings.time_embeddings.shape == (1, frames, 768)


@pytest.mark.parametrize("name", PUBLISHED)
def test_norms_are_the_authors(name):
    with torch.device("meta"):
        net = plugins.create("models", name).network(2)
    assert {module.eps for module in net.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-6}


def layer_norm(s, name, x):
    return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)


def affine(s, name, x):
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def attention(s, query, key, value, output):
    """What some tokens (n, C) get, and who attends to whom, (heads, n, n); head by head."""
    width = query.shape[1] // HEADS
    matrices, parts = [], []
    for i in range(HEADS):
        part = slice(i * width, (i + 1) * width)
        matrices.append((query[:, part] @ key[:, part].T / width**0.5).softmax(1))
        parts.append(matrices[-1] @ value[:, part])
    return affine(s, output, torch.cat(parts, 1)), torch.stack(matrices)


def joint_qkv(s, name, x):
    return attention(s, *affine(s, f"{name}.attention.qkv", x).chunk(3, 1), f"{name}.output.dense")


def nearest(rows, size):
    """Which of some rows of a table are taken where there are `size` places."""
    return [i * rows // size for i in range(size)]


def timesformer_reference(s, x):
    """One clip (3, T, H, W) token by token: logits, and for each step a matrix (heads, tokens, tokens).

    Rows of tokens that take no part are zero; the class token's is the mean of its copies'.
    """
    frames, rows, columns = x.shape[1], x.shape[2] // 16, x.shape[3] // 16
    place = s["timesformer.embeddings.position_embeddings"][0]
    time = s["timesformer.embeddings.time_embeddings"][0]
    side = math.isqrt(len(place) - 1)
    kernel = s["timesformer.embeddings.patch_embeddings.projection.weight"][:, :, 0].flatten(1)
    bias = s["timesformer.embeddings.patch_embeddings.projection.bias"]
    tokens = [s["timesformer.embeddings.cls_token"][0, 0] + place[0]]
    for t in range(frames):
        for i in range(rows):
            for j in range(columns):
                patch = x[:, t, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16].flatten()
                at = 1 + nearest(side, rows)[i] * side + nearest(side, columns)[j]
                tokens.append(kernel @ patch + bias + place[at] + time[nearest(len(time), frames)[t]])
    tokens, matrices, area = torch.stack(tokens), [], rows * columns
    for layer in range(DEPTH):
        name = f"timesformer.encoder.layer.{layer}"
        over_time, over_space = torch.zeros(2, HEADS, len(tokens), len(tokens))
        added = torch.zeros_like(tokens)
        for p in range(area):
            which = torch.tensor([1 + t * area + p for t in range(frames)])
            seen = layer_norm(s, f"{name}.temporal_layernorm", tokens[which])
            got, A = joint_qkv(s, f"{name}.temporal_attention", seen)
            added[which] = affine(s, f"{name}.temporal_dense", got)
            over_time[:, which[:, None], which] = A
        tokens = tokens + added
        added = torch.zeros_like(tokens)
        for t in range(frames):
            which = torch.tensor([0, *(1 + t * area + p for p in range(area))])
            got, A = joint_qkv(s, f"{name}.attention", layer_norm(s, f"{name}.layernorm_before", tokens[which]))
            added[which[1:]] = got[1:]
            added[0] += got[0] / frames
            over_space[:, which[1:, None], which] = A[:, 1:]
            over_space[:, 0, which] += A[:, 0] / frames
        tokens = tokens + added
        inner = F.gelu(affine(s, f"{name}.intermediate.dense", layer_norm(s, f"{name}.layernorm_after", tokens)))
        tokens = tokens + affine(s, f"{name}.output.dense", inner)
        matrices += [over_time, over_space]
    return affine(s, "classifier", layer_norm(s, "timesformer.layernorm", tokens[0])), matrices


def vivit_reference(s, x):
    """The same of ViViT, at the size that its embeddings are for."""
    t, h, w = x.shape[1] // 2, x.shape[2] // 16, x.shape[3] // 16
    kernel = s["vivit.embeddings.patch_embeddings.projection.weight"].flatten(1)
    bias = s["vivit.embeddings.patch_embeddings.projection.bias"]
    patches = x.view(3, t, 2, h, 16, w, 16).permute(1, 3, 5, 0, 2, 4, 6).reshape(t * h * w, -1)
    tokens = torch.cat([s["vivit.embeddings.cls_token"][0], patches @ kernel.T + bias])
    tokens = tokens + s["vivit.embeddings.position_embeddings"][0]
    matrices = []
    for layer in range(DEPTH):
        name = f"vivit.encoder.layer.{layer}"
        seen = layer_norm(s, f"{name}.layernorm_before", tokens)
        qkv = (affine(s, f"{name}.attention.attention.{part}", seen) for part in ("query", "key", "value"))
        added, A = attention(s, *qkv, f"{name}.attention.output.dense")
        tokens = tokens + added
        inner = affine(s, f"{name}.intermediate.dense", layer_norm(s, f"{name}.layernorm_after", tokens))
        inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        tokens = tokens + affine(s, f"{name}.output.dense", inner)
        matrices.append(A)
    return affine(s, "classifier", layer_norm(s, "vivit.layernorm", tokens[0])), matrices


SIZES = {"depth": DEPTH, "width": WIDTH, "heads": HEADS}
# Networks with few channels; embeddings of time and place are for other sizes than TimeSformer's clip has.
THIN = {
    "timesformer_b": (lambda: timesformer._Network(5, frames=3, side=2, **SIZES), (4, 48, 64)),
    "vivit_b": (lambda: vivit._Network(5, grid=(3, 2, 4), **SIZES), (6, 32, 64)),
}
REFERENCES = {"timesformer_b": timesformer_reference, "vivit_b": vivit_reference}


def scattered(build):
    """A network whose norms, biases and embeddings all matter."""
    net = build()
    for tensor in net.state_dict().values():
        torch.nn.init.normal_(tensor, std=0.3)
    return net


def thin(name):
    build, size = THIN[name]
    options = {"feature_layer": "volume", "mean": [0.5] * 3, "std": [0.5] * 3}
    return as_model(lambda: scattered(build), input=ClipInput(length=size[0], size=size[1:]), **options), size


def clips(size, n=2):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", THIN)
def test_it_computes_what_the_authors_code_does(name):
    model, size = thin(name)
    logits = model.net(clips(size))
    expected = torch.stack([REFERENCES[name](model.net.state_dict(), x)[0] for x in clips(size)])
    assert (expected[0] - expected[1]).abs().max() > 1e-2 * expected.abs().max()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_vivit_interpolates_its_embeddings_on_clips_of_another_size():
    model, _ = thin("vivit_b")
    net, x = model.net, torch.zeros(1, 3, 10, 48, 32)
    table = net.vivit.embeddings.position_embeddings
    t, h, w = torch.meshgrid(torch.arange(3.0), torch.arange(2.0), torch.arange(4.0), indexing="ij")
    table.copy_(torch.cat([torch.zeros(1), (t + 10 * h + 100 * w).flatten()])[None, :, None].expand_as(table))
    net.vivit.embeddings.patch_embeddings.projection.weight.zero_()
    net.vivit.embeddings.patch_embeddings.projection.bias.zero_()
    found = net.vivit.embeddings(x)[0, 1:, 0].view(5, 3, 2)
    # A plane stays a plane between the centres of the first and the last patch; outside it is cut off.
    axes = [((torch.arange(n) + 0.5) * m / n - 0.5).clamp(0, m - 1) for n, m in ((5, 3), (3, 2), (2, 4))]
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    torch.testing.assert_close(found, t + 10 * h + 100 * w)
    assert net(x).shape == (1, 5)


LAYERS = {
    "timesformer_b": {"volume": (768, 8, 14, 14), "timesformer.embeddings.patch_embeddings": (768, 8, 14, 14)},
    "vivit_b": {"volume": (768, 16, 14, 14), "vivit.embeddings.patch_embeddings": (768, 16, 14, 14)},
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_published_sizes(name):
    entry = plugins.create("models", name)
    with torch.device("meta"):
        net = entry.network(11).eval()
        clip = torch.empty(1, 3, entry.input.length, *entry.input.size)
    seen = {}
    for layer in LAYERS[name]:
        net.get_submodule(layer).register_forward_hook(lambda m, a, out, layer=layer: seen.update({layer: out.shape}))
    assert net(clip).shape == (1, 11)
    assert {layer: tuple(shape[1:]) for layer, shape in seen.items()} == LAYERS[name]
    assert entry.feature_layer == next(iter(LAYERS[name]))


@pytest.mark.parametrize("name", THIN)
def test_the_logits_depend_on_every_patch_of_the_volume_and_on_none_after_it(name):
    model, size = thin(name)
    x, seen = clips(size, 1).requires_grad_(), []
    model.net.volume.register_forward_hook(lambda m, a, out: seen.append(out))
    last = getattr(model.net, name[:-2]).encoder.layer[-1]
    last.register_forward_hook(lambda m, a, out: seen.append(out))
    volume, after = torch.autograd.grad(model.net(x)[0, 0], seen)
    assert volume.abs().amax(1).min() > 0
    assert not after[:, 1:].any()
    assert after[:, 0].any()


@pytest.mark.parametrize("name", THIN)
def test_there_is_no_pooled_layer(name):
    model, size = thin(name)
    with pytest.raises(NotApplicableError, match="no linear head"):
        model.linear_head(clips(size))


@pytest.mark.parametrize("name", THIN)
def test_attention_is_found_and_rolled_out(name):
    model, size = thin(name)
    x = clips(size, 1)
    grid = (size[0], 3, 4) if name == "timesformer_b" else (3, 2, 4)
    found = tokens_of(model, x)
    assert found.grid == grid
    groups = [tuple(each.groups.shape) for each in found.attentions]
    assert groups == ([(12, 4), (4, 13)] if name == "timesformer_b" else [(1, 25)]) * DEPTH
    assert found.read.tolist() == [0] * math.prod(grid) + [1]
    _, matrices = REFERENCES[name](model.net.state_dict(), x[0])
    rollout = torch.eye(1 + math.prod(grid))
    for A in matrices:
        A = A.mean(0)
        A = A + torch.diag((A.sum(1) == 0).float())
        rollout = (A / 2 + torch.eye(len(A)) / 2) @ rollout
    frames = x * model.std + model.mean
    native = plugins.create("methods", "attention_rollout").attribute(model, frames, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(native[0], rollout[0, 1:].view(grid), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", THIN)
def test_hugging_faces_own_network_computes_the_same(name):
    transformers = pytest.importorskip("transformers", reason="compares with transformers' TimeSformer and ViViT")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 96}
    sizes |= {"image_size": 32, "num_frames": 6, "num_labels": 5}
    if name == "timesformer_b":
        theirs = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**sizes)).eval()
        ours = timesformer._Network(5, frames=6, side=2, **SIZES).eval()
    else:
        theirs = transformers.VivitForVideoClassification(transformers.VivitConfig(**sizes)).eval()
        ours = vivit._Network(5, grid=(3, 2, 2), **SIZES).eval()
    state = {key: tensor.normal_(std=0.3) for key, tensor in theirs.state_dict().items()}
    ours.load_state_dict(plugins.create("models", name).adapted(state))
    x = clips((6, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).logits, rtol=1e-5, atol=1e-5)
