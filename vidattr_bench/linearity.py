"""Which operations of a network are linear in the clip, read off its autograd graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Threshold),
)
"""Activations that work on each number by itself."""
MAX_POOLS: tuple[type[nn.Module], ...] = (nn.MaxPool2d, nn.MaxPool3d)

_SUMS = ("AccumulateGrad", "Add", "Sub", "Neg", "Mean", "Sum", "Clone", "Alias", "ToCopy", "Expand")
_VIEWS = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Permute",
    "Transpose",
    "T",
    "Flip",
    "Roll",
    "Repeat",
    "Unfold",
    "AsStrided",
)
_PARTS = ("Cat", "Stack", "Split", "SplitWithSizes", "Unbind", "Slice", "Select", "IndexSelect", "Index")
_AVERAGES = ("AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "MkldnnAdaptiveAvgPool2D")
_PADDINGS = ("ConstantPadNd", "ReflectionPad3D", "ReplicationPad3D")
_UPSAMPLINGS = ("UpsampleTrilinear3D", "UpsampleNearest3D", "UpsampleBilinear2D", "UpsampleNearest2D")
_LINEAR = frozenset(_SUMS + _VIEWS + _PARTS + _AVERAGES + _PADDINGS + _UPSAMPLINGS)
_BATCH_NORMS = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm")
_PRODUCTS = frozenset({*_BATCH_NORMS, "Convolution", "Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Mul", "Div"})
_MAXIMA = ("Max", "Amax", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D")
_HOMOGENEOUS = frozenset({*_MAXIMA, "Relu", "LeakyRelu", "PreluKernel"})
_WORDS = {
    "Div": "a division by activations",
    "NativeGroupNorm": "group norm",
    "NativeLayerNorm": "layer norm",
    "Softmax": "softmax",
}


def is_linear(node: Any) -> bool:
    """Whether an autograd node is a linear, or affine, function of what depends on the clip."""
    if kind(node) in _LINEAR:
        return True
    depends = [parent is not None for parent, _ in node.next_functions]
    if not is_product(node) or sum(depends) != 1:
        return False
    # An instance norm is a batch norm that normalises by the clip's own statistics.
    return depends[0] if kind(node) == "Div" else not getattr(node, "_saved_training", False)


def is_homogeneous(node: Any) -> bool:
    """Whether an autograd node is a ReLU, a leaky one or a maximum: linear in pieces that all meet at 0."""
    return kind(node) in _HOMOGENEOUS


def is_product(node: Any) -> bool:
    """Whether an autograd node is linear in each factor, and so in the clip where one factor alone depends on it.

    A quotient is so in its numerator alone.
    """
    return kind(node) in _PRODUCTS


def kind(node: Any) -> str:
    """What an autograd node differentiates: Relu of ReluBackward0."""
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def in_words(node: Any) -> str:
    """What an autograd node that is not linear is called in the field, where the field has another name."""
    if kind(node).startswith("ScaledDotProduct"):
        return "attention"
    return _WORDS.get(kind(node), "a product of activations" if is_product(node) else kind(node))


def nonlinear(nodes: Iterable[Any]) -> set[Any]:
    """Those of the autograd nodes that are not linear."""
    return {node for node in nodes if not is_linear(node)}
