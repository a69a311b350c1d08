"""X3D: a narrow network of channel-wise 3 x 3 x 3 convolutions and of channels that are weighted by each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models import _pytorchvideo as pytorchvideo
from vidattr_bench.models._pytorchvideo import PyTorchVideoEntry

_WIDTHS = (24, 24, 48, 96, 192)
_BLOCKS = (3, 5, 11, 7)
_HEAD = 2048


class _X3D(PyTorchVideoEntry):
    head = "blocks.5.proj"
    feature_layer = "blocks.5.pool.pre_act"

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips of any size."""
        return _Network(classes)


class X3DS(_X3D):
    """X3D-S on 13 frames of 160 x 160 pixels: 3 794 274 parameters for 400 classes. Feichtenhofer 2020.

    arXiv 2004.04730. Weights are X3D_S.pyth of github.com/facebookresearch/pytorchvideo, which says 3.79 million: every
    sixth frame. A clip has 432 x 13 x 5 x 5 features in `blocks.5.pool.pre_act`; between their mean and the logits lies
    another layer with ReLUs, so there is no linear head on a global average. On frames of another size the authors
    average the logits of windows, this network the features.
    """

    name = "x3d_s"
    input: ClassVar[ClipInput] = ClipInput(length=13, stride=6, size=(160, 160), resize=182, crop="centre")


class X3DM(_X3D):
    """X3D-M on 16 frames of 224 x 224 pixels: 3 794 274 parameters for 400 classes. Feichtenhofer 2020.

    arXiv 2004.04730. Weights are X3D_M.pyth of github.com/facebookresearch/pytorchvideo: every fifth frame. As x3d_s,
    with 432 x 16 x 7 x 7 features.
    """

    name = "x3d_m"
    input: ClassVar[ClipInput] = ClipInput(length=16, stride=5, size=(224, 224), resize=256, crop="centre")


class _Network(nn.Module):
    def __init__(
        self, classes: int, blocks: Sequence[int] = _BLOCKS, widths: Sequence[int] = _WIDTHS, units: int = _HEAD
    ) -> None:
        super().__init__()
        pairs = zip(blocks, widths[:-1], widths[1:], strict=True)
        stages = [_stage(*pair) for pair in pairs]
        self.blocks = nn.Sequential(_Stem(widths[0]), *stages, _Head(widths[-1], _inner(widths[-1]), units, classes))
        pytorchvideo.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.blocks(x)
        return logits


class _Stem(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv = _Separated(out)
        self.norm = nn.BatchNorm3d(out)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class _Separated(nn.Module):
    """A convolution over space, then one over time; the authors' names are the other way round."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv_t = pytorchvideo.convolution(3, out, (1, 3, 3), 2)
        self.conv_xy = pytorchvideo.convolution(out, out, (5, 1, 1), groups=out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_xy(self.conv_t(x))
        return out


def _stage(blocks: int, channels: int, out: int) -> pytorchvideo.Stage:
    """Every second block, the first among them, weights its channels."""
    first = _block(channels, out, 2, weighted=True)
    return pytorchvideo.Stage(first, *(_block(out, out, 1, weighted=i % 2 == 0) for i in range(1, blocks)))


def _block(channels: int, out: int, stride: int, weighted: bool) -> pytorchvideo.ResBlock:
    inner = _inner(out)
    norm_b = nn.Sequential(nn.BatchNorm3d(inner), _SqueezeExcitation(inner) if weighted else nn.Identity())
    branch2 = pytorchvideo.Bottleneck(
        channels, inner, out, (1, 1, 1), (3, 3, 3), stride, groups=inner, norm_b=norm_b, act_b=nn.SiLU()
    )
    shortcut = pytorchvideo.convolution(channels, out, stride=stride) if stride > 1 else None
    return pytorchvideo.ResBlock(branch2, shortcut, nn.BatchNorm3d(out) if channels != out else None)


def _inner(channels: int) -> int:
    return channels * 9 // 4


class _SqueezeExcitation(nn.Module):
    """Weights between 0 and 1 for channels, made from their means. Hu et al. 2018, arXiv 1709.01507."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = _eighths(channels / 16)
        layers = [nn.Conv3d(channels, reduced, 1), nn.ReLU(), nn.Conv3d(reduced, channels, 1), nn.Sigmoid()]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.block(x.mean((2, 3, 4), keepdim=True))
        return x * weights


def _eighths(width: float) -> int:
    """The multiple of 8 nearest to `width`, and at least nine tenths of it."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


class _Head(nn.Module):
    def __init__(self, channels: int, inner: int, units: int, classes: int) -> None:
        super().__init__()
        self.pool = _ProjectedPool(channels, inner, units)
        self.dropout = nn.Dropout()
        self.proj = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.proj(self.dropout(self.pool(x).flatten(1)))
        return logits


class _ProjectedPool(nn.Module):
    def __init__(self, channels: int, inner: int, units: int) -> None:
        super().__init__()
        self.pre_conv = pytorchvideo.convolution(channels, inner)
        self.pre_norm = nn.BatchNorm3d(inner)
        self.pre_act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.post_conv = pytorchvideo.convolution(inner, units)
        self.post_act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.pre_act(self.pre_norm(self.pre_conv(x))))
        out: Tensor = self.post_act(self.post_conv(pooled))
        return out
