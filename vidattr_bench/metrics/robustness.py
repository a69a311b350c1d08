"""Robustness: does a map move along when the clip moves as a whole, and rest when the clip does?"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.model import VideoModel

from ._similarity import Similarity, is_constant, similarity


@dataclasses.dataclass(frozen=True)
class _Consistency(Metric):
    """Agreement of the map of a clip that is moved as a whole with the map moved in the same way.

    Attributes:
        similarity: spearman (of ranks), pearson or ssim.
        same_prediction: leave out clips whose prediction changes with the move: a faithful map may change with it.
    """

    family: ClassVar[str] = "robustness"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"robustness": ("",)}
    explains: ClassVar[int] = 1
    units: ClassVar[str] = "correlation, in [-1, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "not_applicable: it cannot explain another clip",
        "inverted_oracle": "not_applicable: it cannot explain another clip",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    similarity: Similarity = "spearman"
    same_prediction: bool = True

    def own_forwards(self, model: VideoModel, clip: Tensor) -> int:
        """One forward tells whether the prediction changes."""
        return int(self.same_prediction)

    def measure(self, case: Case) -> Measurement:
        """Values of N clips."""
        moved = self._moved(case.batch.frames)
        changed = self._changes_prediction(case, moved)
        maps = case.explain(case.model, moved, case.targets)
        return Measurement.of([self._clip(*of) for of in zip(case.relevance, maps, changed, strict=True)])

    def _clip(self, map_: Tensor, of_moved: Tensor, changed: bool) -> float | str:
        if changed:
            return "prediction_changes"
        if is_constant(map_):
            return "constant_map"
        expected, found = self._matched(map_, of_moved)
        if expected.numel() == 0:
            return "nothing_in_common"
        alike = similarity(expected, found, self.similarity)
        return "constant_map" if alike is None else alike

    def _changes_prediction(self, case: Case, moved: Tensor) -> list[bool]:
        if not self.same_prediction:
            return [False] * len(case)
        before = [int(case.shared.clean_logits(clip).argmax()) for clip in range(len(case))]
        after = [int(case.forward(case.model.normalise(clip[None])).argmax()) for clip in moved]
        return [one != other for one, other in zip(before, after, strict=True)]

    @abstractmethod
    def _moved(self, frames: Tensor) -> Tensor:
        """The moved clips (N, C, T, H, W)."""

    @abstractmethod
    def _matched(self, map_: Tensor, of_moved: Tensor) -> tuple[Tensor, Tensor]:
        """What of the map (T, H, W) of the clip and of that of the moved clip shows the same voxels."""


@dataclasses.dataclass(frozen=True)
class ShiftConsistency(_Consistency):
    """Whether the map shifts along when the clip shifts by a few pixels, downwards and to the right.

    What comes in at the top and the left is the reflection of what was there. The similarity of the map of the shifted
    clip with the shifted map is taken on what both show of the original clip. A network with stride s is equivariant
    to shifts by multiples of s alone, hence 8 pixels by default. A random map has expectation 0. Undefined:
    `constant_map`, `prediction_changes`, `nothing_in_common` (a frame no larger than the shift).

    Attributes:
        pixels: rows and columns that the clip shifts by.

    Raises:
        ValueError: fewer than one pixel.
    """

    reference: ClassVar[str] = "Crabbe 2023, arXiv 2304.06715 (explanation equivariance); Zhang 2019, arXiv 1904.11486"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "not_applicable: it cannot explain another clip",
        "inverted_oracle": "not_applicable: it cannot explain another clip",
        "constant": "undefined: constant_map",
        "none": "noise has expectation 0, but the clips of the table are no larger than the shift",
    }

    pixels: int = 8

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise ValueError(f"pixels={self.pixels} must be at least 1")

    def _moved(self, frames: Tensor) -> Tensor:
        return shifted(frames, self.pixels)

    def _matched(self, map_: Tensor, of_moved: Tensor) -> tuple[Tensor, Tensor]:
        s = self.pixels
        return map_[:, :-s, :-s], of_moved[:, s:, s:]


@dataclasses.dataclass(frozen=True)
class FlipEquivariance(_Consistency):
    """Whether the map of the clip seen in a mirror is the mirrored map, left and right changed.

    The similarity of the map of the flipped clip, flipped back, with the map. Where the classes know left from right,
    as `move left` does, the prediction changes, and the clip is undefined. A random map has expectation 0. Undefined:
    `constant_map`, `prediction_changes`.
    """

    reference: ClassVar[str] = "Crabbe 2023, arXiv 2304.06715 (explanation equivariance)"

    def measure(self, case: Case) -> Measurement:
        """Values of N clips; raises `NotApplicableError` where they have optical flow."""
        _without_flow(case, "in a mirror")
        return super().measure(case)

    def _moved(self, frames: Tensor) -> Tensor:
        return frames.flip(4)

    def _matched(self, map_: Tensor, of_moved: Tensor) -> tuple[Tensor, Tensor]:
        return map_, of_moved.flip(2)


@dataclasses.dataclass(frozen=True)
class ReversalConsistency(_Consistency):
    """Whether the map of the clip played backwards is the map played backwards.

    The similarity of the map of the reversed clip, reversed, with the map. Where the classes know forth from back, as
    `open` and `close` do, the prediction changes, and the clip is undefined. A random map has expectation 0.
    Undefined: `constant_map`, `prediction_changes`.
    """

    reference: ClassVar[str] = "Crabbe 2023, arXiv 2304.06715 (explanation equivariance)"

    def measure(self, case: Case) -> Measurement:
        """Values of N clips; raises `NotApplicableError` where they have optical flow."""
        _without_flow(case, "played backwards")
        return super().measure(case)

    def _moved(self, frames: Tensor) -> Tensor:
        return frames.flip(2)

    def _matched(self, map_: Tensor, of_moved: Tensor) -> tuple[Tensor, Tensor]:
        return map_, of_moved.flip(0)


def _without_flow(case: Case, how: str) -> None:
    if case.model.input.flow or case.model.partial:
        raise NotApplicableError(f"optical flow {how} is another one than the flow of these frames {how}")


def shifted(frames: Tensor, pixels: int) -> Tensor:
    """Clips (N, C, T, H, W) moved down and to the right by some pixels, with a reflection in what they leave.

    A frame that is too small to be reflected so far is repeated at its edge instead.
    """
    n, c, t, h, w = frames.shape
    mode = "reflect" if pixels < min(h, w) else "replicate"
    padded = F.pad(frames.reshape(n, c * t, h, w), (pixels, 0, pixels, 0), mode=mode)
    return padded[..., :h, :w].reshape(frames.shape)


@dataclasses.dataclass(frozen=True)
class StaticClip(Metric):
    """How unevenly the map of a clip that repeats one frame is spread over time: no frame of it differs from another.

    The clip's middle frame is repeated. With p_t the share of |a| in frame t, for the n frames but the first and the
    last `margin` T, rounded (a network that pads with zeros does not see all frames alike near the ends):
    sum_t |p_t - 1/n| / 2, divided by its largest value 1 - 1/n. It is 0 where all frames have the same, 1 where one has
    all; the share of the relevance that would have to move. A network with stride 2 in time sees even and odd frames
    differently, and the maps of its gradients show it. Undefined: `zero_map` (no relevance there), `short_clip`.

    Attributes:
        margin: share of the frames left out at either end, in [0, 0.5).

    Raises:
        ValueError: a margin outside [0, 0.5).
    """

    family: ClassVar[str] = "robustness"
    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Huang 2018, doi:10.1109/CVPR.2018.00769 (what frames without motion tell)"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"robustness": ("",)}
    explains: ClassVar[int] = 1
    units: ClassVar[str] = "share of the relevance that is in the wrong frame, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "not_applicable: it cannot explain another clip",
        "inverted_oracle": "not_applicable: it cannot explain another clip",
        "random": "> 0",
        "constant": 0,
    }

    margin: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin={self.margin} must lie in [0, 0.5)")

    def measure(self, case: Case) -> Measurement:
        """Values of N clips; raises `NotApplicableError` where they have optical flow."""
        _without_flow(case, "of one repeated frame")
        t = case.batch.frames.shape[2]
        still = case.batch.frames[:, :, t // 2, None].expand_as(case.batch.frames).contiguous()
        maps = case.explain(case.model, still, case.targets)
        return Measurement.of([unevenness(map_, round(self.margin * t)) for map_ in maps])


def unevenness(map_: Tensor, margin: int) -> float | str:
    """How unevenly |a| of a map (T, H, W) is spread over its frames but `margin` at either end, in [0, 1]."""
    masses = map_[margin : len(map_) - margin].double().abs().sum((1, 2))
    n = len(masses)
    if n < 2:
        return "short_clip"
    total = masses.sum()
    if not bool(total > 0):
        return "zero_map"
    return float((masses / total - 1 / n).abs().sum() / 2 / (1 - 1 / n))
