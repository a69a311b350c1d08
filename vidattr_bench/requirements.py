"""What a method may require of a model: each check returns None, or the reason why the model lacks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vidattr_bench import linearity
from vidattr_bench.errors import NotApplicableError, PluginError, did_you_mean
from vidattr_bench.model import VideoModel
from vidattr_bench.rewrite import hookable, modular
from vidattr_bench.tokens import tokens_of

# What else may act as a nonlinearity, by the name of its autograd node; only ReLU has a reversal rule.
_OTHER_ACTIVATIONS = {
    "GeluBackward0": "GELU",
    "SiluBackward0": "SiLU",
    "EluBackward0": "ELU",
    "CeluBackward0": "CELU",
    "LeakyReluBackward0": "LeakyReLU",
    "HardswishBackward0": "Hardswish",
    "HardsigmoidBackward0": "Hardsigmoid",
    "HardshrinkBackward0": "Hardshrink",
    "SoftshrinkBackward0": "Softshrink",
    "HardtanhBackward0": "Hardtanh or ReLU6",
    "MishBackward0": "Mish",
    "SoftplusBackward0": "Softplus",
    "PreluKernelBackward0": "PReLU",
    "RreluWithNoiseBackward0": "RReLU",
    "SigmoidBackward0": "sigmoid",
    "LogSigmoidBackward0": "LogSigmoid",
    "TanhBackward0": "tanh",
    "GluBackward0": "GLU",
    "ThresholdBackward0": "a threshold",
    "ClampBackward1": "clamp",
    "ClampMinBackward0": "clamp",
    "MaximumBackward0": "a maximum of two tensors",
    "MkldnnRnnLayerBackward0": "a recurrent layer",
    "CudnnRnnBackward0": "a recurrent layer",
    "ThnnFusedLstmCellBackward0": "a recurrent layer",
    "ThnnFusedGruCellBackward0": "a recurrent layer",
}
_MAX_POOLS = ("MaxPool2DWithIndicesBackward0", "MaxPool3DWithIndicesBackward0")


def require(requirement: str, model: VideoModel, frames: Tensor) -> None:
    """Raise `NotApplicableError` with the reason where `model` lacks `requirement` on clips like `frames`."""
    reason = missing(requirement, model, frames)
    if reason is not None:
        raise NotApplicableError(reason)


def missing(requirement: str, model: VideoModel, frames: Tensor) -> str | None:
    """Why `model` lacks `requirement` on clips like `frames`, or None; found out once for clips of one shape."""
    if requirement not in CHECKS:
        raise PluginError(f"unknown requirement {requirement!r}; {did_you_mean(requirement, CHECKS)}")
    key = (requirement, tuple(frames.shape[1:]), frames.device)
    if key not in model.facts:
        model.facts[key] = CHECKS[requirement](model, frames)
    reason: str | None = model.facts[key]
    return reason


def relu_modules(model: VideoModel, frames: Tensor) -> str | None:
    """Every activation is a ReLU, and each use of one is a module, or becomes one when the network is rewritten."""
    made, nodes = _graph(model, frames, (nn.ReLU,))
    others = sorted({_OTHER_ACTIVATIONS[node.name()] for node in nodes if node.name() in _OTHER_ACTIVATIONS})
    if others:
        return f"the network uses {', '.join(others)}, and only ReLU can be reversed"
    relus = {node for node in nodes if node.name() == "ReluBackward0"}
    if not relus:
        return "the network has no ReLU to reverse"
    functional = len(relus - made)
    if functional:
        return f"{functional} of {len(relus)} ReLUs are functional{_why_not_rewritten(model, frames)}"
    return None


def max_pool_modules(model: VideoModel, frames: Tensor) -> str | None:
    """Each max-pooling is an `nn.MaxPool2d` or `nn.MaxPool3d`, or becomes one when the network is rewritten."""
    made, nodes = _graph(model, frames, (nn.MaxPool2d, nn.MaxPool3d))
    if any(node.name().startswith("AdaptiveMaxPool") for node in nodes):
        return "the network pools by adaptive maxima, whose windows differ in size"
    functional = len({node for node in nodes if node.name() in _MAX_POOLS} - made)
    return f"{functional} max-poolings are functional{_why_not_rewritten(model, frames)}" if functional else None


def _why_not_rewritten(model: VideoModel, frames: Tensor) -> str:
    reason = _reason(lambda: modular(model, frames))
    return " and cannot be rewritten as modules" + (f": {reason}" if reason else "")


def _graph(model: VideoModel, frames: Tensor, types: tuple[type[nn.Module], ...]) -> tuple[set[Any], set[Any]]:
    """The autograd nodes that modules of `types` made, and all nodes that the logits of one clip depend on.

    They are those of the rewritten network, where there is one.
    """
    model = hookable(model, frames)
    made: set[Any] = set()

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        made.add(_beneath_views(output.grad_fn))

    hooks = [module.register_forward_hook(note) for module in model.net.modules() if isinstance(module, types)]
    try:
        with torch.enable_grad():
            logits = model.net(model.normalise(frames[:1].detach()).requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    return made, _nodes(logits.grad_fn)


def _beneath_views(node: Any) -> Any:
    """The node below the squeezes by which pooling drops a batch axis that it has added."""
    while node is not None and node.name().startswith(("Squeeze", "View")):
        node = node.next_functions[0][0]
    return node


def _nodes(root: Any) -> set[Any]:
    """The autograd nodes reachable from `root`, itself included."""
    seen: set[Any] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(parent for parent, _ in node.next_functions)
    return seen


def piecewise_linear(model: VideoModel, frames: Tensor) -> str | None:
    """Everything between the layers is a ReLU or a maximum, and so the logits are linear piece by piece."""
    _, nodes = _graph(model, frames, ())
    others = {node for node in linearity.nonlinear(nodes) if not linearity.is_homogeneous(node)}
    return f"the network is not linear piece by piece: it uses {_in_words(others)}" if others else None


def rescale_rules(model: VideoModel, frames: Tensor) -> str | None:
    """All that is not linear is an elementwise activation or a max-pooling module, or becomes one when rewritten."""
    made, nodes = _graph(model, frames, (*linearity.ELEMENTWISE, *linearity.MAX_POOLS))
    others = linearity.nonlinear(nodes - made)
    return f"DeepLIFT has no rule for what the network uses: {_in_words(others)}" if others else None


def _in_words(nodes: set[Any]) -> str:
    """What the autograd nodes compute."""
    return ", ".join(sorted({_OTHER_ACTIVATIONS.get(node.name(), linearity.in_words(node)) for node in nodes}))


def linear_head(model: VideoModel, frames: Tensor) -> str | None:
    """The logits are a linear map of a layer's channel-wise global average."""
    return _reason(lambda: model.linear_head(model.normalise(frames)))


def feature_layer(model: VideoModel, frames: Tensor) -> str | None:
    """Some layer has activations over time and space."""
    return _reason(lambda: model.feature_layer(model.normalise(frames)))


def attention(model: VideoModel, frames: Tensor) -> str | None:
    """Attention among all patches, or divided into frames and places, that is told by its matrices alone."""
    return _reason(lambda: tokens_of(model, model.normalise(frames)))


def _reason(ask: Callable[[], object]) -> str | None:
    try:
        ask()
    except NotApplicableError as error:
        return str(error)
    return None


CHECKS: dict[str, Callable[[VideoModel, Tensor], str | None]] = {
    "relu_modules": relu_modules,
    "max_pool_modules": max_pool_modules,
    "piecewise_linear": piecewise_linear,
    "rescale_rules": rescale_rules,
    "linear_head": linear_head,
    "feature_layer": feature_layer,
    "attention": attention,
}
