"""The attention of a video transformer: its matrices, whatever code computes them, and the tokens that it mixes.

Understood are `F.scaled_dot_product_attention`, `nn.MultiheadAttention` and an explicit softmax over the last axis of
scores (..., queries, keys): so are joint and divided space-time attention as timm, Hugging Face's transformers and the
authors of TimeSformer, ViViT and VideoMAE write them, whatever the order of their tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.model import VideoModel

Weigh = Callable[[Tensor, Tensor], Tensor]
"""Scores (..., queries, keys) and their softmax -> the weights that the attention goes on with."""

_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax, torch.special.softmax)
_TRIES = 4


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


@contextmanager
def recorded_attention() -> Iterator[list[Tensor]]:
    """Collect the matrices (..., n, n) of every attention that is computed inside, in order and in the graph."""
    matrices: list[Tensor] = []

    def record(scores: Tensor, softmax: Tensor) -> Tensor:
        matrices.append(softmax)
        return softmax

    with Interception(record):
        yield matrices


def attends(model: VideoModel, x: Tensor) -> bool:
    """Whether the network computes any attention on normalised clips like x."""
    with torch.no_grad(), recorded_attention() as matrices:
        model.net(x[:1])
    return bool(matrices)


@dataclasses.dataclass(frozen=True)
class Attention:
    """One attention of a network, on one clip: m matrices (n, n), one a head and group of tokens.

    Attributes:
        groups: the tokens of each of g groups that attend to each other, (g, n).
        group: which group each matrix belongs to, (m,).
    """

    groups: Tensor
    group: Tensor

    def mean_over_heads(self, matrices: Tensor) -> Tensor:
        """One matrix a group, (g, n, n), from (..., n, n)."""
        g, n = self.groups.shape
        total = matrices.new_zeros(g, n, n).index_add(0, self.group, matrices.reshape(-1, n, n))
        return total * (g / len(self.group))


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of a video transformer: patches in the order of (t, h, w), then the class token if there is one.

    Attributes:
        grid: how many patches there are in time, height and width.
        attentions: what attends to what, in order of execution.
        read: weight of each token in what the head reads, (tokens,): the class token, or the mean of all patches.
    """

    grid: tuple[int, int, int]
    attentions: tuple[Attention, ...]
    read: Tensor


def tokens(model: VideoModel, x: Tensor) -> Tokens:
    """The tokens of a video transformer and who attends to whom, found by a probe once per clip size.

    Patches are what the last convolution before the first attention puts out. With every attention switched off (each
    token attends to itself alone) a patch that is changed there changes the rows of that patch in every attention and
    no others, which tells every row's patch; a row that no patch changes is the class token's.

    Raises:
        NotApplicableError: there is no attention, or one that is pooled or windowed, or tokens mix outside attention.
    """
    key = ("tokens", tuple(x.shape[1:]), x.device)
    if key not in model.facts:
        try:
            model.facts[key] = _Probe(model, x).tokens()
        except NotApplicableError as reason:
            model.facts[key] = str(reason)
    found: Tokens | str = model.facts[key]
    if isinstance(found, str):
        raise NotApplicableError(found)
    return found


class _Probe:
    """One noise clip through the network, attention switched off, again and again with some patches changed."""

    def __init__(self, model: VideoModel, x: Tensor) -> None:
        self.net = model.net
        self.x = torch.randn(1, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
        self.scores: list[Tensor] = []
        self.embedding, self.grid = self._patch_embedding()

    def tokens(self) -> Tokens:
        """What was found out; raises `NotApplicableError` as the function of this name does."""
        changed, reads_patches = self._changes()
        attentions = tuple(_attention(_patch_of_every_row(each), self.grid) for each in changed)
        patches = math.prod(self.grid)
        has_class_token = any(bool((each.groups == patches).any()) for each in attentions)
        if not has_class_token and not reads_patches:
            raise NotApplicableError("the logits depend on no patch, and there is no class token")
        read = torch.zeros(patches + has_class_token, device=self.x.device)
        if reads_patches:
            read[:patches] = 1 / patches
        else:
            read[patches] = 1
        return Tokens(self.grid, attentions, read)

    def _patch_embedding(self) -> tuple[nn.Module, tuple[int, int, int]]:
        """The last convolution before the first attention, and the grid of what it puts out."""
        ran: list[tuple[nn.Module, torch.Size]] = []
        before: list[int] = []

        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            ran.append((module, output.shape))

        def weigh(scores: Tensor, softmax: Tensor) -> Tensor:
            before.append(len(ran))
            return softmax

        convolutions = [module for module in self.net.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))]
        hooks = [module.register_forward_hook(note) for module in convolutions]
        try:
            with torch.no_grad(), Interception(weigh):
                self.net(self.x)
        finally:
            for hook in hooks:
                hook.remove()
        if not before:
            raise NotApplicableError("the network has no attention between tokens")
        if not before[0]:
            raise NotApplicableError("no convolution embeds patches before the first attention of the network")
        module, shape = ran[before[0] - 1]
        if sum(other is module for other, _ in ran) > 1:
            raise NotApplicableError("the convolution that embeds the patches runs more than once")
        t, h, w = shape[2:] if len(shape) == 5 else (shape[0], *shape[2:])
        return module, (t, h, w)

    def _changes(self) -> tuple[list[Tensor], bool]:
        """What changes with the patches whose number has a certain bit; whether the logits are among it.

        Returns:
            for each attention whether its rows change, (2, bits, m, n), with patches whose bit is 0 and is 1; whether
            the logits ever do.
        """
        patches = math.prod(self.grid)
        bits = range(max(1, (patches - 1).bit_length()))
        number = torch.arange(patches, device=self.x.device).view(self.grid)
        before, logits = self._run()
        changed = [torch.zeros(2, len(bits), *each.shape, dtype=torch.bool, device=each.device) for each in before]
        reads_patches = False
        for seed in range(_TRIES):
            for value, bit in itertools.product((0, 1), bits):
                after, changed_logits = self._run((number >> bit & 1) == value, seed)
                reads_patches |= not torch.equal(logits, changed_logits)
                for total, old, new in zip(changed, before, after, strict=True):
                    total[value, bit] |= old != new
            # A score may come out equal by chance, the likelier the lower the precision: then some bit is unknown.
            known = [each.any(0) for each in changed]
            if all(torch.equal(each.any(0), each.all(0)) for each in known):
                break
        return changed, reads_patches

    def _run(self, mark: Tensor | None = None, seed: int = 0) -> tuple[list[Tensor], Tensor]:
        """Every attention's scores of each token with itself, (m, n), and the logits, where marked patches changed."""
        self.scores = []

        def change(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            if mark is None:
                return None
            noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
            return output + noise * output.std() * (mark if output.ndim == 5 else mark[:, None])

        with torch.no_grad(), self.embedding.register_forward_hook(change), Interception(self._switch_off):
            return self.scores, self.net(self.x)

    def _switch_off(self, scores: Tensor, softmax: Tensor) -> Tensor:
        queries, keys = scores.shape[-2:]
        if queries != keys:
            raise NotApplicableError(f"attention is pooled: {queries} tokens attend to {keys} others")
        self.scores.append(scores.diagonal(dim1=-2, dim2=-1).reshape(-1, queries))
        return torch.eye(queries, dtype=softmax.dtype, device=softmax.device).expand_as(softmax)


def _patch_of_every_row(changed: Tensor) -> Tensor:
    """Numbers of patches, -1 for none, (m, n), from what changes with each value of each bit, (2, bits, m, n)."""
    if bool(changed.all(0).any()):
        raise NotApplicableError("tokens are merged or mixed outside attention, which attention alone does not show")
    powers = 2 ** torch.arange(changed.shape[1], device=changed.device).view(-1, 1, 1)
    return (changed[1] * powers).sum(0).where(changed.any(0).any(0), -1)


def _attention(rows: Tensor, grid: tuple[int, int, int]) -> Attention:
    """An attention among the tokens `rows` (m, n); raises `NotApplicableError` unless it is joint or divided."""
    patches = math.prod(grid)
    groups, group, heads = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    inside = groups >= 0
    if not inside.any():
        raise NotApplicableError("there is attention among tokens that no patch leads to but through other attention")
    once = groups[inside].bincount(minlength=patches).eq(1).all()
    if not once or not all(_is_whole(row[row >= 0], grid) for row in groups):
        raise NotApplicableError(
            f"attention is windowed: {len(groups)} groups of tokens, which are not all {' x '.join(map(str, grid))} "
            "patches, nor those of a frame, nor those of a place"
        )
    if int((~inside).sum(1).max()) > 1 or len(torch.unique(heads)) > 1:
        raise NotApplicableError("there is more than one token beside the patches, and which one is read is unknown")
    return Attention(groups.where(inside, patches), group)


def _is_whole(patches: Tensor, grid: tuple[int, int, int]) -> bool:
    """Whether these are all patches, all of one frame or all of one place, given that none is there twice."""
    t, area = grid[0], grid[1] * grid[2]
    one_frame, one_place = (len(torch.unique(axis)) == 1 for axis in (patches // area, patches % area))
    n = len(patches)
    return n == t * area or (one_frame and n == area) or (one_place and n == t)
