"""Networks in the form that rules of relevance propagation ask for: batch norm folded, sums made zennit's `Sum`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from zennit.layer import Sum

from vidattr_bench.attention import attends
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.model import VideoModel
from vidattr_bench.rewrite import Add, modular

from ._graph import AVERAGES, IDENTITIES, NORMS, REARRANGING, WEIGHTED, described, rearranges, sizes

# They keep 0 and the sign, so that relevance passes them unchanged.
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh),
    *(nn.Hardtanh, nn.Softsign),
)
_KNOWN = (*WEIGHTED, *NORMS, *AVERAGES, *IDENTITIES, *REARRANGING, *ACTIVATIONS, Sum)


def canonical(model: VideoModel, frames: Tensor) -> VideoModel:
    """The same model around a network for rules: what is folded is copied, all other parameters are the model's.

    A batch norm right behind a convolution or linear layer is folded into it, and a sum of two tensors becomes a stack
    and zennit's `Sum`, at which its rules share relevance among the two.

    Args:
        model: any model.
        frames: (N, C, T, H, W), clips like those to come.

    Raises:
        NotApplicableError: torch.fx cannot follow the network, or something in it has no rule.
    """
    x = model.normalise(frames)
    try:
        rewritten = modular(model, frames)
        return rewritten.with_net(_canonical(rewritten.net), {}, x)
    except NotApplicableError as reason:
        if attends(model, x):
            raise NotApplicableError("relevance propagation has no rule for attention") from reason
        raise


def _canonical(net: nn.Module) -> fx.GraphModule:
    assert isinstance(net, fx.GraphModule)
    result = fx.GraphModule(net, copy.deepcopy(net.graph))
    for node in list(result.graph.nodes):
        module = _module(result, node)
        if isinstance(module, IDENTITIES):
            _bypass(result, node, node.all_input_nodes[0])
        elif isinstance(module, NORMS):
            _fold(result, node, module)
        elif isinstance(module, Add):
            _share(result, node)
    result.graph.lint()
    result.recompile()
    result.delete_all_unused_submodules()
    _check(result)
    return result


def _module(net: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return net.get_submodule(str(node.target)) if node.op == "call_module" else None


def _bypass(net: fx.GraphModule, node: fx.Node, source: fx.Node) -> None:
    node.replace_all_uses_with(source)
    net.graph.erase_node(node)


def _fold(net: fx.GraphModule, node: fx.Node, norm: nn.Module) -> None:
    """Fold a batch norm into the weighted layer before it, unless something else reads that one's output."""
    source = node.all_input_nodes[0]
    layer = _module(net, source)
    if not isinstance(layer, WEIGHTED) or len(source.users) != 1 or not norm.track_running_stats:
        return
    fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
    fused = fuse(layer, norm).requires_grad_(False)  # type: ignore[arg-type, type-var]
    net.set_submodule(str(source.target), fused)
    _bypass(net, node, source)


def _share(net: fx.GraphModule, node: fx.Node) -> None:
    with net.graph.inserting_before(node):
        terms = net.graph.call_function(_stack, node.args)
        name = f"{node.target}_sum"
        net.add_submodule(name, Sum(-1))
        total = net.graph.call_module(name, (terms,))
    _bypass(net, node, total)


def _stack(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(a, b), -1)  # type: ignore[no-untyped-call]


def _check(net: fx.GraphModule) -> None:
    """Raise `NotApplicableError` where some node has no rule."""
    plain = sizes(net.graph)
    for node in net.graph.nodes:
        module = _module(net, node)
        if not (node in plain or isinstance(module, _KNOWN) or _passes_on(node)):
            raise NotApplicableError(f"relevance propagation has no rule for {described(node, module or net)}")


def _passes_on(node: fx.Node) -> bool:
    """Whether a node computes nothing: its gradient hands on the relevance that comes."""
    return node.op in ("placeholder", "output", "get_attr") or node.target is _stack or rearranges(node)
