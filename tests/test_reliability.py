import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from vidattr_bench.statistics import clip_ranks, discrimination, krippendorff_alpha, li_alpha, split_half

# Krippendorff 2011, section C: four observers (rows) rate twelve units.
NAN = math.nan
PAPER = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def coincidence_alpha(ratings: np.ndarray) -> float:
    """Ordinal alpha as Krippendorff 2011 writes it: coincidence matrix, ordinal metric, observed over expected."""
    values = np.unique(ratings[np.isfinite(ratings)])
    coincidences = np.zeros((len(values), len(values)))
    for unit in ratings.T:
        given = unit[np.isfinite(unit)]
        for a, b in itertools.permutations(range(len(given)), 2):
            c, k = np.searchsorted(values, [given[a], given[b]])
            coincidences[c, k] += 1 / (len(given) - 1)
    marginal = coincidences.sum(0)
    total = marginal.sum()
    observed = expected = 0.0
    for c, k in itertools.product(range(len(values)), repeat=2):
        low, high = min(c, k), max(c, k)
        metric = (marginal[low : high + 1].sum() - (marginal[c] + marginal[k]) / 2) ** 2
        observed += coincidences[c, k] * metric
        expected += marginal[c] * marginal[k] * metric
    return 1 - (total - 1) * observed / expected


def test_krippendorffs_own_example():
    assert krippendorff_alpha(PAPER) == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(PAPER) == pytest.approx(coincidence_alpha(PAPER), abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_alpha_is_that_of_the_coincidence_matrix(seed):
    generator = np.random.default_rng(seed)
    ratings = generator.integers(0, 5, size=(6, 9)).astype(float)
    ratings[generator.random(ratings.shape) < 0.3] = NAN
    assert krippendorff_alpha(ratings) == pytest.approx(coincidence_alpha(ratings), abs=1e-12)


def test_alpha_sees_order_alone():
    ratings = np.random.default_rng(9).integers(1, 6, size=(5, 8)).astype(float)
    assert krippendorff_alpha(np.exp(ratings)) == pytest.approx(krippendorff_alpha(ratings))
    order = np.random.default_rng(10).permutation(5)
    assert krippendorff_alpha(ratings[order][:, ::-1]) == pytest.approx(krippendorff_alpha(ratings))


def test_alpha_of_agreement_and_of_chance():
    ranking = np.arange(7.0)
    assert krippendorff_alpha(np.tile(ranking, (4, 1))) == pytest.approx(1)
    noise = np.random.default_rng(11).permuted(np.tile(ranking, (400, 1)), axis=1)
    assert krippendorff_alpha(noise) == pytest.approx(0, abs=0.01)
    assert krippendorff_alpha([ranking, ranking[::-1]]) < -0.8
    assert math.isnan(krippendorff_alpha(np.ones((3, 4))))
    assert math.isnan(krippendorff_alpha([[1.0, NAN], [NAN, 2.0]]))


def test_ranks_within_clips():
    ranks = clip_ranks([[10.0, 30.0, 20.0], [5.0, NAN, 5.0], [NAN, NAN, NAN]])
    assert ranks[0] == pytest.approx([1 / 6, 5 / 6, 3 / 6])
    assert ranks[1] == pytest.approx([0.5, NAN, 0.5], nan_ok=True)
    assert np.isnan(ranks[2]).all()


def literal_li(scores: np.ndarray, random: int) -> float:
    """Weighted sum of Spearman correlations over pairs of clips, as METRICS defines it."""
    clips, methods = scores.shape
    weights = [(methods - 1 - (stats.rankdata(clip)[random] - 1)) / (methods - 1) for clip in scores]
    above = below = 0.0
    for i, j in itertools.combinations(range(clips), 2):
        weight = weights[i] * weights[j]
        above += weight * stats.spearmanr(scores[i], scores[j]).statistic
        below += weight
    return above / below


@pytest.mark.parametrize("seed", range(6))
def test_li_alpha_is_the_sum_over_pairs_of_clips(seed):
    generator = np.random.default_rng(seed)
    scores = np.round(generator.normal(np.arange(5) * 0.5, 1, (9, 5)), 1)
    for random in (0, 3):
        assert li_alpha(scores, random) == pytest.approx(literal_li(scores, random), abs=1e-12)


def test_li_alpha_gives_no_weight_to_clips_that_chance_wins():
    agreeing = np.array([[0.0, 1.0, 2.0, 3.0]] * 3)
    won = np.array([[9.0, 3.0, 2.0, 1.0]] * 5)
    assert li_alpha(np.vstack([agreeing, won]), 0) == pytest.approx(1)
    assert math.isnan(li_alpha(won, 0))


def test_li_alpha_leaves_out_undefined_methods_and_tied_clips():
    scores = np.random.default_rng(12).normal(np.arange(4), 1, (7, 4))
    wider = np.insert(scores, 1, NAN, axis=1)
    taller = np.vstack([wider, np.full((1, 5), 2.0), [[1.0, NAN, NAN, 2.0, 3.0]]])
    taller[-2, 1] = NAN
    assert li_alpha(taller, 2) == pytest.approx(li_alpha(scores, 1))
    assert math.isnan(li_alpha(wider, 1))


def test_split_halves_of_a_perfect_ranking_agree():
    scores = np.random.default_rng(13).normal(size=(20, 1)) + np.arange(5.0)
    assert split_half(scores, range(20)) == pytest.approx((1, 1))


def test_split_half_by_brute_force():
    """Two groups have one split, four have three."""
    scores = np.random.default_rng(14).normal(np.arange(6) * 0.4, 1, (8, 6))
    groups = np.repeat(np.arange(4), 2)
    means = np.stack([scores[groups == g].mean(0) for g in range(4)])
    expected = np.mean([stats.spearmanr(means[a] + means[b], means[c] + means[d]).statistic
                        for a, b, c, d in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2))])  # fmt: skip
    found = split_half(scores, groups, splits=20_000)
    assert found.correlation == pytest.approx(expected, abs=0.01)
    assert found.stepped_up == pytest.approx(2 * found.correlation / (1 + found.correlation))


def test_split_half_keeps_groups_together():
    """Clips of a group repeat each other: splitting clips would agree, splitting groups does not."""
    generator = np.random.default_rng(15)
    scores = np.repeat(generator.normal(size=(6, 8)), 30, axis=0)
    assert abs(split_half(scores, np.repeat(np.arange(6), 30)).correlation) < 0.5
    assert split_half(scores, range(180)).correlation > 0.8


def test_split_half_needs_two_groups_and_three_methods():
    assert math.isnan(split_half(np.ones((4, 5)), ["a"] * 4).correlation)
    assert math.isnan(split_half(np.random.default_rng(16).normal(size=(4, 2)), range(4)).correlation)


def test_split_half_of_methods_that_always_tie_is_undefined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(split_half(np.ones((6, 4)), range(6)).correlation)


def test_discrimination_is_the_share_of_clips_that_random_wins():
    scores = np.array([[1.0, 0.0, NAN], [0.5, 0.5, NAN], [0.0, NAN, NAN]])
    assert discrimination(scores, [0.5, 0.5, 0.5]) == pytest.approx(
        [(0 + 0.5 + 1) / 3, (1 + 0.5) / 2, NAN], nan_ok=True
    )
