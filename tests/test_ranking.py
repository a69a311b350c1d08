import math

import numpy as np
import pytest
import scikit_posthocs
from scipy import stats

from vidattr_bench.statistics import friedman, rank_intervals, tied_with_best


def scores(seed: int, means: list[float], groups: int = 30, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, M) of methods with these means on clips of groups of one to four, which share difficulty."""
    generator = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), generator.integers(1, 5, groups))
    difficulty = 5 * generator.normal(size=groups)[codes, None]
    return difficulty + means + spread * generator.normal(size=(len(codes), len(means))), codes


def triple(interval):
    return interval.mean, interval.low, interval.high


def test_ranks_of_methods_far_apart_are_certain():
    values, codes = scores(0, [3.0, 9.0, 6.0], spread=0.1)
    assert [triple(i) for i in rank_intervals(values, codes, higher_is_better=True)] == [
        (3, 3, 3),
        (1, 1, 1),
        (2, 2, 2),
    ]
    assert [i.mean for i in rank_intervals(values, codes, higher_is_better=False)] == [1, 3, 2]


def test_equal_methods_share_their_rank():
    values, codes = scores(1, [0.0])
    twice = np.repeat(values, 3, axis=1) + np.array([0.0, 0.0, 50.0])
    assert [triple(i) for i in rank_intervals(twice, codes, higher_is_better=True)] == [(2.5,) * 3] * 2 + [(1, 1, 1)]


def test_rank_limits_by_brute_force():
    values, codes = scores(2, [0.0, 0.3, 0.5, 2.0], groups=12)
    generator, ranks = np.random.default_rng(3), []
    for _ in range(4000):
        drawn = np.concatenate([np.flatnonzero(codes == g) for g in generator.integers(12, size=12)])
        ranks.append(stats.rankdata(-values[drawn].mean(0)))
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="inverted_cdf")
    found = rank_intervals(values, codes, higher_is_better=True)
    assert [(i.low, i.high) for i in found] == list(zip(low, high, strict=True))


def test_ranks_are_over_shared_clips_and_methods_that_are_defined():
    values = np.array([[1.0, math.nan, 2.0], [1.0, math.nan, 2.0], [9.0, math.nan, math.nan]])
    first, second, third = rank_intervals(values, list("abc"), higher_is_better=True)
    assert (first.mean, third.mean, first.clips, first.dropped) == (2, 1, 2, 1)
    assert math.isnan(second.mean)


def test_no_shared_clip_no_rank():
    found = rank_intervals([[1.0, math.nan], [math.nan, 1.0]], list("ab"), higher_is_better=True)
    assert all(math.isnan(interval.mean) for interval in found)
    assert tied_with_best([[1.0, math.nan], [math.nan, 1.0]], list("ab"), higher_is_better=True)[0] == -1


def test_one_group_has_ranks_without_limits():
    first, second = rank_intervals([[1.0, 2.0], [1.0, 2.0]], list("aa"), higher_is_better=True)
    assert (first.mean, second.mean) == (2, 1)
    assert math.isnan(first.low)


def test_the_best_is_tied_with_itself_and_its_copy_not_with_the_worse():
    values, codes = scores(4, [5.0, 0.0, 3.0])
    matrix = np.column_stack([values, values[:, 0], np.full(len(values), math.nan)])
    best, tied = tied_with_best(matrix, codes, higher_is_better=True)
    assert best == 0
    assert tied.tolist() == [True, False, False, True, False]
    best, tied = tied_with_best(matrix, codes, higher_is_better=False)
    assert (best, tied.tolist()) == (1, [False, True, False, False, False])


def test_too_few_groups_can_tell_nothing():
    values = np.array([[0.0, 1.0, 2.0]] * 4)
    _, tied = tied_with_best(values, range(4), higher_is_better=True)
    assert tied.all(), "2 / 2^4 is over .05"


def test_equal_methods_are_rarely_told_apart():
    told = 0
    for run in range(150):
        values, codes = scores(100 + run, [0.0] * 6, groups=20)
        told += not tied_with_best(values, codes, higher_is_better=True, flips=2047, seed=run)[1].all()
    assert told <= 14, "7.5 expected at 5 %, of 150"


def test_friedman_and_nemenyi_agree_with_the_libraries():
    blocks = np.random.default_rng(5).normal([0, 0.5, 1.0, 1.2], 1, (14, 4))
    found = friedman(blocks)
    expected = stats.friedmanchisquare(*blocks.T)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.p_pairs == pytest.approx(scikit_posthocs.posthoc_nemenyi_friedman(blocks).to_numpy())
    assert found.ranks == pytest.approx(stats.rankdata(-blocks, axis=1).mean(0))
    apart = np.abs(found.ranks[:, None] - found.ranks) > found.critical_difference
    assert (apart == (found.p_pairs < 0.05)).all()


def test_critical_difference_of_the_literature():
    """Demsar 2006: q of .05 for 4 and 5 classifiers is 2.569 and 2.728."""
    for methods, q in ((4, 2.569), (5, 2.728)):
        blocks = np.random.default_rng(6).normal(size=(14, methods))
        expected = q * math.sqrt(methods * (methods + 1) / (6 * 14))
        assert friedman(blocks).critical_difference == pytest.approx(expected, abs=1e-3)


def test_direction_turns_ranks_only():
    blocks = np.random.default_rng(7).normal(size=(11, 3))
    up, down = friedman(blocks), friedman(blocks, higher_is_better=False)
    assert up.ranks + down.ranks == pytest.approx([4, 4, 4])
    assert up.p == pytest.approx(down.p)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (np.zeros((9, 3)), "9 blocks are too few"),
        (np.zeros((12, 2)), "three methods"),
        (np.full((12, 3), np.nan), "without a gap"),
    ],
)
def test_friedman_refuses_what_breaks_its_assumptions(blocks, words):
    with pytest.raises(ValueError, match=words):
        friedman(blocks)
