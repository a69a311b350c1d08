"""Masks of a given area that preserve the target's score, found by gradient descent: what its two methods share."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel

from ._blur import blur
from ._gradients import target_score
from ._options import require_positive
from ._smooth_max import MaskGenerator

Region = Literal["frame", "padded"]
LEVELS = 8
WIDTH = 112  # pixels of the longer side of the frames that `sigma`, `blur` and `smooth` are given for
AREA_WEIGHT = 300.0
GROWTH = 1.0008668  # of the weight of the area loss, a step
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class MaskOptimisation(AttributionMethod):
    """A method that optimises one mask for each of several areas and adds the masks up.

    Attributes:
        areas: share of the region that each mask preserves, each in (0, 1).
        iterations: steps of the descent; each sends a clip forward and backward for every area.
        rate: learning rate of the descent.
        grid: mask parameters along the longer side of a frame, at most: they lie a whole number of pixels apart.
        sigma: reach of a parameter, in pixels of frames 112 pixels long, rounded to whole ones of the clip's.
        blur: standard deviation of the strongest blur, in pixels of frames 112 pixels long.
        smooth: standard deviation of the blur of the sum of the masks, in pixels of frames 112 pixels high.
        region: what areas are shares of: the frame alone, or padded by the margin into which the smoothing spills.

    Raises:
        ValueError: an area does not lie in (0, 1), or a number is not positive.
    """

    areas: tuple[float, ...] = (0.05, 0.1, 0.15, 0.5)
    iterations: int = 1200
    rate: float = 0.05
    grid: int = 16
    sigma: float = 11.0
    blur: float = 20.0
    smooth: float = 10.0
    region: Region = "padded"

    def __post_init__(self) -> None:
        if not self.areas or not all(0 < area < 1 for area in self.areas):
            raise ValueError(f"areas={list(self.areas)} must be shares between 0 and 1")
        require_positive(self, "iterations", "rate", "grid", "sigma", "blur", "smooth")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """A forward and a backward for every area at every step."""
        clips = len(self.areas) * self.iterations
        return (clips, clips)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W), one clip after another."""
        x = model.normalise(frames)
        masks = [self.masks(model, clip, target).sum(0) for clip, target in zip(x, targets, strict=True)]
        return blur(torch.stack(masks), self.smooth / WIDTH)

    def masks(self, model: VideoModel, x: Tensor, target: Tensor) -> Tensor:
        """The mask of every area, (areas, T, H, W) in [0, 1], for one normalised clip (C, T, H, W)."""
        generator = self.generator((x.shape[2], x.shape[3]))
        start = x.new_ones(len(self.areas), x.shape[1], *generator.grid)
        parameters = self.descend(model, x, target, generator, start)
        return generator.frame(_generate(generator, parameters))

    def descend(self, model: VideoModel, x: Tensor, target: Tensor, generator: MaskGenerator, start: Tensor) -> Tensor:
        """The mask parameters (areas, T, *grid) after all steps from `start`."""
        pyramid = BlurPyramid(x, self.blur * max(x.shape[2:]) / WIDTH)
        parameters = start.clone().requires_grad_()
        descent = torch.optim.SGD([parameters], lr=self.rate, momentum=MOMENTUM, dampening=MOMENTUM)
        targets = target.expand(len(start))
        for done in range(self.iterations):
            masks = _generate(generator, parameters)
            logits = model.logits(pyramid.apply(generator.frame(masks)))
            reward = target_score(logits.log_softmax(1), targets).sum()
            (parameters.grad,) = torch.autograd.grad(self.regulariser(masks, done) - reward, parameters)
            descent.step()
            parameters.data.clamp_(0, 1)
        return parameters.detach()

    def regulariser(self, masks: Tensor, done: int) -> Tensor:
        """What is added to the loss of masks (areas, T, h, w) after `done` steps."""
        return AREA_WEIGHT * GROWTH**done * area_loss(masks, self.areas)

    def generator(self, size: tuple[int, int]) -> MaskGenerator:
        """What makes smooth masks of frames of this height and width."""
        longer = max(size)
        sigma = max(1, round(self.sigma * longer / WIDTH))
        return MaskGenerator(size, math.ceil(longer / self.grid), sigma, self.region == "padded")


def _generate(generator: MaskGenerator, parameters: Tensor) -> Tensor:
    """Masks (areas, T, *shape) from parameters (areas, T, *grid)."""
    return generator(parameters.flatten(0, 1)).view(*parameters.shape[:2], *generator.shape)


class BlurPyramid:
    """A clip at eight strengths of blur: from a Gaussian of `strongest` pixels at mask 0 to the clip itself at mask 1.

    Every frame is blurred alone. Outside it all is 0, the mean pixel, as in TorchRay.

    Args:
        x: (C, T, H, W), the normalised clip.
        strongest: standard deviation in pixels.
    """

    def __init__(self, x: Tensor, strongest: float) -> None:
        sigmas = [strongest * (1 - level / (LEVELS - 1)) for level in range(LEVELS)]
        levels = torch.stack([_blurred(x, sigma) for sigma in sigmas])
        self._levels = levels.flatten(2)
        self._steps = torch.cat([self._levels.diff(dim=0), torch.zeros_like(self._levels[:1])])
        self._shape = x.shape

    def apply(self, masks: Tensor) -> Tensor:
        """The clip blurred as masks (M, T, H, W) say, (M, C, T, H, W): linear between the two nearest levels."""
        height = masks.flatten(1)[:, None] * (LEVELS - 1)
        level = height.detach().long()
        index = level.expand(-1, self._shape[0], -1)
        below, step = self._levels.gather(0, index), self._steps.gather(0, index)
        return torch.addcmul(below, height - level, step).view(len(masks), *self._shape)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Every frame of x (C, T, H, W) blurred by a Gaussian truncated at 4 sigma, with zeros around it."""
    if sigma == 0:
        return x
    down, across = (_blur_matrix(length, sigma).to(x) for length in x.shape[2:])
    return down @ x @ across.T


def _blur_matrix(length: int, sigma: float) -> Tensor:
    pixel = torch.arange(length, dtype=torch.float64)
    offset = torch.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1, dtype=torch.float64)
    distance = pixel[:, None] - pixel
    near = distance.abs() <= offset[-1]
    return torch.exp(-0.5 * (distance / sigma) ** 2) * near / torch.exp(-0.5 * (offset / sigma) ** 2).sum()


def area_loss(masks: Tensor, areas: tuple[float, ...]) -> Tensor:
    """Sum over the areas of mean((sort(mask) - reference)^2), reference being 0 but for its last share `area` of 1s.

    No sort is needed: voxels below a threshold are pulled to 0, those above it to 1. The value leaves out a constant
    where voxels tie at the threshold.
    """
    volumes = masks.flatten(1)
    reference = torch.stack([top_share(m, _ones(m, area)) for m, area in zip(volumes.detach(), areas, strict=True)])
    return (volumes - reference).square().mean(1).sum()


def _ones(values: Tensor, area: float) -> int:
    """How many of the values make up this area, as TorchRay rounds it; at least one."""
    return max(1, len(values) - int(len(values) * (1 - area)))


def top_share(values: Tensor, count: int) -> Tensor:
    """1 for the `count` largest values (M,), else 0; those that tie at the threshold share what is left.

    That is the mean over all orders in which a sort may leave ties, so that none is preferred for its place.
    """
    threshold = values.kthvalue(len(values) - count + 1).values
    above, tied = values > threshold, values == threshold
    return torch.where(tied, (count - above.sum()) / tied.sum(), above.to(values))
