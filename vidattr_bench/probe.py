"""What the modules of a network put out on one clip, recorded once per clip size."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@dataclasses.dataclass
class Probe:
    """Volumes (name, shape, mean over t, h, w) and linear layers (name, input, output) in order of execution.

    How often every module runs is in `runs`. Shapes in `channel_last` are (N, t, h, w, C), as in video transformers; no
    volume has one of them.
    """

    volumes: list[tuple[str, torch.Size, Tensor]] = dataclasses.field(default_factory=list)
    linears: list[tuple[str, Tensor, Tensor]] = dataclasses.field(default_factory=list)
    channel_last: set[torch.Size] = dataclasses.field(default_factory=set)
    logits: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    runs: Counter[str] = dataclasses.field(default_factory=Counter)

    def layers(self) -> list[tuple[str, torch.Size]]:
        """Name and shape of the volumes of the modules that run once."""
        return [(name, shape) for name, shape, _ in self.volumes if self.runs[name] == 1]


@contextmanager
def recording(net: nn.Module) -> Iterator[Probe]:
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
