"""Shared: what all methods share on one batch of clips, computed once and on demand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from vidattr_bench import perturbation, randomness, substrates
from vidattr_bench.clip import Batch
from vidattr_bench.model import VideoModel
from vidattr_bench.streams import picture_of
from vidattr_bench.substrates import Replace
from vidattr_bench.supervoxels import supervoxels
from vidattr_bench.units import Units, check_unit, regular_units

Step = Callable[[str, int], AbstractContextManager[None]]
Donor = Callable[[str], Tensor]


@dataclasses.dataclass(frozen=True)
class RemovalSpec:
    """Random sets of units that are removed from a clip, the same sets for every method.

    Attributes:
        unit: what is removed at once.
        substrate: spec of a substrate.
        shares: shares of the units that one set holds, in (0, 1); at least one unit and not all of them are removed.
        draws: sets of each share.

    Raises:
        PluginError: unknown unit or substrate.
        ValueError: a share outside (0, 1), or no draw.
    """

    unit: str = "tubelet"
    substrate: str = "blur3d"
    shares: tuple[float, ...] = (0.5,)
    draws: int = 100

    def __post_init__(self) -> None:
        check_unit(self.unit)
        substrates.create(self.substrate)
        if not self.shares or not all(0 < share < 1 for share in self.shares) or self.draws < 1:
            raise ValueError(f"shares={self.shares} must lie in (0, 1), and draws={self.draws} be at least 1")

    @property
    def sets(self) -> int:
        """Perturbed clips that it sends through the model."""
        return len(self.shares) * self.draws


@dataclasses.dataclass(frozen=True)
class Removals:
    """Random removed sets of one clip with the model's answers.

    Attributes:
        units: the partition.
        removed: bool (M, U), on the CPU: `draws` rows for the first share, then for the second, ...
        logits: float64 (M, K), on the CPU: those of the clip without these units.
    """

    units: Units
    removed: Tensor
    logits: Tensor

    def sums(self, relevance: Tensor) -> Tensor:
        """The sum (M,), float64, of a map (T, H, W) over the voxels of each removed set."""
        return self.removed.double() @ (self.units.means(relevance) * self.units.sizes)


class Shared:
    """What all methods share on one batch: clean logits, substrates, curve ends; computed once, on demand.

    The second part of a key of `memo` is always the clip's place in the batch.

    Args:
        model: the model under explanation.
        batch: N clips.
        targets: int64 (N,), the class explained, as an index of the model's classes.
        labels: int64 (N,), the clip's own class as an index of the model's classes, -1 where it has none.
        seed: the run's seed.
        forward_batch: clips per forward of the perturbation engine.
        step: context that books cost to (step, clip index of the batch); no-op by default.
        donor: the frames (C, T, H, W) of another clip for the clip of this id, which the substrate other_clip shows.
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
        donor: Donor | None = None,
    ) -> None:
        self.model, self.batch, self.targets, self.seed = model, batch, targets, seed
        self.labels = batch.labels if labels is None else labels
        self.forward_batch, self.donor = forward_batch, donor
        self.step: Step = step or (lambda name, clip: nullcontext())
        self._memo: dict[Any, Any] = {}
        self._whole: tuple[Shared, int] | None = None

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of `key`, made once."""
        if self._whole is not None:
            whole, clip = self._whole
            return whole.memo((key[0], clip, *key[2:]), make)
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def alone(self, clip: int, step: Step | None = None) -> Shared:
        """What is shared on one clip of the batch; what becomes known of it, here or there, is known to both."""
        single = Shared(
            self.model,
            self.batch.select([clip]),
            self.targets[[clip]],
            labels=self.labels[[clip]],
            seed=self.seed,
            forward_batch=self.forward_batch,
            step=step,
            donor=self.donor,
        )
        single._whole = (self, clip)
        return single

    def x(self, clip: int) -> Tensor:
        """The normalised clip (C, T, H, W)."""
        value: Tensor = self.memo(("x", clip), lambda: self.model.normalise(self.batch.frames[clip : clip + 1])[0])
        return value

    def units(self, clip: int, unit: str) -> Units:
        """The partition of a clip into units; supervoxels are found once."""
        if unit != "supervoxel":
            return regular_units(unit, *self.batch.frames.shape[2:])
        picture = picture_of(self.batch.frames[clip], self.model.input)
        found: Units = self.memo(("units", clip, unit), lambda: units_of(picture, unit))
        return found

    def clean_logits(self, clip: int) -> Tensor:
        """Logits (K,) of the clean clip."""

        def forward() -> Tensor:
            with self.step("clean", clip), no_grad():
                return perturbation.forward(self.model, self.x(clip)[None], self.forward_batch)[0]

        value: Tensor = self.memo(("clean", clip), forward)
        return value

    def substrate(self, clip: int, text: str) -> Replace:
        """The substrate `text` bound to the clean clip: a blur is computed once for all methods."""

        def bind() -> Replace:
            other = None if self.donor is None else lambda: self._other(clip)
            with no_grad():
                return substrates.bind(text, self.x(clip), self.model, self.seed, self.batch.ids[clip], other)

        replace: Replace = self.memo(("substrate", clip, text), bind)
        return replace

    def _other(self, clip: int) -> Tensor:
        """Another clip, normalised, (C, T, H, W)."""
        assert self.donor is not None
        frames = self.donor(self.batch.ids[clip]).to(self.batch.frames)
        return self.model.normalise(frames[None])[0]

    def end_logits(self, clip: int, substrate: str) -> Tensor:
        """Logits (K,) of the clip with everything removed."""

        def forward() -> Tensor:
            with self.step(f"curves:{substrate}", clip), no_grad():
                empty = perturbation.apply_all(self.substrate(clip, substrate), self.x(clip))
                return perturbation.forward(self.model, empty[None], self.forward_batch)[0]

        value: Tensor = self.memo(("end", clip, substrate), forward)
        return value

    def removals(self, clip: int, spec: RemovalSpec) -> Removals:
        """Random removed sets of a clip and the model's answers, which serve every method and metric that asks."""

        def draw() -> Removals:
            units = self.units(clip, spec.unit)
            removed = self._random_sets(clip, spec, len(units.sizes))
            with self.step(f"removals:{spec.substrate}", clip), no_grad():
                replace = self.substrate(clip, spec.substrate)
                logits = perturbation.removed_logits(
                    self.model, self.x(clip), units, removed, replace, self.forward_batch
                )
            return Removals(units, removed, logits.cpu().double())

        found: Removals = self.memo(("removals", clip, spec), draw)
        return found

    def _random_sets(self, clip: int, spec: RemovalSpec, units: int) -> Tensor:
        """Bool (M, U), a function of (seed, clip, unit, share): never of the substrate or the method."""
        rows = []
        for share in spec.shares:
            draws = randomness.generator(self.seed, self.batch.ids[clip], spec.unit, f"removals {share}")
            size = min(max(round(share * units), 1), max(units - 1, 1))
            rows += [torch.rand(units, generator=draws).argsort() < size for _ in range(spec.draws)]
        return torch.stack(rows)


def units_of(frames: Tensor, unit: str) -> Units:
    """The partition of a clip's frames (C, T, H, W) in [0, 1] into units."""
    return Units.of(supervoxels(frames)) if unit == "supervoxel" else regular_units(unit, *frames.shape[1:])


@contextmanager
def no_grad() -> Iterator[None]:
    """Without gradients, in whatever mode the caller is."""
    with torch.no_grad():
        yield
