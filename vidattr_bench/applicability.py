"""Whether a method applies to a network, and keeps the contract there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from vidattr_bench.clip import Batch
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.fixtures import explain
from vidattr_bench.method import AttributionMethod
from vidattr_bench.method_checks import assert_unchanged, explain_at_declared_cost, state_of
from vidattr_bench.model import VideoModel


def applicability(method: AttributionMethod, model: VideoModel, batch: Batch) -> str:
    """Why a method does not apply to a model, or "" where it does and keeps the contract there.

    Checked are the maps' shape, that one depends on something, the cost, the neighbours and what stays behind.

    Args:
        method: a configured method.
        model: any model.
        batch: two clips or more that the model takes.

    Raises:
        AssertionError: the contract that does not hold.
    """
    before = state_of(model)
    try:
        relevance = explain_at_declared_cost(method, model, batch)
    except NotApplicableError as reason:
        assert_unchanged(before, model, "after a refusal")
        return str(reason)
    assert relevance.shape == batch.frames[:, 0].shape, f"relevance has shape {tuple(relevance.shape)}"
    others = (explain(method, model, other) for other in _other_targets(model, batch))
    assert any(map(_varies, chain([relevance], others))), "relevance is constant for every clip and target"
    alone = explain(method, model, batch.select([1]))[0]
    # Batches of other sizes round otherwise, which tips a ReLU or a maximum here and there.
    close = torch.isclose(alone, relevance[1], rtol=1e-3, atol=1e-5 * float(relevance[1].abs().max()))
    assert close.float().mean() > 0.99, "a clip alone must get the relevance that it gets in a batch"
    assert_unchanged(before, model, "after a call")
    return ""


def _varies(relevance: Tensor) -> bool:
    return bool((relevance.flatten(1).amax(1) > relevance.flatten(1).amin(1)).any())


def _other_targets(model: VideoModel, batch: Batch) -> Iterator[Batch]:
    for shift in range(1, min(len(model.classes), 5)):
        yield dataclasses.replace(batch, labels=(batch.labels + shift) % len(model.classes))
