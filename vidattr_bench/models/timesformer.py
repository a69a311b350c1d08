"""TimeSformer: a transformer whose patches attend over time, then over space."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

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
_PATCH = 16
# Frames, one in how many, and pixels a side: the authors' linspace from the first of 256 or 384 frames to the last.
_VARIANTS = {"base": (8, 36, 224), "hr": (16, 17, 448), "large": (96, 4, 224)}
_LARGE_OF_SSV2 = 64
_KERNEL = "timesformer.embeddings.patch_embeddings.projection.weight"
# The authors' names, and those that Hugging Face gave their weights.
_RENAMED = {
    r"^(cls_token)$": r"timesformer.embeddings.\1",
    r"^pos_embed$": "timesformer.embeddings.position_embeddings",
    r"^time_embed$": "timesformer.embeddings.time_embeddings",
    r"^patch_embed\.proj\.": "timesformer.embeddings.patch_embeddings.projection.",
    r"^norm\.": "timesformer.layernorm.",
    r"^head\.": "classifier.",
    r"^blocks\.": "timesformer.encoder.layer.",
    r"\.temporal_norm1\.": ".temporal_layernorm.",
    r"\.temporal_fc\.": ".temporal_dense.",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"attn\.qkv\.": "attention.attention.qkv.",
    r"attn\.proj\.": "attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}


@dataclasses.dataclass(frozen=True)
class TimeSformer(PublishedEntry):
    """TimeSformer on 8 frames of 224 x 224 pixels: 121 566 352 parameters for 400 classes. Bertasius et al. 2021.

    arXiv 2102.05095. Weights are those of github.com/facebookresearch/TimeSformer, as
    TimeSformer_divST_8x32_224_K400.pyth, or of Hugging Face's transformers, as
    facebook/timesformer-base-finetuned-k400; transformers is not needed. Every 36th frame, as the authors' code takes 8
    of 256 frames, both ends included. On clips with more or fewer frames, or patches of 16 x 16 pixels, the nearest
    embeddings of time and place are taken, as there. A clip has 768 x 8 x 14 x 14 patches in `volume`, as the last
    attention reads them; after it nothing depends on them, since the class token alone is classified, so there is no
    linear head on a global average. The number of parameters is that of the authors' code, and 122 million in
    github.com/open-mmlab/mmaction2. With equal random weights logits are within 3e-6 of those of transformers 5.23.

    Attributes:
        release: whose clips the weights want: kinetics (the default), or ssv2 (Something-Something V2), whose frames
            are spread over the video (the first of each segment, where the authors take the middle one) and have blue
            first.
        variant: base; hr, on 16 frames of 448 x 448 pixels; or large, on 96 frames (64 of ssv2) of 224 x 224 pixels.
    """

    name: ClassVar[str] = "timesformer_b"
    head: ClassVar[str] = "classifier"
    feature_layer: ClassVar[str] = "volume"
    input: ClassVar[ClipInput] = ClipInput(length=8, stride=36, size=(224, 224), resize=224, crop="centre")
    mean: ClassVar[tuple[float, ...]] = (0.45, 0.45, 0.45)
    std: ClassVar[tuple[float, ...]] = (0.225, 0.225, 0.225)

    release: Literal["kinetics", "ssv2"] | None = None
    variant: Literal["base", "hr", "large"] = "base"

    def __post_init__(self) -> None:
        frames, stride, side = _VARIANTS[self.variant]
        wanted = ClipInput(length=frames, stride=stride, size=(side, side), resize=side, crop="centre")
        if self.release == "ssv2":
            frames = min(frames, _LARGE_OF_SSV2)
            wanted = dataclasses.replace(wanted, length=frames, stride=1, anchor="spread")
        object.__setattr__(self, "input", wanted)

    def asked(self) -> dict[str, Any]:
        """Where frames lie, if `release` says so; `variant` is the network's shape, whatever clips it is fed."""
        return {} if self.release is None else {"anchor": self.input.anchor}

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits."""
        return _Network(classes, self.input.length, self.input.size[0] // _PATCH)

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights by transformers' names, with kernels one frame deep, for clips with red first."""
        # The authors read ssv2 with OpenCV and swap its channels for other architectures only (datasets/utils.py).
        adapted = {renamed(name, _RENAMED): tensor for name, tensor in state.items()}
        kernel = adapted.get(_KERNEL)
        if kernel is not None and kernel.ndim == 4:
            adapted[_KERNEL] = (kernel.flip(1) if self.release == "ssv2" else kernel).unsqueeze(2)
        return adapted


class _Network(nn.Module):
    def __init__(
        self,
        classes: int,
        frames: int = 8,
        side: int = 14,
        depth: int = _DEPTH,
        width: int = _WIDTH,
        heads: int = _HEADS,
    ) -> None:
        super().__init__()
        embeddings = _Embeddings(frames, side, width)
        encoder = Encoder(_Layer(width, heads) for _ in range(depth))
        self.timesformer = named(embeddings=embeddings, encoder=encoder, layernorm=nn.LayerNorm(width, eps=EPSILON))
        self.volume = nn.Identity()
        self.classifier = nn.Linear(width, classes)
        initialise(self, (embeddings.cls_token, embeddings.position_embeddings, embeddings.time_embeddings))

    def forward(self, x: Tensor) -> Tensor:
        embeddings, encoder, layernorm = self.timesformer
        grid = (x.shape[2], x.shape[3] // _PATCH, x.shape[4] // _PATCH)
        tokens = encoder(embeddings(x), grid, self.volume)
        logits: Tensor = self.classifier(layernorm(tokens[:, 0]))
        return logits


class _Embeddings(nn.Module):
    """Clips (N, 3, T, H, W) -> the class token and the patches of every frame, (N, 1 + T h w, C).

    Args:
        frames: number of embeddings of time.
        side: number of embeddings of place along height and along width.
        width: channels.
    """

    def __init__(self, frames: int, side: int, width: int) -> None:
        super().__init__()
        self.cls_token = learnt(1, width)
        self.position_embeddings = learnt(1 + side * side, width)
        self.time_embeddings = learnt(frames, width)
        patch = (1, _PATCH, _PATCH)
        self.patch_embeddings = named(projection=nn.Conv3d(3, width, patch, patch))
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embeddings(x)
        first, places = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        grid = torch.unflatten(places.transpose(1, 2), 2, (self.side, -1))
        place = F.interpolate(grid, size=patches.shape[3:])
        time = F.interpolate(self.time_embeddings.transpose(1, 2), size=patches.shape[2])
        patches = patches + place[:, :, None] + time[..., None, None]
        class_token = (self.cls_token + first).expand(len(x), -1, -1)
        return torch.cat([class_token, patches.flatten(2).transpose(1, 2)], 1)


class _Layer(nn.Module):
    """Attention over time, attention over space, two linear layers on each token; all beside shortcuts, behind norms.

    The class token takes no part in attention over time. Each frame has a copy of it in attention over space, and it
    gets the mean of what its copies get.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.temporal_layernorm = nn.LayerNorm(width, eps=EPSILON)
        self.temporal_attention = _attention(width, heads)
        self.temporal_dense = nn.Linear(width, width)
        self.layernorm_before = nn.LayerNorm(width, eps=EPSILON)
        self.attention = _attention(width, heads)
        self.layernorm_after = nn.LayerNorm(width, eps=EPSILON)
        self.intermediate = named(dense=nn.Linear(width, 4 * width), gelu=nn.GELU())
        self.output = named(dense=nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, grid: Grid, volume: nn.Module | None = None) -> Tensor:
        n, frames = len(tokens), grid[0]
        first, patches = tokens[:, :1], torch.unflatten(tokens[:, 1:], 1, (frames, -1))
        patches = patches + self._over_time(patches.transpose(1, 2)).transpose(1, 2)
        copies = first[:, None].expand(-1, frames, -1, -1)
        seen = self.layernorm_before(torch.cat([copies, patches], 2))
        if volume is not None:
            others = shown(seen[:, :, 1:].flatten(1, 2), grid, volume)
            seen = torch.cat([seen[:, :, :1], torch.unflatten(others, 1, (frames, -1))], 2)
        added = torch.unflatten(self.attention(seen.flatten(0, 1)), 0, (n, frames))
        first = first + added[:, :, 0].mean(1, keepdim=True)
        tokens = torch.cat([first, (patches + added[:, :, 1:]).flatten(1, 2)], 1)
        out: Tensor = tokens + self.output(self.intermediate(self.layernorm_after(tokens)))
        return out

    def _over_time(self, patches: Tensor) -> Tensor:
        """What patches (N, h w, T, C) get from those of the same place."""
        added: Tensor = self.temporal_dense(self.temporal_attention(self.temporal_layernorm(patches).flatten(0, 1)))
        return torch.unflatten(added, 0, patches.shape[:2])


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).chunk(3, -1)
        return attended(query, key, value, self.heads)


def _attention(width: int, heads: int) -> nn.Sequential:
    return named(attention=_SelfAttention(width, heads), output=named(dense=nn.Linear(width, width)))
