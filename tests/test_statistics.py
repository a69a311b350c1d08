import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from vidattr_bench.statistics import Interval, cluster_interval, cluster_intervals, paired_difference


def clustered(generator: np.random.Generator, groups: int, effect: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Values with mean 0 whose groups, of 1 to 7 clips, share an effect."""
    sizes = generator.integers(1, 8, groups)
    codes = np.repeat(np.arange(groups), sizes)
    values = effect * generator.normal(size=groups)[codes] + math.sqrt(1 - effect**2) * generator.normal(
        size=len(codes)
    )
    return values, codes


def limits(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def test_mean_is_over_clips_not_over_groups():
    interval = cluster_interval([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"])
    assert (interval.mean, interval.clips, interval.groups, interval.dropped) == (2.0, 4, 2, 0)


def test_undefined_values_are_dropped_and_counted():
    with_gaps = cluster_interval([1.0, math.nan, 2.0, 4.0, math.nan, 7.0, 3.0], list("abcdefg"))
    without = cluster_interval([1.0, 2.0, 4.0, 7.0, 3.0], list("acdfg"))
    assert limits(with_gaps) == limits(without)
    assert (with_gaps.clips, with_gaps.groups, with_gaps.dropped) == (5, 5, 2)


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_nothing_defined_gives_nan(values):
    interval = cluster_interval(values, range(len(values)))
    assert all(math.isnan(number) for number in limits(interval))
    assert (interval.clips, interval.groups, interval.dropped) == (0, 0, len(values))


def test_one_group_has_a_mean_and_no_interval():
    interval = cluster_interval([1.0, 2.0, 3.0], ["a", "a", "a"])
    assert interval.mean == 2.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@pytest.mark.parametrize("sizes", [(90, 1), (900, 1, 1, 1, 1, 1)])
def test_one_group_that_is_nearly_all_has_a_mean_and_no_interval(sizes):
    values = np.random.default_rng(12).normal(size=sum(sizes))
    interval = cluster_interval(values, np.repeat(np.arange(len(sizes)), sizes))
    assert interval.mean == pytest.approx(values.mean())
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_two_unequal_groups_have_wide_limits():
    interval = cluster_interval([0.0, 1.0, 2.0, 4.0, 5.0], list("aaabb"))
    assert interval.low < -10
    assert interval.high > 15


@pytest.mark.parametrize("groups", [2, 3, 7])
def test_zero_variance_gives_a_point(groups):
    values = np.full(3 * groups, 0.1)
    assert limits(cluster_interval(values, np.arange(3 * groups) % groups)) == (0.1, 0.1, 0.1)


def test_few_groups_give_the_t_interval_of_group_means():
    values = np.array([0.2, 0.5, 0.9, 0.4])
    expected = stats.t.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2)
    assert limits(cluster_interval(values, range(4)))[1:] == pytest.approx(expected)


def test_a_limit_that_resamples_cannot_give_is_the_t_limit():
    values = np.r_[np.ones(19), 0.0]  # 36 % of resamples miss the only zero and have no spread
    residuals = values - values.mean()
    freedom = 3 * (residuals**2).sum() ** 2 / (residuals**4).sum() - 1
    low, _ = stats.t.interval(0.95, freedom, values.mean(), values.std(ddof=1) / math.sqrt(20))
    interval = cluster_interval(values, range(20))
    assert interval.low == pytest.approx(low)
    assert interval.low == pytest.approx(stats.binomtest(19, 20).proportion_ci(method="exact").low, abs=0.02)


def test_singleton_groups_agree_with_the_t_interval():
    values = np.random.default_rng(3).normal(size=2000)
    interval = cluster_interval(values, range(2000))
    low, high = stats.t.interval(0.95, 1999, values.mean(), stats.sem(values))
    width = high - low
    assert interval.low == pytest.approx(low, abs=0.03 * width)
    assert interval.high == pytest.approx(high, abs=0.03 * width)


def test_singleton_groups_agree_with_scipy_bootstrap_on_skewed_values():
    values = np.random.default_rng(4).exponential(size=300)
    interval = cluster_interval(values, range(300))
    reference = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=9999, rng=5).confidence_interval
    width = reference.high - reference.low
    assert interval.low == pytest.approx(reference.low, abs=0.1 * width)
    assert interval.high == pytest.approx(reference.high, abs=0.1 * width)
    assert interval.high - interval.mean > interval.mean - interval.low


def test_repeated_clips_of_a_group_add_no_information():
    values = np.random.default_rng(5).normal(size=30)
    once = cluster_interval(values, range(30))
    fivefold = cluster_interval(np.repeat(values, 5), np.repeat(np.arange(30), 5))
    assert limits(fivefold) == pytest.approx(limits(once))
    naive = cluster_interval(np.repeat(values, 5), range(150))
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


@given(
    seed=st.integers(0, 2**32),
    shift=st.floats(-1e3, 1e3),
    scale=st.floats(1e-6, 1e6),
)
@settings(max_examples=25)
def test_shift_scale_and_order_of_clips(seed, shift, scale):
    generator = np.random.default_rng(seed)
    values, codes = clustered(generator, 9)
    interval = cluster_interval(values, codes, resamples=500)
    width = interval.high - interval.low
    moved = cluster_interval(scale * (values + shift), codes, resamples=500)
    expected = [scale * (number + shift) for number in limits(interval)]
    assert limits(moved) == pytest.approx(expected, abs=1e-8 * scale * (width + abs(shift)))
    order = generator.permutation(len(values))
    permuted = cluster_interval(values[order], codes[order], resamples=500)
    assert limits(permuted) == pytest.approx(limits(interval), abs=1e-9 * width)


def test_negated_values_mirror_the_interval():
    values, codes = clustered(np.random.default_rng(6), 12)
    interval, mirrored = cluster_interval(values, codes), cluster_interval(-values, codes)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((interval.low, interval.high))


def test_same_call_same_bits_and_seed_matters():
    values, codes = clustered(np.random.default_rng(7), 15)
    assert cluster_interval(values, codes) == cluster_interval(values, codes)
    assert cluster_interval(values, codes) != cluster_interval(values, codes, seed=1)


def test_columns_are_treated_one_by_one():
    values, codes = clustered(np.random.default_rng(8), 15)
    other = values**2
    other[::4] = math.nan
    pair = cluster_intervals(np.stack([values, other, values], 1), codes)
    for found, column in zip(pair, (values, other, values), strict=True):
        alone = cluster_interval(column, codes)
        assert limits(found) == pytest.approx(limits(alone), rel=1e-9)
        assert (found.clips, found.groups, found.dropped) == (alone.clips, alone.groups, alone.dropped)


def test_wider_confidence_is_wider():
    values, codes = clustered(np.random.default_rng(9), 25)
    narrow, wide = (cluster_interval(values, codes, confidence=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_paired_difference_needs_both_and_is_antisymmetric():
    a = np.array([1.0, 2.0, math.nan, 4.0, 9.0, 6.0])
    b = np.array([0.5, math.nan, 1.0, 1.0, 2.0, 2.0])
    forth, back = paired_difference(a, b, list("aabbcc")), paired_difference(b, a, list("aabbcc"))
    assert forth.mean == pytest.approx((0.5 + 3.0 + 7.0 + 4.0) / 4)
    assert (forth.clips, forth.dropped) == (4, 2)
    assert (-back.high, -back.low) == pytest.approx((forth.low, forth.high))


def test_pairing_removes_what_clips_share():
    generator = np.random.default_rng(10)
    difficulty = 10 * generator.normal(size=40)
    a, b = difficulty + 1 + 0.1 * generator.normal(size=40), difficulty + 0.1 * generator.normal(size=40)
    assert paired_difference(a, b, range(40)).low > 0.9
    assert cluster_interval(a, range(40)).low < cluster_interval(b, range(40)).high


def test_wrong_number_of_groups_is_refused():
    with pytest.raises(ValueError, match="one group a row"):
        cluster_interval([1.0, 2.0], ["a"])


def percentile_covers(values: np.ndarray, codes: np.ndarray, generator: np.random.Generator) -> bool:
    sums, sizes = np.bincount(codes, values), np.bincount(codes)
    drawn = generator.integers(len(sizes), size=(600, len(sizes)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return bool(low <= 0 <= high)


def test_coverage_holds_where_the_percentile_form_falls_short():
    generator = np.random.default_rng(11)
    studentised, percentile, trials = 0, 0, 600
    for _ in range(trials):
        values, codes = clustered(generator, 8)
        interval = cluster_interval(values, codes, resamples=600)
        studentised += interval.low <= 0 <= interval.high
        percentile += percentile_covers(values, codes, generator)
    assert 0.92 <= studentised / trials <= 0.98
    assert percentile / trials < 0.90


@pytest.mark.slow
@pytest.mark.parametrize("groups", [20, 60])
def test_coverage_with_more_groups(groups):
    generator = np.random.default_rng(groups)
    trials = [clustered(generator, groups) for _ in range(2000)]
    intervals = [cluster_interval(values, codes, resamples=999) for values, codes in trials]
    assert 0.93 <= np.mean([interval.low <= 0 <= interval.high for interval in intervals]) <= 0.97
