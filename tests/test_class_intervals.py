import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from vidattr_bench.class_intervals import _cells, _freedom, _residuals
from vidattr_bench.resampling import Bootstrap, group_sums
from vidattr_bench.statistics import class_mean, class_means, cluster_interval


def clustered(seed: int, groups: int, clips: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Scores of groups of unequal size that share an effect."""
    generator = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), generator.integers(1, 2 * clips, groups))
    return 3 + generator.normal(size=groups)[codes] + generator.normal(size=len(codes)), codes


def limits(interval):
    return interval.mean, interval.low, interval.high


def test_class_mean_weighs_classes_not_clips():
    values, labels = [1.0, 1.0, 1.0, 1.0, 3.0, 5.0], ["walk"] * 4 + ["run"] * 2
    assert class_mean(values, labels, range(6)).mean == (1 + 4) / 2
    assert cluster_interval(values, range(6)).mean == 2.0


def test_one_class_is_the_mean_over_clips():
    values, codes = clustered(12, 40)
    assert class_mean(values, np.zeros(len(values)), codes).mean == pytest.approx(values.mean())


def test_class_mean_of_balanced_nested_groups_has_the_stratified_error():
    """Four groups of three clips in each of five classes: se^2 = sum_c s_c^2 / 4 / 25, s_c over group means."""
    generator = np.random.default_rng(13)
    groups, labels = np.repeat(np.arange(20), 3), np.repeat(np.arange(5), 12)
    values = labels + generator.normal(size=20)[groups] + generator.normal(size=60)
    means = values.reshape(5, 4, 3).mean(2)
    error = math.sqrt((means.var(1, ddof=1) / 4).sum()) / 5
    interval = class_mean(values, labels, groups)
    width = 2 * stats.t.ppf(0.975, 15) * error
    assert interval.mean == pytest.approx(means.mean())
    assert interval.high - interval.low == pytest.approx(width, rel=0.15)
    shifted = class_mean(values + 10 * labels, labels, groups)
    assert shifted.high - shifted.low == pytest.approx(interval.high - interval.low), "classes are fixed, not drawn"


def test_class_mean_of_crossed_groups_has_the_robust_error_of_least_squares():
    """Many groups across classes: leverage is small, and the error is that of the contrast of class dummies."""
    generator = np.random.default_rng(14)
    groups = np.repeat(np.arange(300), 4)
    labels = generator.integers(6, size=1200)
    values = labels + generator.normal(size=300)[groups] + generator.normal(size=1200)
    fit = sm.OLS(values, np.eye(6)[labels]).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    covariance = fit.cov_params()
    width = 2 * 1.96 * math.sqrt(np.full(6, 1 / 6) @ covariance @ np.full(6, 1 / 6))
    interval = class_mean(values, labels, groups)
    assert interval.high - interval.low == pytest.approx(width, rel=0.06)


def test_classes_of_one_group_are_compared_with_each_other():
    values, labels = np.array([0.0, 0.0, 4.0, 4.0, 8.0, 8.0]), np.repeat(["a", "b", "c"], 2)
    interval = class_mean(values, labels, labels)
    error = 4 / math.sqrt(3)
    reach = stats.t.ppf(0.975, 2) * error
    assert limits(interval) == pytest.approx((4, 4 - reach, 4 + reach))


def test_class_mean_drops_and_counts_what_is_undefined():
    values = np.array([[1.0, 1.0], [3.0, math.nan], [5.0, 5.0], [7.0, 9.0]])
    both = class_means(values, list("aabb"), range(4))
    assert [interval.mean for interval in both] == [4.0, 4.0]
    assert [interval.dropped for interval in both] == [0, 1]
    assert math.isnan(class_mean([math.nan], ["a"], ["g"]).mean)


def test_class_mean_of_a_constant_is_a_point():
    assert limits(class_mean(np.full(12, 0.1), np.arange(12) % 3, range(12))) == (0.1, 0.1, 0.1)


def test_class_mean_does_not_depend_on_the_order_of_clips():
    values, codes = clustered(15, 24)
    order = np.random.default_rng(16).permutation(len(codes))
    there, permuted = (class_mean(values[at], codes[at] // 4, codes[at]) for at in (np.arange(len(codes)), order))
    assert limits(permuted) == pytest.approx(limits(there), rel=1e-9)


def test_wrong_number_of_labels_is_refused():
    with pytest.raises(ValueError, match="one group a row"):
        class_mean([1.0, 2.0], ["a"], ["g", "h"])


DESIGNS = {
    "nested, of equal size": (np.repeat(np.arange(5), 12), np.repeat(np.arange(20), 3)),
    "nested, of unequal size": (clustered(17, 24)[1] // 4, clustered(17, 24)[1]),
    "across classes": (np.random.default_rng(18).integers(6, size=60), np.random.default_rng(19).integers(9, size=60)),
    "one class": (0 * clustered(20, 8)[1], clustered(20, 8)[1]),
    "three classes of one group": (np.repeat([0, 0, 1, 2, 3], 4), np.repeat([0, 1, 2, 3, 4], 4)),
    "classes of one group, which they share": (np.repeat([0, 0, 1, 2], 4), np.repeat([0, 1, 2, 2], 4)),
}


@pytest.mark.parametrize(("classes", "groups"), DESIGNS.values(), ids=DESIGNS)
def test_degrees_of_freedom_are_those_of_independent_clips(classes, groups):
    """Contributions are linear in the clips: R R' is their covariance V, were clips independent and alike."""
    classes, groups = (np.unique(codes, return_inverse=True)[1] for codes in (classes, groups))
    every = np.eye(len(classes))
    means = np.stack([every[classes == label].mean(0) for label in np.unique(classes)])
    cells = _cells(classes, groups)
    weights = (cells.weight * cells.jackknife)[:, None]
    contributions = group_sums(weights * _residuals(every, means, cells), cells.of_group)
    covariance = contributions @ contributions.T
    assert _freedom(cells) == pytest.approx(np.trace(covariance) ** 2 / np.trace(covariance @ covariance))


def contributions(values, classes, groups, weigh):
    """Sums over classes of e_gc weigh(n_gc / N_c, G_c) / (C N_c), a group a row, cell by cell."""
    found = np.zeros((groups.max() + 1, 1))
    for label in range(classes.max() + 1):
        own = classes == label
        present = np.unique(groups[own])
        for group in present:
            cell = own & (groups == group)
            scale = weigh(cell.sum() / own.sum(), len(present)) / ((classes.max() + 1) * own.sum())
            found[group] += scale * (values[cell] - values[own].mean()).sum()
    return found


@pytest.mark.parametrize("design", ["nested, of unequal size", "across classes"])
def test_contributions_are_drawn_without_the_weights_of_the_error(design):
    classes, groups = DESIGNS[design]
    values = np.random.default_rng(21).exponential(size=len(classes))
    drawn = contributions(values, classes, groups, lambda share, count: 1)
    weighted = contributions(values, classes, groups, lambda share, count: math.sqrt(1 - 1 / count) / (1 - share))
    low, high = Bootstrap().quantiles(drawn, np.ones((len(drawn), 1)), freedom=_freedom(_cells(classes, groups)))
    error, interval = math.sqrt((weighted**2).sum()), class_mean(values, classes, [f"{group:02}" for group in groups])
    assert (interval.low, interval.high) == pytest.approx(
        (interval.mean - high[0] * error, interval.mean - low[0] * error)
    )


def test_nested_groups_of_equal_size_leave_groups_less_classes():
    assert _freedom(_cells(*DESIGNS["nested, of equal size"])) == pytest.approx(20 - 5)


def test_unequal_groups_leave_fewer_degrees_of_freedom():
    classes, groups = DESIGNS["nested, of unequal size"]
    assert 1 <= _freedom(_cells(classes, groups)) < 24 - 6


def test_one_group_leaves_no_limits():
    for labels in ("aaa", "abc"):
        interval = class_mean([1.0, 2.0, 6.0], list(labels), ["g"] * 3)
        assert interval.mean == 3
        assert math.isnan(interval.low)
