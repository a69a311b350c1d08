"""Substrates: what replaces removed voxels, one seeded function of (clip, removed set) on the normalised clip x."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidattr_bench import imputation, randomness, spec
from vidattr_bench.errors import DataError, NotApplicableError, PluginError, did_you_mean
from vidattr_bench.model import VideoModel

Replace = Callable[[Tensor, Tensor], Tensor]
"""`replace(removed, out)` writes M perturbed clips into `out` (M, C, T, H, W) and returns it; `removed` (M, T, H, W),
in the dtype of the clip, is 1 where a voxel is replaced and 0 where it is kept."""
Donor = Callable[[], Tensor]
"""`donor()` is another clip (C, T, H, W), normalised; asked for only by the substrate that shows it."""


@dataclasses.dataclass(frozen=True)
class Substrate(ABC):
    """What stands in for removed voxels; every choice is a field.

    Raises:
        ValueError: a field is no positive number.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_range(self, field.name, 0 < getattr(self, field.name) < math.inf, "a positive number")

    @abstractmethod
    def bind(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Replace:
        """Prepare the replacement of one clean clip x (C, T, H, W); all that needs no removed set happens here.

        `draws` belongs to (seed, clip, spec); `donor()` is another clip like x.
        """


@dataclasses.dataclass(frozen=True)
class Fill(Substrate):
    """A substrate that does not depend on the removed set: x where kept, a fixed b where removed."""

    @abstractmethod
    def fill(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Tensor:
        """The clip b that shows where x is removed, of a shape that broadcasts to (C, T, H, W)."""

    def bind(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Replace:
        """Compute b once, from the clean clip."""
        filling = self.fill(x, model, draws, donor).to(x)

        def replace(removed: Tensor, out: Tensor) -> Tensor:
            # Exact for weights of 0 and 1, and on a CPU seven times faster than `where`.
            return torch.lerp(x, filling, removed[:, None], out=out)

        return replace


@dataclasses.dataclass(frozen=True)
class Mean(Fill):
    """The mean pixel: 0 where the model declares mean and std, else the clean clip's mean of each channel."""

    def fill(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Tensor:
        """One value a channel, (C, 1, 1, 1)."""
        mean = x.mean((1, 2, 3), keepdim=True)
        return torch.zeros_like(mean) if model.declares_normalisation else mean


@dataclasses.dataclass(frozen=True)
class Black(Fill):
    """Black pixels, normalised: (0 - mean) / std; of optical flow no motion."""

    def fill(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Tensor:
        """One value a channel, (C, 1, 1, 1)."""
        return model.blank()[0].expand(len(x), 1, 1, 1)


@dataclasses.dataclass(frozen=True)
class Blur(Fill):
    """Every frame blurred by a Gaussian truncated at 3 sigma, edges reflected.

    Attributes:
        sigma: standard deviation as a share of the height H.
    """

    sigma: float = 0.1

    def fill(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Tensor:
        """The blurred clip, (C, T, H, W)."""
        return gaussian_blur(x, (0.0, self.sigma * x.shape[2], self.sigma * x.shape[2]))


@dataclasses.dataclass(frozen=True)
class Blur3d(Fill):
    """The clip blurred over time and space by a Gaussian truncated at 3 sigma, edges reflected.

    Attributes:
        sigma: standard deviation as a share of the length T along time, and of the height H along rows and columns.
    """

    sigma: float = 0.1

    def fill(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Tensor:
        """The blurred clip, (C, T, H, W)."""
        _, t, h, _ = x.shape
        return gaussian_blur(x, (self.sigma * t, self.sigma * h, self.sigma * h))


@dataclasses.dataclass(frozen=True)
class Freeze(Substrate):
    """The previous kept value at the same place, else the next kept one, else frame 0: appearance without motion."""

    def bind(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Replace:
        """Two sweeps over the frames: back to the first kept value of each place, then forward holding the last one."""
        frames = x.unbind(1)

        def replace(removed: Tensor, out: Tensor) -> Tensor:
            masks = removed[:, None].unbind(2)
            held = frames[0].repeat(len(removed), 1, 1, 1)
            for frame, mask in zip(reversed(frames), reversed(masks), strict=True):
                torch.lerp(frame, held, mask, out=held)
            for frame, mask, target in zip(frames, masks, out.unbind(2), strict=True):
                held = torch.lerp(frame, held, mask, out=target)
            return out

        return replace


@dataclasses.dataclass(frozen=True)
class Noise(Fill):
    """Gaussian noise with the mean and the standard deviation of each channel of the clean clip, voxel by voxel.

    Attributes:
        scale: what the standard deviation is multiplied by.
    """

    scale: float = 1.0

    def fill(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Tensor:
        """One clip of noise for all removed sets, (C, T, H, W)."""
        std, mean = torch.std_mean(x, (1, 2, 3), correction=0, keepdim=True)
        return mean + self.scale * std * torch.randn(x.shape, generator=draws).to(x)


@dataclasses.dataclass(frozen=True)
class OtherClip(Fill):
    """Another clip of the data set, of another class and group where there is one: natural pixels that move."""

    def fill(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Tensor:
        """The other clip, (C, T, H, W); raises `DataError` where its size is another."""
        other = donor()
        if other.shape != x.shape:
            sizes = f"{tuple(other.shape)} cannot stand in for {tuple(x.shape)}"
            raise DataError(f"other_clip: {sizes}; give all clips one length and size in the data set's spec")
        return other


@dataclasses.dataclass(frozen=True)
class Impute(Substrate):
    """Noisy linear imputation (ROAD, Rong et al. 2022): the weighted mean of the neighbours, and a little noise.

    It hides the shape of the removed set, which a fill would show to the model. See `imputation.impute`.

    Attributes:
        dims: 2 imputes every frame on its own, as the paper does with images; 3 over time too.
        noise: standard deviation of the noise on imputed voxels, one field a clip for all removed sets, in the units
            of x as in the authors' code.
        tolerance: largest error of the solution, in the units of x.
    """

    dims: int = 2
    noise: float = 0.01
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        _check_range(self, "dims", self.dims in (2, 3), "2 or 3")
        _check_range(self, "noise", 0 <= self.noise < math.inf, "0 or a positive number")
        _check_range(self, "tolerance", 0 < self.tolerance < math.inf, "a positive number")

    def bind(self, x: Tensor, model: VideoModel, draws: torch.Generator, donor: Donor) -> Replace:
        """Draw the noise; every removed set is then solved for on its own."""
        noise = self.noise * torch.randn(x.shape, generator=draws).to(x)

        def replace(removed: Tensor, out: Tensor) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):
                imputed = imputation.impute(x, removed, self.dims, self.tolerance)
            return torch.lerp(x, imputed.add_(noise), removed[:, None], out=out)

        return replace


def _check_range(substrate: Substrate, field: str, inside: bool, wanted: str) -> None:
    if not inside:
        raise ValueError(f"{field} must be {wanted}, not {getattr(substrate, field)}")


SUBSTRATES: dict[str, type[Substrate]] = {
    "mean": Mean,
    "black": Black,
    "blur": Blur,
    "blur3d": Blur3d,
    "freeze": Freeze,
    "noise": Noise,
    "other_clip": OtherClip,
    "impute": Impute,
}


def create(text: str) -> Substrate:
    """The substrate that a spec such as `blur3d` or `blur:sigma=.05` names.

    Raises:
        PluginError: unknown name or option (with the nearest known ones), or a value that it does not take.
    """
    parsed = spec.parse(text)
    if parsed.name not in SUBSTRATES:
        raise PluginError(f"unknown substrate {parsed.name!r}; {did_you_mean(parsed.name, SUBSTRATES)}")
    cls = SUBSTRATES[parsed.name]
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for key in parsed.options:
        if key not in defaults:
            raise PluginError(f"the substrate {parsed.name} has no option {key!r}; {did_you_mean(key, defaults)}")
    try:
        return cls(**{key: _number(key, value, defaults[key]) for key, value in parsed.options.items()})
    except ValueError as error:
        raise PluginError(f"substrate {text!r}: {error}") from error


def _number(key: str, value: str, default: Any) -> Any:
    """The text of an option as the type of its default."""
    try:
        return type(default)(value)
    except ValueError as error:
        kind = "a whole number" if isinstance(default, int) else "a positive number"
        raise ValueError(f"{key} must be {kind}, not {value!r}") from error


def bind(text: str, x: Tensor, model: VideoModel, seed: int, clip_id: str, donor: Donor | None = None) -> Replace:
    """The substrate `text` ready for the clean clip x (C, T, H, W), in full precision.

    Its noise is a function of (seed, clip, the substrate with all its options).

    Raises:
        PluginError: unknown substrate or option.
        NotApplicableError: it shows another clip, and there is none.
    """
    with torch.autocast(x.device.type, enabled=False):
        substrate = create(text)
        draws = randomness.generator(seed, clip_id, repr(substrate))
        return substrate.bind(x, model, draws, donor or _no_donor)


def _no_donor() -> Tensor:
    raise NotApplicableError("the substrate other_clip needs a data set that other clips can be taken from")


def gaussian_blur(x: Tensor, sigmas: tuple[float, float, float]) -> Tensor:
    """Blur x (C, T, H, W) along T, H, W by Gaussians of these sigmas in voxels, truncated at 3 sigma, reflected."""
    for axis, sigma in enumerate(sigmas, start=1):
        if sigma > 0:
            weights = _blur_matrix(x.shape[axis], sigma).to(x)
            x = (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return x.contiguous()


def _blur_matrix(length: int, sigma: float) -> Tensor:
    """A truncated Gaussian as a matrix (length, length), folded back at the ends: d c b a | a b c d | d c b a."""
    radius = int(3 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    rows = torch.arange(length)[:, None]
    folded = (rows + offsets) % (2 * length)
    folded = torch.minimum(folded, 2 * length - 1 - folded)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, folded, (kernel / kernel.sum()).expand(length, -1))
