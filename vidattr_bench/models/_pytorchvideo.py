"""What the networks of PyTorchVideo share: input statistics, and residual blocks by the names of its weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from vidattr_bench.models._published import PublishedEntry

Extent = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class PyTorchVideoEntry(PublishedEntry):
    """A network of github.com/facebookresearch/pytorchvideo."""

    mean: ClassVar[tuple[float, ...]] = (0.45, 0.45, 0.45)
    std: ClassVar[tuple[float, ...]] = (0.225, 0.225, 0.225)


class Bottleneck(nn.Module):
    """A 1 x 1, a spatial and a 1 x 1 convolution, each with its norm.

    Args:
        channels: of what comes in.
        inner: channels in between.
        out: channels of what goes out.
        kernel_a: of the first convolution.
        kernel_b: of the second one.
        stride: of the second one, over height and width.
        groups: of the second one.
        norm_b: norm after the second one.
        act_b: activation after that.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        out: int,
        kernel_a: Extent,
        kernel_b: Extent,
        stride: int,
        groups: int,
        norm_b: nn.Module,
        act_b: nn.Module,
    ) -> None:
        super().__init__()
        self.conv_a = convolution(channels, inner, kernel_a)
        self.norm_a = nn.BatchNorm3d(inner)
        self.act_a = nn.ReLU()
        self.conv_b = convolution(inner, inner, kernel_b, stride, groups)
        self.norm_b = norm_b
        self.act_b = act_b
        self.conv_c = convolution(inner, out)
        self.norm_c = nn.BatchNorm3d(out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, T, H, W) -> (N, out, T, h, w)."""
        x = self.act_a(self.norm_a(self.conv_a(x)))
        x = self.act_b(self.norm_b(self.conv_b(x)))
        out: Tensor = self.norm_c(self.conv_c(x))
        return out


class ResBlock(nn.Module):
    """A bottleneck beside a shortcut: as it is, or a convolution, or a convolution and its norm."""

    def __init__(self, branch2: nn.Module, branch1_conv: nn.Module | None, branch1_norm: nn.Module | None) -> None:
        super().__init__()
        self.branch1_conv = branch1_conv or nn.Identity()
        self.branch1_norm = branch1_norm or nn.Identity()
        self.branch2 = branch2
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both, no negative value in it."""
        out: Tensor = self.activation(self.branch1_norm(self.branch1_conv(x)) + self.branch2(x))
        return out


class Stage(nn.Module):
    """Residual blocks, one after the other."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.res_blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """What the last block puts out."""
        out: Tensor = self.res_blocks(x)
        return out


def convolution(channels: int, out: int, kernel: Extent = (1, 1, 1), stride: int = 1, groups: int = 1) -> nn.Conv3d:
    """A convolution without bias whose output is as large as its input, but for a stride over height and width."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(channels, out, kernel, (1, stride, stride), padding, groups=groups, bias=False)


def initialise(net: nn.Module) -> None:
    """Draw convolutions for ReLUs by what leaves them (He et al. 2015, arXiv 1502.01852), linear layers narrowly."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
