import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from vidattr_bench.resampling import group_codes, group_sums, standard_error
from vidattr_bench.statistics import cluster_interval, ratio_of_means, skill


def clustered(seed: int, groups: int, clips: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Positive scores of groups of unequal size that share an effect."""
    generator = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), generator.integers(1, 2 * clips, groups))
    return 3 + generator.normal(size=groups)[codes] + generator.normal(size=len(codes)), codes


def limits(interval):
    return interval.mean, interval.low, interval.high


def robust_error(values, design, groups):
    """Cluster-robust standard errors of least squares by statsmodels, its own small-sample factor taken out."""
    fit = sm.OLS(values, design).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    return fit.bse, fit.cov_params()


def test_the_linearised_error_is_the_cluster_robust_one_up_to_its_factor():
    values, codes = clustered(0, 23)
    residuals = group_sums((values - values.mean())[:, None], codes)
    ours = standard_error(residuals, group_sums(np.ones((len(values), 1)), codes))
    theirs, _ = robust_error(values, np.ones(len(values)), codes)
    assert ours[0] == pytest.approx(math.sqrt(23 / 22) * theirs[0], rel=1e-12)
    n = len(values)
    corrected = sm.OLS(values, np.ones(n)).fit(cov_type="cluster", cov_kwds={"groups": codes}).bse[0]
    assert ours[0] == pytest.approx(corrected, rel=1e-12), "with one regressor statsmodels' factor is G / (G - 1) too"


def test_sums_over_groups_are_bincounts():
    values, codes = clustered(1, 12)
    order = np.random.default_rng(2).permutation(len(codes))
    assert group_sums(values[order][:, None], codes[order])[:, 0] == pytest.approx(np.bincount(codes, values))
    assert group_codes(["b", "a", "b"]).tolist() == [1, 0, 1]


def test_ratio_of_a_constant_multiple_is_a_point():
    values, codes = clustered(4, 15)
    assert limits(ratio_of_means(2.5 * values, values, codes)) == pytest.approx((2.5, 2.5, 2.5))
    assert limits(ratio_of_means(4 * values, values, codes, log2=True)) == pytest.approx((2, 2, 2))


def test_ratio_to_one_is_the_mean():
    values, codes = clustered(5, 15)
    ratio, mean = ratio_of_means(values, np.ones_like(values), codes), cluster_interval(values, codes)
    assert limits(ratio) == pytest.approx(limits(mean), rel=1e-9)


def test_ratio_of_logarithms_turns_its_sign_with_the_ratio():
    a, codes = clustered(6, 30)
    b = a[::-1] + 2
    there, back = ratio_of_means(a, b, codes, log2=True), ratio_of_means(b, a, codes, log2=True)
    assert (-back.mean, -back.high, -back.low) == pytest.approx(limits(there), rel=0.02)
    assert -back.mean == pytest.approx(there.mean, rel=1e-12)


def test_ratio_takes_pairs_only_and_counts_the_rest():
    top, bottom = np.array([1.0, 2.0, math.nan, 4.0]), np.array([2.0, math.nan, 1.0, 2.0])
    interval = ratio_of_means(top, bottom, list("abcd"))
    assert (interval.mean, interval.clips, interval.groups, interval.dropped) == (1.25, 2, 2, 2)


def test_a_denominator_that_may_be_zero_leaves_no_limits():
    generator = np.random.default_rng(7)
    interval = ratio_of_means(generator.normal(1, 1, 50), generator.normal(0, 1, 50), range(50))
    assert math.isfinite(interval.mean)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_a_negative_denominator_keeps_the_order_of_limits():
    values, codes = clustered(8, 20)
    other = np.random.default_rng(9).normal(2, 1, len(values))
    there, negated = ratio_of_means(other, values, codes), ratio_of_means(other, -values, codes)
    assert there.low < there.mean < there.high
    assert (-negated.mean, -negated.high, -negated.low) == pytest.approx(limits(there))


@pytest.mark.parametrize(("top", "expected"), [(0.0, -math.inf), (-1.0, math.nan)])
def test_no_logarithm_of_a_ratio_up_to_zero(top, expected):
    interval = ratio_of_means(np.full(6, top), np.ones(6), range(6), log2=True)
    assert interval.mean == pytest.approx(expected, nan_ok=True)
    assert math.isnan(interval.low)


def test_ratio_agrees_with_scipy_bootstrap():
    generator = np.random.default_rng(10)
    bottom = generator.gamma(4, 1, 300)
    top = bottom * generator.gamma(9, 0.1, 300)
    ours = ratio_of_means(top, bottom, range(300))
    theirs = stats.bootstrap(
        (top, bottom), lambda a, b, axis: a.mean(axis) / b.mean(axis), paired=True, method="BCa", rng=11
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.08 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.08 * width)


def test_skill_of_random_oracle_and_half_way():
    random, codes = clustered(11, 20)
    oracle = random + 2 + np.arange(len(random)) % 3
    for share in (0.0, 0.5, 1.0, -0.25):
        interval = skill(random + share * (oracle - random), random, oracle, codes)
        assert limits(interval) == pytest.approx((share, share, share), abs=1e-12)


def test_skill_needs_all_three():
    score, random, oracle = np.array([1.0, 2, 3, 4]), np.array([0, math.nan, 0, 0]), np.array([4.0, 4, 4, math.nan])
    interval = skill(score, random, oracle, range(4))
    assert (interval.mean, interval.clips, interval.dropped) == (0.5, 2, 2)
