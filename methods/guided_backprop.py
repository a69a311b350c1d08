"""Guided backpropagation, which is DeSaliNet."""

from __future__ import annotations

import dataclasses

from . import _reversed
from ._reversed import ReversedNetwork


@dataclasses.dataclass(frozen=True)
class GuidedBackprop(ReversedNetwork):
    """The target's score sent back, keeping at each ReLU the positive signal where the ReLU's input was positive too.

    This is DeSaliNet: the rule of the gradient and the rule of DeConvNet at once. Max-pooling sends a signal to the
    switches of the forward pass or to the centre of its window, LRN lets it through.
    """

    family = "reversed network"
    reference = "Springenberg et al. 2014, arXiv:1412.6806; Mahendran & Vedaldi 2016, doi:10.1007/978-3-319-46466-4_8"
    aliases = ("desalinet",)
    rule = staticmethod(_reversed.desalinet)
