"""SlowFast: a pathway of few frames and many channels beside one of many frames and few channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models import _pytorchvideo as pytorchvideo
from vidattr_bench.models._pytorchvideo import PyTorchVideoEntry

_FRAMES = 4  # of the fast pathway for one of the slow one
_SHARE = 8  # channels of the slow pathway for one of the fast one
_BLOCKS = (3, 4, 6, 3)
_SLOW_KERNELS = (1, 1, 3, 3)
_Extent = pytorchvideo.Extent


class SlowFastR50(PyTorchVideoEntry):
    """SlowFast 8x8 with ResNet-50 on 32 frames of 224 x 224 pixels: 34 566 488 parameters. Feichtenhofer et al. 2019.

    arXiv 1812.03982. Weights are SLOWFAST_8x8_R50.pyth of github.com/facebookresearch/pytorchvideo, which says 34.57
    million for 400 classes: every second frame, all of them for the fast pathway and 8 evenly spread ones for the slow
    pathway. The number of frames is a multiple of 4. A clip has 2304 x 8 x 7 x 7 features in `blocks.5`, which the
    linear head pools: the 2048 channels of the slow pathway, and the 256 of the fast one averaged over every 4 frames.
    `blocks.4.multipathway_blocks.0` and `.1` are the pathways alone.
    """

    name = "slowfast_r50"
    head = "blocks.6.proj"
    feature_layer = "blocks.5"
    input: ClassVar[ClipInput] = ClipInput(length=32, stride=2, size=(224, 224), resize=256, crop="centre")

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips of any height and width and 4, 8, ... frames."""
        return _Network(classes)


class _Network(nn.Module):
    def __init__(self, classes: int, blocks: Sequence[int] = _BLOCKS, width: int = 64) -> None:
        super().__init__()
        fast = width // _SHARE
        stages: list[nn.Module] = [_Fused([_Stem(width, 1), _Stem(fast, 5)], fast)]
        channels = [width, fast]
        for i, count in enumerate(blocks):
            outs = [width * 4 * 2**i, fast * 4 * 2**i]
            entering = [channels[0] + 2 * channels[1], channels[1]]
            kernels = [_SLOW_KERNELS[i], 3]
            paths = [_stage(count, *sizes, i) for sizes in zip(entering, outs, kernels, strict=True)]
            stages.append(_Fused(paths, outs[1] if i + 1 < len(blocks) else 0))
            channels = outs
        self.blocks = nn.ModuleList([*stages, _Joined(), _Head(sum(channels), classes)])
        pytorchvideo.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        slow, fast = x[:, :, _slow_frames(x.shape[2])], x
        *stages, joined, head = self.blocks
        for stage in stages:
            slow, fast = stage(slow, fast)
        logits: Tensor = head(joined(slow, fast))
        return logits


@fx.wrap
def _slow_frames(frames: int) -> Tensor:
    """Which frames the slow pathway sees, the first and the last among them; the same on every device."""
    return torch.linspace(0, frames - 1, frames // _FRAMES).long()


class _Stem(nn.Module):
    def __init__(self, out: int, frames: int) -> None:
        super().__init__()
        self.conv = pytorchvideo.convolution(3, out, (frames, 7, 7), 2)
        self.norm = nn.BatchNorm3d(out)
        self.activation = nn.ReLU()
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(self.activation(self.norm(self.conv(x))))
        return out


class _Fused(nn.Module):
    """A stage of both pathways, and what the fast one, of `channels` channels, then hands to the slow one."""

    def __init__(self, pathways: Sequence[nn.Module], channels: int) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList(pathways)
        self.multipathway_fusion = _FastToSlow(channels) if channels else None

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.multipathway_blocks
        slow, fast = first(slow), second(fast)
        if self.multipathway_fusion is not None:
            slow = torch.cat([slow, self.multipathway_fusion(fast)], 1)
        return slow, fast


class _FastToSlow(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_fast_to_slow = nn.Conv3d(channels, 2 * channels, (7, 1, 1), (_FRAMES, 1, 1), (3, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(2 * channels)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.norm(self.conv_fast_to_slow(x)))
        return out


def _stage(blocks: int, channels: int, out: int, frames: int, index: int) -> pytorchvideo.Stage:
    stride = 2 if index else 1
    first = _block(channels, out, frames, stride)
    return pytorchvideo.Stage(first, *(_block(out, out, frames, 1) for _ in range(blocks - 1)))


def _block(channels: int, out: int, frames: int, stride: int) -> pytorchvideo.ResBlock:
    inner = out // 4
    kernels: tuple[_Extent, _Extent] = (frames, 1, 1), (1, 3, 3)
    branch2 = pytorchvideo.Bottleneck(
        channels, inner, out, *kernels, stride, groups=1, norm_b=nn.BatchNorm3d(inner), act_b=nn.ReLU()
    )
    if channels == out:
        return pytorchvideo.ResBlock(branch2, None, None)
    shortcut = pytorchvideo.convolution(channels, out, stride=stride)
    return pytorchvideo.ResBlock(branch2, shortcut, nn.BatchNorm3d(out))


class _Joined(nn.Module):
    """The channels of both pathways; the mean over it is the mean over each, which the authors pool first."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool3d((_FRAMES, 1, 1))

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat([slow, self.pool(fast)], 1)


class _Head(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout()
        self.proj = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.proj(self.dropout(self.pool(x).flatten(1)))
        return logits
