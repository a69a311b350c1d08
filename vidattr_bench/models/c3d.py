"""C3D: eight 3 x 3 x 3 convolutions and two fully connected layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models._published import PublishedEntry

_WIDTH = 64
_UNITS = 4096
_PLACES = 1 * 4 * 4  # what 16 frames of 112 x 112 pixels leave


@dataclasses.dataclass(frozen=True)
class C3D(PublishedEntry):
    """C3D on 16 frames of 112 x 112 pixels: 79 991 015 parameters for the 487 classes of Sports-1M. Tran et al. 2015.

    arXiv 1412.0767. Frames are stretched to 128 x 171 and cropped. Weights have the names of the authors' layers, as in
    github.com/DavideA/c3d-pytorch, whose padding of `pool5` is kept. A clip has 512 x 2 x 7 x 7 features in `relu5b`.
    The mean is one colour, as in github.com/jfzhang95/pytorch-video-recognition; the authors subtract a mean clip. For
    101 classes there are 78 409 573 parameters, as github.com/open-mmlab/mmaction2 says.

    Attributes:
        bgr: whether the weights expect blue first, as the authors' do (github.com/facebookarchive/C3D, issue 65).
    """

    name: ClassVar[str] = "c3d"
    head: ClassVar[str] = "fc8"
    feature_layer: ClassVar[str] = "relu5b"
    input: ClassVar[ClipInput] = ClipInput(length=16, size=(112, 112), resize=(128, 171), crop="centre")
    mean: ClassVar[tuple[float, ...]] = (102 / 255, 98 / 255, 90 / 255)
    std: ClassVar[tuple[float, ...]] = (1 / 255, 1 / 255, 1 / 255)

    bgr: bool = True

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits; RGB clips (N, 3, 16, 112, 112) -> logits (N, classes)."""
        return _Network(classes)

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights for clips with red first."""
        kernel = state.get("conv1.weight")
        if not self.bgr or kernel is None or kernel.ndim < 2:
            return state
        return {**state, "conv1.weight": kernel.flip(1)}


class _Network(nn.Module):
    def __init__(self, classes: int, width: int = _WIDTH, units: int = _UNITS, places: int = _PLACES) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.conv1, self.relu1 = _convolution(3, widths[0]), nn.ReLU()
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.conv2, self.relu2 = _convolution(widths[0], widths[1]), nn.ReLU()
        self.pool2 = nn.MaxPool3d(2)
        self.conv3a, self.relu3a = _convolution(widths[1], widths[2]), nn.ReLU()
        self.conv3b, self.relu3b = _convolution(widths[2], widths[2]), nn.ReLU()
        self.pool3 = nn.MaxPool3d(2)
        self.conv4a, self.relu4a = _convolution(widths[2], widths[3]), nn.ReLU()
        self.conv4b, self.relu4b = _convolution(widths[3], widths[3]), nn.ReLU()
        self.pool4 = nn.MaxPool3d(2)
        self.conv5a, self.relu5a = _convolution(widths[3], widths[3]), nn.ReLU()
        self.conv5b, self.relu5b = _convolution(widths[3], widths[3]), nn.ReLU()
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))
        self.fc6, self.relu6 = nn.Linear(places * widths[3], units), nn.ReLU()
        self.dropout6 = nn.Dropout()
        self.fc7, self.relu7 = nn.Linear(units, units), nn.ReLU()
        self.dropout7 = nn.Dropout()
        self.fc8 = nn.Linear(units, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.pool3(self.relu3b(self.conv3b(self.relu3a(self.conv3a(x)))))
        x = self.pool4(self.relu4b(self.conv4b(self.relu4a(self.conv4a(x)))))
        x = self.pool5(self.relu5b(self.conv5b(self.relu5a(self.conv5a(x)))))
        x = self.dropout6(self.relu6(self.fc6(x.flatten(1))))
        logits: Tensor = self.fc8(self.dropout7(self.relu7(self.fc7(x))))
        return logits


def _convolution(channels: int, out: int) -> nn.Conv3d:
    return nn.Conv3d(channels, out, 3, padding=1)


def _initialise(net: nn.Module) -> None:
    """Draw the weights for ReLUs (He et al. 2015, arXiv 1502.01852): torch's own fade over ten layers without norms."""
    for module in net.modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
