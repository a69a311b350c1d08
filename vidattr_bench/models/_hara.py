"""What the networks of Hara et al. 2018 share: the input and the normalisation that they were trained with."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models._published import PublishedEntry


@dataclasses.dataclass(frozen=True)
class HaraEntry(PublishedEntry):
    """A network of github.com/kenshohara/3D-ResNets-PyTorch.

    Its branch CVPR2018 subtracts ActivityNet's mean from pixels in 0..255 and divides by nothing (mean.py, and in
    opts.py `norm_value` 1 without `std_norm`); here pixels lie in [0, 1].
    """

    input: ClassVar[ClipInput] = ClipInput(length=16, size=(112, 112), resize=112, crop="centre")
    mean: ClassVar[tuple[float, ...]] = (114.7748 / 255, 107.7354 / 255, 99.4750 / 255)
    std: ClassVar[tuple[float, ...]] = (1 / 255, 1 / 255, 1 / 255)


def initialise(net: nn.Module) -> None:
    """Draw the convolutions for ReLUs by what leaves them, as the authors do (He et al. 2015, arXiv 1502.01852)."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
