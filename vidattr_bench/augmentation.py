"""Mask augmentation: training clips with tubelets removed, so that a network knows what removal leaves behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from vidattr_bench import substrates
from vidattr_bench.errors import DataError
from vidattr_bench.model import VideoModel
from vidattr_bench.randomness import derive, generator
from vidattr_bench.units import UNITS, regular_units

_Choice = TypeVar("_Choice")


@dataclasses.dataclass(frozen=True)
class MaskAugmentation:
    """Removes random tubelets of a random share of the training clips, as perturbation curves remove them.

    Each chosen clip draws a substrate, the share of its tubelets to remove, uniform in [0, 1], and a grain. Those go
    where white noise, smoothed by a Gaussian of `grain` tubelets, is largest: grain 0 scatters them, a larger one
    gathers them in blobs, as the order of a smooth map does.

    Attributes:
        share: of clips in which something may be removed, in [0, 1].
        substrates: specs of what stands in, each as likely.
        grains: in tubelets, each as likely.

    Raises:
        DataError: `share` is no share.
        PluginError: unknown substrate.
    """

    share: float = 0.5
    substrates: tuple[str, ...] = ("blur3d", "freeze")
    grains: tuple[float, ...] = (0.0, 1.5)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise DataError(f"mask_augment={self.share}: give a share of the clips, from 0 to 1")
        for text in self.substrates:
            substrates.create(text)

    def __call__(self, x: Tensor, model: VideoModel, ids: Sequence[str], seed: int, epoch: int) -> Tensor:
        """Normalised clips x (N, C, T, H, W), each by a draw that is a function of (seed, epoch, clip id)."""
        seed = derive(seed, "mask augmentation", str(epoch))
        return torch.stack([self.clip(clip, model, seed, id) for clip, id in zip(x, ids, strict=True)])

    def clip(self, x: Tensor, model: VideoModel, seed: int, clip_id: str) -> Tensor:
        """The normalised clip x (C, T, H, W), or what is left of it."""
        draws = generator(seed, clip_id)
        if float(torch.rand((), generator=draws)) >= self.share:
            return x
        removed = self.removed(x.shape[1:], draws).to(x)
        replace = substrates.bind(_one(self.substrates, draws), x, model, seed, clip_id)
        return replace(removed[None], torch.empty_like(x)[None])[0]

    def removed(self, size: Sequence[int], draws: torch.Generator) -> Tensor:
        """Which voxels of a clip of this size go, bool (T, H, W)."""
        cells = [min(length, wanted) for length, wanted in zip(size, UNITS["tubelet"], strict=True)]
        noise = torch.randn(1, *map(int, cells), generator=draws)
        grain = _one(self.grains, draws)
        order = substrates.gaussian_blur(noise, (grain, grain, grain)).flatten().argsort(descending=True)
        chosen = torch.zeros(len(order), dtype=torch.bool)
        chosen[order[: round(float(torch.rand((), generator=draws)) * len(order))]] = True
        return chosen[regular_units("tubelet", *size).labels]


def normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> VideoModel:
    """A model of the normalisation alone, which is all that substrates ask of a network."""
    return VideoModel(nn.Identity(), (), mean, std, feature_layer="")


def _one(choices: Sequence[_Choice], draws: torch.Generator) -> _Choice:
    return choices[int(torch.randint(len(choices), (), generator=draws))]
