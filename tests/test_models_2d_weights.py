"""Networks on frames and on two pathways against their authors' files: every name and shape, written out here.

Sources: temporal-shift-module (ops/models.py, ops/temporal_shift.py, and torchvision's ResNet-50 inside),
Spatio-Temporal-Perturbations-for-Video-Attribution (model_def/r50lstm.py), pytorchvideo (models/slowfast.py,
models/x3d.py, models/head.py, models/resnet.py; fvcore's squeeze_excitation.py), transformers
(models/videomae/modeling_videomae.py, before and after its biases of queries and values were renamed).
"""

import math
import re

import pytest
import torch
from torchvision.models.video import R3D_18_Weights

from vidattr_bench import plugins
from vidattr_bench.errors import ModelError

KINETICS = tuple(R3D_18_Weights.DEFAULT.meta["categories"])
STATISTICS = ("running_mean", "running_var")


def norm(name, channels):
    return {f"{name}.{key}": (channels,) for key in ("weight", "bias", *STATISTICS)}


def linear(name, out, channels):
    return {f"{name}.weight": (out, channels), f"{name}.bias": (out,)}


def resnet(conv1, bn1, stages, first=""):
    """torchvision's ResNet-50; `first` is what stands between a block's first convolution and its weight."""
    shapes = {f"{conv1}.weight": (64, 3, 7, 7), **norm(bn1, 64)}
    for stage, (name, count, width) in enumerate(zip(stages, (3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for i in range(count):
            block = f"{name}.{i}"
            channels = 4 * width if i else 2 * width if stage else 64
            shapes |= {f"{block}.conv1{first}.weight": (width, channels, 1, 1), **norm(f"{block}.bn1", width)}
            shapes |= {f"{block}.conv2.weight": (width, width, 3, 3), **norm(f"{block}.bn2", width)}
            shapes |= {f"{block}.conv3.weight": (4 * width, width, 1, 1), **norm(f"{block}.bn3", 4 * width)}
            if i == 0:
                shapes |= {f"{block}.downsample.0.weight": (4 * width, channels, 1, 1)}
                shapes |= norm(f"{block}.downsample.1", 4 * width)
    return shapes


def segments(first=""):
    stages = [f"base_model.layer{i}" for i in (1, 2, 3, 4)]
    return {**resnet("base_model.conv1", "base_model.bn1", stages, first), **linear("new_fc", 400, 2048)}


def r50_lstm():
    shapes = resnet("resnet.0", "resnet.1", [f"resnet.{i}" for i in (4, 5, 6, 7)])
    shapes |= {**linear("fc6", 1024, 2048), **linear("fc7", 512, 1024), **linear("lstm1.fc_x", 1024, 512)}
    return {**shapes, "lstm1.fc_h.weight": (1024, 256), **linear("fc8_final", 101, 256)}


def slowfast():
    shapes = {}
    for path, (width, frames) in enumerate(((64, 1), (8, 5))):
        stem = f"blocks.0.multipathway_blocks.{path}"
        shapes |= {f"{stem}.conv.weight": (width, 3, frames, 7, 7), **norm(f"{stem}.norm", width)}
    kernels = {0: (1, 1, 3, 3), 1: (3, 3, 3, 3)}
    entering = {0: (80, 320, 640, 1280), 1: (8, 32, 64, 128)}
    leaving = {0: (256, 512, 1024, 2048), 1: (32, 64, 128, 256)}
    for stage, count in enumerate((3, 4, 6, 3)):
        for path in (0, 1):
            frames, out = kernels[path][stage], leaving[path][stage]
            for i in range(count):
                block = f"blocks.{stage + 1}.multipathway_blocks.{path}.res_blocks.{i}"
                channels, inner = out if i else entering[path][stage], out // 4
                if i == 0:
                    shapes |= {f"{block}.branch1_conv.weight": (out, channels, 1, 1, 1)}
                    shapes |= norm(f"{block}.branch1_norm", out)
                block += ".branch2"
                shapes |= {f"{block}.conv_a.weight": (inner, channels, frames, 1, 1), **norm(f"{block}.norm_a", inner)}
                shapes |= {f"{block}.conv_b.weight": (inner, inner, 1, 3, 3), **norm(f"{block}.norm_b", inner)}
                shapes |= {f"{block}.conv_c.weight": (out, inner, 1, 1, 1), **norm(f"{block}.norm_c", out)}
    for stage, fast in enumerate((8, 32, 64, 128)):
        fusion = f"blocks.{stage}.multipathway_fusion"
        shapes |= {f"{fusion}.conv_fast_to_slow.weight": (2 * fast, fast, 7, 1, 1), **norm(f"{fusion}.norm", 2 * fast)}
    return {**shapes, **linear("blocks.6.proj", 400, 2304)}


def x3d():
    shapes = {"blocks.0.conv.conv_t.weight": (24, 3, 1, 3, 3), "blocks.0.conv.conv_xy.weight": (24, 1, 5, 1, 1)}
    shapes |= norm("blocks.0.norm", 24)
    stages = ((3, 24, 24, 54, 8), (5, 24, 48, 108, 8), (11, 48, 96, 216, 16), (7, 96, 192, 432, 32))
    for stage, (count, before, out, inner, reduced) in enumerate(stages, start=1):
        for i in range(count):
            block = f"blocks.{stage}.res_blocks.{i}"
            channels = out if i else before
            if i == 0:
                shapes |= {f"{block}.branch1_conv.weight": (out, channels, 1, 1, 1)}
            if channels != out:
                shapes |= norm(f"{block}.branch1_norm", out)
            block += ".branch2"
            shapes |= {f"{block}.conv_a.weight": (inner, channels, 1, 1, 1), **norm(f"{block}.norm_a", inner)}
            shapes |= {f"{block}.conv_b.weight": (inner, 1, 3, 3, 3), **norm(f"{block}.norm_b.0", inner)}
            if i % 2 == 0:
                gate = f"{block}.norm_b.1.block"
                shapes |= {f"{gate}.0.weight": (reduced, inner, 1, 1, 1), f"{gate}.0.bias": (reduced,)}
                shapes |= {f"{gate}.2.weight": (inner, reduced, 1, 1, 1), f"{gate}.2.bias": (inner,)}
            shapes |= {f"{block}.conv_c.weight": (out, inner, 1, 1, 1), **norm(f"{block}.norm_c", out)}
    shapes |= {"blocks.5.pool.pre_conv.weight": (432, 192, 1, 1, 1), **norm("blocks.5.pool.pre_norm", 432)}
    return {**shapes, "blocks.5.pool.post_conv.weight": (2048, 432, 1, 1, 1), **linear("blocks.5.proj", 400, 2048)}


def videomae(query="query.bias", value="value.bias"):
    shapes = {"videomae.embeddings.patch_embeddings.projection.weight": (768, 3, 2, 16, 16)}
    shapes |= {"videomae.embeddings.patch_embeddings.projection.bias": (768,)}
    for i in range(12):
        layer = f"videomae.encoder.layer.{i}"
        attention = f"{layer}.attention.attention"
        shapes |= {f"{attention}.{name}.weight": (768, 768) for name in ("query", "key", "value")}
        shapes |= {f"{attention}.{query}": (768,), f"{attention}.{value}": (768,)}
        shapes |= {**linear(f"{layer}.attention.output.dense", 768, 768)}
        shapes |= {**linear(f"{layer}.intermediate.dense", 3072, 768), **linear(f"{layer}.output.dense", 768, 3072)}
        for name in ("layernorm_before", "layernorm_after"):
            shapes |= {f"{layer}.{name}.weight": (768,), f"{layer}.{name}.bias": (768,)}
    return {**shapes, "fc_norm.weight": (768,), "fc_norm.bias": (768,), **linear("classifier", 400, 768)}


PUBLISHED = {
    "tsn_r50": segments(),
    "tsm_r50": segments(first=".net"),
    "r50_lstm": r50_lstm(),
    "slowfast_r50": slowfast(),
    "x3d_s": x3d(),
    "x3d_m": x3d(),
    "videomae_b": videomae(),
}
# What the authors' files put in front of names, and under which key.
FILES = {
    "tsn_r50": ("module.", "state_dict"),
    "tsm_r50": ("module.", "state_dict"),
    "r50_lstm": ("", None),
    "slowfast_r50": ("", "model_state"),
    "x3d_s": ("", "model_state"),
    "x3d_m": ("", "model_state"),
    "videomae_b": ("", None),
}


def values(shapes):
    """A number for each name, filling its shape without taking up its space."""
    return {name: torch.tensor(1 + i % 991).float().expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def write(path, shapes, prefix="", key=None):
    state = {prefix + name: tensor for name, tensor in values(shapes).items()}
    torch.save(state if key is None else {"epoch": 50, "best_prec1": 71.2, key: state}, path)


def parameters(shapes):
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(STATISTICS))


def flat(shape):
    """A kernel that is one frame deep as the 2-D one that it stands for."""
    return (*shape[:2], *shape[3:]) if len(shape) == 5 and shape[2] == 1 else tuple(shape)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        net = plugins.create("models", name).network(101 if name == "r50_lstm" else 400)
    own = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    own = {key: shape for key, shape in own.items() if not key.endswith("num_batches_tracked")}
    if name in ("tsn_r50", "tsm_r50", "r50_lstm"):
        own = {key: flat(shape) for key, shape in own.items()}
    assert own == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_says_how_many_parameters_there_are(name):
    said = re.search(r"(\d[\d ]+) parameters", plugins.find("models", name).summary)[1]
    assert int(said.replace(" ", "")) == parameters(PUBLISHED[name])


def test_numbers_of_parameters_that_others_publish():
    # configs/recognition/tsm/metafile.yml of mmaction2.
    assert parameters(segments()) == parameters(segments(first=".net")) == 24_327_632
    # docs/source/model_zoo.md of pytorchvideo.
    assert [round(parameters(shapes) / 1e6, 2) for shapes in (slowfast(), x3d())] == [34.57, 3.79]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "videomae_b" else name for name in FILES]
)
def test_the_authors_file_loads_strictly(tmp_path, name):
    write(tmp_path / "weights.pth", PUBLISHED[name], *FILES[name])
    model = plugins.create("models", name, checkpoint=tmp_path / "weights.pth").build()
    loaded = model.net.state_dict()
    for key, tensor in values(PUBLISHED[name]).items():
        assert torch.equal(loaded[key], tensor.reshape(loaded[key].shape))
    assert model.classes == (() if name == "r50_lstm" else KINETICS)
    assert model.declares_normalisation


@pytest.mark.slow
def test_videomae_loads_by_the_older_names_too(tmp_path):
    older = videomae("q_bias", "v_bias")
    assert len(set(older) - set(videomae())) == 24
    write(tmp_path / "weights.pth", older)
    loaded = plugins.create("models", "videomae_b", checkpoint=tmp_path / "weights.pth").build().net.state_dict()
    for new, tensor in zip(videomae(), values(older).values(), strict=True):
        assert torch.equal(loaded[new], tensor)


def test_weights_of_the_sister_network_are_refused(tmp_path):
    write(tmp_path / "weights.pth", PUBLISHED["tsn_r50"], "module.", "state_dict")
    missing = r"16 missing: base_model\.layer1\.0\.conv1\.net\.weight.*16 left over: base_model\.layer1\.0\.conv1"
    with pytest.raises(ModelError, match=missing):
        plugins.create("models", "tsm_r50", checkpoint=tmp_path / "weights.pth").build()


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_weights_it_says_how_to_give_them(name):
    with pytest.raises(ModelError, match=f"{name}:checkpoint=FILE"):
        plugins.create("models", name).build()
