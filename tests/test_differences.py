import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats
from statsmodels.stats.multitest import multipletests

from vidattr_bench.statistics import (
    holm,
    rank_biserial,
    sign_flip_max_t,
    sign_flip_p,
    sign_flip_ps,
    sign_flip_step_down,
    superiority,
)


def clustered(seed: int, groups: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), generator.integers(1, 6, groups))
    return shift + generator.normal(size=groups)[codes] + generator.normal(size=len(codes)), codes


def all_flips(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The mean under every choice of signs, one a group."""
    signs = itertools.product((1, -1), repeat=codes.max() + 1)
    return np.array([(np.array(sign)[codes] * values).mean() for sign in signs])


def test_rank_biserial_by_hand():
    # |d| has ranks 1, 2.5, 2.5 and 4, of which one 2.5 belongs to the difference below 0.
    assert rank_biserial([1.0, -2.0, 2.0, 3.0]) == pytest.approx((1 + 2.5 + 4 - 2.5) / 10)
    assert rank_biserial([0.5, 2.0]) == 1
    assert rank_biserial([-0.5, -2.0, math.nan]) == -1
    assert rank_biserial([0.0, 0.0]) == 0
    assert math.isnan(rank_biserial([math.nan]))


def test_zeros_draw_rank_biserial_to_zero():
    assert rank_biserial([0.0] * 9 + [1.0]) == pytest.approx(10 / 55)


@pytest.mark.parametrize("seed", range(4))
def test_rank_biserial_is_wilcoxons_statistic(seed):
    difference = np.round(np.random.default_rng(seed).normal(0.3, 1, 30), 1)  # with ties and zeros
    total = 30 * 31 / 2
    wilcoxon = stats.wilcoxon(difference, zero_method="zsplit", alternative="greater").statistic
    assert rank_biserial(difference) == pytest.approx((2 * wilcoxon - total) / total)


def test_superiority_counts_ties_half():
    assert superiority([1.0, 2.0, 3.0, 0.0, math.nan], [0.0, 2.0, 1.0, 5.0, 1.0]) == (1 + 0.5 + 1 + 0) / 4
    assert math.isnan(superiority([math.nan], [1.0]))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_effect_sizes_turn_with_the_sign(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 17)).round(1)
    assert rank_biserial(b - a) == pytest.approx(-rank_biserial(a - b))
    assert superiority(b, a) == pytest.approx(1 - superiority(a, b))
    assert superiority(np.exp(a), np.exp(b)) == superiority(a, b)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("groups", [1, 2, 5, 8])
def test_few_groups_are_enumerated(groups, alternative):
    values, codes = clustered(groups, groups, shift=0.4)
    flips, observed = all_flips(values, codes), values.mean()
    if alternative == "two-sided":
        flips, observed = abs(flips), abs(observed)
    beyond = flips <= observed + 1e-12 if alternative == "less" else flips >= observed - 1e-12
    assert sign_flip_p(values, codes, alternative=alternative) == pytest.approx(beyond.mean())


@pytest.mark.parametrize("groups", [1, 3, 10, 16])
def test_the_smallest_p_is_two_over_all_flips(groups):
    assert sign_flip_p(np.arange(1.0, groups + 1), range(groups)) == 2 / 2**groups


def test_single_clips_agree_with_scipy():
    values = np.random.default_rng(1).normal(0.5, 1, 10)
    for alternative in ("two-sided", "greater", "less"):
        theirs = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
        )
        assert sign_flip_p(values, range(10), alternative=alternative) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_random_flips_come_near_to_all_of_them():
    values, codes = clustered(2, 15, shift=0.5)
    exact = sign_flip_p(values, codes)
    drawn = sign_flip_p(values, codes, flips=20_000, seed=3)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))


def test_a_random_p_is_never_zero():
    assert sign_flip_p(np.arange(1.0, 31), range(30), flips=999) == 1 / 1000


def test_clips_of_a_group_flip_together():
    values, codes = np.full(20, 1.0), np.repeat(np.arange(4), 5)
    assert sign_flip_p(values, codes) == 2 / 16
    assert sign_flip_p(values, range(20)) < 1e-4


def test_nothing_but_zeros_has_p_one_and_nothing_at_all_none():
    assert sign_flip_p(np.zeros(5), range(5)) == 1
    assert math.isnan(sign_flip_p([math.nan, math.nan], range(2)))
    assert math.isnan(sign_flip_p([], []))


def test_undefined_clips_are_left_out():
    values, codes = clustered(4, 9)
    gaps = np.insert(values, [0, 7, 20], math.nan)
    assert sign_flip_p(gaps, np.insert(codes, [0, 7, 20], 3)) == sign_flip_p(values, codes)


@pytest.mark.parametrize("groups", [9, 30])
def test_p_depends_on_neither_scale_nor_order_but_on_the_seed(groups):
    values, codes = clustered(5, groups, shift=0.2)
    order = np.random.default_rng(6).permutation(len(codes))
    p = sign_flip_p(values, codes, flips=5000)
    assert sign_flip_p(1e-9 * values[order], codes[order], flips=5000) == p
    assert sign_flip_p(-values, codes, flips=5000) == p
    assert (sign_flip_p(values, codes, flips=5000, seed=1) == p) == (groups == 9)


def test_columns_have_the_p_of_columns_alone():
    values = np.random.default_rng(7).normal(0.2, 1, (24, 3))
    values[::5, 1] = math.nan
    codes = np.arange(24) // 3
    alone = [sign_flip_p(column, codes) for column in values.T]
    assert sign_flip_ps(values, codes) == pytest.approx(alone)


def test_max_t_by_brute_force():
    values, codes = np.random.default_rng(8).normal([0.1, 0.5, 1.0], 1, (14, 3)), np.arange(14) // 2
    sums = np.stack([np.bincount(codes, column) for column in values.T], axis=1)
    signs = np.array(list(itertools.product((1, -1), repeat=7)))
    t = np.abs(signs @ sums) / np.sqrt((sums**2).sum(0))
    expected = [(t.max(1) >= t[0, column] - 1e-12).mean() for column in range(3)]
    assert sign_flip_max_t(values, codes) == pytest.approx(expected)


def test_max_t_of_one_column_is_its_p_and_of_copies_too():
    values, codes = clustered(9, 11, shift=0.3)
    p = sign_flip_p(values, codes)
    assert sign_flip_max_t(values[:, None], codes) == pytest.approx([p])
    assert sign_flip_max_t(np.stack([values, 7 * values, -values], 1), codes) == pytest.approx([p] * 3)


def test_max_t_adjusts_less_than_bonferroni_and_at_least_not_at_all():
    values, codes = np.random.default_rng(10).normal(0.2, 1, (60, 6)), np.arange(60) // 2
    raw, adjusted = sign_flip_ps(values, codes), sign_flip_max_t(values, codes)
    assert (adjusted >= raw - 1e-4).all()
    assert (adjusted <= 6 * raw + 1e-3).all()


def test_max_t_leaves_what_is_undefined_out_of_the_family():
    values, codes = clustered(11, 11)
    gaps = np.stack([values, np.full_like(values, math.nan)], 1)
    assert sign_flip_max_t(gaps, codes) == pytest.approx([sign_flip_p(values, codes), math.nan], nan_ok=True)


def test_step_down_by_brute_force():
    values, codes = np.random.default_rng(8).normal([0.7, 0.1, 0.5, -0.2], 1, (14, 4)), np.arange(14) // 2
    sums = np.stack([np.bincount(codes, column) for column in values.T], axis=1)
    signs = np.array(list(itertools.product((1, -1), repeat=7)))
    t = signs @ sums / np.sqrt((sums**2).sum(0))
    left, expected, p = set(range(4)), [0.0] * 4, 0.0
    while left:
        first = max(left, key=lambda column: t[0, column])
        p = max(p, (t[:, sorted(left)].max(1) >= t[0, first] - 1e-12).mean())
        expected[first] = p
        left.remove(first)
    assert sign_flip_step_down(values, codes) == pytest.approx(expected)
    assert len(set(expected)) == 4


@pytest.mark.parametrize("groups", [6, 11, 30])
def test_step_down_of_one_column_is_its_one_sided_p_and_copies_cost_nothing(groups):
    values, codes = clustered(9, groups, shift=0.3)
    p = sign_flip_p(values, codes, alternative="greater")
    assert sign_flip_step_down(values[:, None], codes) == pytest.approx([p])
    assert sign_flip_step_down(np.stack([values, 7 * values, values], 1), codes) == pytest.approx([p] * 3)


def test_step_down_is_between_the_columns_alone_and_holm_and_keeps_their_order():
    values, codes = np.random.default_rng(10).normal(0.2, 1, (60, 6)), np.arange(60) // 2
    raw, adjusted = sign_flip_ps(values, codes, alternative="greater"), sign_flip_step_down(values, codes)
    assert (adjusted >= raw).all()
    assert (adjusted <= holm(raw) + 1e-3).all()
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
    backwards = sign_flip_step_down(values[:, ::-1], codes)
    assert backwards[::-1].tolist() == adjusted.tolist()


def test_step_down_leaves_what_is_undefined_out_of_the_family():
    values, codes = clustered(11, 11, shift=-0.1)
    p = sign_flip_p(values, codes, alternative="greater")
    gaps = np.stack([np.full_like(values, math.nan), values], 1)
    assert sign_flip_step_down(gaps, codes) == pytest.approx([math.nan, p], nan_ok=True)
    assert np.isnan(sign_flip_step_down(np.full((4, 1), math.nan), range(4))).all()


def test_holm_is_that_of_statsmodels_and_keeps_gaps():
    p = np.array([0.01, 0.04, math.nan, 0.03, 0.005])
    expected = np.insert(multipletests(p[np.isfinite(p)], method="holm")[1], 2, math.nan)
    assert holm(p) == pytest.approx(expected, nan_ok=True)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0
    assert np.isnan(holm([math.nan])).all()


def rejections(draw, groups: int, trials: int) -> float:
    """Share of trials in which differences with mean 0 are found to differ, at 5 %."""
    values = draw(np.random.default_rng(12), (groups, trials))
    return float((sign_flip_ps(values, range(groups), flips=2047) <= 0.05).mean())


def test_no_more_false_alarms_than_allowed():
    assert rejections(lambda g, shape: g.normal(size=shape), 12, 2000) == pytest.approx(0.05, abs=0.015)
    skewed = rejections(lambda g, shape: g.exponential(size=shape) - 1, 40, 2000)
    assert skewed == pytest.approx(0.06, abs=0.02)
