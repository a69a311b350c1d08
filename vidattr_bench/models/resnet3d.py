"""The 3D ResNets of Hara et al.: residual blocks of 3 x 3 x 3 convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vidattr_bench.models._hara import HaraEntry, initialise

_Shortcut = Literal["A", "B"]
_WIDTH = 64
# Kinetics' mean and standard deviation of pixels in [0, 1]: mean.py of the authors' branch master.
_MEAN_2020 = (0.4345, 0.4051, 0.3775)
_STD_2020 = (0.2768, 0.2713, 0.2737)


@dataclasses.dataclass(frozen=True)
class _ResNet3D(HaraEntry):
    """A 3D ResNet.

    Attributes:
        shortcut: how blocks that add channels are bridged: B, a convolution, or A, zeros.
        width: channels of the first layer, from which all others follow; the authors' weights have 64.
        release: whose normalisation the weights want: 2018 (as resnet-50-kinetics.pth) or 2020 (as r3d50_K_200ep.pth);
            by default 2018's, or what `train` recorded.
    """

    head: ClassVar[str] = "fc"
    feature_layer: ClassVar[str] = "layer3"
    blocks: ClassVar[tuple[int, ...]]
    bottlenecks: ClassVar[bool] = True

    shortcut: _Shortcut = "B"
    width: int = _WIDTH
    release: Literal[2018, 2020] | None = None

    def __post_init__(self) -> None:
        if self.release == 2020:
            object.__setattr__(self, "mean", _MEAN_2020)
            object.__setattr__(self, "std", _STD_2020)

    def asked(self) -> dict[str, Any]:
        """Also the normalisation where `release` tells it."""
        return {**super().asked(), **({} if self.release is None else {"mean": self.mean, "std": self.std})}

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips of any size."""
        block = _Bottleneck if self.bottlenecks else _Basic
        return _Network(self.blocks, classes, self.shortcut, block, self.width)


@dataclasses.dataclass(frozen=True)
class ResNet3D18(_ResNet3D):
    """3D-ResNet-18 on 16 frames of 112 x 112 pixels: 33 235 280 parameters for 400 classes. Hara et al. 2018.

    arXiv 1711.09577. Weights are those of github.com/kenshohara/3D-ResNets-PyTorch. A clip has 256 x 2 x 7 x 7 features
    in `layer3`; the linear head pools `layer4`, 512 x 1 x 4 x 4. The weights of 2018 have shortcuts of type A, those of
    2020 of type B.
    """

    name: ClassVar[str] = "resnet3d_18"
    blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)
    bottlenecks: ClassVar[bool] = False

    shortcut: _Shortcut = "A"


class ResNet3D34(ResNet3D18):
    """3D-ResNet-34: as 3D-ResNet-18, with 3, 4, 6 and 3 blocks: 63 544 912 parameters. Hara et al. 2018.

    arXiv 1711.09577. It has the layers of resnet3d_18.
    """

    name = "resnet3d_34"
    blocks = (3, 4, 6, 3)


class ResNet3D50(_ResNet3D):
    """3D-ResNet-50 on 16 frames of 112 x 112 pixels: 47 018 576 parameters for 400 classes. Hara et al. 2018.

    arXiv 1711.09577. Weights are those of github.com/kenshohara/3D-ResNets-PyTorch. A clip has 1024 x 2 x 7 x 7
    features in `layer3`; the linear head pools `layer4`, 2048 x 1 x 4 x 4. From 18 to 152 layers
    github.com/Tencent/MedicalNet says 32.99, 63.31, 46.21, 85.31 and 117.51 million: these for one input channel,
    without `fc`, and with the batch norms' statistics.
    """

    name = "resnet3d_50"
    blocks = (3, 4, 6, 3)


class ResNet3D101(_ResNet3D):
    """3D-ResNet-101: as 3D-ResNet-50, with 23 blocks in `layer3`: 86 064 720 parameters. Hara et al. 2018.

    arXiv 1711.09577. It has the layers of resnet3d_50.
    """

    name = "resnet3d_101"
    blocks = (3, 4, 23, 3)


class ResNet3D152(_ResNet3D):
    """3D-ResNet-152: as 3D-ResNet-50, with 8 and 36 blocks in the middle: 118 223 440 parameters. Hara et al. 2018.

    arXiv 1711.09577. It has the layers of resnet3d_50.
    """

    name = "resnet3d_152"
    blocks = (3, 8, 36, 3)


class _Network(nn.Module):
    def __init__(self, blocks: Sequence[int], classes: int, shortcut: str, block: type[_Block], width: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        channels = [width, *(block.expansion * w for w in widths)]
        self.conv1 = nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.layer1 = _stage(block, blocks[0], channels[0], widths[0], 1, shortcut)
        self.layer2 = _stage(block, blocks[1], channels[1], widths[1], 2, shortcut)
        self.layer3 = _stage(block, blocks[2], channels[2], widths[2], 2, shortcut)
        self.layer4 = _stage(block, blocks[3], channels[3], widths[3], 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(channels[4], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(block: type[_Block], blocks: int, channels: int, width: int, stride: int, shortcut: str) -> nn.Sequential:
    first = block(channels, width, stride, shortcut)
    return nn.Sequential(first, *(block(block.expansion * width, width, 1, shortcut) for _ in range(blocks - 1)))


class _Block(nn.Module):
    """Convolutions of `width` channels beside a shortcut."""

    expansion: ClassVar[int]

    def __init__(self, channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.downsample = _bridge(channels, self.expansion * width, stride, shortcut)


class _Basic(_Block):
    """Two 3 x 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__(channels, width, stride, shortcut)
        self.conv1 = nn.Conv3d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv3d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(inner + self.downsample(x))
        return out


class _Bottleneck(_Block):
    """A 1 x 1 x 1, a 3 x 3 x 3 and a 1 x 1 x 1 convolution, the last of four times as many channels."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__(channels, width, stride, shortcut)
        out = self.expansion * width
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv3d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv3d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        inner = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(inner)))))
        out: Tensor = self.relu3(inner + self.downsample(x))
        return out


def _bridge(channels: int, out: int, stride: int, shortcut: str) -> nn.Module:
    if stride == 1 and channels == out:
        return nn.Identity()
    if shortcut == "A":
        return _ZeroPadding(out - channels, stride)
    return nn.Sequential(nn.Conv3d(channels, out, 1, stride, bias=False), nn.BatchNorm3d(out))


class _ZeroPadding(nn.Module):
    """Every `stride`-th voxel, and zeros in `added` channels; gradients pass, which the authors cut here."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added = added
        self.pool = nn.AvgPool3d(1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.pool(x), (0, 0, 0, 0, 0, 0, 0, self.added))
