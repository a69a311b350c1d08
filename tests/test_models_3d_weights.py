"""The 3-D networks against their authors' files: every name and shape, written out here from the published code.

Sources: 3D-ResNets-PyTorch (branch CVPR2018: models/resnet.py, models/densenet.py), pytorch-i3d (pytorch_i3d.py),
kinetics_i3d_pytorch (src/i3dpt.py), c3d-pytorch (C3D_model.py), PyTorch-MFNet (network/mfnet_3d.py).
"""

import math
import re

import pytest
import torch
from torchvision.models.video import R3D_18_Weights

from vidattr_bench import plugins
from vidattr_bench.errors import ModelError
from vidattr_bench.zoo import create_model

KINETICS = tuple(R3D_18_Weights.DEFAULT.meta["categories"])
STATISTICS = ("running_mean", "running_var")
# Branches of I3D's mixed units: convolutions 0, 1a, 1b, 2a, 2b, 3b, and the channels that come in.
MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def norm(name, channels):
    return {f"{name}.{key}": (channels,) for key in ("weight", "bias", *STATISTICS)}


def resnet(*blocks):
    shapes = {"conv1.weight": (64, 3, 7, 7, 7), **norm("bn1", 64)}
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
        for i in range(count):
            block = f"layer{stage}.{i}"
            channels = 4 * width if i else 64 if stage == 1 else 2 * width
            shapes |= {f"{block}.conv1.weight": (width, channels, 1, 1, 1), **norm(f"{block}.bn1", width)}
            shapes |= {f"{block}.conv2.weight": (width, width, 3, 3, 3), **norm(f"{block}.bn2", width)}
            shapes |= {f"{block}.conv3.weight": (4 * width, width, 1, 1, 1), **norm(f"{block}.bn3", 4 * width)}
            if i == 0:
                shapes |= {f"{block}.downsample.0.weight": (4 * width, channels, 1, 1, 1)}
                shapes |= norm(f"{block}.downsample.1", 4 * width)
    return {**shapes, "fc.weight": (400, 2048), "fc.bias": (400,)}


def basic_resnet(*blocks):
    """Shortcuts of type A have no weights."""
    shapes = {"conv1.weight": (64, 3, 7, 7, 7), **norm("bn1", 64)}
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
        for i in range(count):
            block = f"layer{stage}.{i}"
            channels = width if i or stage == 1 else width // 2
            shapes |= {f"{block}.conv1.weight": (width, channels, 3, 3, 3), **norm(f"{block}.bn1", width)}
            shapes |= {f"{block}.conv2.weight": (width, width, 3, 3, 3), **norm(f"{block}.bn2", width)}
    return {**shapes, "fc.weight": (400, 512), "fc.bias": (400,)}


def densenet():
    shapes = {"features.conv0.weight": (64, 3, 7, 7, 7), **norm("features.norm0", 64)}
    channels = 64
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for i in range(1, layers + 1):
            layer = f"features.denseblock{block}.denselayer{i}"
            shapes |= {**norm(f"{layer}.norm.1", channels), f"{layer}.conv.1.weight": (128, channels, 1, 1, 1)}
            shapes |= {**norm(f"{layer}.norm.2", 128), f"{layer}.conv.2.weight": (32, 128, 3, 3, 3)}
            channels += 32
        if block < 4:
            transition = f"features.transition{block}"
            shapes |= {**norm(f"{transition}.norm", channels)}
            shapes |= {f"{transition}.conv.weight": (channels // 2, channels, 1, 1, 1)}
            channels //= 2
    return {**shapes, **norm("features.norm5", 1024), "classifier.weight": (400, 1024), "classifier.bias": (400,)}


def mfnet():
    shapes = {"conv1.conv.weight": (16, 3, 3, 5, 5), **norm("conv1.bn", 16)}
    for stage, (units, width) in enumerate(zip((3, 4, 6, 3), (96, 192, 384, 768), strict=True), start=2):
        for i in range(1, units + 1):
            channels = width if i > 1 else 16 if stage == 2 else width // 2
            last = (width, width, 1, 1, 1) if i == 1 else (width, width // 16, 1, 3, 3)
            convolutions = {
                "i1": (channels, (width // 4, channels, 1, 1, 1)),
                "i2": (width // 4, (channels, width // 4, 1, 1, 1)),
                "m1": (channels, (width, channels // 16, 3, 3, 3)),
                "m2": (width, last),
                **({"w1": (channels, (width, channels, 1, 1, 1))} if i == 1 else {}),
            }
            for key, (before, shape) in convolutions.items():
                unit = f"conv{stage}.B{i:02d}.conv_{key}"
                shapes |= {**norm(f"{unit}.bn", before), f"{unit}.conv.weight": shape}
    return {**shapes, **norm("tail.bn", 768), "classifier.weight": (400, 768), "classifier.bias": (400,)}


def c3d(classes=487):
    layers = {"conv1": (64, 3), "conv2": (128, 64), "conv3a": (256, 128), "conv3b": (256, 256)}
    layers |= {"conv4a": (512, 256), "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512)}
    shapes = {f"{name}.weight": (*channels, 3, 3, 3) for name, channels in layers.items()}
    shapes |= {"fc6.weight": (4096, 8192), "fc7.weight": (4096, 4096), "fc8.weight": (classes, 4096)}
    return {**shapes, **{name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}}


def i3d(channels, names):
    """`names`: of the unit, of its convolution's place in a mixed unit, of the norm, of the head."""
    unit, branches, batch_norm, head = names
    kernels = {"1a_7x7": (64, channels, 7, 7, 7), "2b_1x1": (64, 64, 1, 1, 1), "2c_3x3": (192, 64, 3, 3, 3)}
    convolutions = {f"{unit}onv3d_{key}": shape for key, shape in kernels.items()}
    for key, (before, b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        mixed = f"{'M' if unit == 'C' else 'm'}ixed_{key}"
        pairs = [(b0, before, 1), (b1a, before, 1), (b1b, b1a, 3), (b2a, before, 1), (b2b, b2a, 3), (b3b, before, 1)]
        for branch, (out, into, size) in zip(branches, pairs, strict=True):
            convolutions[f"{mixed}.{branch}"] = (out, into, size, size, size)
    shapes = {f"{name}.conv3d.weight": shape for name, shape in convolutions.items()}
    for name, shape in convolutions.items():
        shapes |= norm(f"{name}.{batch_norm}", shape[0])
    return {**shapes, f"{head}.conv3d.weight": (400, 1024, 1, 1, 1), f"{head}.conv3d.bias": (400,)}


PIERGIAJ = ("C", ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"), "bn", "logits")
HASSON = (
    "c",
    ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1"),
    "batch3d",
    "conv3d_0c_1x1",
)
PUBLISHED = {
    "resnet3d_18": basic_resnet(2, 2, 2, 2),
    "resnet3d_34": basic_resnet(3, 4, 6, 3),
    "resnet3d_50": resnet(3, 4, 6, 3),
    "resnet3d_101": resnet(3, 4, 23, 3),
    "resnet3d_152": resnet(3, 8, 36, 3),
    "densenet3d_121": densenet(),
    "mfnet_3d": mfnet(),
    "i3d": i3d(3, PIERGIAJ),
    "i3d_flow": i3d(2, PIERGIAJ),
    "c3d": c3d(),
}
OTHER_PORT = {"i3d": i3d(3, HASSON), "i3d_flow": i3d(2, HASSON)}
# Beside each: how the authors' file wraps the names.
FILES = {
    "resnet3d_18": ("module.", "state_dict"),
    "resnet3d_50": ("module.", "state_dict"),
    "densenet3d_121": ("module.", "state_dict"),
    "mfnet_3d": ("module.", "state_dict"),
    "i3d": ("", None),
    "i3d_flow": ("", None),
}
LARGE = {
    "resnet3d_34": ("module.", "state_dict"),
    "resnet3d_101": ("module.", "state_dict"),
    "resnet3d_152": ("module.", "state_dict"),
    "c3d": ("", None),
}


def values(shapes):
    """A number for each name, filling its shape without taking up its space."""
    return {name: torch.tensor(1 + i % 991).float().expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def write(path, shapes, prefix="", key=None):
    state = {prefix + name: tensor for name, tensor in values(shapes).items()}
    content = state if key is None else {"epoch": 101, "arch": "net", key: state, "optimizer": {"state": {}}}
    # The files of 2018 are older than the zip format.
    torch.save(content, path, _use_new_zipfile_serialization=False)


def untrained(name, classes=400):
    with torch.device("meta"):
        return plugins.create("models", name).network(classes)


def parameters(shapes):
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(STATISTICS))


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(name):
    net = untrained(name, 487 if name == "c3d" else 400)
    own = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    assert {key: shape for key, shape in own.items() if not key.endswith("num_batches_tracked")} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_says_how_many_parameters_there_are(name):
    said = re.search(r"(\d[\d ]+) parameters", plugins.find("models", name).summary)[1]
    assert int(said.replace(" ", "")) == parameters(PUBLISHED[name])


def test_numbers_of_parameters_that_others_publish():
    # MedicalNet's README: one input channel, no fc, and the batch norms' statistics counted too.
    resnets = [PUBLISHED[f"resnet3d_{depth}"] for depth in (18, 34, 50, 101, 152)]
    trunks = [sum(math.prod(shape) for name, shape in net.items() if "fc" not in name) for net in resnets]
    assert [round((n - 2 * 64 * 343) / 1e6, 2) for n in trunks] == [32.99, 63.31, 46.21, 85.31, 117.51]
    # README of PyTorch-MFNet.
    assert round(parameters(mfnet()) / 1e6, 1) == 8.0
    # configs/recognition/c3d/metafile.yml of mmaction2.
    assert parameters(c3d(101)) == 78_409_573
    # The tensors of DeepMind's model.ckpt.index but for moving averages: batch norms there have no factor.
    factors = sum(shape[0] for name, shape in i3d(3, PIERGIAJ).items() if name.endswith("bn.weight"))
    assert factors == 7280
    assert [parameters(i3d(c, PIERGIAJ)) - factors for c in (3, 2)] == [12_682_304 + 7680, 12_660_352 + 7680]


def assert_loads(path, name, shapes, translated=None):
    model = plugins.create("models", name, checkpoint=path, **({"bgr": False} if name == "c3d" else {})).build()
    loaded = model.net.state_dict()
    ours = dict(zip(translated or shapes, values(shapes).values(), strict=True))
    assert all(torch.equal(loaded[key], tensor) for key, tensor in ours.items())
    assert model.classes == (() if name == "c3d" else KINETICS)
    assert model.declares_normalisation


@pytest.mark.parametrize(("name", "wrapped"), FILES.items(), ids=FILES)
def test_the_authors_file_loads_strictly(tmp_path, name, wrapped):
    write(tmp_path / "weights.pth", PUBLISHED[name], *wrapped)
    assert_loads(tmp_path / "weights.pth", name, PUBLISHED[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrapped"), LARGE.items(), ids=LARGE)
def test_the_authors_large_file_loads_strictly(tmp_path, name, wrapped):
    write(tmp_path / "weights.pth", PUBLISHED[name], *wrapped)
    assert_loads(tmp_path / "weights.pth", name, PUBLISHED[name])


@pytest.mark.parametrize("name", OTHER_PORT)
def test_the_other_port_of_i3d_loads_too(tmp_path, name):
    write(tmp_path / "weights.pth", OTHER_PORT[name])
    assert_loads(tmp_path / "weights.pth", name, OTHER_PORT[name], translated=PUBLISHED[name])


def test_missing_and_left_over_names_are_said(tmp_path):
    shapes = dict(PUBLISHED["mfnet_3d"])
    shapes["conv5.B03.conv_w1.conv.weight"] = shapes.pop("conv5.B03.conv_m2.conv.weight")
    write(tmp_path / "weights.pth", shapes, "module.", "state_dict")
    expected = r"1 missing: conv5\.B03\.conv_m2\.conv\.weight .*; 1 left over: conv5\.B03\.conv_w1\.conv\.weight"
    with pytest.raises(ModelError, match=expected):
        plugins.create("models", "mfnet_3d", checkpoint=tmp_path / "weights.pth").build()
    write(tmp_path / "weights.pth", PUBLISHED["i3d"])
    with pytest.raises(ModelError, match=r"missing: classifier\.weight|missing: features\.conv0\.weight"):
        plugins.create("models", "densenet3d_121", checkpoint=tmp_path / "weights.pth").build()


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_weights_it_says_how_to_give_them(name):
    with pytest.raises(ModelError, match=f"{name}:checkpoint=FILE"):
        create_model(name).build()
