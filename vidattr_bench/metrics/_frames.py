"""What a map and the truth say of each frame: the marginal over (h, w) that temporal metrics look at."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from vidattr_bench.metric import Case

from ._truth import Levels, levels_of, truth


@dataclasses.dataclass(frozen=True)
class Frames:
    """The annotated frames of one clip and what the map says of each.

    Attributes:
        tube: bool (t,), frames that hold a voxel of the label's tubes; the others are empty.
        relevance: float64 (t,), the mean of the frame's signed relevance over (h, w): what frames are ranked by.
        positive: float64 (t,), the sum of the frame's positive relevance: its mass.
        reason: "" or why the clip is undefined: that of the truth, or no_empty_frame.
    """

    tube: Tensor
    relevance: Tensor
    positive: Tensor
    reason: str

    @property
    def chance(self) -> float:
        """|F| / t, the share of annotated frames that are tube frames."""
        return float(self.tube.double().mean())

    @property
    def levels(self) -> Levels:
        """The frames grouped by equal relevance."""
        return levels_of(self.relevance, self.tube)


def frames(case: Case, clip: int) -> Frames:
    """The annotated frames of one clip, on the CPU, marginalised once for all metrics."""
    found: Frames = case.memo(("frames", clip), lambda: _frames(case, clip))
    return found


def _frames(case: Case, clip: int) -> Frames:
    found = truth(case, clip)
    tube, known = found.inside.flatten(1).any(1).cpu(), found.known.cpu()
    relevance = case.relevance[clip]
    means = case.shared.units(clip, "frame").means(relevance)[known]
    positive = relevance.double().clamp(min=0).flatten(1).sum(1).cpu()[known]
    reason = found.reason or ("no_empty_frame" if bool(tube.all()) else "")
    return Frames(tube, means, positive, reason)
