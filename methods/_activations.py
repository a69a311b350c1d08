"""Activations of one layer, and gradients with respect to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vidattr_bench.model import VideoModel

from ._gradients import Score, target_score


@contextmanager
def _captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the module puts out; from there on the forward pass runs on copies that gradients come back to."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
        # Cloned twice: a later ReLU may work in place, on what it is handed, never on the activation kept here.
        seen.append(output.detach().clone().requires_grad_())
        return seen[-1].clone()

    with module.register_forward_hook(hook):
        yield seen


def _forward(model: VideoModel, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The layer's activations (N, C, t, h, w) and the logits computed from them."""
    model.output_shape(layer, x)
    with _captured(model.module(layer)) as seen:
        logits = model.logits(x)
    (A,) = seen
    return A, logits


def activations(model: VideoModel, x: Tensor, layer: str) -> Tensor:
    """What `layer` puts out on normalised clips x, (N, C, t, h, w); raises as `activations_and_logits` does."""
    return activations_and_logits(model, x, layer)[0]


def activations_and_logits(model: VideoModel, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """What `layer` puts out on normalised clips x, (N, C, t, h, w), and the logits (N, K).

    Raises:
        NotApplicableError: the layer runs more than once, or puts out something else.
    """
    with torch.no_grad():
        A, logits = _forward(model, x, layer)
    return A.detach(), logits


def activations_and_gradients(
    model: VideoModel, x: Tensor, targets: Tensor, layer: str, score: Score = "logit"
) -> tuple[Tensor, Tensor]:
    """Activations of `layer` and the gradient of each clip's target score at them, both (N, C, t, h, w).

    Raises:
        NotApplicableError: the layer runs more than once, or puts out something else.
    """
    A, logits = _forward(model, x, layer)
    (gradient,) = torch.autograd.grad(target_score(logits, targets, score).sum(), A)
    return A.detach(), gradient


@contextmanager
def replaced_channels(module: nn.Module, channels: Tensor, values: Tensor) -> Iterator[None]:
    """Inside, clip i of a batch of M goes on with channel `channels[i]` of the module's output set to `values[i]`."""

    def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[torch.arange(len(channels)), channels] = values[:, None, None, None]
        return output

    with module.register_forward_hook(hook):
        yield
