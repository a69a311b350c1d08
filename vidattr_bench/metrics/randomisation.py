"""Randomisation: does a map change when the network loses what it learnt?"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import ClassVar, Literal

import numpy as np
import scipy.stats
from torch import Tensor

from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.model import VideoModel

from ._randomised import layers_of, randomised_map
from ._similarity import Similarity, is_constant, similarity

Scheme = Literal["top_down", "bottom_up", "independent"]


@dataclasses.dataclass(frozen=True)
class ModelRandomisation(Metric):
    """How similar the map stays while layer after layer of the network is initialised again.

    The mean similarity of the map with those that the same method gives, with the same seeds, for networks some of
    whose layers are random: from the logits down to the clip (`top_down`, layers stay random), from the clip up
    (`bottom_up`), or one at a time (`independent`). A layer is a module with weights, in the order of execution, and
    the norms after it. It is initialised by its own `reset_parameters`, from another seed for every module and clip;
    parameters of modules without that come from a normal of their own mean and standard deviation. Batch norms from
    the first random layer on take the mean and variance of the clip itself, since those of the trained network fit no
    longer; so a clip's number depends on nothing but the clip.

    1: the map does not depend on what the network learnt. All methods that ignore the model get it, the random control
    too, as it draws the same noise again: with other seeds noise would look sensitive to the model. The chance level is
    the similarity of the maps of two random networks of different seeds: what structure and clip alone explain.
    Undefined: `constant_map`; `constant_randomised_map` where the map of a random network is constant, so that there
    is no correlation; it is never counted as 0.

    Attributes:
        scheme: top_down, bottom_up or independent.
        layers: how many of the steps are taken, evenly spaced over the layers of the network, the last one among them;
            all of them in a network of fewer layers.
        similarity: spearman (of ranks over voxels), pearson or ssim.
        absolute: compare magnitudes: a map and its negative are the same then.

    Raises:
        ValueError: fewer than one layer.
    """

    family: ClassVar[str] = "sanity"
    higher_is_better: ClassVar[bool | None] = False
    reference: ClassVar[str] = "Adebayo 2018, arXiv 1810.03292"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {
        "sanity": ("", "similarity=ssim", "scheme=bottom_up", "scheme=independent")
    }
    units: ClassVar[str] = "mean similarity, in [-1, 1]; 1 ignores the model"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "not_applicable: it cannot explain another clip",
        "inverted_oracle": "not_applicable: it cannot explain another clip",
        "random": 1,
        "constant": "undefined: constant_map",
    }

    scheme: Scheme = "top_down"
    layers: int = 3
    similarity: Similarity = "spearman"
    absolute: bool = False

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers={self.layers} must be at least 1")
        full = self.layers if self.scheme == "independent" else self.layers - 1
        object.__setattr__(self, "explains", full + 2)

    def work(self, model: VideoModel, clip: Tensor) -> Mapping[Hashable, tuple[int, int]]:
        """One map a random network; these serve every metric that asks for the same."""
        count = len(layers_of(model, model.normalise(clip[None])))
        networks = [(*span, 0) for span in spans(self.scheme, count, self.layers)] + [(0, count, 0), (0, count, 1)]
        return {("randomised", *network): (0, 1) for network in networks}

    def measure(self, case: Case) -> Measurement:
        """Values of N clips and the similarity of two random networks' maps."""
        found = [self._clip(case, clip) for clip in range(len(case))]
        return Measurement.of([value for value, _ in found], [chance for _, chance in found])

    def _clip(self, case: Case, clip: int) -> tuple[float | str, float]:
        count, own = len(layers_of(case.model, case.shared.x(clip)[None])), self._seen(case.relevance[clip])
        if is_constant(own):
            return "constant_map", float("nan")
        changed = [randomised_map(case, clip, *span) for span in spans(self.scheme, count, self.layers)]
        alike = [similarity(own, self._seen(map_), self.similarity) for map_ in changed]
        random = [self._seen(randomised_map(case, clip, 0, count, draw)) for draw in range(2)]
        floor = similarity(random[0], random[1], self.similarity)
        defined = [value for value in alike if value is not None]
        value = sum(defined) / len(defined) if len(defined) == len(alike) else "constant_randomised_map"
        return value, float("nan") if floor is None else floor

    def _seen(self, map_: Tensor) -> Tensor:
        return map_.abs() if self.absolute else map_


def spans(scheme: Scheme, count: int, wanted: int) -> list[tuple[int, int]]:
    """First layer and the one after the last of what is random, of `count` layers, at `wanted` steps at most."""
    wanted = min(wanted, count)
    steps = [(2 * (i + 1) * count + wanted) // (2 * wanted) for i in range(wanted)]
    if scheme == "independent":
        return [(step - 1, step) for step in steps]
    return [(0, step) if scheme == "bottom_up" else (count - step, count) for step in steps]


@dataclasses.dataclass(frozen=True)
class EfficientRandomisation(Metric):
    """How much more complex the map becomes, as a fraction, when the whole network is initialised again.

    (H(a') - H(a)) / H(a) with a' the map of the random network, made as `model_randomisation` makes it, and H the
    entropy of the histogram of a map's values in `bins` equal steps from its least to its largest value. A map of what
    the network learnt has structure that the random network's lacks. Quantus computes the same with 100 bins; its
    options choose bins over a batch, here a clip's number depends on that clip alone. 0 for methods that ignore the
    model, which is the chance level. Undefined: `constant_map`, `constant_randomised_map`.

    Attributes:
        bins: steps of the histogram.

    Raises:
        ValueError: fewer than two bins.
    """

    family: ClassVar[str] = "sanity"
    reference: ClassVar[str] = "Hedstroem 2024, arXiv 2401.06465"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"sanity": ("",)}
    explains: ClassVar[int] = 1
    units: ClassVar[str] = "relative rise of entropy, from -1; 0 ignores the model"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "not_applicable: it cannot explain another clip",
        "inverted_oracle": "not_applicable: it cannot explain another clip",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    bins: int = 100

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"bins={self.bins} must be at least 2")

    def work(self, model: VideoModel, clip: Tensor) -> Mapping[Hashable, tuple[int, int]]:
        """The map of the random network, which serves `model_randomisation` too."""
        return {("randomised", 0, len(layers_of(model, model.normalise(clip[None]))), 0): (0, 1)}

    def measure(self, case: Case) -> Measurement:
        """Values of N clips and the chance level 0."""
        return Measurement.of([self._clip(case, clip) for clip in range(len(case))], [0.0] * len(case))

    def _clip(self, case: Case, clip: int) -> float | str:
        if is_constant(case.relevance[clip]):
            return "constant_map"
        changed = randomised_map(case, clip, 0, len(layers_of(case.model, case.shared.x(clip)[None])))
        if is_constant(changed):
            return "constant_randomised_map"
        before = histogram_entropy(case.relevance[clip], self.bins)
        return (histogram_entropy(changed, self.bins) - before) / before


def histogram_entropy(map_: Tensor, bins: int) -> float:
    """Entropy in nats of the histogram of a map's values, in equal steps from the least to the largest."""
    counts, _ = np.histogram(map_.double().cpu().numpy(), bins)
    return float(scipy.stats.entropy(counts))
