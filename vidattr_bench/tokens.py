"""The tokens of a video transformer and who attends to whom, found out on the network itself.

Joint space-time attention is understood, and attention divided into time and space as in TimeSformer, in any order of
the tokens: where the class token has a copy in every frame, what the copies get is taken to be averaged.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from vidattr_bench.attention import Interception
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.model import VideoModel

_TRIES = 4


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
        read: weight of each token in what the head reads, (tokens,): the class token, the mean of all patches, or the
            mean of all tokens.
    """

    grid: tuple[int, int, int]
    attentions: tuple[Attention, ...]
    read: Tensor


def tokens_of(model: VideoModel, x: Tensor) -> Tokens:
    """The tokens of a video transformer and who attends to whom, found by a probe once per clip size.

    Patches are what the last convolution before the first attention puts out. With every attention switched off (each
    token attends to itself alone) a patch that is changed there changes the rows of that patch in every attention and
    no others, which tells every row's patch; a row that no patch changes is the class token's.

    Raises:
        NotApplicableError: there is no attention, or one that is pooled or windowed, or tokens mix outside attention,
            or the head reads something else than the class token or a mean.
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
        """What was found out; raises `NotApplicableError` as `tokens_of` does."""
        patches = math.prod(self.grid)
        marks = _marks(patches).to(self.x.device)
        changed, reads_patches = self._changes(marks)
        attentions = tuple(_attention(_patch_of_every_row(each, marks), self.grid) for each in changed)
        has_class_token = any(bool((each.groups == patches).any()) for each in attentions)
        if not has_class_token and not reads_patches:
            raise NotApplicableError("the logits depend on no patch, and there is no class token")
        if reads_patches:
            return Tokens(self.grid, attentions, self._mean_read(patches + has_class_token, marks))
        read = torch.zeros(patches + 1, device=self.x.device)
        read[patches] = 1
        return Tokens(self.grid, attentions, read)

    def _mean_read(self, tokens: int, marks: Tensor) -> Tensor:
        """Weight of each token in the mean that the head reads, (tokens,): of the patches or of all tokens.

        It is the mean for which the logits stay when every token that comes out last is replaced by it. The tokens are
        noise, and larger at the class token, so that it counts as much as all patches.
        """
        module, last = self._last_tokens(tokens)
        changed = torch.stack([(self._last_tokens(tokens, mark.view(self.grid))[1] != last).any(-1) for mark in marks])
        row = _patch_of_every_row(changed[:, None], marks)[0]
        if len(torch.unique(row)) < tokens:
            raise NotApplicableError("tokens are dropped or repeated after the last attention")
        is_patch = (row >= 0).to(last)
        noise = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)).to(last)
        noise[row < 0] *= tokens
        for weights in (is_patch / is_patch.sum(), torch.full_like(is_patch, 1 / tokens)):
            if self._reads_alike(module, noise, (weights @ noise).expand_as(noise)):
                return weights[row.where(row >= 0, tokens).argsort()]
        raise NotApplicableError("the head reads neither the class token, nor the mean of the patches or of all tokens")

    def _last_tokens(self, tokens: int, mark: Tensor | None = None) -> tuple[nn.Module, Tensor]:
        """The last module that puts out all tokens, and what it puts out, (tokens, width), where patches changed."""
        found: list[tuple[nn.Module, Tensor]] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and math.prod(output.shape[:-1]) == tokens:
                found[:] = [(module, output.reshape(tokens, -1))]

        with nn.modules.module.register_module_forward_hook(note):
            self._run(mark)
        if not found:
            raise NotApplicableError("no module puts out the tokens, so that what the head reads is unknown")
        return found[0]

    def _reads_alike(self, module: nn.Module, tokens: Tensor, others: Tensor) -> bool:
        """Whether the logits are the same where `module` puts out these tokens or others, but for rounding."""

        def logits(rows: Tensor) -> Tensor:
            def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                return rows.reshape(output.shape) if output.numel() == rows.numel() else output

            with module.register_forward_hook(replace):
                return self._run()[1]

        reference, found, expected = logits(torch.zeros_like(tokens)), logits(tokens), logits(others)
        return bool((found - expected).abs().max() < 1e-3 * (expected - reference).abs().max())

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

    def _changes(self, marks: Tensor) -> tuple[list[Tensor], bool]:
        """What changes with the patches that are marked in each of some runs, (runs, patches).

        Returns:
            for each attention whether its rows change, (runs, m, n); whether the logits ever do.
        """
        before, logits = self._run()
        changed = [torch.zeros(len(marks), *each.shape, dtype=torch.bool, device=each.device) for each in before]
        reads_patches = False
        for seed in range(_TRIES):
            for run, mark in enumerate(marks):
                after, changed_logits = self._run(mark.view(self.grid), seed)
                reads_patches |= not torch.equal(logits, changed_logits)
                for total, old, new in zip(changed, before, after, strict=True):
                    total[run] |= old != new
            # A score may come out equal by chance, the likelier the lower the precision: then a row changed too rarely.
            times = [each.sum(0) for each in changed]
            if all(bool(((each == 0) | (each >= len(marks) // 2)).all()) for each in times):
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
        # A copy, since a view would keep all scores: those of long clips fill the memory.
        self.scores.append(scores.diagonal(dim1=-2, dim2=-1).reshape(-1, queries).clone())
        return torch.eye(queries, dtype=softmax.dtype, device=softmax.device).expand_as(softmax)


def _marks(patches: int) -> Tensor:
    """Which patches are marked in which run, (runs, patches): each in another half of the runs.

    What changes with two patches or more then changes in more than half of them.
    """
    runs = next(n for n in itertools.count(2) if math.comb(n, n // 2) >= patches)
    halves = itertools.islice(itertools.combinations(range(runs), runs // 2), patches)
    return torch.tensor([[run in half for run in range(runs)] for half in halves]).T


def _patch_of_every_row(changed: Tensor, marks: Tensor) -> Tensor:
    """Numbers of patches, -1 for none, (m, n), from the runs in which rows change, (runs, m, n)."""
    powers = 2 ** torch.arange(len(marks), device=marks.device)
    codes, patches = (marks * powers[:, None]).sum(0).sort()
    code = (changed * powers[:, None, None]).sum(0)
    place = torch.searchsorted(codes, code).clamp(max=len(codes) - 1)
    if not bool(((codes[place] == code) | (code == 0)).all()):
        raise NotApplicableError("tokens are merged or mixed outside attention, which attention alone does not show")
    return patches[place].where(code > 0, -1)


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
