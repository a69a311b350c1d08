"""R(2+1)D-Light: three factorised blocks for short clips."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from vidattr_bench.checkpoints import class_names, fit, load_state, preprocessing
from vidattr_bench.errors import ModelError
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel


@dataclasses.dataclass(frozen=True)
class R2Plus1DLight(ModelEntry):
    """R(2+1)D with three residual blocks on 10 frames of 112 x 112 pixels: 303 576 parameters for 101 classes.

    Pixels go in as they are, frames 0, 15, ..., 135 of the video. Tran et al. 2018, arXiv 1711.11248.

    Attributes:
        checkpoint: the trained weights, with the names of their classes.
    """

    name: ClassVar[str] = "r2plus1d_light"
    input: ClassVar[ClipInput] = ClipInput(
        length=10, stride=15, anchor="start", size=(112, 112), resize=112, crop="centre", interpolation="area"
    )
    feature_layer: ClassVar[str] = "conv3.0"

    checkpoint: Path | None = None

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits."""
        return _R2Plus1DLight(classes)

    def build(self) -> VideoModel:
        """The trained model, its classes in the checkpoint's order; raises `ModelError` where the file does not fit."""
        if self.checkpoint is None:
            raise ModelError(f"{self.name} has no weights of its own; give {self.name}:checkpoint=FILE")
        state, extras = load_state(self.checkpoint)
        classes = class_names(extras, self.checkpoint)
        net = self.network(len(classes) or len(state.get("classifier.bias", ())))
        fit(net, state, self.checkpoint)
        described = {"input": self.input, **preprocessing(extras, self.checkpoint)}
        return VideoModel(net, classes, **described, feature_layer=self.feature_layer, name=self.name)


class _R2Plus1DLight(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = _stage(3, 32)
        self.conv2 = _stage(32, 64)
        self.conv3 = _stage(64, 128)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        volume = self.conv3(self.conv2(self.conv1(x)))
        logits: Tensor = self.classifier(self.dropout(self.pool(volume).flatten(1)))
        return logits


def _stage(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(_Block(channels, out), nn.MaxPool3d(2))


class _Block(nn.Module):
    """A spatial, then a temporal convolution beside a 1 x 1 x 1 shortcut: as many weights as 3 x 3 x 3 would have."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        middle = 27 * channels * out // (9 * channels + 3 * out)
        self.spatial_conv = nn.Conv3d(channels, middle, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.bn1 = nn.BatchNorm3d(middle)
        self.relu1 = nn.ReLU()
        self.temporal_conv = nn.Conv3d(middle, out, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(out)
        self.shortcut = nn.Sequential(nn.Conv3d(channels, out, 1, bias=False), nn.BatchNorm3d(out))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        middle = self.relu1(self.bn1(self.spatial_conv(x)))
        out: Tensor = self.relu2(self.bn2(self.temporal_conv(middle)) + self.shortcut(x))
        return out
