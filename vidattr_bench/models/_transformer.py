"""What video transformers with a class token share, by the names that Hugging Face's transformers gives them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6
Grid = tuple[int, int, int]


class Encoder(nn.Module):
    """Layers one after the other, each (tokens, grid, volume) -> tokens."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(self, tokens: Tensor, grid: Grid, volume: nn.Module) -> Tensor:
        """Tokens (N, 1 + t h w, C), the class token first; `volume` is shown the patches that the last layer reads."""
        *earlier, last = self.layer
        for layer in earlier:
            tokens = layer(tokens, grid)
        out: Tensor = last(tokens, grid, volume)
        return out


def named(**modules: nn.Module) -> nn.Sequential:
    """The modules in order, by these names."""
    return nn.Sequential(OrderedDict(modules))


def renamed(name: str, patterns: Mapping[str, str]) -> str:
    """The name after every regular expression in it was replaced, one after the other."""
    for pattern, new in patterns.items():
        name = re.sub(pattern, new, name)
    return name


def attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of several heads among the n tokens of each row, (N, n, C). Vaswani et al. 2017, arXiv 1706.03762."""
    q, k, v = (torch.unflatten(each, -1, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def shown(patches: Tensor, grid: Grid, volume: nn.Module) -> Tensor:
    """The patches (N, t h w, C) as `volume` leaves them, which gets them as activations (N, C, t, h, w)."""
    seen: Tensor = volume(torch.unflatten(patches.transpose(1, 2), 2, grid))
    return seen.flatten(2).transpose(1, 2)


def initialise(net: nn.Module, embeddings: Iterable[Tensor]) -> None:
    """Draw weights and learnt embeddings with a standard deviation of 0.02; biases are 0. Dosovitskiy et al. 2021."""
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for embedding in embeddings:
        nn.init.trunc_normal_(embedding, std=0.02)


def learnt(count: int, width: int) -> nn.Parameter:
    """An embedding (1, count, width) that is trained."""
    return nn.Parameter(torch.zeros(1, count, width))
