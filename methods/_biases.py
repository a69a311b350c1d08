"""The biases of a network's layers, each times the gradient at what the layer puts out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


@contextmanager
def bias_gradients(net: nn.Module) -> Iterator[list[Tensor]]:
    """Collect bias times gradient, in the shape of the output, of every use of a layer, as a signal comes back."""
    terms: list[Tensor] = []

    def collect(module: nn.Module, args: Any, output: Tensor) -> None:
        bias = _bias(module)
        if bias is not None and output.requires_grad:
            # A hook on the tensor is called with the gradient before a ReLU that works in place.
            shaped = _along_channels(bias, module, output)
            output.register_hook(lambda gradient: terms.append(gradient * shaped))  # type: ignore[no-untyped-call]

    with ExitStack() as stack:
        for module in net.modules():
            stack.enter_context(module.register_forward_hook(collect))
        yield terms


def _bias(module: Any) -> Tensor | None:
    """What a layer adds to each channel of its output, (C,); None where it adds nothing."""
    if isinstance(module, (nn.Linear, _ConvNd)):
        return module.bias
    if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
        scale = (module.running_var + module.eps).rsqrt()
        if module.affine:
            return module.bias - module.running_mean * module.weight * scale
        return -module.running_mean * scale
    return None


def _along_channels(bias: Tensor, module: nn.Module, output: Tensor) -> Tensor:
    """The bias (C,) in a shape that broadcasts to the output: a linear layer's channels come last, others' second."""
    return bias if isinstance(module, nn.Linear) else bias.view(-1, *[1] * (output.ndim - 2))
