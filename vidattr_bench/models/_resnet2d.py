"""A 2-D ResNet-50 on every frame, in 3-D layers that are one frame deep, so that its activations are volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BLOCKS = (3, 4, 6, 3)
_WIDTH = 64
_EXPANSION = 4
_Wrap = Callable[[nn.Conv3d], nn.Module]


class FrameResNet(nn.Module):
    """ResNet-50 by torchvision's names, without its classifier: (N, 3, T, H, W) -> volumes (N, C, T, h, w).

    Args:
        blocks: number of bottlenecks of each stage.
        width: channels of the first convolution.
        wrap: what to make of the first convolution of a bottleneck.
    """

    def __init__(
        self, blocks: Sequence[int] = BLOCKS, width: int = _WIDTH, wrap: _Wrap = lambda convolution: convolution
    ) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        channels = [width, *(_EXPANSION * w for w in widths)]
        self.channels = channels[4]
        self.conv1 = _convolution(3, width, 7, 2)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.layer1 = _stage(blocks[0], channels[0], widths[0], 1, wrap)
        self.layer2 = _stage(blocks[1], channels[1], widths[1], 2, wrap)
        self.layer3 = _stage(blocks[2], channels[2], widths[2], 2, wrap)
        self.layer4 = _stage(blocks[3], channels[3], widths[3], 2, wrap)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, channels, T, H / 32, W / 32), rounded up."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        volume: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return volume


def one_frame_deep(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with kernels (out, in, h, w) made (out, in, 1, h, w)."""
    return {name: tensor.unsqueeze(2) if tensor.ndim == 4 else tensor for name, tensor in state.items()}


def _convolution(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv3d:
    padding = kernel // 2
    return nn.Conv3d(channels, out, (1, kernel, kernel), (1, stride, stride), (0, padding, padding), bias=False)


def _stage(blocks: int, channels: int, width: int, stride: int, wrap: _Wrap) -> nn.Sequential:
    first = _Bottleneck(channels, width, stride, wrap)
    return nn.Sequential(first, *(_Bottleneck(_EXPANSION * width, width, 1, wrap) for _ in range(blocks - 1)))


class _Bottleneck(nn.Module):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution, the last of four times as many channels, beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, wrap: _Wrap) -> None:
        super().__init__()
        out = _EXPANSION * width
        self.conv1 = wrap(_convolution(channels, width, 1))
        self.bn1 = nn.BatchNorm3d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm3d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = _convolution(width, out, 1)
        self.bn3 = nn.BatchNorm3d(out)
        self.relu3 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(_convolution(channels, out, 1, stride), nn.BatchNorm3d(out))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        inner = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(inner)))))
        out: Tensor = self.relu3(inner + self.downsample(x))
        return out
