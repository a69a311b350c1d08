"""Reversed networks: backpropagation whose rule at the ReLUs, at max-pooling and at LRN is another one.

Mahendran & Vedaldi, "Salient deconvolutional networks", ECCV 2016, section 2. A signal y comes from the top; at a ReLU
with input u it goes on as y [u > 0] (SaliNet, which is plain backpropagation), y [y > 0] (DeConvNet) or
y [y > 0] [u > 0] (DeSaliNet, also known as guided backpropagation). SaliNet backpropagates through LRN, the other two
let the signal pass. Each of the three unpools to the switches of max-pooling or to the centres of its windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vidattr_bench.model import VideoModel
from vidattr_bench.requirements import require
from vidattr_bench.rewrite import hookable

from ._gradients import ChannelPooled, Score, input_gradient
from ._inplace import out_of_place

Unpool = Literal["switches", "centre"]
Rule = Callable[[Tensor, Tensor], Tensor]
MAX_POOLS = (nn.MaxPool2d, nn.MaxPool3d)


def deconvnet(signal: Tensor, active: Tensor) -> Tensor:
    """Y [y > 0]: what passes a ReLU depends on the signal alone."""
    return signal.clamp(min=0)


def desalinet(signal: Tensor, active: Tensor) -> Tensor:
    """Y [y > 0] [u > 0]: it depends on the signal and on the forward pass."""
    return signal.clamp(min=0) * active


class _Detour(torch.autograd.Function):
    """Has the value of `output`; its signal skips the operation that made it and goes, by `rule`, to `path`."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, path: Tensor, rule: Rule | None) -> Tensor:
        ctx.rule = rule
        if rule is not None:
            ctx.save_for_backward(output > 0)
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[None, Tensor, None]:
        (signal,) = signals
        return None, signal if ctx.rule is None else ctx.rule(signal, *ctx.saved_tensors), None


def _detour(output: Tensor, path: Tensor, rule: Rule | None = None) -> Tensor:
    return _Detour.apply(output.detach(), path, rule)  # type: ignore[no-any-return]


@contextmanager
def reversed_network(net: nn.Module, rule: Rule | None, unpool: Unpool) -> Iterator[None]:
    """Inside, gradients of `net` are reversed signals; without a rule, ReLU and LRN are backpropagated through."""

    def relu(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return _detour(output, args[0], rule)

    def centre(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return _detour(output, window_centres(args[0], output, module))

    def lrn(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return _detour(output, args[0])

    with ExitStack() as stack:
        for module in net.modules():
            if isinstance(module, nn.ReLU) and rule is not None:
                stack.enter_context(out_of_place(module))
                stack.enter_context(module.register_forward_hook(relu))
            elif isinstance(module, MAX_POOLS) and unpool == "centre":
                stack.enter_context(module.register_forward_hook(centre))
            elif isinstance(module, (nn.LocalResponseNorm, nn.CrossMapLRN2d)) and rule is not None:
                stack.enter_context(module.register_forward_hook(lrn))
        yield


def window_centres(x: Tensor, pooled: Tensor, pool: Any) -> Tensor:
    """The voxels of x at the centres of the windows of a max-pooling module, in the shape of its output.

    The centre of an even window is the first voxel of its second half; one in the padding moves to the border.
    """
    axes = pooled.ndim - 2
    for axis in range(axes):
        kernel, stride, padding, dilation = (
            value if isinstance(value, int) else value[axis]
            for value in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        )
        starts = torch.arange(pooled.shape[2 + axis], device=x.device) * stride - padding
        centres = (starts + dilation * (kernel // 2)).clamp(0, x.shape[2 + axis] - 1)
        x = x.index_select(2 + axis, centres)
    return x


@dataclasses.dataclass(frozen=True)
class ReversedNetwork(ChannelPooled):
    """Base of SaliNet, DeConvNet and DeSaliNet.

    Attributes:
        unpool: where a signal leaves a max-pooling window: at the maximum (switches) or at the window's centre.
        score: the target's logit or probability.
    """

    requires: ClassVar[tuple[str, ...]] = ("relu_modules",)
    rule: ClassVar[staticmethod[[Tensor, Tensor], Tensor] | None] = None

    unpool: Unpool = "switches"
    score: Score = "logit"

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W); `NotApplicableError` where `unpool=centre` meets pooling that is no module."""
        return self.pooled(self.signal(model, frames, targets))

    def signal(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """What the reversed network brings back to each clip, (N, C, T, H, W)."""
        rule = type(self).rule
        if self.unpool == "centre":
            require("max_pool_modules", model, frames)
        if rule is not None or self.unpool == "centre":
            model = hookable(model, frames)
        with reversed_network(model.net, rule, self.unpool):
            return input_gradient(model, model.normalise(frames), targets, self.score)
