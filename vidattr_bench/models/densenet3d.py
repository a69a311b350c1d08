"""The 3D DenseNet of Hara et al.: every layer reads what all layers of its block before it put out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidattr_bench.models._hara import HaraEntry, initialise

_BLOCKS = (6, 12, 24, 16)
_STEM = 64
_GROWTH = 32
_BOTTLENECK = 4


class DenseNet3D121(HaraEntry):
    """3D-DenseNet-121 on 16 frames of 112 x 112 pixels: 11 696 528 parameters for 400 classes. Hara et al. 2018.

    arXiv 1711.09577. Its weights are densenet-121-kinetics.pth of github.com/kenshohara/3D-ResNets-PyTorch. A clip has
    1024 x 2 x 7 x 7 features in `features.denseblock3`; the linear head pools `features`, 1024 x 1 x 3 x 3. The number
    of parameters is that of the authors' code, who publish none.
    """

    name = "densenet3d_121"
    head = "classifier"
    feature_layer = "features.denseblock3"

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips of 16 x 32 x 32 pixels and more."""
        return _Network(_BLOCKS, classes)


class _Network(nn.Module):
    def __init__(self, blocks: Sequence[int], classes: int, stem: int = _STEM, growth: int = _GROWTH) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv0"] = nn.Conv3d(3, stem, 7, (1, 2, 2), 3, bias=False)
        layers["norm0"] = nn.BatchNorm3d(stem)
        layers["relu0"] = nn.ReLU()
        layers["pool0"] = nn.MaxPool3d(3, 2, 1)
        channels = stem
        for i, n in enumerate(blocks, start=1):
            layers[f"denseblock{i}"] = _block(n, channels, growth)
            channels += n * growth
            if i < len(blocks):
                layers[f"transition{i}"] = _transition(channels)
                channels //= 2
        layers["norm5"] = nn.BatchNorm3d(channels)
        layers["relu5"] = nn.ReLU()
        self.features = nn.Sequential(layers)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def _block(layers: int, channels: int, growth: int) -> nn.Sequential:
    dense = {f"denselayer{i + 1}": _DenseLayer(channels + i * growth, growth) for i in range(layers)}
    return nn.Sequential(OrderedDict(dense))


class _DenseLayer(nn.Module):
    """A 1 x 1 x 1 and a 3 x 3 x 3 convolution, their output behind the input's channels.

    The authors' names `norm.1` and `conv.2` have a dot, which torch took in names of modules before version 0.4; here
    it parts two of them.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        middle = _BOTTLENECK * growth
        self.norm = nn.ModuleDict({"1": nn.BatchNorm3d(channels), "2": nn.BatchNorm3d(middle)})
        self.relu = nn.ModuleDict({"1": nn.ReLU(), "2": nn.ReLU()})
        self.conv = nn.ModuleDict(
            {
                "1": nn.Conv3d(channels, middle, 1, bias=False),
                "2": nn.Conv3d(middle, growth, 3, 1, 1, bias=False),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        new = x
        for i in ("1", "2"):
            new = self.conv[i](self.relu[i](self.norm[i](new)))
        return torch.cat([x, new], 1)


def _transition(channels: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["norm"] = nn.BatchNorm3d(channels)
    layers["relu"] = nn.ReLU()
    layers["conv"] = nn.Conv3d(channels, channels // 2, 1, bias=False)
    layers["pool"] = nn.AvgPool3d(2, 2)
    return nn.Sequential(layers)
