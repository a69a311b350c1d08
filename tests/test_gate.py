"""The decision rule: what its tests are, that they keep their level and find what they promise."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats
from statsmodels.stats.multitest import multipletests

from vidattr_bench import gate
from vidattr_bench.statistics import sign_flip_p, sign_flip_step_down


def cells(means, spread=0.05, clips=40, seed=0):
    """Differences (N, K) of these exact means."""
    noise = np.random.default_rng(seed).normal(0, spread, (clips, len(means)))
    return noise - noise.mean(0) + np.asarray(means)


def verdicts(differences, groups=None, margins=0.02):
    margins = np.broadcast_to(margins, differences.shape[1])
    return [d.verdict for d in gate.decide(differences, groups or range(len(differences)), margins)]


def test_with_a_clip_a_group_the_tests_are_student_s():
    d = cells([-0.05, 0.0, 0.05, 0.01])
    found = gate.p_values(gate.cluster_means(d, range(40)), np.full(4, 0.02))
    sides = [("less", -0.02), ("greater", -0.02), ("greater", 0.02)]
    for p, (alternative, border) in zip(found, sides, strict=True):
        np.testing.assert_allclose(p, stats.ttest_1samp(d, border, alternative=alternative).pvalue, rtol=1e-10)


def adjusted(differences, groups):
    """Adjusted p (3, K) at a margin of .02."""
    return np.transpose([d.p for d in gate.decide(differences, groups, np.full(differences.shape[1], 0.02))])


def test_below_six_groups_each_question_is_a_family_of_t_tests_with_holm():
    d, groups = cells([-0.05, -0.03, 0.0, 0.04, 0.06]), np.arange(40) % 5
    for p, found in zip(
        gate.p_values(gate.cluster_means(d, groups), np.full(5, 0.02)), adjusted(d, groups), strict=True
    ):
        np.testing.assert_allclose(found, multipletests(p, method="holm")[1])


@pytest.mark.parametrize("groups", [6, 12, 40])
def test_from_six_groups_on_a_cell_alone_has_the_p_of_sign_flips_around_the_border(groups):
    d, of = cells([-0.03], spread=0.03), np.arange(40) % groups
    expected = [
        sign_flip_p(sign * (d[:, 0] - border), of, flips=10_000, alternative="greater")
        for sign, border in ((-1, -0.02), (1, -0.02), (1, 0.02))
    ]
    np.testing.assert_allclose(adjusted(d, of)[:, 0], expected)


def test_each_question_is_a_family_of_its_own_of_joint_sign_flips():
    d = cells([-0.05, -0.03, 0.0, 0.04, 0.06])
    expected = [
        sign_flip_step_down(sign * (d - border), range(40), flips=10_000)
        for sign, border in ((-1, -0.02), (1, -0.02), (1, 0.02))
    ]
    np.testing.assert_allclose(adjusted(d, range(40)), expected)


def test_a_copy_of_a_cell_costs_nothing():
    d = cells([-0.03, 0.005], spread=0.03)
    once, often = adjusted(d, range(40)), adjusted(np.hstack([d] * 20), range(40))
    np.testing.assert_allclose(often, np.hstack([once] * 20))
    assert (once[0, 0] < 0.05) & (20 * once[0, 0] > 0.05)


def test_the_order_of_cells_does_not_matter():
    d = cells(np.linspace(-0.05, 0.05, 30))
    order = np.random.default_rng(3).permutation(30)
    np.testing.assert_array_equal(adjusted(d[:, order], range(40)), adjusted(d, range(40))[:, order])


def test_six_groups_that_agree_decide_beside_what_is_hardly_noise():
    """The cell beside lies far on the other side, where the opposite of the data's signs puts it: two flips of 64."""
    d = np.stack([[-0.02 - 0.01 * i for i in range(1, 7)], 0.03 + 1e-4 * np.arange(6)], 1)
    (regressed, _), (_, passed), _ = adjusted(d, range(6))
    assert regressed == 2 / 64
    assert passed == 1 / 64
    assert verdicts(d) == ["regressed", "improved"]


@pytest.mark.parametrize("moved", [0.0, 1e-9])
def test_cells_that_no_more_than_rounding_moved_take_nothing_from_the_others(moved):
    changed = cells([-0.035, 0.005], spread=0.03)
    still = moved * np.random.default_rng(1).standard_normal((40, 198))
    alone = gate.decide(changed, range(40), np.full(2, 0.02))
    among = gate.decide(np.hstack([changed, still]), range(40), np.full(200, 0.02))
    assert [decision.verdict for decision in among] == ["regressed", *["pass"] * 199]
    assert [decision.p[0] for decision in among[:2]] == [decision.p[0] for decision in alone]
    assert {decision.p[0] for decision in among[2:]} == {1.0}


def test_a_question_is_closed_only_many_errors_beyond_the_border():
    for groups, errors in ((40, 13.9), (10_000, 8.3)):
        freedom = np.full(2, groups - 1.0)
        nearly = gate.Paired(
            *(np.array([errors * 1.02, errors * 0.98]), np.ones(2), freedom),
            *(np.full(2, groups), np.full(2, groups), np.zeros(2, bool)),
        )
        below, _, _ = gate.p_values(nearly, np.full(2, 0.0))
        assert gate.open_to(below).tolist() == [False, True]


def test_the_error_of_groups_is_that_of_their_means_where_they_are_of_one_size():
    d = cells([0.0, 0.3], clips=60)
    groups = [i % 12 for i in range(60)]
    paired = gate.cluster_means(d, groups)
    of_groups = np.stack([d[np.array(groups) == g].mean(0) for g in range(12)])
    np.testing.assert_allclose(paired.error, of_groups.std(0, ddof=1) / np.sqrt(12))
    np.testing.assert_allclose(paired.freedom, 11)


def test_groups_of_unequal_size_leave_fewer_degrees_of_freedom():
    paired = gate.cluster_means(cells([0.0], clips=20), [0] * 15 + [1, 2, 3, 4, 5])
    np.testing.assert_allclose(paired.freedom, 20**2 / (15**2 + 5) - 1)


@pytest.mark.parametrize("clips", [1, 2, 40])
def test_equal_scores_pass(clips):
    (decision,) = gate.decide(np.zeros((clips, 1)), range(clips), [0.02])
    assert (decision.verdict, decision.difference) == ("pass", 0.0)


@pytest.mark.parametrize(
    ("by", "verdict"),
    [(-0.03, "regressed"), (-0.02, "inconclusive"), (-0.01, "pass"), (0.01, "pass"), (0.03, "improved")],
)
def test_the_same_difference_on_every_clip_is_decided_without_noise(by, verdict):
    assert verdicts(np.full((40, 1), by)) == [verdict]


def test_one_group_decides_nothing():
    assert verdicts(cells([-0.5, 0.5]), groups=[0] * 40) == ["inconclusive"] * 2


def test_what_is_undefined_is_left_out_clip_by_clip():
    d = cells([0.01, -0.04])
    gaps = np.vstack([d, np.full((3, 2), np.nan)])
    assert gate.decide(gaps, range(43), [0.02] * 2) == gate.decide(d, range(40), [0.02] * 2)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.permutations(range(12)))
def test_the_order_of_clips_does_not_matter(seed, order):
    d = cells([-0.03, 0.0, 0.04], clips=12, seed=seed)
    groups = [i % 5 for i in range(12)]
    shuffled = gate.decide(d[list(order)], [groups[i] for i in order], [0.02] * 3)
    for one, other in zip(gate.decide(d, groups, [0.02] * 3), shuffled, strict=True):
        assert one.verdict == other.verdict
        assert one.p == pytest.approx(other.p, rel=1e-9, abs=1e-300)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(0.001, 1000))
def test_units_do_not_matter(seed, scale):
    d = cells([-0.03, 0.0, 0.04], seed=seed)
    assert verdicts(d) == verdicts(d * scale, margins=0.02 * scale)


def test_a_wider_margin_never_turns_a_pass_into_a_regression():
    d = cells(np.linspace(-0.1, 0.1, 21))
    rank = {"regressed": 0, "inconclusive": 1, "improved": 2, "pass": 2}
    narrow, wide = ([rank[v] for v in verdicts(d, margins=m)] for m in (0.02, 0.05))
    assert all(b >= a for a, b in zip(narrow, wide, strict=True))


def test_the_needed_error_is_a_4_8th_of_the_margin_for_200_cells():
    assert 1 / gate.needed_error(1.0, 1e6, 200) == pytest.approx(4.76, abs=0.01)
    assert 1 / gate.needed_error(1.0, 39, 200) == pytest.approx(5.10, abs=0.01)


def test_as_many_further_clips_as_are_named_decide_nine_times_in_ten():
    """Of clips with no true change, in a family of one, n + `more` clips pass 90 % of the time."""
    clips, spread, delta = 40, 0.1, 0.02
    more = gate.further_clips(0.0, spread / np.sqrt(clips), clips, clips - 1, delta, 1)
    d = np.random.default_rng(1).normal(0, spread, (clips + more, 4000))
    _, passed, _ = gate.p_values(gate.cluster_means(d, range(len(d))), np.full(4000, delta))
    assert (passed <= 0.05).mean() == pytest.approx(0.9, abs=0.02)
    assert gate.further_clips(-delta, 0.01, clips, clips - 1, delta, 1) is None


def test_further_clips_are_counted_for_the_family_that_is_left():
    noisy = cells([0.0], spread=0.1)
    alone, among = (gate.decide(d, range(40), np.full(d.shape[1], 0.02)) for d in (noisy, np.hstack([noisy] * 3)))
    decided = gate.decide(np.hstack([noisy, cells([0.0] * 50, spread=0.01)]), range(40), np.full(51, 0.02))
    assert alone[0].verdict == "inconclusive"
    assert decided[0].more == alone[0].more < among[0].more


def test_a_margin_of_zero_cannot_be_tested():
    with pytest.raises(ValueError, match="above 0"):
        gate.decide(np.zeros((4, 1)), range(4), [0.0])
    with pytest.raises(ValueError, match="do not fit"):
        gate.decide(np.zeros((4, 1)), range(5), [0.1])
