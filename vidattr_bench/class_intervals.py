"""Intervals for means over classes of class means: the classes are fixed, the groups of clips drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from vidattr_bench.intervals import Interval, by_column
from vidattr_bench.resampling import Array, Bootstrap, Codes, Groups, group_codes, group_sums, rows


def class_mean(
    values: ArrayLike,
    labels: Groups,
    groups: Groups,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean over classes of the means of `values` (N,) over each class's clips; see `class_means`."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    return class_means(column, labels, groups, confidence=confidence, resamples=resamples, seed=seed)[0]


def class_means(
    values: ArrayLike,
    labels: Groups,
    groups: Groups,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Interval]:
    """Means over classes of class means of the columns of `values` (N, K), NaN dropped, with intervals.

    What is drawn is a group's contribution to the class mean (the score bootstrap: Kline & Santos 2012), u_g = sum_c
    e_gc / (C N_c), where e_gc is the sum of its n_gc clips of class c less the mean of the class's N_c clips. The
    standard error, sqrt(sum_g r_g^2), is the jackknife's, r_g the same sum with the weights sqrt(1 - 1 / G_c) / (1 -
    n_gc / N_c) for G_c groups: without bias where groups of equal size are nested in classes (UCF101), and it holds
    where a group has clips of several classes (EPIC); no class is ever missing from a resample. t has the degrees of
    freedom of that sum of squares, were clips independent and alike: tr(V)^2 / tr(V^2), V the covariance of the r_g
    (Bell & McCaffrey 2002); for nested groups of equal size, groups less classes. Classes with clips of one group only,
    whose spread cannot be seen, are compared with each other as one class, which errs on the wide side.

    Raises:
        ValueError: `labels` or `groups` name another number of clips than `values` holds.
    """
    matrix, classes, codes = rows(rows(values, groups), labels), group_codes(labels), group_codes(groups)
    bootstrap = Bootstrap(confidence, resamples, seed)
    return by_column(matrix, codes, lambda chosen, kept: _class_means(chosen, classes[kept], codes[kept], bootstrap))


def _class_means(values: Array, classes: Codes, groups: Codes, bootstrap: Bootstrap) -> Array:
    """Class mean, lower and upper limit (K, 3) of the columns of values (N, K) without NaN."""
    if len(values) == 0:
        return np.full((values.shape[1], 3), np.nan)
    classes, groups = (np.unique(codes, return_inverse=True)[1] for codes in (classes, groups))
    shares = 1 / np.bincount(classes)
    means = group_sums(values * shares[classes, None], classes)
    centre = np.where((values == values[0]).all(0), values[0], means.mean(0))
    cells = _cells(classes, groups)
    freedom = _freedom(cells)
    if np.isnan(freedom):
        return np.stack([centre, *np.full((2, len(centre)), np.nan)], axis=1)
    residuals = _residuals(values, means, cells)
    error = np.sqrt((group_sums((cells.weight * cells.jackknife)[:, None] * residuals, cells.of_group) ** 2).sum(0))
    contributions = group_sums(cells.weight[:, None] * residuals, cells.of_group)
    drawn = contributions - contributions.mean(0)
    low, high = bootstrap.quantiles(drawn, np.ones((len(drawn), 1)), freedom=freedom)
    return np.stack([centre, centre - high * error, centre - low * error], axis=1)


@dataclasses.dataclass(frozen=True)
class _Cells:
    """The clips of one class and one group together, M cells.

    Attributes:
        of_clip: cell of each clip (N,).
        of_class: class of each cell (M,).
        of_group: its group.
        alone: whether its class has no other; such cells are compared with each other, mean by mean.
        share: of the clips of its class, or where it is alone of the means that it is compared with.
        weight: of its residual in the mean of class means.
        jackknife: what the standard error multiplies that by.
        variance: of its clips' sum, or where it is alone of their mean, were clips independent with variance 1.
    """

    of_clip: Codes
    of_class: Codes
    of_group: Codes
    alone: NDArray[np.bool_]
    share: Array
    weight: Array
    jackknife: Array
    variance: Array


def _cells(classes: Codes, groups: Codes) -> _Cells:
    """The cells of clips (N,), numbered without a gap, with the weights of the jackknife."""
    size = np.bincount(classes).astype(np.float64)
    count = len(size)
    cells, of_clip = np.unique(classes * (groups.max() + 1) + groups, return_inverse=True)
    of_class, of_group = np.divmod(cells, groups.max() + 1)
    clips = np.bincount(of_clip).astype(np.float64)
    alone = clips == size[of_class]
    rivals = alone.sum() if alone.sum() > 1 else count
    share = np.where(alone, 1 / rivals, clips / size[of_class])
    members = np.where(alone, rivals, np.bincount(of_class)[of_class])
    return _Cells(
        of_clip=of_clip,
        of_class=of_class,
        of_group=of_group,
        alone=alone,
        share=share,
        weight=1 / np.where(alone, count, count * size[of_class]),
        jackknife=np.sqrt(1 - 1 / members) / np.where(share < 1, 1 - share, 1),
        variance=np.where(alone, 1 / size[of_class], clips),
    )


def _residuals(values: Array, means: Array, cells: _Cells) -> Array:
    """Sums over cells (M, K) of values (N, K) less class means (C, K); where a cell is alone, its mean less others'."""
    residuals = group_sums(values - means[cells.of_class[cells.of_clip]], cells.of_clip)
    if cells.alone.any():
        lonely = means[cells.of_class[cells.alone]]
        residuals[cells.alone] = lonely - (lonely if len(lonely) > 1 else means).mean(0)
    return residuals


def _freedom(cells: _Cells) -> float:
    """Degrees of freedom tr(V)^2 / tr(V^2) of the sum of squared contributions; NaN where nothing can differ.

    V = D - L L', D diagonal over groups, L (G, C) what the means that are taken off have of every group.
    """
    variance = (cells.weight * cells.jackknife) ** 2 * cells.variance
    compared = np.where(cells.alone, cells.of_class.max() + 1, cells.of_class)
    links = sparse.csr_array((np.sqrt(variance * cells.share), (cells.of_group, compared)))
    taken = links.power(2).sum(1)
    diagonal = np.bincount(cells.of_group, variance)
    trace = (diagonal - taken).sum()
    squared = (diagonal**2).sum() - 2 * (diagonal * taken).sum() + (links.T @ links).power(2).sum()
    return float(trace**2 / squared) if trace > 1e-9 * diagonal.sum() else float("nan")
