"""ST-ResNet-50: two ResNet-50 streams; motion is added to the residual units of the stream of appearance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models import _two_stream as two_stream
from vidattr_bench.models._two_stream import TwoStreamEntry

_UNITS = (3, 4, 6, 3)
_WIDTH = 64
_EXPANSION = 4
_OVER_TIME = re.compile(r"\.res\db\.branch2[ac]\.weight$")
_UNIT_LAYER = re.compile(r"^(?:res(?P<unit>\d[a-z])_|(?P<norm>bn)(?P<normed>\d[a-z])_)(?P<layer>branch\w+)$")


class STResNet50(TwoStreamEntry):
    """ST-ResNet-50 on 11 frames of 224 x 224 pixels: 58 624 522 parameters for 101 classes. Feichtenhofer et al. 2016.

    arXiv 1611.02155. A frame's 23 channels are RGB and ten fields of TV-L1 flow, from five frames before it to four
    after it, right and down by turns. In every stage the temporal stream's activations after the first unit are added
    to what the second unit of the spatial stream transforms, and the second units convolve over 3 frames. A clip has
    2048 x 11 x 7 x 7 features in `spatial.res5c_relu`, which have taken motion in, and in `temporal.res5c_relu`; both
    are max-pooled over 5 frames, averaged and scored, and the logits are the mean of both scores, so that there is no
    linear head on one global average. Weights are what STResNet_stage2.m of github.com/feichtenhofer/st-resnet saves
    (.mat, read with scipy; no code in it is run), or those of a port by its names of layers. It is trained on 11
    frames; its tests take 25 frames spread over the video, and mirror them. The number of parameters is computed; the
    mean colour is that of ResNet's authors, as github.com/chainer/chainercv gives it.
    """

    name = "st_resnet50"
    feature_layer = "spatial.res5c_relu"
    feature_layers: ClassVar[Mapping[str, str]] = {"rgb": "spatial.res5c_relu", "flow": "temporal.res5c_relu"}
    input: ClassVar[ClipInput] = ClipInput(
        length=11, anchor="spread", size=(224, 224), resize=256, crop="centre", flow=two_stream.FIELDS
    )
    mean: ClassVar[tuple[float, ...]] = two_stream.mean_of((123.15163084, 115.90288257, 103.0626238))

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips (N, 23, T, H, W) of five frames and more."""
        return _Network(classes)

    def place(self, layer: str, stream: str) -> str:
        """Our name of what the authors call `layer` of the stream `spatial` or `temporal`."""
        found = _UNIT_LAYER.match(layer)
        if found is None:
            return f"{stream}.{layer}"
        norm = "bn_" if found["norm"] else ""
        return f"{stream}.res{found['unit'] or found['normed']}.{norm}{found['layer']}"

    def joined(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of streams that were trained apart, with what joins them as the authors' training starts it."""
        return {
            name: tensor.repeat(1, 1, 3, 1, 1) / 3 if _OVER_TIME.search(name) else tensor
            for name, tensor in state.items()
        }


class _Network(nn.Module):
    def __init__(self, classes: int, units: Sequence[int] = _UNITS, width: int = _WIDTH) -> None:
        super().__init__()
        self.spatial = _Stream(two_stream.PIXELS, units, width)
        self.temporal = _Stream(2 * two_stream.FIELDS, units, width)
        self.spatial_head = _Head(self.spatial.channels, classes)
        self.temporal_head = _Head(self.temporal.channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        rgb, flow = two_stream.streams(x)
        motion, added = self.temporal(flow)
        appearance, _ = self.spatial(rgb, added)
        return two_stream.average(self.spatial_head(appearance), self.temporal_head(motion))


class _Stream(nn.Module):
    """ResNet-50 of frames up to its last unit, by the names of its authors' layers, with their strides and padding."""

    def __init__(self, channels: int, units: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1 = two_stream.frame_wise(channels, width, 7, 2)
        self.bn_conv1 = nn.BatchNorm3d(width)
        self.conv1_relu = nn.ReLU()
        self.pool1 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), ceil_mode=True)
        self.names: list[str] = []
        self.channels = width
        for stage, count in enumerate(units):
            inner = width * 2**stage
            for i in range(count):
                name = f"res{stage + 2}{'abcdef'[i]}"
                self.add_module(name, _Unit(self.channels, inner, 2 if stage and i == 0 else 1, over_time=i == 1))
                self.add_module(f"{name}_relu", nn.ReLU())
                self.names.append(name)
                self.channels = _EXPANSION * inner

    def forward(self, x: Tensor, added: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        """Features (N, C, T, h, w), and the activations after the first unit of each stage.

        Args:
            x: (N, channels, T, H, W).
            added: the other stream's activations after the first unit of each stage.
        """
        x = transformed = self.pool1(self.conv1_relu(self.bn_conv1(self.conv1(x))))
        firsts: list[Tensor] = []
        for name in self.names:
            total = getattr(self, name)(x, transformed)
            x = transformed = getattr(self, f"{name}_relu")(total)
            if name.endswith("a"):
                # Motion meets the sum before its ReLU, and only on the way that the next unit transforms.
                transformed = total + added[len(firsts)] if added else x
                firsts.append(x)
        return x, firsts


class _Unit(nn.Module):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution beside a shortcut, up to their sum; `over_time`, 1 x 1 sees 3 frames."""

    def __init__(self, channels: int, inner: int, stride: int, over_time: bool) -> None:
        super().__init__()
        out = _EXPANSION * inner
        self.branch1: nn.Module = nn.Identity()
        self.bn_branch1: nn.Module = nn.Identity()
        if channels != out:
            self.branch1 = two_stream.frame_wise(channels, out, 1, stride, bias=False)
            self.bn_branch1 = nn.BatchNorm3d(out)
        self.branch2a = _pointwise(channels, inner, stride, over_time)
        self.bn_branch2a = nn.BatchNorm3d(inner)
        self.branch2a_relu = nn.ReLU()
        self.branch2b = two_stream.frame_wise(inner, inner, 3, bias=False)
        self.bn_branch2b = nn.BatchNorm3d(inner)
        self.branch2b_relu = nn.ReLU()
        self.branch2c = _pointwise(inner, out, 1, over_time)
        self.bn_branch2c = nn.BatchNorm3d(out)

    def forward(self, x: Tensor, transformed: Tensor) -> Tensor:
        inner = self.branch2a_relu(self.bn_branch2a(self.branch2a(transformed)))
        inner = self.branch2b_relu(self.bn_branch2b(self.branch2b(inner)))
        total: Tensor = self.bn_branch1(self.branch1(x)) + self.bn_branch2c(self.branch2c(inner))
        return total


def _pointwise(channels: int, out: int, stride: int, over_time: bool) -> nn.Conv3d:
    frames = 3 if over_time else 1
    return nn.Conv3d(channels, out, (frames, 1, 1), (1, stride, stride), (frames // 2, 0, 0), bias=False)


class _Head(nn.Module):
    """Max-pooling over five frames, every second time, the mean over space, and a score: (N, t, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.res5c_relu_pool = nn.MaxPool3d((two_stream.POOLED, 1, 1), (2, 1, 1))
        self.pool5 = nn.AdaptiveAvgPool3d((None, 1, 1))
        self.prediction = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool5(self.res5c_relu_pool(x)).flatten(2)
        scores: Tensor = self.prediction(pooled.transpose(1, 2))
        return scores
