"""The decision rule of the regression gate: paired differences of many cells -> a verdict each.

With d the mean over clips of new - old, oriented so that more is better, and delta > 0 the margin of the cell's metric,
three questions are put to every cell, each with one side:

- regressed: is d < -delta? rejects d >= -delta;
- pass: is d > -delta? rejects d <= -delta;
- improved: is d > delta? rejects d <= delta.

Each question is a family at level .05 of the cells on which it is open (`open_to`), tested by step-down max-T: signs of
whole groups are flipped around the border, in all cells at once, since they share the clips. Under six groups there are
too few flips, and Student's t with Holm takes their place. A cell is regressed, else improved, else passes; one to
which none of the three applies is inconclusive. Scores that are equal on every clip pass.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from vidattr_bench.differences import holm, sign_flip_step_down
from vidattr_bench.resampling import Array, Groups, group_codes, group_sums, rows

LEVEL = 0.05
POWER = 0.9
_FLIPS = 10_000
_FEW = 6  # groups below which the data's own signs and their opposite are more than 5 % of all flips
_OUT_OF_REACH = 1000  # times the clips there are: no run will have them
_QUESTIONS = ((-1, -1), (1, -1), (1, 1))  # regressed, pass, improved: side of the border asked for, border in margins


@dataclasses.dataclass(frozen=True)
class Paired:
    """Means (K,) of paired differences with their cluster standard errors, and what they are over.

    The standard error is NaN where there is one group, 0 where every clip has the same difference. Degrees of freedom
    are those that groups of unequal size n leave, (sum n)^2 / sum n^2 - 1: groups - 1 where all are equal.
    """

    mean: Array
    error: Array
    freedom: Array
    clips: NDArray[np.intp]
    groups: NDArray[np.intp]
    equal: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the rule says of one cell.

    Attributes:
        verdict: regressed, inconclusive, improved or pass.
        difference: mean of new - old, oriented so that more is better.
        error: its cluster standard error.
        low: lower limit of the difference's unadjusted 95 % t interval.
        high: upper limit.
        clips: clips on which both are defined.
        groups: groups they come from.
        p: p of each question, adjusted for its family: regressed, pass, improved.
        more: about how many further clips decide it with 90 % power; None where it is decided or no number would do.
    """

    verdict: str
    difference: float
    error: float
    low: float
    high: float
    clips: int
    groups: int
    p: tuple[float, float, float]
    more: int | None = None


def decide(differences: ArrayLike, groups: Groups, margins: ArrayLike, level: float = LEVEL) -> list[Decision]:
    """Verdicts of K cells from oriented differences (N, K), NaN where a clip has none, and margins (K,) above 0.

    Raises:
        ValueError: a margin is not above 0, or shapes do not fit.
    """
    matrix, delta = np.asarray(differences, dtype=np.float64), np.asarray(margins, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape != (len(groups), len(delta)):
        raise ValueError(f"differences {matrix.shape} do not fit {len(groups)} groups and {len(delta)} margins")
    if not (delta > 0).all():
        raise ValueError("a margin that is tested must be above 0")
    paired = cluster_means(matrix, groups)
    adjusted = adjusted_p(matrix, groups, paired, delta)
    found = verdicts(adjusted, level)
    half = paired.error * stats.t.ppf(0.975, np.maximum(paired.freedom, 1))
    left = _left(paired, delta, adjusted, level)
    return [
        _decision(paired, at, str(found[at]), adjusted[:, at], float(delta[at]), float(half[at]), int(left[at]), level)
        for at in range(len(delta))
    ]


def _left(paired: Paired, margins: Array, adjusted: Array, level: float) -> NDArray[np.intp]:
    """Size (K,) of the family in which more clips would decide a cell: of pass, or of regressed beyond the margin.

    Counted are the cells that are not decided yet, since those that are stay so and come first.
    """
    below, above, _ = p_values(paired, margins)
    worse, fine, _ = adjusted <= level
    regressing, passing = (open_to(below) & ~worse).sum(), (open_to(above) & ~fine).sum()
    left: NDArray[np.intp] = np.where(paired.mean < -margins, regressing, passing)
    return left


def verdicts(adjusted: Array, level: float = LEVEL) -> NDArray[np.str_]:
    """The verdict of each cell (K,) from the adjusted p of each question (3, K)."""
    worse, fine, better = adjusted <= level
    return np.select([worse, better, fine], ["regressed", "improved", "pass"], "inconclusive")


def adjusted_p(differences: Array, groups: Groups, paired: Paired, margins: Array, flips: int = _FLIPS) -> Array:
    """P of each question (3, K), adjusted for the cells on which it is open, from differences (N, K) and their means.

    The flips are the same at every call, whatever the cells and their order.
    """
    few = paired.groups.max(initial=0) < _FEW
    adjusted = p_values(paired, margins)
    for p, (sign, side) in zip(adjusted, _QUESTIONS, strict=True):
        family = open_to(p)
        excess = sign * (differences - side * margins)[:, family]
        p[family] = holm(p[family]) if few else sign_flip_step_down(excess, groups, flips=flips)
    return adjusted


def open_to(p: Array) -> NDArray[np.bool_]:
    """Where a question with these p (K,) of t is open: not where p is 0 or 1 in double precision, beyond any doubt.

    Where p is 1, the cell has equal scores, scores moved by rounding, or lies over 8.3 standard errors (13.9 with 40
    groups) on the other side of the border. It cannot be rejected, and takes nothing from the others: near the border
    no cell gets such a p, and one so far from it is never rejected, so a family keeps its level but for 1e-6 a cell,
    however cells depend on each other. Cells of one group have p = 1, too. Where p is 0, there is no noise to test.
    """
    return np.asarray((p > 0) & (p < 1))


def cluster_means(differences: Array, groups: Groups) -> Paired:
    """Means of the columns (N, K), NaN left out, with linearised cluster standard errors (Cochran 1977, chapter 6)."""
    matrix = rows(differences, groups)
    defined, codes = np.isfinite(matrix), group_codes(groups)
    known = np.where(defined, matrix, 0.0)
    sizes = group_sums(defined.astype(np.float64), codes)
    clips, present = sizes.sum(0), (sizes > 0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = known.sum(0) / clips
        residuals = group_sums(np.where(defined, known - mean, 0.0), codes)
        error = np.sqrt(present / (present - 1) * (residuals**2).sum(0)) / clips
        freedom = clips**2 / (sizes**2).sum(0) - 1
    lowest, highest = (np.where(defined, matrix, far) for far in (np.inf, -np.inf))
    constant = (lowest.min(0, initial=np.inf) == highest.max(0, initial=-np.inf)) & (clips > 0)
    error[constant & (present > 1)] = 0.0
    return Paired(mean, error, freedom, clips.astype(int), present, constant & (known == 0).all(0))


def p_values(paired: Paired, margins: Array) -> Array:
    """P of each question (3, K) by Student's t, not adjusted; 1 where there are fewer than two groups."""
    p = np.stack([_p(paired, sign * (paired.mean - side * margins)) for sign, side in _QUESTIONS])
    p[1, paired.equal] = 0.0
    return p


def _p(paired: Paired, excess: Array) -> Array:
    """P of rejecting that means (K,) with the errors of `paired` are at most 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(paired.error > 0, excess / paired.error, np.copysign(np.inf, excess))
        p = stats.t.sf(np.where(excess == 0, 0.0, t), np.maximum(paired.freedom, 1))
    return np.where(paired.groups > 1, p, 1.0)


def _decision(
    paired: Paired, at: int, verdict: str, p: Array, delta: float, half: float, left: int, level: float
) -> Decision:
    mean, error = float(paired.mean[at]), float(paired.error[at])
    clips, freedom = int(paired.clips[at]), float(max(paired.freedom[at], 1))
    more = further_clips(mean, error, clips, freedom, delta, left, level) if verdict == "inconclusive" else None
    return Decision(
        verdict,
        mean,
        error,
        mean - half,
        mean + half,
        clips,
        int(paired.groups[at]),
        (float(p[0]), float(p[1]), float(p[2])),
        more,
    )


def needed_error(delta: float, freedom: float, cells: int, level: float = LEVEL) -> float:
    """The standard error at which a cell delta away from a border is decided with 90 % power, whatever the other cells.

    By Student's t with Bonferroni: with many groups delta/4.8 for 200 cells and delta/3.9 for ten, with 40 groups
    delta/5.1 and delta/4.0. The flips need somewhat less where cells are correlated.
    """
    t = stats.t(max(freedom, 1))
    return float(delta / (t.isf(level / max(cells, 1)) + t.ppf(POWER)))


def further_clips(
    mean: float, error: float, clips: int, freedom: float, delta: float, cells: int, level: float = LEVEL
) -> int | None:
    """How many clips beyond those there are decide a cell with 90 % power; None where no number in reach would.

    They have to tell from -delta what was measured, or no change at all where that is nearer.
    """
    distance = min(delta, abs(mean + delta))
    if not error > 0 or distance == 0 or math.isnan(mean):
        return None
    growth = (error / needed_error(distance, freedom, cells, level)) ** 2
    return None if growth > _OUT_OF_REACH else max(1, math.ceil(clips * growth) - clips)
