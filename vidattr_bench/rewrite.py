"""The same network with every operation a module of its own, so that rules can be hooked to each use of each."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.model import VideoModel


class Add(nn.Module):
    """The sum of two tensors: where a shortcut meets its block."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """A + b."""
        return a + b


class Mean(nn.Module):
    """The mean over some axes: a global average pooling that was written as a function.

    Args:
        dim: the axes.
        keepdim: whether they stay, with length 1.
    """

    def __init__(self, dim: int | tuple[int, ...], keepdim: bool = False) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, x: Tensor) -> Tensor:
        """The mean of x."""
        return x.mean(self.dim, self.keepdim)


class _Layer(nn.Identity):
    """Puts out what a block of the network put out, under the block's name."""


def modular(model: VideoModel, frames: Tensor) -> VideoModel:
    """The same model whose ReLUs, poolings and sums are all modules, none of them used twice.

    Parameters and the counter of calls are shared with `model`, and `module(layer)` finds the layers by their names in
    it, blocks included. Functional ReLU, pooling, local response norm, dropout and flattening, sums of two tensors and
    means over axes become modules; each use of a module that is used again is a copy that shares its parameters.

    Args:
        model: the model to rewrite; it stays as it is.
        frames: (N, C, T, H, W), clips like those to come.

    Raises:
        NotApplicableError: torch.fx cannot follow the network, or follows it to other logits.
    """
    key = ("modular", tuple(frames.shape[1:]), frames.device)
    if key not in model.facts:
        model.facts[key] = _rewritten(model, frames)
    found: VideoModel | str = model.facts[key]
    if isinstance(found, str):
        raise NotApplicableError(found)
    return found


def hookable(model: VideoModel, frames: Tensor) -> VideoModel:
    """The rewritten model, as `modular` has it, or the model itself where torch.fx cannot follow the network."""
    try:
        return modular(model, frames)
    except NotApplicableError:
        return model


def _rewritten(model: VideoModel, frames: Tensor) -> VideoModel | str:
    """The rewritten model, or why there is none."""
    x = model.normalise(torch.rand(1, *frames.shape[1:], generator=torch.Generator().manual_seed(0)).to(frames))
    with torch.no_grad():
        expected = model.net(x)
        try:
            net, layers = rewrite(model.net)
            same = torch.allclose(net(x), expected, rtol=1e-4, atol=1e-5)
        except torch.OutOfMemoryError:  # passes, and so must not be remembered
            raise
        except NotApplicableError as reason:  # the network's own word
            return str(reason)
        except Exception as error:
            first = str(error).strip().split("\n")[0].split(". ")[0]
            return f"torch.fx cannot follow the network's forward pass: {type(error).__name__}: {first}"
    if not same:
        return "torch.fx follows the network's forward pass to other logits: it depends on data or on state"
    return model.with_net(net, layers, x)


def rewrite(net: nn.Module) -> tuple[fx.GraphModule, dict[str, str]]:
    """A graph of modules that computes what `net` does; the names there of what its blocks put out, by block.

    Raises:
        Exception: whatever torch.fx raises where it cannot follow the network.
    """
    tracer = _Tracer()
    graph = tracer.trace(net)
    result = fx.GraphModule(net, graph)
    layers = _mark_blocks(result, tracer.outputs)
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        if node.op == "call_module" and uses[node.target] > 1:
            _replace(result, node, _sharing_copy(result.get_submodule(str(node.target))), node.args, node.kwargs)
        elif node.op in ("call_function", "call_method") and node.target in _MODULES:
            module = _MODULES[node.target](node)
            if module is not None:
                _replace(result, node, module, _tensors(node), {})
    graph.lint()
    result.recompile()
    return result.eval(), layers


class _Tracer(fx.Tracer):
    """Notes what each block of the network puts out, unless it is called twice and has no output of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.outputs: dict[str, fx.Node] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's own layers, and subclasses of them that leave the forward pass as it is."""
        author = next(cls for cls in type(m).__mro__ if "forward" in vars(cls))
        return author.__module__.startswith("torch.nn") and author is not nn.Sequential

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m)
        self.calls[path] += 1
        if self.calls[path] > 1:
            self.outputs.pop(path, None)
        elif isinstance(output, fx.Proxy) and not self.is_leaf_module(m, path):
            self.outputs[path] = output.node
        return output


def _mark_blocks(net: fx.GraphModule, outputs: dict[str, fx.Node]) -> dict[str, str]:
    """Put an identity behind every block; the names of the identities by the names of the blocks."""
    layers = {}
    for path, node in outputs.items():
        name = _new_name(net)
        net.add_submodule(name, _Layer())
        with net.graph.inserting_after(node):
            marker = net.graph.call_module(name, (node,))
        node.replace_all_uses_with(marker, lambda user, marker=marker: user is not marker)  # type: ignore[misc]
        layers[path] = name
    return layers


def _replace(
    net: fx.GraphModule, node: fx.Node, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    name = _new_name(net)
    net.add_submodule(name, module)
    with net.graph.inserting_after(node):
        new = net.graph.call_module(name, tuple(args), dict(kwargs))
    node.replace_all_uses_with(new)
    net.graph.erase_node(node)


def _new_name(net: fx.GraphModule) -> str:
    """A name that no module of the network has."""
    return f"_op_{sum(1 for _ in net.named_modules())}"


def _sharing_copy(module: nn.Module) -> nn.Module:
    """Another module with the same parameters and buffers, and hooks of its own."""
    memo = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, memo)


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The nodes that a function is called with."""
    return [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]


def _given(node: fx.Node, names: Sequence[str]) -> dict[str, Any] | None:
    """The arguments behind the first one, by name, or None where a name is unknown or a value is computed."""
    given = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
    given.pop("input", None)
    known = len(node.args) <= 1 + len(names) and set(given) <= set(names)
    return given if known and not any(isinstance(value, fx.Node) for value in given.values()) else None


def _add(node: fx.Node) -> nn.Module | None:
    return Add() if len(_tensors(node)) == 2 and len(node.args) == 2 and not node.kwargs else None


def _mean(node: fx.Node) -> nn.Module | None:
    given = _given(node, ("dim", "keepdim"))
    if not given or "dim" not in given:
        return None
    dim = given["dim"]
    return Mean(tuple(dim) if isinstance(dim, (tuple, list)) else dim, given.get("keepdim", False))


def _flatten(node: fx.Node) -> nn.Module | None:
    given = _given(node, ("start_dim", "end_dim"))
    return None if given is None else nn.Flatten(**{"start_dim": 0, **given})


def _module(cls: type[nn.Module], *names: str, ignored: Sequence[str] = ()) -> Callable[[fx.Node], nn.Module | None]:
    """Makes the module `cls` with the arguments of a function, which come in the order of `names`."""

    def make(node: fx.Node) -> nn.Module | None:
        given = _given(node, (*names, *ignored))
        if given is None or given.get("return_indices"):
            return None
        return cls(**{key: value for key, value in given.items() if key in names})

    return make


_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_RELU = _module(nn.ReLU, ignored=("inplace",))
_DROPOUT = _module(nn.Identity, ignored=("p", "training", "inplace"))
_MODULES: dict[Any, Callable[[fx.Node], nn.Module | None]] = {
    **dict.fromkeys([torch.relu, torch.relu_, F.relu, F.relu_, "relu", "relu_"], _RELU),
    **dict.fromkeys([operator.add, operator.iadd, torch.add, "add", "add_"], _add),
    **dict.fromkeys([torch.mean, "mean"], _mean),
    **dict.fromkeys([F.dropout, F.dropout1d, F.dropout2d, F.dropout3d], _DROPOUT),
    **dict.fromkeys([torch.flatten, "flatten"], _flatten),
    F.max_pool2d: _module(nn.MaxPool2d, *_MAX, ignored=("return_indices",)),
    F.max_pool3d: _module(nn.MaxPool3d, *_MAX, ignored=("return_indices",)),
    F.avg_pool2d: _module(nn.AvgPool2d, *_AVERAGE),
    F.avg_pool3d: _module(nn.AvgPool3d, *_AVERAGE),
    F.adaptive_avg_pool2d: _module(nn.AdaptiveAvgPool2d, "output_size"),
    F.adaptive_avg_pool3d: _module(nn.AdaptiveAvgPool3d, "output_size"),
    F.local_response_norm: _module(nn.LocalResponseNorm, "size", "alpha", "beta", "k"),
}
