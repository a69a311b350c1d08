"""ViViT: a transformer over tubelets of two frames, every tubelet and a class token attending to all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models._published import PublishedEntry
from vidattr_bench.models._transformer import (
    EPSILON,
    Encoder,
    Grid,
    attended,
    initialise,
    learnt,
    named,
    renamed,
    shown,
)

_DEPTH, _WIDTH, _HEADS = 12, 768, 12
_TUBELET = (2, 16, 16)
_GRID = (16, 14, 14)
# Names since version 5 of transformers, and those of the published files.
_RENAMED = {
    r"^vivit\.layers\.": "vivit.encoder.layer.",
    r"\.attention\.q_proj\.": ".attention.attention.query.",
    r"\.attention\.k_proj\.": ".attention.attention.key.",
    r"\.attention\.v_proj\.": ".attention.attention.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}


class ViViTBase(PublishedEntry):
    """ViViT-B/16x2 on 32 frames of 224 x 224 pixels: 88 954 000 parameters for 400 classes. Arnab et al. 2021.

    arXiv 2103.15691, model 1: attention over space and time at once. Weights are those of Hugging Face's transformers,
    as google/vivit-b-16x2-kinetics400; transformers is not needed. Every second frame, scaled to [-1, 1], as in
    github.com/google-research/scenic. On clips of another size the embeddings of place are interpolated linearly, where
    transformers refuses. A clip has 768 x 16 x 14 x 14 tubelets in `volume`, as the last attention reads them; after
    it nothing depends on them, since the class token alone is classified, so there is no linear head on a global
    average. The number of parameters is that of transformers' code. With equal random weights logits are within 3e-6 of
    those of transformers 5.23.
    """

    name = "vivit_b"
    head = "classifier"
    feature_layer = "volume"
    input: ClassVar[ClipInput] = ClipInput(length=32, stride=2, size=(224, 224), resize=256, crop="centre")
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits."""
        return _Network(classes)

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights by the names of any version of transformers."""
        return {renamed(name, _RENAMED): tensor for name, tensor in state.items()}


class _Network(nn.Module):
    def __init__(
        self,
        classes: int,
        grid: Grid = _GRID,
        depth: int = _DEPTH,
        width: int = _WIDTH,
        heads: int = _HEADS,
    ) -> None:
        super().__init__()
        embeddings = _Embeddings(grid, width)
        encoder = Encoder(_Layer(width, heads) for _ in range(depth))
        self.vivit = named(embeddings=embeddings, encoder=encoder, layernorm=nn.LayerNorm(width, eps=EPSILON))
        self.volume = nn.Identity()
        self.classifier = nn.Linear(width, classes)
        initialise(self, (embeddings.cls_token, embeddings.position_embeddings))

    def forward(self, x: Tensor) -> Tensor:
        embeddings, encoder, layernorm = self.vivit
        t, h, w = (size // patch for size, patch in zip(x.shape[2:], _TUBELET, strict=True))
        tokens = encoder(embeddings(x), (t, h, w), self.volume)
        logits: Tensor = self.classifier(layernorm(tokens[:, 0]))
        return logits


class _Embeddings(nn.Module):
    """Clips (N, 3, T, H, W) -> the class token and the tubelets, (N, 1 + t h w, C).

    Args:
        grid: how many tubelets in time, height and width have an embedding of their place.
        width: channels.
    """

    def __init__(self, grid: Grid, width: int) -> None:
        super().__init__()
        t, h, w = self.grid = grid
        self.cls_token = learnt(1, width)
        self.position_embeddings = learnt(1 + t * h * w, width)
        self.patch_embeddings = named(projection=nn.Conv3d(3, width, _TUBELET, _TUBELET))

    def forward(self, x: Tensor) -> Tensor:
        tubelets = self.patch_embeddings(x)
        first, places = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        if tubelets.shape[2:] != self.grid:
            places = torch.unflatten(places.transpose(1, 2), 2, self.grid)
            places = F.interpolate(places, size=tubelets.shape[2:], mode="trilinear").flatten(2).transpose(1, 2)
        class_token = (self.cls_token + first).expand(len(x), -1, -1)
        return torch.cat([class_token, tubelets.flatten(2).transpose(1, 2) + places], 1)


class _Layer(nn.Module):
    """Attention, then two linear layers on each token, both beside shortcuts and behind norms."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, eps=EPSILON)
        self.attention = named(attention=_SelfAttention(width, heads), output=named(dense=nn.Linear(width, width)))
        self.layernorm_after = nn.LayerNorm(width, eps=EPSILON)
        # Flax's GELU is this approximation (Hendrycks and Gimpel 2016, arXiv 1606.08415).
        self.intermediate = named(dense=nn.Linear(width, 4 * width), gelu=nn.GELU(approximate="tanh"))
        self.output = named(dense=nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, grid: Grid, volume: nn.Module | None = None) -> Tensor:
        seen = self.layernorm_before(tokens)
        if volume is not None:
            seen = torch.cat([seen[:, :1], shown(seen[:, 1:], grid, volume)], 1)
        tokens = tokens + self.attention(seen)
        out: Tensor = tokens + self.output(self.intermediate(self.layernorm_after(tokens)))
        return out


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        return attended(self.query(tokens), self.key(tokens), self.value(tokens), self.heads)
