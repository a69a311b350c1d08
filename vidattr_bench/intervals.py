"""Intervals for means over clips that are not independent: the clips of one group are drawn together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidattr_bench.resampling import (
    Array,
    Bootstrap,
    Codes,
    Groups,
    alike,
    group_codes,
    group_sums,
    rows,
    standard_error,
)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number over clips with its confidence interval.

    Attributes:
        mean: mean of the defined values, or what else is estimated; NaN where there is none.
        low: lower limit; NaN with fewer than two groups.
        high: upper limit.
        clips: how many values it is over.
        groups: how many groups they come from.
        dropped: how many values were NaN.
    """

    mean: float
    low: float
    high: float
    clips: int
    groups: int
    dropped: int = 0


def cluster_interval(
    values: ArrayLike, groups: Groups, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of `values` (N,) with its studentised cluster bootstrap interval; see `cluster_intervals`."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    return cluster_intervals(column, groups, confidence=confidence, resamples=resamples, seed=seed)[0]


def paired_difference(
    a: ArrayLike, b: ArrayLike, groups: Groups, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of a - b over the clips on which both (N,) are defined, with its interval; see `cluster_intervals`."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return cluster_interval(difference, groups, confidence=confidence, resamples=resamples, seed=seed)


def cluster_intervals(
    values: ArrayLike, groups: Groups, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> list[Interval]:
    """Means of the columns of `values` (N, K), NaN dropped, with studentised cluster bootstrap intervals.

    The mean is a ratio of sums over groups, its standard error the linearised cluster one; see
    `resampling.Bootstrap`. The order of clips does not matter.

    Raises:
        ValueError: `groups` names another number of clips than `values` holds.
    """
    matrix, codes = rows(values, groups), group_codes(groups)
    bootstrap = Bootstrap(confidence, resamples, seed)
    return by_column(matrix, codes, lambda chosen, kept: _means(chosen, codes[kept], bootstrap))


def by_column(matrix: Array, codes: Codes, estimate: Callable[[Array, NDArray[np.bool_]], Array]) -> list[Interval]:
    """Intervals of the columns of `matrix` (N, K): `estimate` of those that are defined on the same rows at once.

    It is handed the values (n, k) without NaN and which rows they are, and gives estimate and limits, (k, 3).
    """
    defined = np.isfinite(matrix)
    intervals: dict[int, Interval] = {}
    for columns in alike(defined):
        kept = defined[:, columns[0]]
        sizes = counts(kept, codes)
        for column, (mean, low, high) in zip(columns, estimate(matrix[kept][:, columns], kept), strict=True):
            intervals[column] = Interval(float(mean), float(low), float(high), *sizes)
    return [intervals[column] for column in range(matrix.shape[1])]


def _means(values: Array, codes: Codes, bootstrap: Bootstrap) -> Array:
    """Mean, lower and upper limit (K, 3) of the columns of values (N, K) without NaN."""
    if len(values) == 0:
        return np.full((values.shape[1], 3), np.nan)
    means = np.where((values == values[0]).all(0), values[0], values.mean(0))
    residuals = group_sums(values - means, codes)
    sizes = group_sums(np.ones((len(values), 1)), codes)
    return np.stack([means, *bootstrap.limits(means, residuals, sizes)], axis=1)


def counts(kept: NDArray[np.bool_], codes: Codes) -> tuple[int, int, int]:
    """How many clips are kept, of how many groups, and how many are not: the end of an `Interval`."""
    return int(kept.sum()), len(np.unique(codes[kept])), int((~kept).sum())


def ratio_of_means(
    numerator: ArrayLike,
    denominator: ArrayLike,
    groups: Groups,
    *,
    log2: bool = False,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of `numerator` over mean of `denominator` (both (N,)) on the clips that have both, with its interval.

    A ratio of sums over groups, as a mean is; see `resampling.Bootstrap`. `log2` takes the logarithm of the ratio, and
    studentises on that scale. Without limits where the mean of the denominator is not distinguishable from 0 (any ratio
    is then compatible with the data: Fieller's set has no bounds), or where a logarithm is asked of a ratio up to 0.
    """
    pair = rows(np.stack([np.asarray(numerator, float), np.asarray(denominator, float)], axis=1), groups)
    codes, kept = group_codes(groups), np.asarray(np.isfinite(pair).all(1))
    bootstrap, sizes = Bootstrap(confidence, resamples, seed), counts(kept, codes)
    if sizes[1] == 0:
        return Interval(np.nan, np.nan, np.nan, *sizes)
    below = _means(pair[kept, 1:], codes[kept], bootstrap)[0]
    top, bottom = np.hsplit(group_sums(pair[kept], codes[kept]), 2)
    total = float(bottom.sum())
    ratio = float(top.sum()) / total if total else np.nan
    if log2 and not ratio > 0:
        return Interval(-np.inf if ratio == 0 else np.nan, np.nan, np.nan, *sizes)
    if not (below[1] > 0 or below[2] < 0):
        low = high = np.nan
    else:
        low, high = _ratio_limits(np.array([ratio]), top - ratio * bottom, bottom, log2, bootstrap)
    return Interval(float(np.log2(ratio)) if log2 else ratio, low, high, *sizes)


def _ratio_limits(
    ratio: Array, residuals: Array, sizes: Array, log2: bool, bootstrap: Bootstrap
) -> tuple[float, float]:
    """Limits of one ratio (1,), or of its logarithm to base 2, from residuals and sizes (G, 1)."""
    if not log2:
        low, high = bootstrap.limits(ratio, residuals, sizes)
        return float(low[0]), float(high[0])
    error = standard_error(residuals, sizes) / ratio
    below, above = bootstrap.quantiles(residuals, sizes, ratio=ratio)
    low, high = np.log2(ratio) - above * error / np.log(2), np.log2(ratio) - below * error / np.log(2)
    return float(low[0]), float(high[0])


def skill(
    score: ArrayLike,
    random: ArrayLike,
    oracle: ArrayLike,
    groups: Groups,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """(score - random) / (oracle - random), of means over the clips on which all three (N,) are defined.

    0 is what random gets, 1 what the truth itself gets; below 0 is worse than random. See `ratio_of_means`.
    """
    chance = np.asarray(random, dtype=np.float64)
    gain, span = np.asarray(score, dtype=np.float64) - chance, np.asarray(oracle, dtype=np.float64) - chance
    both = np.isfinite(gain) & np.isfinite(span)
    return ratio_of_means(
        np.where(both, gain, np.nan), span, groups, confidence=confidence, resamples=resamples, seed=seed
    )
