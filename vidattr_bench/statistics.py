"""Intervals for means over clips that are not independent: the clips of one group are drawn together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
_CHUNK = 1000  # resamples at a time: with 1000 groups, 8 MB
_FEW = 5  # below, the bootstrap's limits are many times wider than t limits that cover as often


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over clips with its confidence interval.

    Attributes:
        mean: mean of the defined values, NaN where there is none.
        low: lower limit; NaN with fewer than two groups.
        high: upper limit.
        clips: how many values the mean is over.
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
    values: ArrayLike,
    groups: Sequence[Any] | NDArray[Any],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of `values` (N,) with its studentised cluster bootstrap interval; see `cluster_intervals`."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    return cluster_intervals(column, groups, confidence=confidence, resamples=resamples, seed=seed)[0]


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence[Any] | NDArray[Any],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over the clips on which both (N,) are defined, with its interval; see `cluster_intervals`."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return cluster_interval(difference, groups, confidence=confidence, resamples=resamples, seed=seed)


def cluster_intervals(
    values: ArrayLike,
    groups: Sequence[Any] | NDArray[Any],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Interval]:
    """Means of the columns of `values` (N, K), NaN dropped, with studentised cluster bootstrap intervals.

    Groups are drawn with replacement; the mean is a ratio of sums, its standard error the linearised cluster one; the
    quantiles of (mean* - mean) / se* give the limits (Efron & Tibshirani 1993, section 12.5; Cameron, Gelbach & Miller
    2008). A resample without spread counts as infinitely far out; where a limit would then be infinite, or with fewer
    than `_FEW` groups, it is the t limit with groups - 1 degrees of freedom. The order of clips does not matter.

    Raises:
        ValueError: `groups` names another number of clips than `values` holds.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != len(groups):
        raise ValueError(f"values of shape {matrix.shape} need one group a row, {len(groups)} are given")
    names = np.asarray([str(group) for group in groups])
    defined = np.isfinite(matrix)
    intervals: dict[int, Interval] = {}
    for columns in _alike(defined):
        kept = defined[:, columns[0]]
        _, codes = np.unique(names[kept], return_inverse=True)
        means, lows, highs, n_groups = _limits(matrix[kept][:, columns], codes, confidence, resamples, seed)
        sizes = (int(kept.sum()), n_groups, int((~kept).sum()))
        for column, mean, low, high in zip(columns, means, lows, highs, strict=True):
            intervals[column] = Interval(float(mean), float(low), float(high), *sizes)
    return [intervals[column] for column in range(matrix.shape[1])]


def _alike(defined: NDArray[np.bool_]) -> list[list[int]]:
    """Columns of a mask (N, K) gathered by equality, so that each pattern is resampled once."""
    patterns: dict[bytes, list[int]] = {}
    for column in range(defined.shape[1]):
        patterns.setdefault(defined[:, column].tobytes(), []).append(column)
    return list(patterns.values())


def _limits(
    values: Array, codes: NDArray[np.intp], confidence: float, resamples: int, seed: int
) -> tuple[Array, Array, Array, int]:
    """Means, lower and upper limits (K,) of values (N, K) without NaN, and the number of groups."""
    undefined = np.full(values.shape[1], np.nan)
    if len(values) == 0:
        return undefined, undefined, undefined, 0
    sizes = np.bincount(codes).astype(np.float64)
    constant = (values == values[0]).all(0)
    means = np.where(constant, values[0], values.mean(0))
    centred = values - means
    scale = np.where((widest := np.abs(centred).max(0)) > 0, widest, 1.0)
    sums = [np.bincount(codes, column) for column in (centred / scale).T]
    residuals = np.stack(sums, axis=1).astype(np.float64)
    if len(sizes) == 1:
        return means, undefined, undefined, 1
    spread = scale * _standard_error(residuals**2, sizes.sum(), len(sizes))
    low, high = _quantiles(residuals, sizes, confidence, resamples, seed)
    return means, means - high * spread, means - low * spread, len(sizes)


def _standard_error(squares: Array, clips: float, groups: int) -> Array:
    """Linearised cluster standard error of a ratio mean from squared group residuals (G, K), Cochran 1977, ch. 6."""
    error: Array = np.sqrt(groups / (groups - 1) * squares.sum(0)) / clips
    return error


def _quantiles(residuals: Array, sizes: Array, confidence: float, resamples: int, seed: int) -> tuple[Array, Array]:
    """Lower and upper quantiles (K,) of the studentised mean, of group residuals (G, K) that sum to zero over G."""
    tail = (1 - confidence) / 2
    student = np.full(residuals.shape[1], stats.t.ppf(1 - tail, len(sizes) - 1))
    if len(sizes) < _FEW:
        return -student, student
    t = _studentised(residuals, sizes, resamples, seed)
    below, above = int(np.floor(tail * (resamples - 1))), int(np.ceil((1 - tail) * (resamples - 1)))
    t.partition((below, above), axis=0)
    low, high = t[below], t[above]
    return np.where(np.isfinite(low), low, -student), np.where(np.isfinite(high), high, student)


def _studentised(residuals: Array, sizes: Array, resamples: int, seed: int) -> Array:
    """(mean* - mean) / se* of every resample (resamples, K); infinite where a resample has no spread."""
    weights = _weights(len(sizes), resamples, seed)
    column = sizes[:, None]
    moments = np.hstack([residuals, residuals * column, residuals**2, column, column**2])
    flat = 1e-7 * _standard_error(residuals**2, sizes.sum(), len(sizes))
    parts = [
        _studentised_chunk(weights[start : start + _CHUNK].astype(np.float64) @ moments, len(sizes), flat)
        for start in range(0, resamples, _CHUNK)
    ]
    return np.concatenate(parts)


def _studentised_chunk(sums: Array, groups: int, flat: Array) -> Array:
    """From sums over drawn groups of r, r n, r^2 (K columns each), n and n^2; a standard error up to `flat` is none."""
    shifts, products, squares = np.split(sums[:, :-2], 3, axis=1)
    clips, squared_sizes = sums[:, -2:-1], sums[:, -1:]
    shift = shifts / clips
    variance = squares - 2 * shift * products + shift**2 * squared_sizes
    error = np.sqrt(groups / (groups - 1) * np.maximum(variance, 0)) / clips
    infinite = np.where(np.abs(shift) < 1e-12, 0.0, np.copysign(np.inf, shift))
    studentised: Array = np.where(error <= flat, infinite, shift / np.where(error <= flat, 1.0, error))
    return studentised


@functools.lru_cache(maxsize=4)
def _weights(groups: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each resample draws each group, (resamples, groups): the multinomial of `groups` draws."""
    generator = np.random.default_rng([seed, groups, resamples])
    counts = np.empty((resamples, groups), dtype=np.uint16)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = generator.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
    counts.flags.writeable = False
    return counts
