"""Is a metric reliable: do clips agree on which method is better, and does the metric tell methods from chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from vidattr_bench.resampling import Array, Groups, complete_rows, group_codes, group_sums, rows


def krippendorff_alpha(ratings: ArrayLike) -> float:
    """Krippendorff's alpha of ordinal `ratings` (clips, methods), NaN where missing: 1 agreement, 0 chance.

    Clips rate, methods are rated. Scores of different clips have no common scale, so give ranks (`clip_ranks`). The
    ordinal difference of two values, squared, is that of their mid-ranks among all pairable values (Krippendorff 2011,
    Computing Krippendorff's alpha-reliability, section on ordinal data), so that alpha = 1 - D_o / D_e is a ratio of
    sums of squares, within methods and in total. NaN where no method has two ratings, or all pairable ones are equal.
    """
    matrix = np.asarray(ratings, dtype=np.float64)
    counts = np.isfinite(matrix).sum(0)
    paired = np.where(counts >= 2, matrix, np.nan)
    pairable = np.isfinite(paired)
    if not pairable.any():
        return float("nan")
    ranks = np.full(matrix.shape, np.nan)
    ranks[pairable] = stats.rankdata(paired[pairable])
    total = int(pairable.sum())
    expected = np.nansum((ranks - np.nanmean(ranks)) ** 2) / (total - 1)
    columns, ratings_each = ranks[:, counts >= 2], counts[counts >= 2]
    within = np.nansum((columns - np.nanmean(columns, axis=0)) ** 2, axis=0)
    observed = (within * ratings_each / (ratings_each - 1)).sum() / total
    return float(1 - observed / expected) if expected > 0 else float("nan")


def clip_ranks(scores: ArrayLike) -> Array:
    """Ranks of `scores` (clips, methods) within each clip, in (0, 1): mid-rank less 1/2, over the methods defined."""
    matrix = np.asarray(scores, dtype=np.float64)
    ranks: Array = (stats.rankdata(matrix, axis=1, nan_policy="omit") - 0.5) / np.maximum(
        np.isfinite(matrix).sum(1, keepdims=True), 1
    )
    return ranks


def li_alpha(scores: ArrayLike, random: int) -> float:
    """Li's weighted agreement of clips about methods, in [-1, 1] (Li et al. 2021, doi:10.1145/3447548.3467148).

    sum_{i<j} w_i w_j rho_ij / sum_{i<j} w_i w_j over pairs of clips i, j; rho_ij is Spearman's correlation, over the M
    methods, of their `scores` (clips, methods; more is better) on both clips; w_i = (M - 1 - rank_i(random)) / (M - 1),
    where the worst method of a clip has rank 0 and `random` names the column of chance: a clip on which chance does
    best says nothing. Over the methods defined anywhere and the clips that have them all; a clip on which all methods
    tie has no correlation and is left out. NaN where no pair has weight.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    shared, used = complete_rows(matrix)
    if not used[random]:
        return float("nan")
    complete = matrix[shared][:, used]
    ranks = stats.rankdata(complete, axis=1) if len(complete) else complete
    varied = ranks[np.ptp(ranks, axis=1) > 0] if ranks.size else ranks
    methods = varied.shape[1]
    weights = (methods - varied[:, int(used[:random].sum())]) / max(methods - 1, 1)
    centred = varied - varied.mean(1, keepdims=True)
    units = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    pairs = weights.sum() ** 2 - (weights**2).sum()
    agreement = ((weights @ units) ** 2).sum() - (weights**2).sum()
    return float(agreement / pairs) if pairs > 1e-12 else float("nan")


class SplitHalf(NamedTuple):
    """How well two halves of the clips agree on the ranking of methods.

    Attributes:
        correlation: Spearman's correlation of the methods' means on both halves, mean over splits.
        stepped_up: what the whole set would give, 2 r / (1 + r) (Spearman-Brown); NaN where r is -1.
    """

    correlation: float
    stepped_up: float


def split_half(scores: ArrayLike, groups: Groups, *, splits: int = 1000, seed: int = 0) -> SplitHalf:
    """Rank correlation of the methods' means between random halves of the groups; `scores` (clips, methods).

    On the clips that all methods share. Halves are of groups, an odd one being left out by chance. Correlations are
    averaged over splits and then stepped up. NaN with fewer than two groups or three methods, or where a half ties them
    all in every split.
    """
    matrix = rows(scores, groups)
    shared, used = complete_rows(matrix)
    codes = np.unique(group_codes(groups)[shared], return_inverse=True)[1]
    sizes = np.bincount(codes)
    if len(sizes) < 2 or used.sum() < 3:
        return SplitHalf(float("nan"), float("nan"))
    sums = group_sums(matrix[shared][:, used], codes)
    halves = _halves(len(sizes), splits, seed)
    first, second = (stats.rankdata((half @ sums) / (half @ sizes)[:, None], axis=1) for half in halves)
    correlations = _correlations(first, second)
    varied = np.isfinite(correlations)
    correlation = float(correlations[varied].mean()) if varied.any() else float("nan")
    return SplitHalf(correlation, 2 * correlation / (1 + correlation) if correlation > -1 else float("nan"))


def _halves(groups: int, splits: int, seed: int) -> tuple[Array, Array]:
    """Memberships (splits, G) of two random halves of the groups."""
    places = np.random.default_rng([seed, groups, splits]).permuted(np.tile(np.arange(groups), (splits, 1)), axis=1)
    half = groups // 2
    return (places < half).astype(np.float64), ((places >= half) & (places < 2 * half)).astype(np.float64)


def _correlations(first: Array, second: Array) -> Array:
    """Pearson's correlation of each row of one (S, M) with that of the other; NaN where a row is constant."""
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (first, second))
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    correlations: Array = np.divide((a * b).sum(1), norm, out=np.full(len(a), np.nan), where=norm > 0)
    return correlations


def discrimination(scores: ArrayLike, random: ArrayLike) -> NDArray[np.float64]:
    """Share of clips (M,) on which `random` (clips,) beats each method of `scores` (clips, methods), ties half.

    More is better in both; 1/2 is a metric that does not tell the method from chance. NaN where no clip has both.
    """
    matrix, chance = np.asarray(scores, dtype=np.float64), np.asarray(random, dtype=np.float64)
    lost = (np.sign(chance[:, None] - matrix) + 1) / 2
    defined = np.isfinite(lost).sum(0)
    shares: Array = np.divide(np.nansum(lost, axis=0), defined, out=np.full(len(defined), np.nan), where=defined > 0)
    return shares
