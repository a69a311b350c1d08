"""MF-Net: residual units whose convolutions run in parallel fibers, which a multiplexer mixes."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models._published import PublishedEntry

_Extent = tuple[int, int, int]
_UNITS = (3, 4, 6, 3)
_WIDTH = 96
_STEM = 16
_FIBERS = 16
# Temporal and spatial stride of the first unit of each stage.
_STRIDES: tuple[_Extent, ...] = ((2, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2))


class MFNet3D(PublishedEntry):
    """MF-Net of 16 fibers on 16 frames of 224 x 224 pixels: 7 996 368 parameters for 400 classes. Chen et al. 2018.

    arXiv 1807.11195. Its weights are those of github.com/cypw/PyTorch-MFNet: every second frame, stretched to 256 x 256
    and cropped. There they are said to be 8.0 million. A clip has 768 x 8 x 7 x 7 features in `tail`, which the linear
    head pools.
    """

    name = "mfnet_3d"
    head = "classifier"
    feature_layer = "tail"
    input: ClassVar[ClipInput] = ClipInput(length=16, stride=2, size=(224, 224), resize=(256, 256), crop="centre")
    # network/config.py of the authors: pixels in 0..255 less 124, 117 and 104, times 0.0167.
    mean: ClassVar[tuple[float, ...]] = (124 / 255, 117 / 255, 104 / 255)
    std: ClassVar[tuple[float, ...]] = (1 / (0.0167 * 255), 1 / (0.0167 * 255), 1 / (0.0167 * 255))

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips of any size."""
        return _Network(classes)


class _Network(nn.Module):
    def __init__(
        self,
        classes: int,
        units: tuple[int, ...] = _UNITS,
        width: int = _WIDTH,
        stem: int = _STEM,
        fibers: int = _FIBERS,
    ) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        channels = [stem, *widths]
        first: OrderedDict[str, nn.Module] = OrderedDict()
        first["conv"] = nn.Conv3d(3, stem, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False)
        first["bn"] = nn.BatchNorm3d(stem)
        first["relu"] = nn.ReLU()
        self.conv1 = nn.Sequential(first)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.conv2 = _stage(units[0], channels[0], widths[0], _STRIDES[0], fibers)
        self.conv3 = _stage(units[1], channels[1], widths[1], _STRIDES[1], fibers)
        self.conv4 = _stage(units[2], channels[2], widths[2], _STRIDES[2], fibers)
        self.conv5 = _stage(units[3], channels[3], widths[3], _STRIDES[3], fibers)
        self.tail = nn.Sequential(OrderedDict(bn=nn.BatchNorm3d(widths[3]), relu=nn.ReLU()))
        self.globalpool = nn.AdaptiveAvgPool3d(1)
        self.classifier = nn.Linear(widths[3], classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.tail(self.conv5(self.conv4(self.conv3(self.conv2(x)))))
        logits: Tensor = self.classifier(self.globalpool(x).flatten(1))
        return logits


def _stage(units: int, channels: int, width: int, stride: _Extent, fibers: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(B01=_FirstUnit(channels, width, stride, fibers))
    for i in range(2, units + 1):
        layers[f"B{i:02d}"] = _Unit(width, width, _convolution(width, width, (1, 3, 3), fibers=fibers), fibers)
    return nn.Sequential(layers)


class _Unit(nn.Module):
    """A multiplexer (`i`) beside a shortcut, then two convolutions in fibers (`m`) beside another."""

    def __init__(self, channels: int, width: int, last: nn.Module, fibers: int, stride: _Extent = (1, 1, 1)) -> None:
        super().__init__()
        self.conv_i1 = _convolution(channels, width // 4)
        self.conv_i2 = _convolution(width // 4, channels)
        self.conv_m1 = _convolution(channels, width, (3, 3, 3), stride, fibers)
        self.conv_m2 = last

    def forward(self, x: Tensor) -> Tensor:
        return self._fibers(x) + x

    def _fibers(self, x: Tensor) -> Tensor:
        mixed = x + self.conv_i2(self.conv_i1(x))
        out: Tensor = self.conv_m2(self.conv_m1(mixed))
        return out


class _FirstUnit(_Unit):
    """The unit that changes stride and channels: a convolution (`w`) bridges it."""

    def __init__(self, channels: int, width: int, stride: _Extent, fibers: int) -> None:
        super().__init__(channels, width, _convolution(width, width), fibers, stride)
        self.conv_w1 = _convolution(channels, width, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self._fibers(x) + self.conv_w1(x)  # type: ignore[no-any-return]


def _convolution(
    channels: int, out: int, kernel: _Extent = (1, 1, 1), stride: _Extent = (1, 1, 1), fibers: int = 1
) -> nn.Sequential:
    """Batch norm, ReLU and a convolution that leaves the size as it is but for the stride."""
    t, h, w = kernel
    conv = nn.Conv3d(channels, out, kernel, stride, (t // 2, h // 2, w // 2), groups=fibers, bias=False)
    return nn.Sequential(OrderedDict(bn=nn.BatchNorm3d(channels), relu=nn.ReLU(), conv=conv))


def _initialise(net: nn.Module) -> None:
    """Draw the weights as the authors do (Glorot and Bengio 2010)."""
    for module in net.modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
