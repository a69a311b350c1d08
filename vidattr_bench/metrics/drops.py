"""Average drop, increase and gain: the model's answer to the clip blended with a substrate by the map itself."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vidattr_bench import substrates
from vidattr_bench.errors import PluginError
from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.substrates import SUBSTRATES, Fill


def blend_weights(relevance: Tensor) -> Tensor | None:
    """A map (T, H, W) brought linearly to [0, 1]; None where it is constant."""
    low, high = relevance.aminmax()
    return None if bool(low == high) else (relevance - low) / (high - low)


def blended_logits(case: Case, clip: int, substrate: str) -> Tensor | None:
    """Logits (K,), float64, of a clip blended by its map, None for a constant map; forwarded once a map."""

    def forward() -> Tensor | None:
        kept = blend_weights(case.relevance[clip].double())
        return None if kept is None else case.forward(_blend(case, clip, substrate, kept)[None])[0].cpu().double()

    logits: Tensor | None = case.memo(("blended", clip, substrate), forward)
    return logits


def _blend(case: Case, clip: int, substrate: str, kept: Tensor) -> Tensor:
    x = case.shared.x(clip)
    return case.shared.substrate(clip, substrate)((1 - kept)[None].to(x), torch.empty_like(x)[None])[0]


@dataclasses.dataclass(frozen=True)
class _BlendMetric(Metric):
    """A comparison of the target's probability on the clean clip and on the blended one.

    Attributes:
        substrate: b, what shows where the map is low: mean, black, blur, blur3d or another one that is a fixed clip.
    """

    family: ClassVar[str] = "faithfulness"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"faithfulness": ("", "substrate=mean")}

    substrate: str = "blur3d"

    def __post_init__(self) -> None:
        if not isinstance(substrates.create(self.substrate), Fill):
            fills = ", ".join(name for name, cls in SUBSTRATES.items() if issubclass(cls, Fill))
            raise PluginError(f"substrate={self.substrate} knows kept and removed voxels, nothing between; use {fills}")

    def own_forwards(self, model: VideoModel, clip: Tensor) -> int:
        """One blended clip."""
        return 1

    def work(self, model: VideoModel, clip: Tensor) -> Mapping[Hashable, tuple[int, int]]:
        """All metrics of one substrate share the blended clip."""
        return {("blended", self.substrate): (1, 0)}

    def measure(self, case: Case) -> Measurement:
        """Values of N clips; undefined: `constant_map`, and what the metric adds."""
        return Measurement.of([self._value(case, clip) for clip in range(len(case))])

    def _value(self, case: Case, clip: int) -> float | str:
        blended = blended_logits(case, clip, self.substrate)
        if blended is None:
            return "constant_map"
        clean, target = case.shared.clean_logits(clip).cpu().double(), int(case.targets[clip])
        return self._compare(_for_and_against(clean, target), _for_and_against(blended, target))

    @abstractmethod
    def _compare(self, clean: tuple[float, float], blended: tuple[float, float]) -> float | str:
        """The number from the logarithms of (p, 1 - p) of the two clips, or why there is none."""


def _for_and_against(logits: Tensor, target: int) -> tuple[float, float]:
    """Logarithms of the target's probability and of all the others' together, exact near 0 and near 1."""
    log_probabilities = logits.log_softmax(0)
    others = torch.arange(len(logits)) != target
    return float(log_probabilities[target]), float(log_probabilities[others].logsumexp(0))


@dataclasses.dataclass(frozen=True)
class AverageDrop(_BlendMetric):
    """Share of the target's probability that is lost when the clip is shown only as far as the map is high.

    With m the map brought linearly to [0, 1] over the whole clip, x' = m x + (1 - m) b of the normalised clip x and the
    substrate b, p = prob(x) and p' = prob(x'): max(0, p - p') / p; papers give its mean over clips in per cent. They
    multiply the normalised input by m, which is `substrate=mean` here. A map that is high nearly everywhere drops
    nothing (Poppi 2021, arXiv 2104.10252), so read it beside a measure of complexity. Undefined: `constant_map`.
    """

    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Chattopadhay 2018 (Grad-CAM++), arXiv 1710.11063"
    units: ClassVar[str] = "share of the target's probability, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "< random",
        "inverted_oracle": "> random",
        "random": "> oracle",
        "constant": "undefined: constant_map",
    }

    def _compare(self, clean: tuple[float, float], blended: tuple[float, float]) -> float:
        return abs(math.expm1(min(0.0, blended[0] - clean[0])))


@dataclasses.dataclass(frozen=True)
class AverageIncrease(_BlendMetric):
    """Whether the target is more probable on the blended clip than on the clean one: 1 or 0.

    With x' as in `average_drop`: 1 where p' > p, else 0; papers give its mean over clips in per cent and call it
    increase in confidence too. Undefined: `constant_map`.
    """

    reference: ClassVar[str] = "Chattopadhay 2018 (Grad-CAM++), arXiv 1710.11063"
    units: ClassVar[str] = "share of clips, each 0 or 1"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 0,
        "inverted_oracle": 0,
        "random": 0,
        "constant": "undefined: constant_map",
    }

    def _compare(self, clean: tuple[float, float], blended: tuple[float, float]) -> float:
        return float(blended[0] - blended[1] > clean[0] - clean[1])


@dataclasses.dataclass(frozen=True)
class AverageGain(_BlendMetric):
    """Share of the probability still missing on the clean clip that is won when it is blended by the map.

    With x' as in `average_drop`: max(0, p' - p) / (1 - p), the counterpart of `average_drop`. Undefined:
    `constant_map`, and `certain` (p is 1).
    """

    reference: ClassVar[str] = "Zhang 2024 (Opti-CAM), arXiv 2301.07002"
    units: ClassVar[str] = "share of the missing probability, in [0, 1]"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": 0,
        "inverted_oracle": 0,
        "random": 0,
        "constant": "undefined: constant_map",
    }

    def _compare(self, clean: tuple[float, float], blended: tuple[float, float]) -> float | str:
        return "certain" if clean[1] == -math.inf else abs(math.expm1(min(0.0, blended[1] - clean[1])))
