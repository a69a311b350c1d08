"""Sanity metrics against closed forms."""

import pytest
import torch
from torch import nn

import vidattr_bench as vb
from vidattr_bench.testing import small_batch, small_model


def measure(model, batch, method):
    targets = torch.zeros(len(batch), dtype=torch.long)
    relevance = method(model, batch.frames, targets)
    case = vb.Case(model, batch, targets, relevance, promised_total=method.promised_total)
    return vb.create("metrics", "completeness_gap").measure(case), relevance, targets


def test_integrated_gradients_of_a_linear_model_keep_their_promise():
    torch.manual_seed(0)
    batch = small_batch()
    size = batch.frames[0].numel()
    model = vb.VideoModel(nn.Sequential(nn.Flatten(), nn.Linear(size, 2)), ["a", "b"])
    found, relevance, _ = measure(model, batch, vb.create("methods", "integrated_gradients:steps=2"))
    expected = model(batch.frames)[:, 0] - model(torch.zeros_like(batch.frames))[:, 0]
    torch.testing.assert_close(relevance.sum((1, 2, 3)), expected, rtol=1e-4, atol=1e-5)
    assert (found.values < 1e-5).all()


def test_the_gap_is_the_error_of_too_few_steps_and_falls_with_more():
    model, batch = small_model(), small_batch()
    few, _, targets = measure(model, batch, vb.create("methods", "integrated_gradients:steps=1"))
    many, _, _ = measure(model, batch, vb.create("methods", "integrated_gradients:steps=100"))
    gap = vb.create("methods", "integrated_gradients:steps=1").completeness_gap(model, batch.frames, targets)
    torch.testing.assert_close(few.values, gap.abs().double(), rtol=1e-3, atol=1e-5)
    assert few.values.mean() > 4 * many.values.mean()


@pytest.mark.parametrize("spec", ["gradient", "integrated_gradients:sign=absolute"])
def test_methods_without_the_theory_promise_nothing(spec):
    found, _, _ = measure(small_model(), small_batch(), vb.create("methods", spec))
    assert found.values.isnan().all()
    assert set(found.reasons) == {"promises_nothing"}
