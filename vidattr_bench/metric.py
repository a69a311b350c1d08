"""Metric: what classes in metrics/ implement; Case: one method's maps of one batch, and what metrics share."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidattr_bench import perturbation, substrates
from vidattr_bench.clip import Batch
from vidattr_bench.errors import DataError
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import Curve, CurveSpec
from vidattr_bench.substrates import Replace

Step = Callable[[str, int], AbstractContextManager[None]]


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


class Shared:
    """What all methods share on one batch: clean logits, substrates, curve ends; computed once, on demand.

    Args:
        model: the model under explanation.
        batch: N clips.
        targets: int64 (N,), the class explained, as an index of the model's classes.
        labels: int64 (N,), the clip's own class as an index of the model's classes, -1 where it has none.
        seed: the run's seed.
        forward_batch: clips per forward of the perturbation engine.
        step: context that books cost to (step, clip index of the batch); no-op by default.
    """

    def __init__(
        self,
        model: VideoModel,
        batch: Batch,
        targets: Tensor,
        *,
        labels: Tensor | None = None,
        seed: int = 0,
        forward_batch: int = 4,
        step: Step | None = None,
    ) -> None:
        self.model, self.batch, self.targets, self.seed = model, batch, targets, seed
        self.labels = batch.labels if labels is None else labels
        self.forward_batch = forward_batch
        self.step: Step = step or (lambda name, clip: nullcontext())
        self._memo: dict[Any, Any] = {}

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of `key`, made once."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def x(self, clip: int) -> Tensor:
        """The normalised clip (C, T, H, W)."""
        value: Tensor = self.memo(("x", clip), lambda: self.model.normalise(self.batch.frames[clip : clip + 1])[0])
        return value

    def clean_logits(self, clip: int) -> Tensor:
        """Logits (K,) of the clean clip."""

        def forward() -> Tensor:
            with self.step("clean", clip), _no_grad():
                return perturbation.forward(self.model, self.x(clip)[None], self.forward_batch)[0]

        value: Tensor = self.memo(("clean", clip), forward)
        return value

    def substrate(self, clip: int, text: str) -> Replace:
        """The substrate `text` bound to the clean clip: a blur is computed once for all methods."""

        def bind() -> Replace:
            with _no_grad():
                return substrates.bind(text, self.x(clip), self.model, self.seed, self.batch.ids[clip])

        replace: Replace = self.memo(("substrate", clip, text), bind)
        return replace

    def end_logits(self, clip: int, spec: CurveSpec) -> Tensor:
        """Logits (K,) of the clip with everything removed."""

        def forward() -> Tensor:
            with self.step(f"curves:{spec.substrate}", clip), _no_grad():
                empty = perturbation.apply_all(self.substrate(clip, spec.substrate), self.x(clip))
                return perturbation.forward(self.model, empty[None], self.forward_batch)[0]

        value: Tensor = self.memo(("end", clip, spec.substrate), forward)
        return value


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
        explain: `explain(model, frames, targets)` -> relevance, for metrics that must explain again.
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
        explain: Callable[[VideoModel, Tensor, Tensor], Tensor] | None = None,
        promised_total: Callable[[VideoModel, Tensor, Tensor], Tensor | None] | None = None,
        step: Step | None = None,
    ) -> None:
        _check_map(batch, relevance)
        self.model, self.batch, self.targets = model, batch, targets
        # Metrics count in float64, which Apple's devices lack.
        self.relevance = relevance.cpu() if relevance.is_mps else relevance
        self.shared = shared or Shared(model, batch, targets, seed=seed)
        self.seed, self.cost, self.explain = self.shared.seed, cost or Cost(), explain
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

    def curves(self, spec: CurveSpec) -> list[Curve]:
        """The perturbation curves of every clip; each perturbed clip is forwarded once whatever metrics ask for it."""
        if spec not in self.computed:
            self.computed[spec] = [self._curve(clip, spec) for clip in range(len(self))]
        return self.computed[spec]

    def _curve(self, clip: int, spec: CurveSpec) -> Curve:
        ends = (self.shared.clean_logits(clip), self.shared.end_logits(clip, spec))
        with self.step(f"curves:{spec.substrate}", clip), _no_grad():
            return perturbation.curve(
                self.model,
                self.shared.x(clip),
                self.relevance[clip],
                spec,
                ends,
                seed=self.seed,
                clip_id=self.batch.ids[clip],
                forward_batch=self.shared.forward_batch,
                replace=self.shared.substrate(clip, spec.substrate),
            )


def _check_map(batch: Batch, relevance: Tensor) -> None:
    if relevance.shape != batch.tubes.shape:
        raise DataError(f"relevance has shape {tuple(relevance.shape)}; these clips need {tuple(batch.tubes.shape)}")
    finite = relevance.flatten(1).isfinite().all(1).tolist()
    if not all(finite):
        raise DataError(
            f"relevance is NaN or infinite for {[i for i, ok in zip(batch.ids, finite, strict=True) if not ok]}"
        )


@contextmanager
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@dataclasses.dataclass(frozen=True)
class Metric(ABC):
    """One number a clip from a case; every choice is a field.

    Class attributes a subclass declares:
        family: faithfulness, localisation, temporal, robustness, sanity, complexity or cost.
        higher_is_better: direction; None where neither is better.
        reference: paper with arXiv number or DOI.
        primary: whether it is an endpoint declared in advance, which tables and plots put first.
        presets: names under which `--metrics` runs it, with the options there: {"default": ("", "substrate=freeze")}.
        units: what the value is measured in, with its range.
    """

    family: ClassVar[str] = ""
    higher_is_better: ClassVar[bool | None] = True
    reference: ClassVar[str] = ""
    primary: ClassVar[bool] = False
    presets: ClassVar[dict[str, tuple[str, ...]]] = {}
    units: ClassVar[str] = ""

    @abstractmethod
    def measure(self, case: Case) -> Measurement:
        """Values, chance levels and reasons, one a clip."""

    def curve_specs(self) -> tuple[CurveSpec, ...]:
        """The perturbation curves it reads: what a plan counts forwards by."""
        return ()

    def __call__(self, case: Case) -> Tensor:
        """Values, float64 (N,), NaN where undefined."""
        return self.measure(case).values
