"""What the modules of a network put out on one clip, recorded once per clip size, and what that tells of its layers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vidattr_bench.errors import NotApplicableError


@dataclasses.dataclass
class Probe:
    """Volumes (name, shape, mean over t, h, w) and linear layers (name, input, output) in order of execution.

    How often every module runs is in `runs`. Shapes in `channel_last` are (N, t, h, w, C), as in video transformers; no
    volume has one of them, or is of a module in `unreached`, whose output does not depend on the clip.
    """

    volumes: list[tuple[str, torch.Size, Tensor]] = dataclasses.field(default_factory=list)
    linears: list[tuple[str, Tensor, Tensor]] = dataclasses.field(default_factory=list)
    channel_last: set[torch.Size] = dataclasses.field(default_factory=set)
    logits: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    runs: Counter[str] = dataclasses.field(default_factory=Counter)
    unreached: frozenset[str] = frozenset()

    def layers(self) -> list[tuple[str, torch.Size]]:
        """Name and shape of the volumes of the modules that run once."""
        return [(name, shape) for name, shape, _ in self.volumes if self.runs[name] == 1]

    def output_shape(self, layer: str, called: str) -> tuple[int, int, int, int]:
        """(C, t, h, w) of what a layer, which the user calls `called`, puts out.

        Raises:
            NotApplicableError: it does not put out (N, C, t, h, w), or does not run exactly once.
        """
        if self.runs[layer] != 1:
            runs = f"layer {called!r} runs {self.runs[layer]} times in a forward pass"
            raise NotApplicableError(f"{runs}; name one that runs once")
        if layer in self.unreached:
            raise NotApplicableError(f"layer {called!r} does not depend on the stream that is explained")
        for name, (_, c, t, h, w) in self.layers():
            if name == layer:
                return c, t, h, w
        raise NotApplicableError(f"layer {called!r} puts out no activations (N, C, t, h, w)")

    def last_volume(self) -> str:
        """The last layer with activations over time and space; raises `NotApplicableError` where there is none."""
        volumes = [name for name, shape in self.layers() if min(shape[2:]) > 1]
        if not volumes:
            raise NotApplicableError(
                "the network has no layer with activations over time and space (N, C, t, h, w) that runs once"
            )
        return volumes[-1]

    def layer_before(self, layer: str) -> str:
        """The layer that ends last before `layer`, a block or not, begins; raises `NotApplicableError` without one."""
        names = [name for name, _ in self.layers()]
        begins = next((i for i, name in enumerate(names) if f"{name}.".startswith(f"{layer}.")), 0)
        if begins == 0:
            raise NotApplicableError(f"no layer with activations (N, C, t, h, w) runs before {layer!r}")
        return names[begins - 1]

    def linear_head(self) -> tuple[str, str]:
        """The layer whose mean over t, h, w a linear layer maps to the logits, and that linear layer.

        Raises:
            NotApplicableError: the logits are not a linear map of the mean of some layer's activations.
        """
        for linear, pooled, logits in reversed(self.linears):
            if logits.shape != self.logits.shape or not torch.allclose(logits, self.logits, rtol=1e-4, atol=1e-5):
                continue
            for name, shape, mean in reversed(self.volumes):
                same = mean.shape == pooled.shape and torch.allclose(mean, pooled, rtol=1e-4, atol=1e-6)
                if same and min(shape[3:]) > 1:
                    return name, linear
        raise NotApplicableError("the network has no linear head on a channel-wise global average pooling")


@torch.no_grad()
def probed(net: nn.Module, x: Tensor, only_reached: bool = False) -> Probe:
    """What the modules of `net` put out on one clip as large as those of x (N, C, T, H, W).

    With `only_reached` modules are found whose output does not depend on the clip.
    """
    # A constant clip could make two layers look alike; noise from a fixed generator does not.
    noise = torch.randn(1, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    with _recording(net) as probe:
        probe.logits = net(noise)
    if only_reached:
        probe.unreached = frozenset(probe.runs) - reached(net, noise)
        probe.volumes = [volume for volume in probe.volumes if volume[0] not in probe.unreached]
    return probe


@torch.no_grad()
def reached(net: nn.Module, x: Tensor) -> frozenset[str]:
    """The modules whose output is another one on noise than on x, (1, C, T, H, W)."""
    one, other = _sums(net, x), _sums(net, torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x))
    return frozenset(name for name, sums in one.items() if sums != other[name])


def _sums(net: nn.Module, x: Tensor) -> dict[str, list[float]]:
    """The sums of all that each module puts out on x."""
    found: dict[str, list[float]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            found.setdefault(name, []).extend(float(tensor.double().sum()) for tensor in tensors)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in net.named_modules()]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _recording(net: nn.Module) -> Iterator[Probe]:
    """A probe that fills while `net` runs on one clip inside; volumes with channels last leave it at the end."""
    probe = Probe()

    def record(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            probe.runs[name] += 1
            if isinstance(module, nn.Linear) and args and args[0].ndim == 2:
                probe.linears.append((name, args[0], output))
            elif isinstance(output, Tensor) and output.ndim == 5 and len(output) == 1:
                probe.volumes.append((name, output.shape, output.mean((2, 3, 4))))
                if _acts_on_last_axis(module):
                    probe.channel_last |= {output.shape, *(tensor.shape for tensor in args)}

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in net.named_modules() if name]
    try:
        yield probe
    finally:
        for handle in handles:
            handle.remove()
    probe.volumes = [volume for volume in probe.volumes if volume[1] not in probe.channel_last]


def mixes_channels(module: nn.Module) -> bool:
    """Whether it is or holds a convolution or linear layer; the weights of a norm are one number a channel."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _acts_on_last_axis(module: nn.Module) -> bool:
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return len(module.normalized_shape) == 1
    return isinstance(module, nn.Linear)
