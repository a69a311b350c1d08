"""The attention matrices of a network, whatever code computes them.

Understood are `F.scaled_dot_product_attention`, `nn.MultiheadAttention` and an explicit softmax over the last axis of
scores (..., queries, keys), which is how timm and Hugging Face's transformers write attention; fused kernels of other
libraries are not seen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vidattr_bench.model import VideoModel

Weigh = Callable[[Tensor, Tensor], Tensor]
"""Scores (..., queries, keys) and their softmax -> the weights that the attention goes on with."""

_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax, torch.special.softmax)


class Interception(TorchFunctionMode):
    """Inside, every attention is computed step by step, with the weights that `weigh` gives.

    Args:
        weigh: is handed the scores of every attention and their softmax, in the graph of the forward pass.
    """

    def __init__(self, weigh: Weigh) -> None:
        super().__init__()
        self.weigh = weigh

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, or its stand-in."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            # Nothing that it calls is seen from here: a mode is off while it handles a call.
            with (
                patch.object(F, "scaled_dot_product_attention", self._attend),
                patch.object(F, "softmax", functools.partial(self._soften, F.softmax)),
            ):
                return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return self._soften(func, *args, **kwargs) if func in _SOFTMAX else func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """`F.scaled_dot_product_attention` as its documentation defines it."""
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self.weigh(scores, scores.softmax(-1)) @ value

    def _soften(self, func: Callable[..., Tensor], input: Tensor, dim: int | None = None, *rest: Any, **kw: Any) -> Any:
        """A softmax; one over the last axis of three or more is taken for an attention's."""
        softmax = func(input, dim, *rest, **kw)
        return self.weigh(input, softmax) if input.ndim > 2 and dim in (-1, input.ndim - 1) else softmax


def attends(model: VideoModel, x: Tensor) -> bool:
    """Whether the network computes any attention on normalised clips like x."""
    found: list[bool] = []

    def note(scores: Tensor, softmax: Tensor) -> Tensor:
        found.append(True)
        return softmax

    with torch.no_grad(), Interception(note):
        model.net(x[:1])
    return bool(found)
