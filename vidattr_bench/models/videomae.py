"""VideoMAE: a plain transformer over patches of two frames, every patch attending to all others."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models._published import PublishedEntry
from vidattr_bench.models._transformer import attended, named

_DEPTH, _WIDTH, _HEADS = 12, 768, 12
_PATCH = (2, 16, 16)
_EPSILON = 1e-12


class VideoMAEBase(PublishedEntry):
    """VideoMAE ViT-B on 16 frames of 224 x 224 pixels: 86 534 800 parameters for 400 classes. Tong et al. 2022.

    arXiv 2203.12602. Weights are those of Hugging Face's transformers, as MCG-NJU/videomae-base-finetuned-kinetics;
    transformers is not needed. Every fourth frame; the number of frames is even, height and width are multiples of 16.
    A clip has 768 x 8 x 14 x 14 tokens in `volume`, which are averaged, normalised and classified, so there is no
    linear head on a global average. The number of parameters is that of transformers' code.
    """

    name = "videomae_b"
    head = "classifier"
    feature_layer = "volume"
    input: ClassVar[ClipInput] = ClipInput(length=16, stride=4, size=(224, 224), resize=224, crop="centre")
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits."""
        return _Network(classes)

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights by the names of any version of transformers."""
        renamed = (name.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias") for name in state)
        return dict(zip(renamed, state.values(), strict=True))


class _Network(nn.Module):
    def __init__(self, classes: int, depth: int = _DEPTH, width: int = _WIDTH, heads: int = _HEADS) -> None:
        super().__init__()
        embeddings = named(patch_embeddings=named(projection=nn.Conv3d(3, width, _PATCH, _PATCH)))
        encoder = named(layer=nn.Sequential(*(_Layer(width, heads) for _ in range(depth))))
        self.videomae = named(embeddings=embeddings, encoder=encoder)
        self.volume = nn.Identity()
        self.fc_norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        embeddings, encoder = self.videomae
        patches = embeddings(x)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = tokens + _positions(*tokens.shape[1:]).to(tokens)
        tokens = encoder(tokens)
        volume = self.volume(tokens.transpose(1, 2).reshape(patches.shape))
        logits: Tensor = self.classifier(self.fc_norm(volume.mean((2, 3, 4))))
        return logits


class _Layer(nn.Module):
    """Attention, then two linear layers on each token, both beside shortcuts and behind norms."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, eps=_EPSILON)
        self.attention = named(attention=_SelfAttention(width, heads), output=named(dense=nn.Linear(width, width)))
        self.layernorm_after = nn.LayerNorm(width, eps=_EPSILON)
        self.intermediate = named(dense=nn.Linear(width, 4 * width), gelu=nn.GELU())
        self.output = named(dense=nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.layernorm_before(tokens))
        out: Tensor = tokens + self.output(self.intermediate(self.layernorm_after(tokens)))
        return out


class _SelfAttention(nn.Module):
    """Attention of several heads; queries and values have biases, keys have none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        return attended(self.query(tokens), self.key(tokens), self.value(tokens), self.heads)


@functools.lru_cache(maxsize=4)
def _positions(tokens: int, width: int) -> Tensor:
    """Sines and cosines of a token's place in the order of (t, h, w), (tokens, width). Vaswani et al. 2017, 3.5."""
    frequencies = 10000 ** (-2 * torch.arange(width // 2, dtype=torch.float64) / width)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).float()
