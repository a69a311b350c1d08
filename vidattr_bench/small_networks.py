"""The kinds of network that methods meet, small: each maps clips (N, 3, T, H, W) of any size to five logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = ("close", "open", "put", "take", "wash")
PATCH = (2, 4, 4)


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


class SmallLRCN(nn.Module):
    """A CNN on every frame, in layers one frame deep, an LSTM over the frames, and a linear head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv3d(3, 6, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(6, 8, (1, 3, 3), 1, (0, 1, 1)),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d((None, 2, 2)),
        )
        self.lstm = nn.LSTM(8 * 4, 7, batch_first=True)
        self.head = nn.Linear(7, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5)."""
        states, _ = self.lstm(self.cnn(x).transpose(1, 2).flatten(2))
        logits: Tensor = self.head(states[:, -1])
        return logits


class _Tokens(nn.Module):
    """A token for each patch of a clip, which is stretched to whole patches, and a class token before them.

    Args:
        width: channels of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Conv3d(3, width, PATCH, PATCH)
        self.position = nn.Parameter(torch.randn(1, width, 2, 3, 4) / 2)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        """Tokens (N, 1 + t h w, width), frame by frame, and the number t of frames of tokens."""
        whole = [-(-size // patch) * patch for size, patch in zip(x.shape[2:], PATCH, strict=True)]
        x = self.embedding(F.interpolate(x, whole, mode="trilinear"))
        x = x + F.interpolate(self.position, x.shape[2:], mode="trilinear")
        return torch.cat([self.class_token.expand(len(x), -1, -1), x.flatten(2).mT], 1), x.shape[2]


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class _JointBlock(nn.Module):
    """Attention among all tokens, by `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), _mlp(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor, t: int) -> Tensor:
        """Tokens (N, 1 + t h w, width)."""
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        tokens: Tensor = x + self.mlp(x)
        return tokens


class _Attention(nn.Module):
    """Attention by `F.scaled_dot_product_attention`, queries, keys and values from one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.project = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """What is added to tokens (groups, n, width), those of a group attending to each other."""
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        added: Tensor = self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return added


class _DividedBlock(nn.Module):
    """Attention among the tokens of one place, then among those of one frame, as in TimeSformer.

    The class token takes no part in the first; in the second a copy of it is in every frame, and what these get is
    averaged.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.temporal, self.spatial, self.mlp = _Attention(width, heads), _Attention(width, heads), _mlp(width)
        self.temporal_projection = nn.Linear(width, width)

    def forward(self, x: Tensor, t: int) -> Tensor:
        """Tokens (N, 1 + t h w, width)."""
        first, patches = x[:, :1], x[:, 1:].reshape(len(x), t, -1, x.shape[2])
        added = self.temporal(patches.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)
        patches = patches + self.temporal_projection(added)
        frames = torch.cat([first[:, None].expand(-1, t, -1, -1), patches], 2)
        added = self.spatial(frames.flatten(0, 1)).unflatten(0, (len(x), t))
        first, patches = first + added[:, :, 0].mean(1, keepdim=True), patches + added[:, :, 1:]
        x = torch.cat([first, patches.flatten(1, 2)], 1)
        tokens: Tensor = x + self.mlp(x)
        return tokens


class _VideoTransformer(nn.Module):
    def __init__(self, block: type[nn.Module], width: int = 16, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.tokens = _Tokens(width)
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5), read from the class token."""
        x, t = self.tokens(x)
        for block in self.blocks:
            x = block(x, t)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


class SmallVideoTransformer(_VideoTransformer):
    """A video transformer with joint space-time attention: every token attends to every token."""

    def __init__(self, width: int = 16, heads: int = 2, depth: int = 2) -> None:
        super().__init__(_JointBlock, width, heads, depth)


class SmallDividedTransformer(_VideoTransformer):
    """A video transformer with divided space-time attention (TimeSformer, Bertasius et al. 2021, arXiv:2102.05095)."""

    def __init__(self, width: int = 16, heads: int = 2, depth: int = 2) -> None:
        super().__init__(_DividedBlock, width, heads, depth)
