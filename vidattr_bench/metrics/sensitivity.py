"""Sensitivity: how far does a map change under noise too small to change the prediction?"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.randomness import generator


@dataclasses.dataclass(frozen=True)
class _Sensitivity(Metric):
    """A number from how far the map changes when a little noise is added to the clip.

    Attributes:
        radius: largest change of a pixel, in [0, 1].
        draws: noisy clips.

    Raises:
        ValueError: a radius that is not positive, or no draw.
    """

    family: ClassVar[str] = "robustness"
    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Yeh 2019, arXiv 1901.09392"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"robustness": ("",)}
    units: ClassVar[str] = "change as a fraction of the map's norm, from 0"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "not_applicable: it cannot explain another clip",
        "inverted_oracle": "not_applicable: it cannot explain another clip",
        "random": 0,
        "constant": 0,
    }

    radius: float = 0.02
    draws: int = 4

    def __post_init__(self) -> None:
        if self.radius <= 0 or self.draws < 1:
            raise ValueError(f"radius={self.radius} must be positive, and draws={self.draws} at least 1")
        object.__setattr__(self, "explains", self.draws)

    def own_forwards(self, model: VideoModel, clip: Tensor) -> int:
        """One forward a draw tells whether it flips the prediction."""
        return self.draws

    def work(self, model: VideoModel, clip: Tensor) -> Mapping[Hashable, tuple[int, int]]:
        """All metrics of one noise share its forwards and maps."""
        return {("noisy", self.radius, self.draws): (self.draws, self.draws)}

    def measure(self, case: Case) -> Measurement:
        """Values of N clips."""
        changes, flips = noisy_changes(case, self.radius, self.draws)
        return Measurement.of([self._clip(case, clip, changes[:, clip], flips[:, clip]) for clip in range(len(case))])

    def _clip(self, case: Case, clip: int, changes: Tensor, flips: Tensor) -> float | str:
        if not bool(case.relevance[clip].any()):
            return "zero_map"
        return "all_draws_flip" if bool(flips.all()) else self._of(changes[~flips])

    @abstractmethod
    def _of(self, changes: Tensor) -> float:
        """The number, from the relative changes (draws,) under the noise that leaves the prediction as it is."""


@dataclasses.dataclass(frozen=True)
class MaxSensitivity(_Sensitivity):
    """The largest relative change of the map when noise too small to change the prediction is added to the clip.

    The maximum over the draws d, uniform in [-radius, radius] on every pixel and the noisy clip clipped to [0, 1], of
    |a(x + d) - a(x)|_F / |a(x)|_F. Draws that flip the prediction are left out; `flipped_draws` tells how many. A
    stochastic method gets the same seeds again, so that only the clip differs. A map that ignores the clip gets 0: low
    values alone say nothing. Captum's `sensitivity_max` on the same noise gives the same, but that it divides by 1
    where the map is 0 and keeps draws that flip. Undefined: `zero_map`, `all_draws_flip`.
    """

    def _of(self, changes: Tensor) -> float:
        return float(changes.amax())


@dataclasses.dataclass(frozen=True)
class AverageSensitivity(_Sensitivity):
    """The mean relative change of the map when noise too small to change the prediction is added to the clip.

    As `max_sensitivity`, of whose noise and maps it makes use, with the mean over the draws that do not flip the
    prediction. Undefined: `zero_map`, `all_draws_flip`.
    """

    reference: ClassVar[str] = "Bhatt 2020, arXiv 2005.00631; Yeh 2019, arXiv 1901.09392"

    def _of(self, changes: Tensor) -> float:
        return float(changes.mean())


@dataclasses.dataclass(frozen=True)
class FlippedDraws(_Sensitivity):
    """Share of the noisy clips of the sensitivities that flip the model's prediction, and so are left out there.

    Says how near to a boundary between classes the clip lies: a property of the model and the clip, not of the map.
    """

    higher_is_better: ClassVar[bool | None] = None
    units: ClassVar[str] = "share of draws, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {"none": "depends on the model and the clip alone"}

    def _clip(self, case: Case, clip: int, changes: Tensor, flips: Tensor) -> float:
        return self._of(flips.double())

    def _of(self, changes: Tensor) -> float:
        return float(changes.mean())


def noisy_changes(case: Case, radius: float, draws: int) -> tuple[Tensor, Tensor]:
    """Relative changes, float64 (draws, N), of the maps under noise, and whether it flips the prediction."""
    clips = range(len(case))

    def change() -> tuple[Tensor, Tensor]:
        noisy = torch.stack([noisy_clips(case, clip, radius, draws) for clip in clips], 1)
        flips = torch.stack([_flips(case, clip, noisy[:, clip]) for clip in clips], 1)
        norms = case.relevance.double().flatten(1).norm(dim=1)
        gaps = [case.explain(case.model, frames, case.targets).double() - case.relevance.double() for frames in noisy]
        return torch.stack([gap.flatten(1).norm(dim=1) / norms for gap in gaps]).cpu(), flips.cpu()

    found: tuple[Tensor, Tensor] = case.memo(("noisy", tuple(clips), radius, draws), change)
    return found


def noisy_clips(case: Case, clip: int, radius: float, draws: int) -> Tensor:
    """The frames of a clip with uniform noise, (draws, C, T, H, W) in [0, 1]."""
    frames = case.batch.frames[clip]
    random = generator(case.seed, case.batch.ids[clip], f"sensitivity {radius}")
    noise = (2 * torch.rand(draws, *frames.shape, generator=random) - 1) * radius
    return (frames + noise.to(frames)).clamp(0, 1)


def _flips(case: Case, clip: int, frames: Tensor) -> Tensor:
    """Whether the model predicts another class for each of the changed clips, bool (draws,)."""
    logits = case.forward(case.model.normalise(frames))
    return logits.argmax(1) != case.shared.clean_logits(clip).argmax()
