"""Which method is best, and how sure is its rank: methods compared on the clips that they share."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from vidattr_bench.differences import holm, sign_flip_ps
from vidattr_bench.intervals import Interval, counts
from vidattr_bench.resampling import (
    Array,
    Bootstrap,
    Codes,
    Groups,
    complete_rows,
    draws,
    group_codes,
    group_sums,
    rows,
)

_FEWEST_BLOCKS = 10


def rank_intervals(
    values: ArrayLike,
    groups: Groups,
    *,
    higher_is_better: bool,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Interval]:
    """Rank of each method, a column of `values` (N, M), 1 the best, with its percentile cluster bootstrap interval.

    Ranks are those of the means over the clips that all methods share, ties in the middle; a method defined nowhere has
    none. Whole groups are drawn, for all methods at once. A limit is a rank that resamples took.
    """
    matrix = rows(values, groups)
    shared, ranked = complete_rows(matrix)
    codes = group_codes(groups)
    sizes = counts(shared, codes)
    intervals = [Interval(np.nan, np.nan, np.nan, *sizes)] * matrix.shape[1]
    if not shared.any():
        return intervals
    oriented = np.where(higher_is_better, -1.0, 1.0) * matrix[shared][:, ranked]
    points = stats.rankdata(_rounded(oriented.mean(0)))
    limits = _rank_limits(oriented, codes[shared], Bootstrap(confidence, resamples, seed))
    for column, rank, low, high in zip(np.flatnonzero(ranked), points, *limits, strict=True):
        intervals[column] = Interval(float(rank), float(low), float(high), *sizes)
    return intervals


def _rounded(means: Array) -> Array:
    """Means without the last bits, in which equal ones differ by the order of addition."""
    return np.asarray(np.round(means / (np.abs(means).max() or 1.0), 12), dtype=np.float64)


def _rank_limits(oriented: Array, codes: Codes, bootstrap: Bootstrap) -> tuple[Array, Array]:
    """Lower and upper quantiles (M,) of the ranks of means of `oriented` (N, M), less being better."""
    sums, sizes = group_sums(oriented, codes), np.bincount(np.unique(codes, return_inverse=True)[1])
    if len(sizes) < 2:
        return np.full(sums.shape[1], np.nan), np.full(sums.shape[1], np.nan)
    parts = [
        stats.rankdata(_rounded(chunk @ sums / (chunk @ sizes)[:, None]), axis=1)
        for chunk in draws(len(sizes), bootstrap.resamples, bootstrap.seed)
    ]
    ranks = np.concatenate(parts)
    low, high = (
        np.quantile(ranks, level, axis=0, method="inverted_cdf") for level in (bootstrap.tail, 1 - bootstrap.tail)
    )
    return low, high


def tied_with_best(
    values: ArrayLike,
    groups: Groups,
    *,
    higher_is_better: bool,
    alpha: float = 0.05,
    flips: int = 100_000,
    seed: int = 0,
) -> tuple[int, NDArray[np.bool_]]:
    """Column of `values` (N, M) with the best mean, and which (M,) are not distinguishable from it, itself included.

    On the clips that all methods share; -1 where there is none. A method is distinguishable where the sign-flip test of
    the paired difference rejects at `alpha` after Holm over all pairs of methods: which one is best was seen in the
    same data, so that a family of comparisons with the best alone would err too often (docs/statistics.md).
    """
    matrix = rows(values, groups)
    shared, ranked = complete_rows(matrix)
    tied = np.zeros(matrix.shape[1], dtype=bool)
    if not shared.any():
        return -1, tied
    means = np.where(ranked, matrix[shared].mean(0), np.nan)
    best = int(np.nanargmax(means if higher_is_better else -means))
    first, second = pairs(int(ranked.sum()))
    methods = np.flatnonzero(ranked)
    kept = matrix[shared][:, ranked]
    own_groups = group_codes(groups)[shared]
    p = holm(sign_flip_ps(kept[:, first] - kept[:, second], own_groups, flips=flips, seed=seed))
    involved = (methods[first] == best) | (methods[second] == best)
    others = np.where(methods[first] == best, methods[second], methods[first])
    tied[others[involved & (p > alpha)]] = True
    tied[best] = True
    return best, tied


def pairs(methods: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and second members of all pairs of so many methods."""
    first, second = np.triu_indices(methods, k=1)
    return first, second


@dataclasses.dataclass(frozen=True)
class Friedman:
    """Whether methods differ over blocks.

    Attributes:
        statistic: Friedman's chi squared.
        p: of the hypothesis that all methods rank alike.
        ranks: mean rank of each method (M,), 1 the best.
        critical_difference: by how much two mean ranks must differ (Nemenyi at `alpha`).
        p_pairs: Nemenyi's p of each pair (M, M), 1 on the diagonal.
    """

    statistic: float
    p: float
    ranks: Array
    critical_difference: float
    p_pairs: Array


def friedman(blocks: ArrayLike, *, higher_is_better: bool = True, alpha: float = 0.05) -> Friedman:
    """Friedman's test over `blocks` (B, M) of means of M methods, and Nemenyi's critical difference (Demsar 2006).

    A block is a (data set x model x configuration), which are independent of each other; clips are not.

    Raises:
        ValueError: there are fewer than ten blocks, fewer than three methods, or a value is missing.
    """
    matrix = np.asarray(blocks, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 3 or not np.isfinite(matrix).all():
        raise ValueError(f"blocks of shape {matrix.shape} must be (blocks, three methods or more) without a gap")
    if len(matrix) < _FEWEST_BLOCKS:
        raise ValueError(
            f"{len(matrix)} blocks are too few for Friedman's test: it needs {_FEWEST_BLOCKS} or more of (data set x "
            "model x configuration); clips are no blocks, since they are not independent and not of one scale"
        )
    import scikit_posthocs  # here: it takes a second to import

    ranks = stats.rankdata(-matrix if higher_is_better else matrix, axis=1)
    result = stats.friedmanchisquare(*ranks.T)
    methods = matrix.shape[1]
    critical = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return Friedman(
        statistic=float(result.statistic),
        p=float(result.pvalue),
        ranks=ranks.mean(0),
        critical_difference=float(critical * np.sqrt(methods * (methods + 1) / (6 * len(matrix)))),
        p_pairs=scikit_posthocs.posthoc_nemenyi_friedman(ranks).to_numpy(float),
    )
