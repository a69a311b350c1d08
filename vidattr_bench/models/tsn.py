"""TSN and TSM: a ResNet-50 on frames from all over the video, the second with channels shifted between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidattr_bench.errors import ModelError
from vidattr_bench.model import ClipInput
from vidattr_bench.models import _resnet2d
from vidattr_bench.models._published import PublishedEntry

_SHARE = 8
_SPAN = 64


@dataclasses.dataclass(frozen=True)
class _SegmentEntry(PublishedEntry):
    """A ResNet-50 on a few frames of a video.

    Attributes:
        segments: number of frames; by default 8, or as many as `train` recorded.
        dense: frames from 64 that follow each other in the middle of the video instead, for weights named `_dense`.
    """

    head: ClassVar[str] = "new_fc"
    feature_layer: ClassVar[str] = "base_model.layer4"
    input: ClassVar[ClipInput] = ClipInput(length=8, anchor="spread", size=(224, 224), resize=256, crop="centre")
    mean: ClassVar[tuple[float, ...]] = _resnet2d.MEAN
    std: ClassVar[tuple[float, ...]] = _resnet2d.STD
    shift: ClassVar[bool]

    segments: int | None = None
    dense: bool = False

    def __post_init__(self) -> None:
        frames = type(self).input.length if self.segments is None else self.segments
        if not 1 <= frames <= _SPAN:
            raise ModelError(f"{self.name}: segments={frames} must be a number from 1 to {_SPAN}")
        sampling: dict[str, Any] = {"anchor": "middle", "stride": _SPAN // frames} if self.dense else {}
        object.__setattr__(self, "input", dataclasses.replace(type(self).input, length=frames, **sampling))

    def asked(self) -> dict[str, Any]:
        """Also the number of frames where `segments` gives it."""
        return {**super().asked(), **({} if self.segments is None else {"length": self.segments})}

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips of any size."""
        return _Network(classes, self.shift)

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Kernels of 2-D convolutions, one frame deep."""
        return _resnet2d.one_frame_deep(state)


@dataclasses.dataclass(frozen=True)
class TSN(_SegmentEntry):
    """TSN with ResNet-50 on 8 frames of 224 x 224 pixels: 24 327 632 parameters for 400 classes. Wang et al. 2016.

    arXiv 1608.00859. Weights are those of github.com/mit-han-lab/temporal-shift-module. Frames are spread over the
    video (the first of each segment, where the authors test on the middle one), and the logits are the mean of theirs.
    A clip has 2048 x 8 x 7 x 7 features in `base_model.layer4`, which the linear head pools; no convolution sees two
    frames. github.com/open-mmlab/mmaction2 counts as many parameters.
    """

    name: ClassVar[str] = "tsn_r50"
    shift: ClassVar[bool] = False


class TSM(_SegmentEntry):
    """TSM with ResNet-50 on 8 frames of 224 x 224 pixels: 24 327 632 parameters for 400 classes. Lin et al. 2019.

    arXiv 1811.08383. As tsn_r50, but that before each residual block's first convolution an eighth of the channels
    comes from the next frame and an eighth from the one before. Weights are those of
    github.com/mit-han-lab/temporal-shift-module named `shift8_blockres`.
    """

    name = "tsm_r50"
    shift = True


class _Network(nn.Module):
    def __init__(self, classes: int, shift: bool, blocks: Sequence[int] = _resnet2d.BLOCKS, width: int = 64) -> None:
        super().__init__()
        if shift:
            self.base_model = _resnet2d.FrameResNet(blocks, width, wrap=_Shifted)
        else:
            self.base_model = _resnet2d.FrameResNet(blocks, width)
        # The mean of the frames' logits is the logits of their mean.
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout()
        self.new_fc = nn.Linear(self.base_model.channels, classes)
        nn.init.normal_(self.new_fc.weight, std=0.001)
        nn.init.zeros_(self.new_fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.base_model(x)).flatten(1)
        logits: Tensor = self.new_fc(self.dropout(pooled))
        return logits


class _Shifted(nn.Module):
    """A convolution of channels that are shifted by a frame: an eighth backwards, an eighth forwards, zeros behind."""

    def __init__(self, net: nn.Conv3d) -> None:
        super().__init__()
        self.net = net
        self.fold = net.in_channels // _SHARE

    def forward(self, x: Tensor) -> Tensor:
        following = F.pad(x[:, : self.fold, 1:], (0, 0, 0, 0, 0, 1))
        preceding = F.pad(x[:, self.fold : 2 * self.fold, :-1], (0, 0, 0, 0, 1, 0))
        shifted = torch.cat([following, preceding, x[:, 2 * self.fold :]], 1)
        out: Tensor = self.net(shifted)
        return out
