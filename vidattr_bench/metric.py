"""Metric: what classes in metrics/ implement; Case: one method's maps of one batch, and what metrics share."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from vidattr_bench import perturbation
from vidattr_bench.clip import Batch
from vidattr_bench.errors import DataError, NotApplicableError
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import Curve, CurveSpec
from vidattr_bench.shared import RemovalSpec, Shared, Step, no_grad


class Explain(Protocol):
    """How a metric explains again: opaque, for the N clips of its case, seeds filled in.

    `draw` other than 0 gives a stochastic method other seeds. The method whose map needs the truth refuses.
    """

    def __call__(self, model: VideoModel, frames: Tensor, targets: Tensor, draw: int = 0) -> Tensor:
        """Relevance (N, T, H, W) of frames (N, C, T, H, W) for targets (N,)."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One value a clip.

    Attributes:
        values: float64 (N,), NaN where undefined.
        chance: float64 (N,), what a map that knows nothing scores in expectation; None where there is no such level.
        reasons: N texts, "" where defined: no_tubes, all_tube, constant_map, other_target, ...
    """

    values: Tensor
    chance: Tensor | None = None
    reasons: tuple[str, ...] = ()

    @staticmethod
    def of(values: list[float | str], chance: list[float] | None = None) -> Measurement:
        """Build from one float or one reason a clip."""
        numbers = [float("nan") if isinstance(value, str) else value for value in values]
        reasons = tuple(value if isinstance(value, str) else "" for value in values)
        level = None if chance is None else torch.tensor(chance, dtype=torch.float64)
        return Measurement(torch.tensor(numbers, dtype=torch.float64), level, reasons)


@dataclasses.dataclass
class Cost:
    """What an attribution cost, per clip of the batch: seconds, clips forward, clips backward, peak bytes."""

    seconds: float = float("nan")
    forwards: float = float("nan")
    backwards: float = float("nan")
    memory: float = float("nan")


class Case:
    """The maps of one method on one batch, as metrics see them.

    Args:
        model: the model under explanation.
        batch: N clips with their tubes.
        targets: int64 (N,), the class explained.
        relevance: float32 (N, T, H, W).
        seed: the run's seed; orders of tied units derive from it.
        shared: what other methods on this batch have already computed.
        cost: what the attribution cost, where it was measured.
        explain: explains again, for the metrics that must.
        promised_total: `promised_total(model, frames, targets)` -> what relevance adds up to in theory, or None.
    """

    def __init__(
        self,
        model: VideoModel,
        batch: Batch,
        targets: Tensor,
        relevance: Tensor,
        *,
        seed: int = 0,
        shared: Shared | None = None,
        cost: Cost | None = None,
        explain: Explain | None = None,
        promised_total: Callable[[VideoModel, Tensor, Tensor], Tensor | None] | None = None,
        step: Step | None = None,
    ) -> None:
        _check_map(batch, relevance)
        self.model, self.batch, self.targets = model, batch, targets
        # Metrics count in float64, which Apple's devices lack.
        self.relevance = relevance.cpu() if relevance.is_mps else relevance
        self.shared = shared or Shared(model, batch, targets, seed=seed)
        self.seed, self.cost, self._explain = self.shared.seed, cost or Cost(), explain
        self.promised_total = promised_total or (lambda model, frames, targets: None)
        self.step: Step = step or (lambda name, clip: nullcontext())
        self.computed: dict[CurveSpec, list[Curve]] = {}
        self._memo: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.batch)

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of `key`, made once for all metrics of these maps."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def explain(self, model: VideoModel, frames: Tensor, targets: Tensor, draw: int = 0) -> Tensor:
        """Relevance (N, T, H, W) of the case's clips changed to `frames`, by the method whose maps these are.

        Args:
            model: another model, or the same.
            frames: (N, C, T, H, W) in [0, 1], one for each clip of the case.
            targets: int64 (N,).
            draw: another number gives a stochastic method other seeds; 0 are those of the maps.

        Raises:
            NotApplicableError: the case came without a method, or the method cannot explain any but the annotated clip.
        """
        if self._explain is None:
            raise NotApplicableError("these maps came without the method that made them")
        relevance = self._explain(model, frames, targets, draw)
        return relevance.cpu() if relevance.is_mps else relevance

    def forward(self, x: Tensor) -> Tensor:
        """Logits (M, K) of normalised clips (M, C, T, H, W), in batches of at most the forward batch, without padding.

        Call it with clips made of one clip of the case: then no value depends on the neighbours.
        """
        with no_grad():
            return torch.cat([self.model.logits(clips) for clips in torch.split(x, self.shared.forward_batch)])

    def curves(self, spec: CurveSpec) -> list[Curve]:
        """The perturbation curves of every clip; each perturbed clip is forwarded once whatever metrics ask for it."""
        if spec not in self.computed:
            self.computed[spec] = [self._curve(clip, spec) for clip in range(len(self))]
        return self.computed[spec]

    def _curve(self, clip: int, spec: CurveSpec) -> Curve:
        shared = self.shared
        ends = (shared.clean_logits(clip), shared.end_logits(clip, spec.substrate))
        units, replace = shared.units(clip, spec.unit), shared.substrate(clip, spec.substrate)
        with self.step(f"curves:{spec.substrate}", clip), no_grad():
            return perturbation.curve(
                self.model,
                shared.x(clip),
                self.relevance[clip],
                spec,
                ends,
                seed=self.seed,
                clip_id=self.batch.ids[clip],
                forward_batch=shared.forward_batch,
                units=units,
                replace=replace,
            )


def _check_map(batch: Batch, relevance: Tensor) -> None:
    if relevance.shape != batch.tubes.shape:
        raise DataError(f"relevance has shape {tuple(relevance.shape)}; these clips need {tuple(batch.tubes.shape)}")
    finite = relevance.flatten(1).isfinite().all(1).tolist()
    if not all(finite):
        raise DataError(
            f"relevance is NaN or infinite for {[i for i, ok in zip(batch.ids, finite, strict=True) if not ok]}"
        )


@dataclasses.dataclass(frozen=True)
class Metric(ABC):
    """One number a clip from a case; every choice is a field.

    Class attributes a subclass declares:
        family: faithfulness, localisation, temporal, robustness, sanity, complexity or cost.
        higher_is_better: direction; None where neither is better.
        reference: paper with arXiv number or DOI.
        explains: how many times it explains a clip again; such a metric is measured on a declared sample of clips.
        reads_promise: whether it asks for what relevance adds up to in theory, at the method's `promise_cost`.
        primary: whether it is an endpoint declared in advance, which tables and plots put first.
        derives: what a whole run makes of it beside the mean (`statistics.derived`): log2_skill or static_share.
        presets: names under which `--metrics` runs it, with the options there: {"default": ("", "substrate=freeze")}.
        units: what the value is measured in, with its range.
        theory: what the maps `oracle` (1 in the tubes, 0 elsewhere), `inverted_oracle` (1 - oracle), `random` (uniform
            noise, a value in expectation) and `constant` get, whatever the options: a number, a quantity ("|G|/N"), a
            comparison ("> 0", "= -oracle", "> random"), "undefined: reason" or "not_applicable: reason"; or `none`, why
            theory says nothing.
    """

    family: ClassVar[str] = ""
    higher_is_better: ClassVar[bool | None] = True
    reference: ClassVar[str] = ""
    explains: ClassVar[int] = 0
    reads_promise: ClassVar[bool] = False
    primary: ClassVar[bool] = False
    derives: ClassVar[str] = ""
    presets: ClassVar[dict[str, tuple[str, ...]]] = {}
    units: ClassVar[str] = ""
    theory: ClassVar[Mapping[str, str | float]] = {}

    @abstractmethod
    def measure(self, case: Case) -> Measurement:
        """Values, chance levels and reasons, one a clip."""

    def curve_specs(self) -> tuple[CurveSpec, ...]:
        """The perturbation curves it reads, each forwarded once a map: what a plan counts forwards by."""
        return ()

    def removal_specs(self) -> tuple[RemovalSpec, ...]:
        """The random removed sets it reads, each forwarded once a clip for all methods."""
        return ()

    def own_forwards(self, model: VideoModel, clip: Tensor) -> int:
        """Clips that it sends forward itself for one map of a clip (C, T, H, W), explanations not counted.

        Exact wherever the map is not constant, and for one clip of a case at a time.
        """
        return 0

    def work(self, model: VideoModel, clip: Tensor) -> Mapping[Hashable, tuple[int, int]]:
        """Its own forwards and explanations for one map of a clip (C, T, H, W), by what they are for.

        What several metrics do once for one map they all name by the same key. By default everything is a metric's
        own, as many as `own_forwards` and `explains` say.
        """
        return {self: (self.own_forwards(model, clip), self.explains)}

    def __call__(self, case: Case) -> Tensor:
        """Values, float64 (N,), NaN where undefined."""
        return self.measure(case).values
