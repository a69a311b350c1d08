"""Draws of whole groups: how the uncertainty of numbers over clips that are not independent is found."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Groups = Sequence[Any] | NDArray[Any]
_CHUNK = 1000  # resamples at a time: with 1000 groups, 8 MB
_FEW = 5  # groups below which the bootstrap's limits are many times wider than t limits that cover as often
_LEAST = 0.5  # degrees of freedom below which limits lie hundreds of standard errors out, and farther the fewer


def rows(values: ArrayLike, groups: Groups) -> Array:
    """`values` (N, K) as numbers, held to one group a row.

    Raises:
        ValueError: `groups` names another number of clips than `values` holds.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != len(groups):
        raise ValueError(f"values of shape {matrix.shape} need one group a row, {len(groups)} are given")
    return matrix


def complete_rows(matrix: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows (N,) of a matrix (N, M) on which every column is defined that is defined anywhere, and those columns."""
    finite = np.isfinite(matrix)
    columns = np.asarray(finite.any(0))
    return np.asarray(finite[:, columns].all(1) & columns.any()), columns


def group_codes(groups: Groups) -> Codes:
    """Number of each clip's group (N,), groups numbered in the order of their names."""
    names = np.asarray([str(group) for group in groups])
    codes: Codes = np.unique(names, return_inverse=True)[1]
    return codes


def group_sums(values: Array, codes: Codes) -> Array:
    """Sums of the columns of `values` (N, K) over each group, (G, K)."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    sums: Array = np.add.reduceat(values[order], starts, axis=0)
    return sums


def alike(defined: NDArray[np.bool_]) -> list[list[int]]:
    """Columns of a mask (N, K) gathered by equality, so that each pattern is resampled once."""
    patterns: dict[bytes, list[int]] = {}
    for column in range(defined.shape[1]):
        patterns.setdefault(defined[:, column].tobytes(), []).append(column)
    return list(patterns.values())


def standard_error(residuals: Array, sizes: Array) -> Array:
    """Linearised cluster standard error (K,) of a ratio of sums from residuals (G, K) and sizes (G, 1 or K) of groups.

    Cochran 1977, chapter 6; of a mean, it is the cluster-robust one with the factor G / (G - 1).
    """
    groups = len(residuals)
    error: Array = np.sqrt(groups / (groups - 1) * (residuals**2).sum(0)) / np.abs(sizes.sum(0))
    return error


def draws(groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each resample draws each group, in parts of at most `_CHUNK` resamples, (rows, groups)."""
    counts = _counts(groups, resamples, seed)
    for start in range(0, resamples, _CHUNK):
        yield counts[start : start + _CHUNK].astype(np.float64)


@functools.lru_cache(maxsize=4)
def _counts(groups: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """The multinomial of `groups` draws, (resamples, groups)."""
    generator = np.random.default_rng([seed, groups, resamples])
    counts = np.empty((resamples, groups), dtype=np.uint16)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = generator.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
    counts.flags.writeable = False
    return counts


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The studentised cluster bootstrap of ratios of sums over groups; a mean over clips is one, with sizes below.

    Groups are drawn with replacement; the quantiles of (ratio* - ratio) / se* give the limits (Efron & Tibshirani 1993,
    section 12.5; Cameron, Gelbach & Miller 2008), widened by t / z with the degrees of freedom of the standard error:
    one less than (sum n)^2 / sum n^2, for groups of unequal size n, and than 3 (sum r^2)^2 / sum r^4, for residuals r
    with heavy tails (the same for normal ones). Without that they cover too rarely (docs/statistics.md).

    Attributes:
        confidence: coverage aimed at, in (0, 1).
        resamples: how many.
        seed: of the draws.
    """

    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    @property
    def tail(self) -> float:
        """Share of resamples beyond either limit."""
        return (1 - self.confidence) / 2

    def limits(self, ratio: Array, residuals: Array, sizes: Array) -> tuple[Array, Array]:
        """Lower and upper limits (K,) of ratios (K,) from residuals (G, K), which sum to zero, and sizes (G, 1 or K).

        NaN with fewer than two groups, or where one group is nearly all there is (of two, four clips in five).
        """
        if len(residuals) < 2:
            return np.full_like(ratio, np.nan), np.full_like(ratio, np.nan)
        error = standard_error(residuals, sizes)
        low, high = self.quantiles(residuals, sizes)
        return ratio - high * error, ratio - low * error

    def quantiles(
        self,
        residuals: Array,
        sizes: Array,
        *,
        ratio: Array | None = None,
        freedom: float | None = None,
    ) -> tuple[Array, Array]:
        """Lower and upper quantiles (K,) of the studentised ratio; of its logarithm where `ratio` (K,) is given.

        A resample without spread counts as infinitely far out; where a quantile would then be infinite, or with fewer
        than `_FEW` groups, it is that of t. `freedom` replaces the degrees of freedom that `sizes` leave; NaN with
        fewer than `_LEAST`.
        """
        left = sizes.sum(0) ** 2 / (sizes**2).sum(0) - 1 if freedom is None else np.array([freedom])
        left = np.where(left < _LEAST, np.nan, left)
        if len(residuals) < _FEW:
            few = np.broadcast_to(stats.t.ppf(1 - self.tail, left), residuals.shape[1:])
            return -few, few
        scale = np.abs(residuals).max(0)
        scale[scale == 0] = 1.0
        student = stats.t.ppf(1 - self.tail, np.minimum(left, _tails(residuals / scale)))
        t = self._studentised(residuals / scale, sizes, None if ratio is None else ratio / scale)
        below = int(np.floor(self.tail * (self.resamples - 1)))
        above = int(np.ceil((1 - self.tail) * (self.resamples - 1)))
        t.partition((below, above), axis=1)
        low, high = t[:, below], t[:, above]
        wider = student / stats.norm.ppf(1 - self.tail)
        return np.where(np.isfinite(low), low * wider, -student), np.where(np.isfinite(high), high * wider, student)

    def _studentised(self, residuals: Array, sizes: Array, ratio: Array | None) -> Array:
        """The studentised ratio of every resample (K, resamples); infinite where a resample has no spread."""
        moments = np.hstack([residuals, residuals * sizes, residuals**2, sizes, sizes**2])
        flat = 1e-7 * standard_error(residuals, sizes)
        parts = [
            _studentise(*_moved(chunk @ moments, residuals.shape), flat, ratio).T
            for chunk in draws(len(residuals), self.resamples, self.seed)
        ]
        return np.concatenate(parts, axis=1)


def _tails(residuals: Array) -> Array:
    """Degrees of freedom (K,), at least 1, that heavy tails of residuals (G, K) leave their sum of squares."""
    fourth = (residuals**4).sum(0)
    ratio = np.divide((residuals**2).sum(0) ** 2, fourth, out=np.full(len(fourth), np.inf), where=fourth > 0)
    freedom: Array = np.maximum(3 * ratio - 1, 1.0)
    return freedom


def _moved(sums: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Shift of the ratio and its standard error (rows, K) from sums over drawn groups of r, r n, r^2, n and n^2."""
    groups, columns = shape
    shifts, products, squares, rest = np.split(sums, [columns, 2 * columns, 3 * columns], axis=1)
    total, squared_sizes = np.split(rest, 2, axis=1)
    shift = shifts / total
    variance = squares - 2 * shift * products + shift**2 * squared_sizes
    return shift, np.sqrt(groups / (groups - 1) * np.maximum(variance, 0)) / np.abs(total)


def _studentise(shift: Array, error: Array, flat: Array, ratio: Array | None) -> Array:
    """Shift over standard error, or for logarithms their shift over theirs; a standard error up to `flat` is none."""
    infinite = np.where(np.abs(shift) < 1e-12, 0.0, np.copysign(np.inf, shift))
    spread = np.where(error <= flat, 1.0, error)
    if ratio is None:
        return np.where(error <= flat, infinite, shift / spread)
    moved = np.maximum(ratio + shift, np.finfo(float).tiny)
    return np.where(error <= flat, infinite, np.log(moved / ratio) * moved / spread)
