"""R50-LSTM: a ResNet-50 on every frame and a recurrent layer over the frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models import _resnet2d
from vidattr_bench.models._published import PublishedEntry


@dataclasses.dataclass(frozen=True)
class R50LSTM(PublishedEntry):
    """R50-LSTM on 16 frames of 112 x 112 pixels: 26 944 421 parameters for 101 classes. Li et al. 2021.

    arXiv 2109.00222. Weights are those of github.com/shinkyo0513/Spatio-Temporal-Perturbations-for-Video-Attribution
    (model_def/r50lstm.py), whose recurrent cell has ReLUs where an LSTM has tanh. Frames are spread over the video and
    stretched; the logits are the mean of those after each frame. A clip has 2048 x 16 x 4 x 4 features in `resnet.7`.
    The number of parameters is that of the authors' code, who publish none.

    Attributes:
        detached: whether gradients go from the logits after a frame to that frame only, as in the authors' code, and
            not through the state to the frames before it; logits are the same.
    """

    name: ClassVar[str] = "r50_lstm"
    head: ClassVar[str] = "fc8_final"
    feature_layer: ClassVar[str] = "resnet.7"
    input: ClassVar[ClipInput] = ClipInput(length=16, anchor="spread", size=(112, 112), crop="none")
    mean: ClassVar[tuple[float, ...]] = (0.43216, 0.394666, 0.37645)
    std: ClassVar[tuple[float, ...]] = (0.22803, 0.22145, 0.216989)

    detached: bool = False

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips of any size."""
        return _Network(classes, self.detached)

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Kernels of 2-D convolutions, one frame deep."""
        return _resnet2d.one_frame_deep(state)


class _Network(nn.Module):
    def __init__(
        self,
        classes: int,
        detached: bool,
        blocks: Sequence[int] = _resnet2d.BLOCKS,
        width: int = 64,
        units: Sequence[int] = (1024, 512, 256),
    ) -> None:
        super().__init__()
        cnn = _resnet2d.FrameResNet(blocks, width)
        self.resnet = nn.Sequential(*cnn.children(), nn.AdaptiveAvgPool3d((None, 1, 1)))
        self.fc6, self.relu6 = nn.Linear(cnn.channels, units[0]), nn.ReLU()
        self.fc7, self.relu7 = nn.Linear(units[0], units[1]), nn.ReLU()
        self.dropout = nn.Dropout()
        self.lstm1 = _ReLULSTM(units[1], units[2], detached)
        self.fc8_final = nn.Linear(units[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.resnet(x).flatten(2).transpose(1, 2)
        sequence = self.dropout(self.relu6(self.fc6(features)))
        sequence = self.dropout(self.relu7(self.fc7(sequence)))
        states = self.dropout(self.lstm1(sequence))
        # The mean of the frames' logits is the logits of their mean.
        logits: Tensor = self.fc8_final(states.mean(1))
        return logits


class _ReLULSTM(nn.Module):
    """A recurrent layer (N, T, C) -> hidden states (N, T, units); gates in the order i, f, o, c."""

    def __init__(self, channels: int, units: int, detached: bool) -> None:
        super().__init__()
        self.fc_x = nn.Linear(channels, 4 * units)
        self.fc_h = nn.Linear(units, 4 * units, bias=False)
        self.units = units
        self.detached = detached

    def forward(self, sequence: Tensor) -> Tensor:
        hidden = cell = sequence.new_zeros(sequence.shape[0], self.units)
        states = []
        for given in self.fc_x(sequence).unbind(1):
            if self.detached:
                hidden, cell = hidden.detach(), cell.detach()
            entering, kept, leaving, candidate = (given + self.fc_h(hidden)).chunk(4, 1)
            cell = kept.sigmoid() * cell + entering.sigmoid() * candidate.relu()
            hidden = leaving.sigmoid() * cell.relu()
            states.append(hidden)
        return torch.stack(states, 1)
