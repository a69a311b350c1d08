"""Selectivity: is the map of another class, or of another neuron, another map?"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.metric import Case, Measurement, Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.randomness import generator

from ._similarity import Similarity, similarity


@dataclasses.dataclass(frozen=True)
class _Selectivity(Metric):
    """1 - the similarity of two maps of one clip that should differ.

    Attributes:
        similarity: spearman (of ranks over voxels), pearson or ssim.
        absolute: compare magnitudes: a map and its negative are the same then.
    """

    family: ClassVar[str] = "sanity"
    presets: ClassVar[dict[str, tuple[str, ...]]] = {"sanity": ("",)}
    units: ClassVar[str] = "1 - similarity, in [0, 2]; 0 ignores what is explained"
    theory: ClassVar[Mapping[str, str | float]] = {
        "oracle": "not_applicable: it cannot explain another clip",
        "inverted_oracle": "not_applicable: it cannot explain another clip",
        "random": 0,
        "constant": "undefined: constant_map",
    }

    similarity: Similarity = "spearman"
    absolute: bool = False

    def _difference(self, first: Tensor, second: Tensor) -> float:
        """1 - similarity, NaN where a map is constant."""
        if self.absolute:
            first, second = first.abs(), second.abs()
        alike = similarity(first, second, self.similarity)
        return float("nan") if alike is None else 1 - alike

    def _measurement(self, case: Case, pairs: Sequence[tuple[Tensor, Tensor]], again: Tensor) -> Measurement:
        """From pairs of maps (N, T, H, W) that should differ, and the first map of them with other seeds."""
        values, chance = [], []
        for clip in range(len(case)):
            differences = [self._difference(first[clip], second[clip]) for first, second in pairs]
            mean = sum(differences) / len(differences)
            values.append("constant_map" if mean != mean else mean)
            chance.append(self._difference(pairs[0][0][clip], again[clip]))
        return Measurement.of(values, chance)

    @abstractmethod
    def measure(self, case: Case) -> Measurement:
        """Values of N clips, and what other seeds alone change."""


@dataclasses.dataclass(frozen=True)
class ClassSelectivity(_Selectivity):
    """How much the map changes when another class, drawn at random, is explained.

    1 - the similarity of the map of the target with that of another class on the same clip, with the same seeds; the
    mean over `classes` other ones. 0: the method explains the clip, not the class. The chance level is the same number
    for the same class with other seeds: what the draws of a stochastic method change by themselves, 0 for all others.
    Undefined: `one_class`, `constant_map` (one of the maps).

    Attributes:
        classes: other classes; all others where the model has fewer.

    Raises:
        ValueError: no class.
    """

    reference: ClassVar[str] = "Sixt 2020, arXiv 1912.09818 (random logit)"

    classes: int = 1

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes={self.classes} must be at least 1")
        object.__setattr__(self, "explains", self.classes + 1)

    def measure(self, case: Case) -> Measurement:
        """Values of N clips, and what other seeds alone change."""
        others = self._others(case)
        if len(others) == 0:
            return Measurement.of(["one_class"] * len(case), [float("nan")] * len(case))
        frames = case.batch.frames
        pairs = [(case.relevance, case.explain(case.model, frames, targets)) for targets in others]
        return self._measurement(case, pairs, case.explain(case.model, frames, case.targets, draw=1))

    def _others(self, case: Case) -> Tensor:
        """Other classes, int64 (draws, N)."""
        drawn = []
        for clip, target in enumerate(case.targets.tolist()):
            k = len(case.shared.clean_logits(clip))
            shuffled = torch.randperm(k - 1, generator=generator(case.seed, case.batch.ids[clip], "other class"))
            drawn.append((target + 1 + shuffled[: self.classes]) % k)
        return torch.stack(drawn, 1).to(case.targets)


@dataclasses.dataclass(frozen=True)
class NeuronSelectivity(_Selectivity):
    """How much the map changes when another neuron of the feature layer is explained.

    The method explains two channels of the feature layer, drawn at random from those that vary over the clip, instead
    of two classes: it gets a network whose logits are the largest activation of each channel over time and space. 1 -
    the similarity of both maps. 0: the map shows the same whatever neuron is asked for, as deconvnets were found to
    do. The authors compare the most active neuron of a layer with random ones; here both are the most active one of
    their channel, so that neither is silent. A method that needs what such a network lacks, as CAM a linear head on
    pooled activations or LRP a rule for each step, is not applicable, nor is a network without feature layer; methods
    that perturb the clip and read a probability see the channels as classes. The chance level is the same number for
    the first neuron with other seeds, 0 for methods that do not draw. Undefined: `no_two_neurons`, `constant_map`.
    """

    reference: ClassVar[str] = "Mahendran and Vedaldi 2016, doi:10.1007/978-3-319-46466-4_8"
    explains: ClassVar[int] = 3
    theory: ClassVar[Mapping[str, str | float]] = {
        "none": "noise gets 0, but the linear model has no feature layer",
    }

    def own_forwards(self, model: VideoModel, clip: Tensor) -> int:
        """One forward tells which channels vary."""
        return 1

    def measure(self, case: Case) -> Measurement:
        """Values of N clips, and what other seeds alone change."""
        x = case.model.normalise(case.batch.frames)
        layer = case.model.feature_layer(x[:1])
        drawn = [self._neurons(case, clip, layer) for clip in range(len(case))]
        first, second = (torch.tensor(of).to(case.targets) for of in zip(*drawn, strict=True))
        model = neuron_model(case.model, layer, x[:1])
        frames = case.batch.frames
        maps = [case.explain(model, frames, first), case.explain(model, frames, second)]
        found = self._measurement(case, [(maps[0], maps[1])], case.explain(model, frames, first, draw=1))
        values = found.values.tolist()
        of = [
            "no_two_neurons" if one == other else reason or value
            for (one, other), reason, value in zip(drawn, found.reasons, values, strict=True)
        ]
        return dataclasses.replace(Measurement.of(of), chance=found.chance)

    def _neurons(self, case: Case, clip: int, layer: str) -> tuple[int, int]:
        """Two channels that vary over the clip; the same one twice where there are no two."""
        with torch.no_grad():
            activations = _activations(case.model, layer, case.shared.x(clip)[None])[0].flatten(1)
        varying = (activations.amax(1) > activations.amin(1)).nonzero()[:, 0].cpu()
        if len(varying) < 2:
            return 0, 0
        order = torch.randperm(len(varying), generator=generator(case.seed, case.batch.ids[clip], "neurons"))
        one, other = varying[order[:2]].tolist()
        return one, other


class _Neurons(nn.Module):
    """A network whose logits are the largest activation of each channel of one of its layers."""

    def __init__(self, net: nn.Module, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.net, self.layer = net, layer
        self._of = [module]  # a list, so that it is no module of this one a second time

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, channels); raises `NotApplicableError` where a trace leaves out the hook that reads them."""
        seen: list[Tensor] = []
        handle = self._of[0].register_forward_hook(lambda _, args, output: seen.append(output))
        try:
            self.net(x)
        finally:
            handle.remove()
        if not seen:
            raise NotApplicableError(
                f"the neurons are read off layer {self.layer!r} by a hook, which torch.fx cannot follow"
            )
        return seen[-1].flatten(2).amax(2)


def neuron_model(model: VideoModel, layer: str, x: Tensor) -> VideoModel:
    """The model with the largest activation of each channel of `layer` for logits; x is a normalised clip (1, ...)."""
    net = _Neurons(model.net, model.module(layer), layer).eval()
    neurons = model.with_net(net, {name: f"net.{name}" for name, _ in model.net.named_modules() if name}, x)
    neurons.classes = tuple(f"channel {i}" for i in range(model.output_shape(layer, x)[0]))
    return neurons


def _activations(model: VideoModel, layer: str, x: Tensor) -> Tensor:
    """What a layer puts out on clips x, (N, C, t, h, w)."""
    seen: list[Tensor] = []
    handle = model.module(layer).register_forward_hook(lambda _, args, output: seen.append(output))
    try:
        model.logits(x)
    finally:
        handle.remove()
    return seen[-1]
