"""What a method may require of a model: each check returns None, or the reason why the model lacks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vidattr_bench.errors import NotApplicableError, PluginError, did_you_mean
from vidattr_bench.model import VideoModel

# Elementwise activations by the name of their autograd node; only ReLU has a reversal rule.
_OTHER_ACTIVATIONS = {
    "GeluBackward0": "GELU",
    "SiluBackward0": "SiLU",
    "EluBackward0": "ELU",
    "LeakyReluBackward0": "LeakyReLU",
    "HardswishBackward0": "Hardswish",
    "HardsigmoidBackward0": "Hardsigmoid",
    "HardtanhBackward0": "Hardtanh or ReLU6",
    "MishBackward0": "Mish",
    "SoftplusBackward0": "Softplus",
    "PreluKernelBackward0": "PReLU",
    "SigmoidBackward0": "sigmoid",
    "TanhBackward0": "tanh",
}


def missing(requirement: str, model: VideoModel, frames: Tensor) -> str | None:
    """Why `model` lacks `requirement` on clips like `frames`, or None."""
    if requirement not in CHECKS:
        raise PluginError(f"unknown requirement {requirement!r}; {did_you_mean(requirement, CHECKS)}")
    key = (requirement, tuple(frames.shape[1:]), frames.device)
    if key not in model.facts:
        model.facts[key] = CHECKS[requirement](model, frames)
    reason: str | None = model.facts[key]
    return reason


def relu_modules(model: VideoModel, frames: Tensor) -> str | None:
    """Every activation is an `nn.ReLU` module, so that a rule can be hooked to each of its uses."""
    calls: Counter[str] = Counter()

    def count(module: nn.Module, args: Any, output: Any) -> None:
        calls["relu"] += 1

    hooks = [m.register_forward_hook(count) for m in model.net.modules() if isinstance(m, nn.ReLU)]
    try:
        with torch.enable_grad():
            logits = model.net(model.normalise(frames[:1].detach()).requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    nodes = _nodes(logits.grad_fn)
    others = sorted({_OTHER_ACTIVATIONS[name] for name in nodes if name in _OTHER_ACTIVATIONS})
    if others:
        return f"the network uses {', '.join(others)}, and only ReLU can be reversed"
    if nodes["ReluBackward0"] > calls["relu"]:
        functional = nodes["ReluBackward0"] - calls["relu"]
        return f"{functional} of {nodes['ReluBackward0']} ReLUs are functional; use nn.ReLU modules so that they can be reversed"
    return None if nodes["ReluBackward0"] else "the network has no ReLU to reverse"


def _nodes(root: Any) -> Counter[str]:
    """The autograd nodes reachable from `root`, counted by name."""
    counted: Counter[str] = Counter()
    seen, stack = set(), [root]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        counted[node.name()] += 1
        stack.extend(parent for parent, _ in node.next_functions)
    return counted


def linear_head(model: VideoModel, frames: Tensor) -> str | None:
    """The logits are a linear map of a layer's channel-wise global average."""
    return _reason(lambda: model.linear_head(model.normalise(frames)))


def feature_layer(model: VideoModel, frames: Tensor) -> str | None:
    """Some layer has activations over time and space."""
    return _reason(lambda: model.feature_layer(model.normalise(frames)))


def _reason(ask: Callable[[], object]) -> str | None:
    try:
        ask()
    except NotApplicableError as error:
        return str(error)
    return None


CHECKS: dict[str, Callable[[VideoModel, Tensor], str | None]] = {
    "relu_modules": relu_modules,
    "linear_head": linear_head,
    "feature_layer": feature_layer,
}
