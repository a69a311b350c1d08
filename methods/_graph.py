"""Reading the graph of a rewritten network: which nodes only rearrange numbers, and what a user calls the others."""

from __future__ import annotations

from torch import fx, nn

from vidattr_bench.rewrite import Mean

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVERAGES = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, Mean),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# Their gradient hands on what comes: to the unit that was the maximum, or that was put elsewhere.
REARRANGING = (
    *(nn.Flatten, nn.Unflatten),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
# fmt: off
_FUNCTIONS = frozenset({
    "cat", "chunk", "clone", "contiguous", "flatten", "flip", "getitem", "movedim", "narrow", "permute", "reshape",
    "select", "split", "squeeze", "stack", "swapaxes", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view",
})
# fmt: on
_SIZES = frozenset({"dim", "numel", "size"})


def rearranges(node: fx.Node) -> bool:
    """Whether a node is a function that puts numbers elsewhere and leaves them as they are."""
    return node.op != "call_module" and (_name(node) in _FUNCTIONS or _pads_with_zeros(node))


def _pads_with_zeros(node: fx.Node) -> bool:
    given = {**dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)), **node.kwargs}
    return _name(node) == "pad" and str(given.get("mode", "constant")) == "constant" and not given.get("value")


def sizes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values depend on the shapes of tensors alone: what asks for them, and arithmetic on those."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if node.op != "call_module" and (_asks_for_size(node) or (inputs and found.issuperset(inputs))):
            found.add(node)
    return found


def _asks_for_size(node: fx.Node) -> bool:
    attribute = _name(node) == "getattr" and node.args[1] in ("shape", "ndim", "dtype", "device")
    return attribute or _name(node) in _SIZES


def described(node: fx.Node, module: nn.Module) -> str:
    """What a node does, in words for a user; `module` is what it calls, where it calls one."""
    return type(module).__name__ if node.op == "call_module" else f"the function {_name(node)}"


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
