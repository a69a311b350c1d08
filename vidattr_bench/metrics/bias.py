"""Bias: whether a map favours the borders or the centre of a clip, whatever the clip shows."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vidattr_bench.metric import Case
from vidattr_bench.units import Units

from ._mass import MassMetric

Part = Literal["ring", "space", "time", "corner"]


@dataclasses.dataclass(frozen=True)
class BorderBias(MassMetric):
    """How much more relevance lies at the border of a clip than its volume would get.

    The share of the sum of |a| in the outermost units divided by their share of the voxels: 1 for a constant map and,
    in expectation, for a random one; above 1 the border is favoured. Zero padding on one side only, as TensorFlow's
    `same` padding with strides has it, makes one corner of a network's maps hot: `part=corner` shows that most
    clearly. Undefined: `zero_map`, `one_unit`, and `no_inner_unit` where every unit touches the border.

    Attributes:
        part: ring (units that touch any side of the clip, in space or at its ends in time), space (the sides of the
            frames), time (both ends) or corner (that one of the eight corners where it is largest: of a random map
            above 1, by the more the fewer voxels a unit has).
    """

    higher_is_better: ClassVar[bool | None] = None
    reference: ClassVar[str] = "Alsallakh 2021, arXiv 2010.02178 (padding and spatial bias)"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"complexity": ("", "part=corner")}
    units: ClassVar[str] = "ratio of densities, from 0; no bias 1"
    theory: ClassVar[Mapping[str, str | float]] = {
        "none": "where the tubes lie decides for the oracles; the hottest of eight corners of noise exceeds 1",
        "constant": 1,
    }

    part: Part = "ring"

    def _chance(self, case: Case) -> list[float] | None:
        return None if self.part == "corner" else [1.0] * len(case)

    def _value(self, magnitudes: Tensor, units: Units) -> float | str:
        ratios = [_density_ratio(magnitudes, units.sizes, touched) for touched in _border(units.labels, self.part)]
        return "no_inner_unit" if None in ratios else max(ratio for ratio in ratios if ratio is not None)


@dataclasses.dataclass(frozen=True)
class CentreBias(MassMetric):
    """How much nearer to the centre of the frames relevance lies than if it were spread evenly.

    The closeness of a voxel is 1 - d, d its distance from the middle of its frame (rows as a fraction of the height,
    columns of the width), divided by that of the corners of the frame. The value is the mean of the closeness weighted
    by |a| minus its mean over all voxels: 0 for a constant map and, in expectation, for a random one. The control
    `centre` shows what looking at the middle alone gets. Undefined: `zero_map`, `one_unit`.
    """

    higher_is_better: ClassVar[bool | None] = None
    reference: ClassVar[str] = "Tatler 2007, doi:10.1167/7.14.4 (central fixation bias)"
    units: ClassVar[str] = "difference of closeness, in (-1, 1); chance 0"
    theory: ClassVar[Mapping[str, str | float]] = {
        "random": 0,
        "constant": 0,
        "none": "where the tubes lie decides for the oracles",
    }

    unit: str = "voxel"

    def _chance(self, case: Case) -> list[float] | None:
        return [0.0] * len(case)

    def _value(self, magnitudes: Tensor, units: Units) -> float:
        near = units.means(closeness(*units.labels.shape))
        mass = magnitudes * units.sizes
        return float((mass * near).sum() / mass.sum() - (near * units.sizes).sum() / units.sizes.sum())


def closeness(t: int, h: int, w: int) -> Tensor:
    """1 - the distance of each voxel (T, H, W) from the middle of its frame, as a fraction of the corners'."""
    y, x = ((torch.arange(length, dtype=torch.float64) + 0.5) / length - 0.5 for length in (h, w))
    distance = (y[:, None].square() + x.square()).sqrt() / math.sqrt(0.5)
    return (1 - distance).expand(t, h, w)


def _border(labels: Tensor, part: Part) -> list[Tensor]:
    """The units, int64 (B,), that touch the border of a label map (T, H, W); eight such sets for the corners."""
    t, y, x = ([labels.select(axis, end).flatten() for end in (0, -1)] for axis in range(3))
    if part == "corner":
        corners = itertools.product((0, -1), repeat=3)
        return [labels[corner].view(1) for corner in corners]
    sides = {"ring": [*t, *y, *x], "space": [*y, *x], "time": t}[part]
    touched: Tensor = torch.cat(sides).unique()  # type: ignore[no-untyped-call]
    return [touched]


def _density_ratio(magnitudes: Tensor, sizes: Tensor, part: Tensor) -> float | None:
    """Mass a voxel in the units `part` (B,) over mass a voxel in all; None where these are all units."""
    if len(part) == len(sizes):
        return None
    mass = magnitudes * sizes
    return float(mass[part].sum() / mass.sum() * sizes.sum() / sizes[part].sum())
