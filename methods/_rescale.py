"""DeepLIFT's rules: a network whose gradients are multipliers between a baseline and a clip.

Shrikumar et al. 2017, arXiv:1704.02685, sections 3.3 and 3.5.1. Captum's DeepLift agrees wherever the network has no
max-pooling; at max-pooling over time and space its shares do not add up.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidattr_bench.linearity import ELEMENTWISE, MAX_POOLS

from ._inplace import out_of_place

Inputs = Mapping[nn.Module, deque[Tensor]]
_TINY = 1e-6  # differences up to here are rounding, and the derivative takes the place of their quotient


@contextmanager
def recorded(net: nn.Module) -> Iterator[Inputs]:
    """Collect what goes into every use of an activation or a max-pooling, in the order of execution."""
    inputs: defaultdict[nn.Module, deque[Tensor]] = defaultdict(deque)

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[module].append(args[0].detach().clone())

    with ExitStack() as stack:
        for module in _with_rules(net):
            stack.enter_context(module.register_forward_pre_hook(keep))
        yield inputs


@contextmanager
def rescaled(net: nn.Module, references: Inputs) -> Iterator[None]:
    """Inside, `net` takes the clip once; gradients are multipliers from the baseline that `references` come from."""

    def apply(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rule = _share_maxima if isinstance(module, MAX_POOLS) else _rescale
        return rule(module, args[0], references[module].popleft(), output.detach())

    with ExitStack() as stack:
        for module in _with_rules(net):
            stack.enter_context(out_of_place(module))
            stack.enter_context(module.register_forward_hook(apply))
        yield


def _with_rules(net: nn.Module) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, (*ELEMENTWISE, *MAX_POOLS))]


def _rescale(activation: Any, u: Tensor, reference: Tensor, y: Tensor) -> Tensor:
    """The rescale rule: the difference that comes out over the difference that went in."""
    difference = u.detach() - reference
    quotient = (y - activation.forward(reference)) / difference
    return _secant(y, (u, torch.where(difference.abs() > _TINY, quotient, _derivative(activation, u))))


def _derivative(activation: Any, u: Tensor) -> Tensor:
    u = u.detach().requires_grad_()
    return torch.autograd.grad(activation.forward(u).sum(), u)[0]


def _share_maxima(pool: Any, u: Tensor, reference: Tensor, y: Tensor) -> Tensor:
    """The higher maximum over the lower one goes to the voxel where it lies, in the clip or in the baseline.

    Either is at most the difference in that voxel, so that no multiplier exceeds 1.
    """
    _, own = _maxima(pool, u.detach())
    lower, other = _maxima(pool, reference)
    top = torch.maximum(y, lower)
    shares = []
    for where, share, otherwise in ((own, top - lower, 1.0), (other, y - top, 0.0)):
        at = _values(u, where)
        difference = at.detach() - _values(reference, where)
        quotient = share / difference
        shares.append((at, quotient.where(difference.abs() > _TINY, quotient.new_tensor(otherwise))))
    return _secant(y, *shares)


def _maxima(pool: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima of the windows, and where they lie, as flat indices."""
    function: Any = F.max_pool3d if isinstance(pool, nn.MaxPool3d) else F.max_pool2d
    sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    maxima, where = function(u, *sizes, return_indices=True)
    return maxima, where


def _values(u: Tensor, where: Tensor) -> Tensor:
    """The values at flat indices (N, C, ...) over all but the first two axes."""
    return u.flatten(2).gather(2, where.flatten(2)).view_as(where)


def _secant(value: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """The value, whose gradient with respect to each input is its multiplier."""
    for u, multipliers in terms:
        value = value + multipliers * (u - u.detach())
    return value
