"""Writes small two-stream networks as the training scripts of Feichtenhofer et al. save theirs: a DagNN in a .mat file.

Names of layers are those of cnn_ucf101_fusion.m (twostreamfusion) and STResNet_stage2.m (st-resnet), fields those of
DagNN's saveobj.m. Run as a script, it writes below the folder that is its only argument.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

CLASSES = 5
CONVOLUTIONS = (2, 2, 3, 3, 3)
WIDTHS = (4, 5, 6, 7, 8)
UNITS = 9
PLACES = (1, 2)  # that five poolings leave of 40 x 72 pixels
RESIDUAL = (2, 3, 2, 3)
WIDTH = 3
FLOW = np.linspace(127, 129, 20)
RGB = np.array([124.0, 117.0, 104.0])

Layer = tuple[str, str, tuple[str, ...]]
"""Name, type and names of parameters."""
Network = tuple[list[Layer], dict[str, np.ndarray]]
"""Layers in order, and parameters by name."""


class _Draft:
    """Layers of one stream, whose names end in its own, with random parameters."""

    def __init__(self, stream: str, random: np.random.Generator) -> None:
        self.stream, self.random = stream, random
        self.layers: list[Layer] = []
        self.params: dict[str, np.ndarray] = {}

    def add(self, name: str, kind: str, **params: np.ndarray) -> None:
        named = {f"{param}_{self.stream}": value.astype(np.float32) for param, value in params.items()}
        self.layers.append((f"{name}_{self.stream}", f"dagnn.{kind}", tuple(named)))
        self.params |= named

    def conv(self, name: str, *shape: int, bias: str = "", filters: str = "", kind: str = "Conv") -> None:
        scale = (2 / np.prod(shape[:-1])) ** 0.5
        params = {filters or f"{name}_filter": self.random.normal(scale=scale, size=shape)}
        if bias:
            params[bias] = self.random.normal(scale=0.2, size=(1, shape[-1]))
        self.add(name, kind, **params)

    def norm(self, name: str, channels: int) -> None:
        draw = self.random
        moments = np.stack([draw.normal(scale=0.2, size=channels), draw.uniform(0.7, 1.4, channels)], 1)
        mult, bias = draw.uniform(0.7, 1.3, (channels, 1)), draw.normal(scale=0.2, size=(channels, 1))
        self.add(name, "BatchNorm", **{f"{name}_mult": mult, f"{name}_bias": bias, f"{name}_moments": moments})


def two_stream_vgg16(seed: int = 0) -> Network:
    """VGG-16 with conv5 fusion: WIDTHS channels, UNITS units, CLASSES classes."""
    random = np.random.default_rng(seed)
    drafts = []
    for stream, channels in (("spatial", 3), ("temporal", 20)):
        draft = _Draft(stream, random)
        for i, (count, width) in enumerate(zip(CONVOLUTIONS, WIDTHS, strict=True), start=1):
            for j in range(1, count + 1):
                name = f"conv{i}_{j}"
                draft.conv(name, 3, 3, channels, width, filters=f"{name}f", bias=f"{name}b")
                draft.add(f"relu{i}_{j}", "ReLU")
                channels = width
            draft.add(f"pool{i}" if i < 5 else "pool3D5", "Pooling" if i < 5 else "Pooling3D")
        for name, shape in (("fc6", (*PLACES, channels, UNITS)), ("fc7", (1, 1, UNITS, UNITS))):
            draft.conv(name, *shape, filters=f"{name}f", bias=f"{name}b")
            draft.add(f"relu{name[2]}", "ReLU")
            draft.add(f"layer{33 + 3 * (name == 'fc7')}", "DropOut")
        # The last layer is renamed, its parameters are not.
        draft.conv("prediction", 1, 1, UNITS, CLASSES, filters="layer37f", bias="layer37b")
        draft.add("loss", "Loss")
        drafts.append(draft)
    fusion: Layer = ("conv53D", "dagnn.Conv3D", ("conv3Df", "conv3Db"))
    width = WIDTHS[-1]
    params = {
        "conv3Df": random.normal(scale=0.1, size=(3, 3, 3, 2 * width, width)).astype(np.float32),
        "conv3Db": random.normal(scale=0.2, size=(1, width)).astype(np.float32),
    }
    layers = [*drafts[0].layers, fusion, ("relu3D5", "dagnn.ReLU", ()), *drafts[1].layers]
    return layers, {**drafts[0].params, **drafts[1].params, **params}


def st_resnet(seed: int = 0) -> Network:
    """ST-ResNet with RESIDUAL units in its stages, WIDTH channels in its first layer and CLASSES classes."""
    random = np.random.default_rng(seed)
    drafts = []
    for stream, channels in (("spatial", 3), ("temporal", 20)):
        draft = _Draft(stream, random)
        draft.conv("conv1", 7, 7, channels, WIDTH, bias="conv1_bias")
        draft.norm("bn_conv1", WIDTH)
        draft.add("conv1_relu", "ReLU")
        draft.add("pool1", "Pooling")
        channels = WIDTH
        for unit, inner, _ in units():
            _unit(draft, unit, channels, inner)
            channels = 4 * inner
        draft.add("res5c_relu_pool", "PoolTime")
        draft.add("pool5", "Pooling")
        # In the temporal stream a dropout lay between the classifier and the loss, and was renamed in its place.
        name = "prediction" if stream == "spatial" else "fc1000"
        draft.conv(name, 1, 1, channels, CLASSES, filters="fc1000_filter", bias="fc1000_bias")
        draft.add("loss", "Loss")
        drafts.append(draft)
    return [*drafts[0].layers, *drafts[1].layers], {**drafts[0].params, **drafts[1].params}


def base_stream(network: Network, stream: str) -> Network:
    """A stream as it was before it was joined to the other: names without its own, kernels one frame deep."""
    layers, params = network
    own = {name.removesuffix(f"_{stream}"): value for name, value in params.items() if name.endswith(f"_{stream}")}
    alone = []
    for name, kind, held in layers:
        if not name.endswith(f"_{stream}"):
            continue
        names = tuple(param.removesuffix(f"_{stream}") for param in held)
        if kind == "dagnn.ConvTime":
            own[names[0]] = own[names[0]][:, :1]
        alone.append((name.removesuffix(f"_{stream}"), kind.replace("ConvTime", "Conv"), names))
    return alone, own


def units() -> Iterator[tuple[str, int, int]]:
    """Name, inner channels and stride of each residual unit."""
    for stage, count in enumerate(RESIDUAL):
        for i in range(count):
            yield f"{stage + 2}{'abcdef'[i]}", WIDTH * 2**stage, 2 if stage and i == 0 else 1


def _unit(draft: _Draft, unit: str, channels: int, inner: int) -> None:
    over_time = unit.endswith("b")
    pointwise = {"kind": "ConvTime"} if over_time else {}
    frames = 3 if over_time else 1
    if unit.endswith("a"):
        draft.conv(f"res{unit}_branch1", 1, 1, channels, 4 * inner)
        draft.norm(f"bn{unit}_branch1", 4 * inner)
    draft.conv(f"res{unit}_branch2a", 1, frames, channels, inner, **pointwise)
    draft.norm(f"bn{unit}_branch2a", inner)
    draft.add(f"res{unit}_branch2a_relu", "ReLU")
    draft.conv(f"res{unit}_branch2b", 3, 3, inner, inner)
    draft.norm(f"bn{unit}_branch2b", inner)
    draft.add(f"res{unit}_branch2b_relu", "ReLU")
    draft.conv(f"res{unit}_branch2c", 1, frames, inner, 4 * inner, **pointwise)
    draft.norm(f"bn{unit}_branch2c", 4 * inner)
    draft.add(f"res{unit}", "Sum")
    draft.add(f"res{unit}_relu", "ReLU")


def write(
    path: Path, network: Network, image: np.ndarray | None = None, wrapped: bool = True, meta: object = None
) -> Path:
    """Save a network as MATLAB does.

    Args:
        path: the file.
        network: its layers and parameters.
        image: the mean image, by default that of the flow's channels and the pixels'.
        wrapped: under `net`, as training saves it; else its fields as they are.
        meta: instead of the mean image and its size.
    """
    layers, params = network
    image = np.concatenate([FLOW, RGB]).reshape(1, 1, -1) if image is None else image
    described = {"normalization": {"averageImage": image, "imageSize": [224.0, 224.0, 20.0]}}
    net = {
        "layers": _structs(
            ("name", "type", "inputs", "outputs", "params", "block"),
            [(name, kind, "x", "y", _cell(held), {"opts": "cuDNN"}) for name, kind, held in layers],
        ),
        "params": _structs(("name", "value", "learningRate"), [(*param, 1.0) for param in params.items()]),
        "meta": described if meta is None else meta,
        "vars": _structs(("name", "precious"), [("input", 0.0)]),
    }
    savemat(path, {"net": net, "state": {"stats": 1.0}} if wrapped else net, do_compression=True)
    return path


def _structs(fields: Sequence[str], rows: Sequence[tuple[object, ...]]) -> np.ndarray:
    """A 1 x n array of structs, which MATLAB indexes with parentheses."""
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


def _cell(texts: Sequence[str]) -> np.ndarray:
    cell = np.empty((1, len(texts)), dtype=object)
    cell[0, :] = texts
    return cell


if __name__ == "__main__":
    root = Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    write(root / "ucf101-twostreamfusion-vgg16-split1.mat", two_stream_vgg16())
    write(root / "ucf101-ST-ResNet50-final-split1.mat", st_resnet())
