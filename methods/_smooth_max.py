"""Smooth masks from parameters on a coarse grid: Fong et al. 2019, equation 4, as TorchRay computes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

COLDNESS = 20.0
_CHUNK = 16  # frames at a time, which stay in the cache of a CPU


@dataclasses.dataclass(frozen=True)
class MaskGenerator:
    """Masks whose every pixel is the smooth maximum of the grid's parameters around it, each weighted by its distance.

    The smooth maximum of a is sum(a exp(20 a)) / sum(exp(20 a)), and the weight at a distance of d pixels is
    exp(-2 max(0, d / sigma - 1/2)^2).

    Attributes:
        size: height and width of a frame.
        step: pixels from one point of the grid to the next.
        sigma: reach of a point, in whole pixels.
        padded: whether masks go on for sigma pixels beyond the frame, where the smoothing spills.
    """

    size: tuple[int, int]
    step: int
    sigma: int
    padded: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of parameters."""
        h, w = self.size
        return math.ceil(h / self.step), math.ceil(w / self.step)

    @property
    def padding(self) -> int:
        """Rows and columns of zeros before the parameters."""
        return 1 + math.ceil(2 * self.sigma / self.step)

    @property
    def radius(self) -> int:
        """How many points of the grid a pixel looks at, in each direction from its own cell."""
        return 1 + math.ceil(self.sigma / self.step)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the masks."""
        beyond = 2 * self.sigma if self.padded else 0
        return self.size[0] + beyond, self.size[1] + beyond

    def __call__(self, parameters: Tensor) -> Tensor:
        """Masks (M, *shape) in [0, 1] from parameters (M, *grid) in [0, 1], differentiably."""
        below, right = (self._zeros_after(*lengths) for lengths in zip(self.grid, self.shape, strict=True))
        surrounded = F.pad(parameters, (self.padding, right, self.padding, below))
        cells = surrounded.repeat_interleave(self.step, 1).repeat_interleave(self.step, 2)
        weights = _weights(self, cells.device, cells.dtype)
        masks: Tensor = _SmoothMax.apply(cells, weights, self.step, self._first)
        return masks

    def frame(self, masks: Tensor) -> Tensor:
        """What of masks (..., *shape) lies in the frame, (..., H, W)."""
        first = self.sigma - self._first
        return masks[..., first : first + self.size[0], first : first + self.size[1]]

    def _zeros_after(self, cells: int, length: int) -> int:
        """Zeros to append to the parameters along an axis, so that the last of `length` pixels has all its points."""
        last = (self._first + length - 1) // self.step + 2 * self.radius
        return max(0, last + 1 - self.padding - cells)

    @property
    def _first(self) -> int:
        """Where the masks begin, in rows and columns of the padded mask."""
        return 0 if self.padded else self.sigma

    def weights(self) -> Tensor:
        """(K, K, rows, columns): the weight of each of the K x K points around a pixel's cell."""
        down, across = (self._offsets(length) for length in self.shape)
        distance = torch.hypot(down[:, None, :, None], across[None, :, None, :]) / self.sigma
        return torch.exp(-2 * (distance - 0.5).clamp(min=0).square())

    def _offsets(self, length: int) -> Tensor:
        """Signed distance in pixels, (K, length), from pixels along one axis to the points around their cells."""
        pixel = torch.arange(self._first, self._first + length)
        cell = pixel // self.step + torch.arange(-self.padding, 2 * self.radius + 1 - self.padding)[:, None]
        return (pixel - self.sigma - self.step * cell).double()


@lru_cache(maxsize=2)
def _weights(generator: MaskGenerator, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The generator's weights where the masks are made, once for all steps and clips."""
    return generator.weights().to(device, dtype)


class _SmoothMax(torch.autograd.Function):
    """The smooth maximum over K x K windows of weighted cells, holding one window position at a time in memory."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, weights: Tensor, step: int, first: int) -> Tensor:
        """Masks (M, rows, columns) from cells (M, ...) repeated to pixels, and weights (K, K, rows, columns)."""
        logits = cells * COLDNESS
        total, masks = (cells.new_zeros(len(cells), *weights.shape[2:]) for _ in range(2))
        for frames in _chunks(len(cells)):
            a, e = torch.empty_like(masks[frames]), torch.empty_like(masks[frames])
            for window, weight in _windows(logits[frames], weights, step, first):
                torch.mul(window, weight, out=a)
                torch.exp(a, out=e)
                total[frames] += e
                masks[frames].addcmul_(a, e)
        masks /= total
        ctx.save_for_backward(logits, weights, masks, total)
        ctx.places = step, first
        return masks / COLDNESS

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """With p = exp(20 a) / sum(exp(20 a)), the gradient at a is p (1 + 20 (a - mask))."""
        logits, weights, masks, total = ctx.saved_tensors
        scale = gradients[0] / total
        rest = scale * (1 - masks)
        gradient = torch.zeros_like(logits)
        for frames in _chunks(len(logits)):
            a, e = torch.empty_like(masks[frames]), torch.empty_like(masks[frames])
            windows = _windows(logits[frames], weights, *ctx.places)
            targets = _windows(gradient[frames], weights, *ctx.places)
            for (window, weight), (target, _) in zip(windows, targets, strict=True):
                torch.mul(window, weight, out=a)
                torch.exp(a, out=e)
                e *= torch.addcmul(rest[frames], scale[frames], a, out=a)
                target.addcmul_(e, weight)
        return gradient, None, None, None


def _chunks(count: int) -> Iterator[slice]:
    return (slice(i, i + _CHUNK) for i in range(0, count, _CHUNK))


def _windows(cells: Tensor, weights: Tensor, step: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each point around a pixel's cell: that point's cell at every pixel, (M, rows, columns), and its weight."""
    rows, columns = weights.shape[2:]
    for y, row in enumerate(weights):
        for x, weight in enumerate(row):
            top, left = first + step * y, first + step * x
            yield cells[:, top : top + rows, left : left + columns], weight
