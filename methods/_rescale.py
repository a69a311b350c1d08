"""DeepLIFT's rules: a network whose gradients are multipliers between a clip and its baseline.

Shrikumar et al. 2017, arXiv:1704.02685, sections 3.5.1 and 3.3. Captum's DeepLift agrees wherever the network has no
max-pooling; at max-pooling in 3-D its shares do not add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidattr_bench.linearity import ELEMENTWISE, MAX_POOLS

_TINY = 1e-6  # differences up to here are rounding, and the derivative takes the place of their quotient


@contextmanager
def rescaled(net: nn.Module) -> Iterator[None]:
    """Inside, `net` takes one clip and its baseline, (2, C, T, H, W), and its gradients at the clip are multipliers."""
    with ExitStack() as stack:
        for module in net.modules():
            if isinstance(module, ELEMENTWISE):
                stack.enter_context(_out_of_place(module))
                stack.enter_context(module.register_forward_hook(_rescale))
            elif isinstance(module, MAX_POOLS):
                stack.enter_context(module.register_forward_hook(_share_maxima))
        yield


@contextmanager
def _out_of_place(activation: Any) -> Iterator[None]:
    """Leave the activation's input as it is, since the rule needs it."""
    inplace = getattr(activation, "inplace", False)
    if inplace:
        activation.inplace = False
    try:
        yield
    finally:
        if inplace:
            activation.inplace = True


def _rescale(activation: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The rescale rule: the difference that comes out over the difference that went in."""
    u, (y, reference) = args[0], output.detach()
    difference = u[0].detach() - u[1].detach()
    multipliers = torch.where(difference.abs() > _TINY, (y - reference) / difference, _derivative(activation, u[:1]))
    return torch.stack([_secant(y, (u[0], multipliers)), reference])


def _derivative(activation: Any, u: Tensor) -> Tensor:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        (derivative,) = torch.autograd.grad(activation.forward(u).sum(), u)
    return derivative[0]


def _share_maxima(pool: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The higher maximum over the lower one goes to the voxel where it lies, in the clip or in the baseline.

    Both differences are at most those of the voxels themselves, so that no multiplier exceeds 1.
    """
    u, (y, reference) = args[0], output.detach()
    top = torch.maximum(y, reference)
    own, other = _maxima(pool, u)
    values = u.flatten(2)
    shares = []
    for index, share, otherwise in ((own, top - reference, 1.0), (other, y - top, 0.0)):
        at, at_reference = (value.gather(-1, index.flatten(1)).view_as(y) for value in values)
        difference = at.detach() - at_reference.detach()
        fallback = torch.full_like(share, otherwise)
        shares.append((at, torch.where(difference.abs() > _TINY, share / difference, fallback)))
    return torch.stack([_secant(y, *shares), reference])


def _maxima(pool: Any, u: Tensor) -> Tensor:
    """Where the maxima of the windows lie, as flat indices, (2, C, t, h, w)."""
    function = F.max_pool3d if isinstance(pool, nn.MaxPool3d) else F.max_pool2d
    sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return function(u.detach(), *sizes, return_indices=True)[1]


def _secant(value: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """The value, whose gradient with respect to each input is its multiplier."""
    for u, multipliers in terms:
        value = value + multipliers * (u - u.detach())
    return value
