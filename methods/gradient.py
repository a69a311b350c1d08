"""The gradient of the target's score."""

from __future__ import annotations

import dataclasses

from ._reversed import ReversedNetwork


@dataclasses.dataclass(frozen=True)
class Gradient(ReversedNetwork):
    """How strongly a small change of each voxel changes the target's score: its gradient, pooled over the channels.

    As a reversed network this is SaliNet: a signal passes a ReLU back where the ReLU's input was positive. It is the
    gradient as long as the signal leaves max-pooling by the switches.
    """

    family = "gradient"
    reference = "Simonyan et al. 2013, arXiv:1312.6034; Mahendran & Vedaldi 2016, doi:10.1007/978-3-319-46466-4_8"
    aliases = ("salinet",)
    requires = ()
