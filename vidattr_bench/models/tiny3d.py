"""Tiny3D: the small 3-D CNN of the embedded benchmark, its weights part of the package."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from vidattr_bench.checkpoints import trained_model
from vidattr_bench.errors import ModelError
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel

_Extent = tuple[int, int, int]
_GAIN = 10.0
_SHIPPED = Path(__file__).resolve().parent.parent / "weights"


@dataclasses.dataclass(frozen=True)
class Tiny3D(ModelEntry):
    """A 3-D CNN of five convolutions with batch norm and ReLU, global average pooling and a linear head.

    Trained on planted_actions by the `train` command with several seeds; docs/planted_actions.md has its figures. A
    16 x 48 x 64 clip has 64 x 8 x 12 x 16 features.

    Attributes:
        checkpoint: a safetensors file written by `train`; by default the shipped weights.
        seed: training seed of the shipped weights: 0, 1 or 2.
        masked: the twin of seed 0 instead, trained with tubelets removed from half of the clips (`--mask-augment .5`).
    """

    name: ClassVar[str] = "tiny3d"
    input: ClassVar[ClipInput] = ClipInput(length=16, size=(48, 64))
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.25, 0.25, 0.25)
    feature_layer: ClassVar[str] = "features"

    checkpoint: Path | None = None
    seed: int = 0
    masked: bool = False

    def network(self, classes: int) -> nn.Module:
        """Normalised clips (N, 3, T, H, W) -> logits (N, classes), for any T, H and W."""
        net = nn.Sequential(
            OrderedDict(
                stem=_block(3, 16, (3, 3, 3), stride=(1, 2, 2)),
                motion=_block(16, 24, (3, 3, 3), stride=(2, 2, 2)),
                parts=_block(24, 32, (3, 3, 3)),
                whole=_block(32, 32, (1, 3, 3), dilation=(1, 2, 2)),
                features=_block(32, 64, (1, 1, 1)),
                pool=nn.AdaptiveAvgPool3d(1),
                flatten=nn.Flatten(),
                head=nn.Linear(64, classes),
            )
        )
        # The mean over a clip thins out what one small actor does: at gain 1, training stands still for epochs.
        nn.init.constant_(net.get_parameter("features.norm.weight"), _GAIN)
        return net

    def build(self) -> VideoModel:
        """The trained model; raises `ModelError` where there are no such weights."""
        if self.checkpoint is not None and (self.seed or self.masked):
            raise ModelError(
                f"{self.name}: seed and masked choose among the shipped weights, and checkpoint={self.checkpoint} "
                "names others; give the one or the other"
            )
        shipped = "tiny3d_masked" if self.masked else "tiny3d"
        path = self.checkpoint or _SHIPPED / f"{shipped}-{self.seed}.safetensors"
        if self.checkpoint is None and not path.is_file():
            raise ModelError(f"{shipped}:seed={self.seed} is not shipped; there are: {', '.join(_seeds(shipped))}")
        model = trained_model(self, path, feature_layer=self.feature_layer, name=self.name)
        model.net.to(memory_format=torch.channels_last_3d)  # on a CPU a tenth faster
        return model


def _seeds(shipped: str) -> list[str]:
    return sorted(path.stem.removeprefix(f"{shipped}-") for path in _SHIPPED.glob(f"{shipped}-*.safetensors"))


def _block(
    channels: int,
    filters: int,
    kernel: _Extent,
    stride: _Extent = (1, 1, 1),
    dilation: _Extent = (1, 1, 1),
) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the output is as large as the input but for the stride."""
    padding = tuple(size // 2 * step for size, step in zip(kernel, dilation, strict=True))
    conv = nn.Conv3d(channels, filters, kernel, stride, padding, dilation, bias=False)  # type: ignore[arg-type]
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm3d(filters), relu=nn.ReLU()))
