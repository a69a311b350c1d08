"""Perturbation curves: the one stream of forwards behind every faithfulness metric."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from vidattr_bench import substrates
from vidattr_bench.errors import PluginError
from vidattr_bench.model import VideoModel
from vidattr_bench.substrates import Replace
from vidattr_bench.units import Units, check_unit, cut_boundaries, regular_units, removal_order, tie_fraction

MEASURED_FORWARDS = 3


@dataclasses.dataclass(frozen=True)
class CurveSpec:
    """What is removed at once, what replaces it, and at how many cuts the model is asked.

    Attributes:
        unit: tubelet (a regular grid of 8 x 7 x 7 cells, fewer where an axis is shorter), supervoxel, frame or voxel.
        substrate: spec of a substrate.
        steps: S; cut k lies at the unit boundary nearest to the fraction k / S of voxels.

    Raises:
        PluginError: unknown unit or substrate, or fewer than one step.
    """

    unit: str = "tubelet"
    substrate: str = "blur3d"
    steps: int = 32

    def __post_init__(self) -> None:
        check_unit(self.unit)
        if self.steps < 1:
            raise PluginError(f"steps={self.steps}: a curve needs at least one step")
        substrates.create(self.substrate)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Logits of one clip as its units are removed, in both orders.

    Attributes:
        fractions: float64 (P,), share of voxels removed in MoRF order, from 0 to 1.
        morf: float64 (P, K), logits with that share removed, most relevant first.
        lerf: float64 (P, K), logits with `1 - fractions.flip(0)` removed, least relevant first.
        ties: share of units whose importance equals another unit's.
        reason: "" or why there is no curve: `constant_map`, where all units are tied (P is 0).
    """

    fractions: Tensor
    morf: Tensor
    lerf: Tensor
    ties: float
    reason: str = ""


def planned_forwards(spec: CurveSpec, units: Units, forward_batch: int = 1) -> int:
    """Clips that one curve sends through the model, the shared end points left out, padded to whole forward batches.

    Exact where all units have one size. Where sizes differ it is the most there can be: a tie in the very middle saves
    two clips, and so does every cut that shares its nearest boundary with the one before.
    """
    alike = len(set(units.sizes.tolist())) == 1
    interior = len(cut_boundaries(units.sizes, spec.steps)) - 2 if alike else min(spec.steps, len(units.sizes)) - 1
    return math.ceil(2 * interior / forward_batch) * forward_batch


@torch.no_grad()
def forward(model: VideoModel, x: Tensor, forward_batch: int) -> Tensor:
    """Logits (M, K) of perturbed clips x (M, C, T, H, W), always sent in batches of exactly `forward_batch`.

    The tail is padded with its last clip, so that no value depends on how many clips are asked for at once.
    """
    logits = []
    for clips in torch.split(x, forward_batch):
        padding = clips[-1:].expand(forward_batch - len(clips), *clips.shape[1:])
        whole = torch.cat([clips, padding]) if len(padding) else clips
        logits.append(model.logits(whole)[: len(clips)])
    return torch.cat(logits)


def remove_all(x: Tensor, substrate: str, model: VideoModel, seed: int, clip_id: str) -> Tensor:
    """The clip x (C, T, H, W) with every voxel removed."""
    return apply_all(substrates.bind(substrate, x, model, seed, clip_id), x)


def apply_all(replace: Replace, x: Tensor) -> Tensor:
    """The clip (C, T, H, W) that `replace` leaves when every voxel of x is removed."""
    return replace(x.new_ones(1, *x.shape[1:]), torch.empty_like(x)[None])[0]


@torch.no_grad()
def curve(
    model: VideoModel,
    x: Tensor,
    relevance: Tensor,
    spec: CurveSpec,
    ends: tuple[Tensor, Tensor],
    *,
    seed: int,
    clip_id: str,
    forward_batch: int,
    units: Units | None = None,
    replace: Replace | None = None,
) -> Curve:
    """The MoRF and LeRF curves of one clip, 2 (P - 2) perturbed clips in one stream of forwards.

    Args:
        model: the model under explanation.
        x: (C, T, H, W), the normalised clip.
        relevance: (T, H, W), larger = more evidence.
        spec: unit, substrate and steps.
        ends: logits (K,) of the clean clip and of the clip with everything removed.
        seed: the run's seed; with `clip_id` and the unit it fixes the order of ties.
        clip_id: unique name of the clip.
        forward_batch: clips per forward.
        units: the partition of the clip; by default the regular one that the spec names.
        replace: the substrate bound to x, where the caller has it already.

    Raises:
        ValueError: relevance is not finite or not of the clip's size.
    """
    if relevance.shape != x.shape[1:]:
        raise ValueError(f"clip {clip_id}: relevance {tuple(relevance.shape)} for a clip of {tuple(x.shape)}")
    units = units or regular_units(spec.unit, *x.shape[1:])
    means = units.means(relevance)
    if not bool(means.isfinite().all()):
        raise ValueError(f"clip {clip_id}: relevance has NaN or infinite values")
    clean, empty = (logits.cpu().double()[None] for logits in ends)
    if bool((means == means[0]).all()):
        return Curve(means[:0], clean[:0], clean[:0], ties=1.0, reason="constant_map")
    order = removal_order(means, seed, clip_id, spec.unit)
    cuts = cut_boundaries(units.sizes[order], spec.steps)
    replace = replace or substrates.bind(spec.substrate, x, model, seed, clip_id)
    morf = lerf = clean[:0]
    if len(cuts) > 2:
        ranks = _ranks(units, order).to(x.device)
        morf, lerf = _interior_logits(model, x, ranks, cuts[1:-1], replace, forward_batch).cpu().double().chunk(2)
    removed = torch.cat([units.sizes.new_zeros(1), units.sizes[order].cumsum(0)])[cuts]
    return Curve(
        fractions=removed.double() / removed[-1],
        morf=torch.cat([clean, morf, empty]),
        lerf=torch.cat([clean, lerf, empty]),
        ties=tie_fraction(means),
    )


@torch.no_grad()
def removed_logits(
    model: VideoModel, x: Tensor, units: Units, removed: Tensor, replace: Replace, forward_batch: int
) -> Tensor:
    """Logits (M, K) of the clip x (C, T, H, W) without each of M sets of units, bool (M, U), the tail padded."""
    labels = units.labels.to(x.device)
    masks = torch.empty(forward_batch, *x.shape[1:], dtype=x.dtype, device=x.device)
    clips = x.new_empty(forward_batch, *x.shape)
    logits = []
    for rows in torch.split(removed.to(x), forward_batch):
        for mask, row in zip(masks, rows, strict=False):
            mask.copy_(row[labels])
        logits.append(forward(model, replace(masks[: len(rows)], clips[: len(rows)]), forward_batch))
    return torch.cat(logits)


def _ranks(units: Units, order: Tensor) -> Tensor:
    """The position (T, H, W) of each voxel's unit in the order of removal, in the smallest type that holds it."""
    position = torch.empty(len(order), dtype=torch.int16 if len(order) < 2**15 else torch.int32)
    position[order] = torch.arange(len(order), dtype=position.dtype)
    return position[units.labels]


def _interior_logits(
    model: VideoModel, x: Tensor, ranks: Tensor, cuts: Tensor, replace: Replace, forward_batch: int
) -> Tensor:
    """Logits (2 I, K) at I cuts in MoRF order, then at the mirrored cuts in LeRF order."""
    n = 2 * len(cuts)
    # At one boundary LeRF has removed what MoRF has kept; the last cut fills up the last batch.
    thresholds = torch.cat([cuts, cuts.flip(0), cuts[:1].expand(-n % forward_batch)])
    kept_first = torch.arange(len(thresholds)) >= len(cuts)
    shape = (-1, forward_batch, 1, 1, 1)
    stream = zip(thresholds.to(ranks).view(shape), kept_first.to(x).view(shape), strict=True)
    removed = x.new_empty(forward_batch, *x.shape[1:])
    clips = x.new_empty(forward_batch, *x.shape)
    logits = []
    for threshold, lerf in stream:
        torch.lt(ranks, threshold, out=removed).sub_(lerf).abs_()
        logits.append(forward(model, replace(removed, clips), forward_batch))
    return torch.cat(logits)[:n]


@torch.no_grad()
def measure_forward_batch(
    model: VideoModel, x: Tensor, candidates: Sequence[int] = (1, 2, 4, 8, 16, 31, 62), clips: int = 62
) -> int:
    """The forward batch that sends `clips` clips like x (C, T, H, W) through the model soonest, padding included.

    The smallest within 5 % of the best; 2 s in all are not exceeded, and a size for which memory is short is left
    out. The model's calls are not counted.
    """
    seconds: dict[int, float] = {}
    deadline = time.perf_counter() + 2
    for size in sorted(candidates):
        expected = MEASURED_FORWARDS * size * min(seconds.values(), default=0.0) / clips
        if time.perf_counter() + expected > deadline:
            break
        try:
            seconds[size] = batch_seconds(model, x, size) * math.ceil(clips / size)
        except torch.OutOfMemoryError:
            break
    if not seconds:
        raise ValueError(f"no forward batch of {tuple(candidates)} fits into memory")
    return min(size for size, taken in seconds.items() if taken <= 1.05 * min(seconds.values()))


@torch.no_grad()
def batch_seconds(model: VideoModel, x: Tensor, size: int) -> float:
    """Seconds of a forward of `size` clips like x (C, T, H, W), the best after one that only warms up; not counted."""
    batch = x.expand(size, *x.shape).contiguous()
    instants = []
    for _ in range(MEASURED_FORWARDS):
        model.net(batch)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        instants.append(time.perf_counter())
    return min(later - earlier for earlier, later in itertools.pairwise(instants))
