"""Where a clip's evidence is known to lie: the voxels that localisation metrics look at, and what they must find."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vidattr_bench.metric import Case, Measurement, Metric


@dataclasses.dataclass(frozen=True)
class Truth:
    """The annotated frames of one clip; those whose truth is unknown are left out.

    Attributes:
        known: bool (T,), frames that are annotated.
        inside: bool (t, H, W), G on the t known frames: the union of the label's tubes.
        reason: "" or why the clip is undefined for localisation: no_label, other_target (the class explained is not
            the label), not_annotated (no known frame), no_tubes (G is empty), all_tube (G is everything).
    """

    known: Tensor
    inside: Tensor
    reason: str

    @property
    def chance(self) -> float:
        """|G| / N, the share of known voxels that lie in G; NaN where no frame is known."""
        return float(self.inside.double().mean())

    def of(self, maps: Tensor) -> Tensor:
        """The known frames of maps (..., T, H, W)."""
        return maps[..., self.known, :, :]


def truth(case: Case, clip: int) -> Truth:
    """The truth of one clip, shared by all methods."""
    found: Truth = case.shared.memo(("truth", clip), lambda: _truth(case, clip))
    return found


def _truth(case: Case, clip: int) -> Truth:
    known = case.batch.annotated[clip].to(case.relevance.device)
    inside = case.batch.tubes[clip].to(case.relevance.device)[known]
    label, target = int(case.shared.labels[clip]), int(case.targets[clip])
    return Truth(known, inside, _reason(inside, label, target))


def _reason(inside: Tensor, label: int, target: int) -> str:
    if label < 0:
        return "no_label"
    if label != target:
        return "other_target"
    if len(inside) == 0:
        return "not_annotated"
    if not bool(inside.any()):
        return "no_tubes"
    return "all_tube" if bool(inside.all()) else ""


@dataclasses.dataclass(frozen=True)
class TruthMetric(Metric):
    """A number from one clip's map and its truth; undefined where the truth is, with the truth's reason."""

    def measure(self, case: Case) -> Measurement:
        """Values of N clips, and their chance levels where the metric has any."""
        reasons = [self._reason(case, clip) for clip in range(len(case))]
        values = [reason or self._value(case, clip) for clip, reason in enumerate(reasons)]
        levels = [float("nan") if reason else self._chance(case, clip) for clip, reason in enumerate(reasons)]
        chance = [level for level in levels if level is not None]
        return Measurement.of(values, chance if len(chance) == len(case) else None)

    def _reason(self, case: Case, clip: int) -> str:
        """Why the truth of a clip is undefined, or ""."""
        return truth(case, clip).reason

    @abstractmethod
    def _value(self, case: Case, clip: int) -> float | str:
        """The value of one clip whose truth is defined, or the reason why it has none."""

    def _chance(self, case: Case, clip: int) -> float | None:
        """What a map that knows nothing gets on one clip whose truth is defined; None: no such level."""
        return truth(case, clip).chance


def near(case: Case, clip: int, tolerance: float) -> Tensor:
    """Bool (t, H, W) on the known frames: within a disc of radius `tolerance` times H of a voxel of G in that frame."""

    def dilate() -> Tensor:
        inside = truth(case, clip).inside
        return _dilated(inside, tolerance * inside.shape[1])

    dilated: Tensor = case.shared.memo(("near", clip, tolerance), dilate)
    return dilated


def _dilated(mask: Tensor, radius: float) -> Tensor:
    reach = int(radius)
    offsets = torch.arange(-reach, reach + 1, device=mask.device)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius**2).float()
    return F.conv2d(mask.float()[:, None], disc[None, None], padding=reach)[:, 0] > 0.5


@dataclasses.dataclass(frozen=True)
class Levels:
    """Known voxels grouped by equal relevance, the most relevant level first.

    Attributes:
        values: (L,), strictly falling.
        sizes: int64 (L,), voxels on each level.
        hits: int64 (L,), those of them that lie in G.
    """

    values: Tensor
    sizes: Tensor
    hits: Tensor

    @property
    def above(self) -> Tensor:
        """Voxels on higher levels, int64 (L,)."""
        return self.sizes.cumsum(0) - self.sizes

    def taken(self, count: int) -> Tensor:
        """Share (L,) of each level among the `count` most relevant voxels, ties in expectation."""
        return ((count - self.above).double() / self.sizes).clamp(0, 1)


def levels(case: Case, clip: int) -> Levels:
    """The levels of one clip's relevance on its known frames, sorted once for all metrics."""

    def group() -> Levels:
        found = truth(case, clip)
        return levels_of(found.of(case.relevance[clip]).flatten(), found.inside.flatten())

    grouped: Levels = case.memo(("levels", clip), group)
    return grouped


def levels_of(relevance: Tensor, inside: Tensor) -> Levels:
    """Group V voxels (V,) by relevance."""
    relevance, order = relevance.sort(descending=True)
    values, sizes = relevance.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
    last = sizes.cumsum(0) - 1
    hits = inside[order].cumsum(0)[last]
    return Levels(values, sizes, hits.diff(prepend=hits.new_zeros(1)))


def expected_iou(levels: Levels) -> float:
    """IoU of the |G| most relevant voxels with G, in expectation over the order of ties."""
    size = int(levels.hits.sum())
    last = int((levels.above < size).sum()) - 1
    sure, places = int(levels.hits[:last].sum()), size - int(levels.above[last])
    return _mean_iou(size, sure, *_hypergeometric(int(levels.sizes[last]), int(levels.hits[last]), places))


def chance_iou(total: int, size: int) -> float:
    """Expected IoU of `size` of `total` voxels drawn at random with the `size` voxels of G."""
    return _mean_iou(size, 0, *_hypergeometric(total, size, size))


def _mean_iou(size: int, sure: int, more: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Expected IoU of two sets of `size` voxels that share `sure` and, with these probabilities, so many more."""
    shared = sure + more
    return float(probabilities @ (shared / (2 * size - shared)))


def _hypergeometric(total: int, marked: int, drawn: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many of `drawn` of `total` voxels may be among those marked, and with which probabilities.

    SciPy's distribution is exact to the last digit, but takes a millisecond for each number.
    """
    k = np.arange(max(0, drawn - (total - marked)), min(marked, drawn) + 1)
    return k, scipy.special.softmax(_log_binomial(marked, k) + _log_binomial(total - marked, drawn - k))


def _log_binomial(n: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
    logarithms: NDArray[np.float64] = -scipy.special.betaln(n - k + 1, k + 1) - np.log1p(n)
    return logarithms
