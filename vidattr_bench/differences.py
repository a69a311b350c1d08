"""Tests and effect sizes of paired differences between two methods: signs are flipped a whole group at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from vidattr_bench.resampling import Array, Groups, group_codes, group_sums, rows

Alternative = Literal["two-sided", "greater", "less"]
_Floats = NDArray[np.floating[Any]]
_CHUNK = 256  # flips at a time: what they give for 2000 pairs of methods fits into the cache


def rank_biserial(difference: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation of differences (N,), in [-1, 1]: 1 where all are above 0.

    (R+ - R-) / (n (n + 1) / 2), R+ the sum of the ranks of |d| where d > 0 (Kerby 2014, doi:10.2466/11.IT.3.1).
    Zeros are ranked too (Pratt 1959) and count half for either side, so that many ties draw it to 0. NaN is dropped;
    NaN where nothing is left.
    """
    values = _defined(difference)
    if len(values) == 0:
        return float("nan")
    ranks = stats.rankdata(np.abs(values))
    return float((np.sign(values) * ranks).sum() / ranks.sum())


def superiority(a: ArrayLike, b: ArrayLike) -> float:
    """Probability that a > b on a random clip of those on which both (N,) are defined, ties half; the caller orients.

    NaN where there is no such clip.
    """
    signs = np.sign(_defined(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)))
    return float((1 + signs.mean()) / 2) if len(signs) else float("nan")


def _defined(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def sign_flip_p(
    difference: ArrayLike,
    groups: Groups,
    *,
    flips: int = 100_000,
    seed: int = 0,
    alternative: Alternative = "two-sided",
) -> float:
    """P value of the hypothesis that differences (N,) have mean 0; see `sign_flip_ps`."""
    column = np.asarray(difference, dtype=np.float64)[:, None]
    return float(sign_flip_ps(column, groups, flips=flips, seed=seed, alternative=alternative)[0])


def sign_flip_ps(
    differences: ArrayLike,
    groups: Groups,
    *,
    flips: int = 100_000,
    seed: int = 0,
    alternative: Alternative = "two-sided",
) -> Array:
    """P values (K,) of the hypotheses that columns of `differences` (N, K), NaN dropped, have mean 0.

    The sign of a group's sum is flipped, all its clips together. The statistic is the plain sum: its studentised form
    about 0, sum / sqrt(sum of squared group sums), has a denominator that no flip changes, so both give the same p.
    Exact where the groups' sums are symmetric, and for many groups without that. All 2^G flips are counted where they
    are at most `flips`; else that many random ones and the data, (1 + count) / (1 + flips) (Phipson & Smyth 2010). The
    smallest two-sided p is 2 / 2^G. NaN where no value is defined.
    """
    sums, defined = _group_sums(differences, groups)
    count, total = np.zeros(sums.shape[1]), 0
    for signs, rounding in _signs(len(sums), flips, seed):
        observed = _oriented(sums.sum(0), alternative) - rounding * np.abs(sums).sum(0)
        flipped = _oriented(signs @ sums.astype(signs.dtype), alternative)
        count += (flipped >= observed.astype(signs.dtype)).view(np.uint8).sum(0, dtype=np.uint16)
        total += len(signs)
    return np.where(defined, count / max(total, 1), np.nan)


def sign_flip_max_t(differences: ArrayLike, groups: Groups, *, flips: int = 100_000, seed: int = 0) -> Array:
    """Two-sided p values (K,) of columns of `differences` (N, K), adjusted for all K by the largest |t| of a flip.

    A flip turns a group's sign in every column at once, so that the dependence of columns is kept, which Holm cannot
    use (Westfall & Young 1993, single step); t is the group sums' total over the root of their sum of squares, which no
    flip changes. For a large family, whose Holm-adjusted p could not get small with so many flips. A column without a
    defined value is NaN and not of the family. Flips as in `sign_flip_ps`.
    """
    sums, defined = _group_sums(differences, groups)
    standard = _standard(sums)
    count, total = np.zeros(sums.shape[1]), 0
    for signs, rounding in _signs(len(sums), flips, seed):
        observed = np.abs(standard.sum(0)) - rounding * np.abs(standard).sum(0)
        largest = np.abs(signs @ standard.astype(signs.dtype)).max(1, initial=0)
        count += len(largest) - np.searchsorted(np.sort(largest), observed)
        total += len(signs)
    return np.where(defined, count / max(total, 1), np.nan)


def sign_flip_step_down(differences: ArrayLike, groups: Groups, *, flips: int = 100_000, seed: int = 0) -> Array:
    """P values (K,) of the hypotheses that columns of `differences` (N, K) have means of at most 0, by step-down max-T.

    As `sign_flip_max_t`, but of one side, and each column is held to the largest t of those columns that lie no higher:
    what lies higher is rejected before it (Westfall & Young 1993, algorithm 4.1; Romano & Wolf 2005,
    doi:10.1198/016214504000000539). So p is never below that of the column alone, and what Holm is to Bonferroni.
    """
    sums, defined = _group_sums(differences, groups)
    standard = _standard(sums[:, defined])
    order = np.argsort(standard.sum(0), kind="stable")
    ranked = standard[:, order]
    count, total = np.zeros(len(order)), 0
    for signs, rounding in _signs(len(sums), flips, seed):
        observed = ranked.sum(0) - rounding * np.abs(ranked).sum(0)
        largest = np.maximum.accumulate(signs @ ranked.astype(signs.dtype), axis=1)
        count += (largest >= observed.astype(signs.dtype)).sum(0)
        total += len(signs)
    adjusted, found = np.full(len(defined), np.nan), np.empty(len(order))
    found[order] = np.maximum.accumulate(count[::-1] / max(total, 1))[::-1]
    adjusted[defined] = found
    return adjusted


def _standard(sums: Array) -> Array:
    """Groups' sums (G, K) over the root of their sum of squares, which no flip changes; 0 where all are."""
    norm = np.sqrt((sums**2).sum(0))
    standard: Array = np.divide(sums, norm, out=np.zeros_like(sums), where=norm > 0)
    return standard


def _group_sums(differences: ArrayLike, groups: Groups) -> tuple[Array, NDArray[np.bool_]]:
    """Sums of what is defined over each group (G, K), and which columns hold anything; groups of zeros are left out."""
    matrix = rows(differences, groups)
    finite = np.isfinite(matrix)
    defined = np.asarray(finite.any(0))
    if len(matrix) == 0:
        return matrix, defined
    sums = group_sums(np.where(finite, matrix, 0.0), group_codes(groups))
    return sums[(sums != 0).any(1)], defined


def _oriented(statistic: _Floats, alternative: Alternative) -> _Floats:
    """The statistic such that larger speaks against the hypothesis."""
    return np.abs(statistic) if alternative == "two-sided" else statistic if alternative == "greater" else -statistic


def _signs(groups: int, flips: int, seed: int) -> Iterator[tuple[_Floats, float]]:
    """Signs (rows, G) in parts, with what share of a sum's terms counts as rounding.

    All signs, in double precision, where they are at most `flips`; else the data's own, and random ones in single
    precision, which is twice as fast: ties, which rounding could break, are rare among so many groups.
    """
    if 2**groups <= flips:
        every = itertools.product((1.0, -1.0), repeat=groups)
        while part := list(itertools.islice(every, _CHUNK)):
            yield np.array(part, dtype=np.float64).reshape(len(part), groups), 1e-9
        return
    yield np.ones((1, groups)), 1e-9
    generator = np.random.default_rng([seed, groups, flips])
    for start in range(0, flips, _CHUNK):
        drawn = generator.integers(0, 2, size=(min(_CHUNK, flips - start), groups), dtype=np.int8)
        yield drawn.astype(np.float32) * 2 - 1, 1e-6


def holm(p: ArrayLike) -> Array:
    """P values (K,) adjusted for the family of those that are not NaN (Holm 1979); NaN is kept.

    As `multipletests` of statsmodels, which collects garbage at every call: half a second where much is loaded.
    """
    adjusted = np.array(p, dtype=np.float64)
    order = np.argsort(adjusted)[: np.isfinite(adjusted).sum()]
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
