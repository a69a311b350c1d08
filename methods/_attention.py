"""What attention-based methods share: the matrices of one clip, and how relevance goes back through them.

A row of relevance r over the tokens, (n,), goes from what the head reads back to the patches, attention by attention:
the row of a product of matrices needs no matrix over all tokens, nor does attention that is divided into groups.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vidattr_bench.attention import Interception
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.model import VideoModel
from vidattr_bench.tokens import Attention, Tokens, tokens_of

Keep = Callable[[Tensor, Attention], Tensor]
"""The matrices (..., n, n) of an attention, in the graph -> the matrices (g, n, n) of its groups."""

_UNSTEADY = "how often the network attends depends on the clip"


def attend(model: VideoModel, x: Tensor, keep: Keep) -> tuple[Tokens, list[Tensor], Tensor]:
    """The tokens, what `keep` makes of every attention, and the logits (1, K) of one clip x (1, C, T, H, W).

    The matrices of a clip of 32 frames take gigabytes, so that none is held beyond the forward pass but by its graph.
    """
    found = tokens_of(model, x)
    kept: list[Tensor] = []

    def weigh(scores: Tensor, softmax: Tensor) -> Tensor:
        if len(kept) == len(found.attentions):
            raise NotApplicableError(_UNSTEADY)
        kept.append(keep(softmax, found.attentions[len(kept)]))
        return softmax

    with Interception(weigh):
        logits = model.logits(x)
    if len(kept) != len(found.attentions):
        raise NotApplicableError(_UNSTEADY)
    return found, kept, logits


def passed_on(r: Tensor, matrices: Tensor, attention: Attention) -> Tensor:
    """Relevance r (tokens,) times the matrices (g, n, n) of the groups of an attention, (tokens,).

    Copies of a token, such as the class token's in every frame, each pass on all of r.
    """
    given = torch.einsum("gi,gij->gj", r[attention.groups], matrices.to(r))
    return torch.zeros_like(r).index_add(0, attention.groups.flatten(), given.flatten())


def on_patches(r: Tensor, found: Tokens) -> Tensor:
    """The relevance of the patches, (t, h, w)."""
    t, h, w = found.grid
    return r[: t * h * w].view(t, h, w)
