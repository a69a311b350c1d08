"""The kinds of network that methods meet, small: each maps clips (N, 3, T, H, W) of any size to five logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = ("close", "open", "put", "take", "wash")


class PlainNet(nn.Sequential):
    """Convolutions with biases and modules for ReLUs; a linear head on the global average."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 6, 3, (1, 2, 2), 1),
            nn.ReLU(),
            nn.Conv3d(6, 8, 3, (1, 2, 2), 1),
            nn.ReLU(),
            nn.Conv3d(8, 8, 3, 1, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, len(CLASSES)),
        )


class _Residual(nn.Module):
    """Two convolutions beside a shortcut; one ReLU module used twice, as torchvision writes it."""

    def __init__(self, c: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(c, out, 3, (1, stride, stride), 1, bias=False)
        self.bn1 = nn.BatchNorm3d(out)
        self.conv2 = nn.Conv3d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential() if c == out else nn.Conv3d(c, out, 1, (1, stride, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Activations (N, out, T, h, w)."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        activations: Tensor = self.relu(inner + self.shortcut(x))
        return activations


class ResidualNet(nn.Module):
    """Residual blocks with batch norm; ReLUs used again and written as functions; a mean over axes as pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 6, 3, (1, 2, 2), 1, bias=False)
        self.bn = nn.BatchNorm3d(6)
        self.layer1 = _Residual(6, 6, 1)
        self.layer2 = _Residual(6, 8, 2)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5)."""
        x = self.layer2(self.layer1(F.relu(self.bn(self.stem(x)))))
        logits: Tensor = self.head(x.mean((2, 3, 4)))
        return logits


class MaxPoolNet(nn.Module):
    """Convolutions and max-pooling, a module and a function, then two linear layers on a coarse grid of averages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(3, 6, 3, 1, 1), nn.Conv3d(6, 8, 3, 1, 1)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool = nn.MaxPool3d(2)
        self.hidden = nn.Linear(8 * 4, 12)
        self.head = nn.Linear(12, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5)."""
        x = self.pool(self.relu1(self.conv1(x)))
        x = F.max_pool3d(self.relu2(self.conv2(x)), (1, 3, 3), (1, 2, 2))
        x = torch.flatten(F.adaptive_avg_pool3d(x, (1, 2, 2)), 1)
        logits: Tensor = self.head(self.relu3(self.hidden(x)))
        return logits
