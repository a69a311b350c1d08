"""Similarity of maps against SciPy and a literal SSIM."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.metrics._similarity import mid_ranks, similarity

SIZE = (5, 12, 17)


def maps(seed, levels=0):
    random = torch.Generator().manual_seed(seed)
    both = torch.rand(2, *SIZE, generator=random)
    both[1] = both[1] / 2 + both[0] ** 2
    return tuple((both * levels).round() if levels else both)


@settings(max_examples=15)
@given(seed=st.integers(0, 999), levels=st.sampled_from([0, 3, 40]))
def test_correlations_are_scipys_ties_included(seed, levels):
    a, b = maps(seed, levels)
    x, y = a.flatten().double().numpy(), b.flatten().double().numpy()
    assert similarity(a, b, "spearman") == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert similarity(a, b, "pearson") == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
    np.testing.assert_allclose(mid_ranks(a), scipy.stats.rankdata(x), rtol=0, atol=0)


def literal_ssim(a, b, window=7):
    """Wang 2004, equation 13, with sample covariances, on every 7 x 7 window that lies inside its frame."""
    a, b = ((x.double() - x.min()) / (x.max() - x.min()).double() for x in (a, b))
    values = []
    for p, q in zip(a.numpy(), b.numpy(), strict=True):
        for y in range(p.shape[0] - window + 1):
            for x in range(p.shape[1] - window + 1):
                u, v = p[y : y + window, x : x + window].ravel(), q[y : y + window, x : x + window].ravel()
                (su, suv), (_, sv) = np.cov(u, v)
                top = (2 * u.mean() * v.mean() + 0.01**2) * (2 * suv + 0.03**2)
                values.append(top / ((u.mean() ** 2 + v.mean() ** 2 + 0.01**2) * (su + sv + 0.03**2)))
    return np.mean(values)


def test_ssim_is_the_papers_formula_frame_by_frame():
    a, b = maps(0)
    assert similarity(a, b, "ssim") == pytest.approx(literal_ssim(a, b), abs=1e-6)
    assert similarity(a, a, "ssim") == pytest.approx(1, abs=1e-12)
    small = (a[:, :6, :9], b[:, :6, :9])
    assert similarity(*small, "ssim") == pytest.approx(literal_ssim(*small, window=5), abs=1e-6)


@pytest.mark.parametrize("kind", ["spearman", "pearson", "ssim"])
def test_a_constant_has_no_similarity_to_anything(kind):
    a, b = maps(1)
    constant = torch.full(SIZE, 0.1)
    assert similarity(a, constant, kind) is None
    assert similarity(constant, b, kind) is None
    assert similarity(constant, constant, kind) is None
    assert similarity(a, a, kind) == pytest.approx(1)


def test_ssim_of_maps_smaller_than_its_smallest_window_is_refused():
    a, b = maps(2)
    assert similarity(a[:, :3, :3], b[:, :3, :3], "ssim") == pytest.approx(
        literal_ssim(a[:, :3, :3], b[:, :3, :3], window=3), abs=1e-6
    )
    with pytest.raises(NotApplicableError, match="they share 2 x 17"):
        similarity(a[:, :2], b[:, :2], "ssim")


@settings(max_examples=15)
@given(seed=st.integers(0, 99), scale=st.floats(1e-30, 1e30), power=st.sampled_from([1, 3, 5]))
def test_what_no_similarity_may_depend_on(seed, scale, power):
    a, b = maps(seed)
    assert similarity(a * scale, b, "pearson") == pytest.approx(similarity(a, b, "pearson"), abs=1e-4)
    assert similarity(a * scale, b, "ssim") == pytest.approx(similarity(a, b, "ssim"), abs=1e-4)
    grown = (a.double() * 2 - 1) ** power
    assert similarity(grown, b, "spearman") == pytest.approx(similarity(a.double() * 2 - 1, b, "spearman"), abs=1e-12)
    assert similarity(-a, b, "spearman") == pytest.approx(-similarity(a, b, "spearman"), abs=1e-12)
    assert similarity(a.flip(2), b.flip(2), "ssim") == pytest.approx(similarity(a, b, "ssim"), abs=1e-9)
