"""What attention-based methods share: the matrices of one clip, and how relevance goes back through them.

A row of relevance r over the tokens, (n,), goes from what the head reads back to the patches, attention by attention:
the row of a product of matrices needs no matrix over all tokens, nor does attention that is divided into groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidattr_bench.attention import recorded_attention
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.model import VideoModel
from vidattr_bench.tokens import Attention, Tokens, tokens_of


def attend(model: VideoModel, x: Tensor) -> tuple[Tokens, list[Tensor], Tensor]:
    """The tokens, the matrices (..., n, n) of every attention, and the logits (1, K) of one clip x (1, C, T, H, W)."""
    found = tokens_of(model, x)
    with recorded_attention() as matrices:
        logits = model.logits(x)
    if len(matrices) != len(found.attentions):
        raise NotApplicableError("how often the network attends depends on the clip")
    return found, matrices, logits


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
