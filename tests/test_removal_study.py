"""The scripts behind docs/does_removal_mislead.md: their statistics, and what they remove."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

DOCS = Path(__file__).resolve().parents[1] / "docs"


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    return script("removal_tables")


@pytest.fixture(scope="module")
def retraining():
    return script("retraining_study")


def test_rank_correlations_are_scipys(tables):
    a, b = np.random.default_rng(0).normal(size=(2, 6, 11))
    for ours, theirs in ((tables.kendall, stats.kendalltau), (tables.spearman, stats.spearmanr)):
        expected = [theirs(x, y).statistic for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(ours(a, b), expected, atol=1e-12)


def test_resampled_means_are_those_of_the_clips_drawn(tables):
    values = np.random.default_rng(1).normal(size=(5, 3))
    values[2, 1] = np.nan
    weights = np.array([[2, 0, 3, 0, 0], [1, 1, 1, 1, 1]])
    expected = [np.nanmean(np.repeat(values, row, axis=0), axis=0) for row in weights]
    np.testing.assert_allclose(tables.resampled(values, weights), expected)


def test_pairs_in_opposite_order_are_named(tables):
    noise = np.random.default_rng(2).normal(size=(30, 3)) * 0.01
    clips = [f"clip {i}" for i in range(30)]
    a = pd.DataFrame(noise + np.array([0.0, 1.0, 2.0]), index=clips, columns=["x", "y", "z"])
    b = pd.DataFrame(noise[::-1] + np.array([0.0, 2.0, 1.0]), index=clips, columns=["x", "y", "z"])
    assert tables.opposed(a, a) == "0 of 3"
    assert tables.opposed(a, b) == "1 of 3: y / z"
    assert tables.agreement(a, a, tables.kendall) == "1.00 [1.00, 1.00]"


@pytest.mark.parametrize(("mode", "grey", "shown"), [("roar", True, False), ("kar", False, True)])
def test_roar_takes_the_first_away_and_kar_leaves_them_alone(retraining, mode, grey, shown):
    frames, first = torch.rand(3, 4, 5, 6) * 0.4, torch.rand(4, 5, 6) > 0.5
    left = retraining._shown(frames, first, mode)
    assert torch.equal((left == 0.5).all(0), first if grey else ~first)
    assert torch.equal(left[:, first if shown else ~first], frames[:, first if shown else ~first])


def test_a_mask_shows_nothing_of_the_clip(retraining):
    frames, first = torch.rand(3, 4, 5, 6), torch.rand(4, 5, 6) > 0.5
    assert torch.equal(retraining._shown(frames, first, "mask"), retraining._shown(1 - frames, first, "mask"))


def test_no_training_is_planned_twice(retraining):
    planned = retraining.conditions()
    assert len(set(planned)) == len(planned)


def test_training_goes_on_from_the_shipped_weights_in_training_mode(retraining):
    net = retraining.Started(seed=1).network(10)
    shipped = retraining.Tiny3D(seed=1).build().net.state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_page_shows_what_the_files_hold(tables):
    page = tables.PAGE.read_text()
    for name, make in tables.TABLES.items():
        assert "\n".join([f"<!-- {name} -->", *make(), "<!-- end -->"]) in page
