"""A smaller version of docs/coverage.py: 600 simulations, three standard errors of tolerance."""

import importlib.util
import math
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("coverage_study", Path(__file__).parents[1] / "docs" / "coverage.py")
study = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(study)
SLACK = 3 * math.sqrt(0.05 * 0.95 / 600)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("margin", study.MARGINS, ids=lambda margin: margin.name)
@pytest.mark.parametrize("what", study.CASES)
def test_intervals_cover_with_forty_groups_and_naive_ones_do_not(what, margin):
    ours, percentile, naive = study.coverage(what, 40, margin, simulations=600, resamples=1000)
    assert 0.93 - SLACK <= ours <= 0.97 + SLACK
    assert naive < percentile
    assert naive < 0.8


def test_false_alarms_of_the_sign_flip_test():
    assert study.flip_errors(40, study.MARGINS[0], simulations=600) == pytest.approx(0.05, abs=SLACK)


def test_false_alarms_of_the_families():
    pairs, largest, best_only = study.family_errors(24, study.MARGINS[0], simulations=200)
    assert pairs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert largest <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert best_only > pairs
