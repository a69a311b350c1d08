"""The deconvolutional network."""

from __future__ import annotations

import dataclasses

from . import _reversed
from ._reversed import ReversedNetwork


@dataclasses.dataclass(frozen=True)
class DeConvNet(ReversedNetwork):
    """The target's score sent back through the network, keeping at each ReLU the positive part of the signal alone.

    Max-pooling sends a signal to the switches of the forward pass or to the centre of its window, LRN lets it through,
    convolutions transpose, biases drop. Forward information enters only through the switches: without max-pooling the
    map is the same for every clip.
    """

    family = "reversed network"
    reference = "Zeiler & Fergus 2013, arXiv:1311.2901"
    rule = staticmethod(_reversed.deconvnet)
