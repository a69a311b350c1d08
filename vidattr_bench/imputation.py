"""Linear imputation: every removed voxel is a weighted mean of its neighbours, all of them solved for at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

JACOBI = 4 / 3  # the step that damps best the half of the frequencies that no coarser grid carries
COARSEST = 2  # voxels along the longest axis of a grid that is solved by sweeps alone
SWEEPS = 4
MOST_ITERATIONS = 100
MARGIN = 2  # a V-cycle sees most of an error, not all of it


def impute(x: Tensor, removed: Tensor, dims: int = 2, tolerance: float = 1e-3) -> Tensor:
    """Clips (M, C, T, H, W) in which removed voxels are the weighted means of their neighbours.

    A neighbour that differs by one along k axes weighs 2^-k beside the others: in a frame direct neighbours 1/6 and
    diagonal ones 1/12, in the clip 1/14, 1/28 and 1/56 for the 6, 12 and 8 voxels across faces, edges and corners.
    Beyond the border there are none, and the others weigh the more. Where a whole frame (or clip) is removed, every
    voxel is the mean of its channel in x. A clip's values do not depend on the other removed sets; on an accelerator,
    which solves for all of them together, within the tolerance.

    Args:
        x: (C, T, H, W), the clip.
        removed: (M, T, H, W), not 0 where a voxel is removed.
        dims: 2, each frame on its own, or 3, over time too.
        tolerance: largest error in the units of x; the last V-cycle estimates at most half of it, and corrects it.

    Raises:
        FloatingPointError: the tolerance is not reached, where x is not finite.

    Source: Rong et al. 2022, arXiv 2202.00449, section 4.2; conjugate gradients on one V-cycle a step.
    """
    # One clip at a time stays in a CPU's cache; an accelerator wants them all.
    chunks = torch.split(removed, 1 if x.device.type == "cpu" else len(removed))
    with _one_thread(x.device):
        return torch.cat([_impute(x, chunk[:, None] != 0, dims, tolerance) for chunk in chunks])


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU without the team of threads, which takes twice the time for operations as small as these."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _impute(x: Tensor, removed: Tensor, dims: int, tolerance: float) -> Tensor:
    axes = (-1, -2, -3)[:dims]
    orphaned = removed.all(-1, keepdim=True).all(-2, keepdim=True)
    if dims == 3:
        orphaned = orphaned.all(-3, keepdim=True)
    clips = torch.where(removed, x.mean((1, 2, 3), keepdim=True), x)
    unknown = (removed & ~orphaned).to(x)
    if bool(unknown.any()):
        levels = _hierarchy(unknown, axes)
        clips += _solve(levels, -levels[0].energy(clips), tolerance)
    return clips


@dataclasses.dataclass(frozen=True)
class _Level:
    """The equations of one grid: for every unknown voxel, the weighted differences to its neighbours add up to r.

    Attributes:
        unknown: (M, 1, t, h, w), 1 where a voxel is solved for and 0 where it is given.
        axes: along which there are neighbours.
        stiffness: what a difference counts against one on the finest grid.
        total: (1, 1, t, h, w), sum of the weights inside the grid.
        step: (M, 1, t, h, w), Jacobi's step.
    """

    unknown: Tensor
    axes: tuple[int, ...]
    stiffness: float
    total: Tensor
    step: Tensor

    @staticmethod
    def of(unknown: Tensor, axes: tuple[int, ...], stiffness: float) -> _Level:
        total = _spread(torch.ones_like(unknown[:1]), axes)
        return _Level(unknown, axes, stiffness, total, unknown * (JACOBI / stiffness) / total)

    def energy(self, values: Tensor) -> Tensor:
        """Weighted differences of each unknown voxel to its neighbours, of values on the whole grid."""
        differences = (self.total * values).sub_(_spread(values, self.axes)).mul_(self.unknown)
        return differences if self.stiffness == 1 else differences.mul_(self.stiffness)

    def sweep(self, values: Tensor, r: Tensor) -> Tensor:
        """One step of Jacobi's on values that vanish where they are given."""
        pull = torch.add(r, _spread(values, self.axes), alpha=self.stiffness).mul_(self.step)
        return pull.add_(values, alpha=1 - JACOBI)

    def coarser(self) -> _Level | None:
        """The grid of half the length, where a voxel is unknown if all that it covers are; None without any."""
        unknown = functools.reduce(_all_of_two, self.axes, self.unknown)
        if not bool(unknown.any()):
            return None
        halved = sum(self.unknown.shape[axis] > 1 for axis in self.axes)
        # Twice the distance has four times the energy, on fewer voxels.
        return _Level.of(unknown, self.axes, self.stiffness * 2**halved / 4)

    def restrict(self, r: Tensor) -> Tensor:
        """What the coarser grid has to balance: the transpose of `prolong`."""
        for axis in self.axes:
            r = _along(_interpolation(self.unknown.shape[axis], r.dtype, r.device).T, r, axis)
        return r

    def prolong(self, values: Tensor) -> Tensor:
        """Values of the coarser grid on this one, interpolated linearly."""
        for axis in reversed(self.axes):
            values = _along(_interpolation(self.unknown.shape[axis], values.dtype, values.device), values, axis)
        return values


def _hierarchy(unknown: Tensor, axes: tuple[int, ...]) -> list[_Level]:
    """Grids from the finest to the coarsest."""
    levels = [_Level.of(unknown, axes, 1.0)]
    while max(levels[-1].unknown.shape[axis] for axis in axes) > COARSEST and (coarser := levels[-1].coarser()):
        levels.append(coarser)
    return levels


def _solve(levels: list[_Level], r: Tensor, tolerance: float) -> Tensor:
    """The values (M, C, T, H, W) whose differences are r, by conjugate gradients; each of M stops on its own."""
    values, direction = torch.zeros_like(r), torch.zeros_like(r)
    running = r.new_ones(len(r), dtype=torch.bool)
    slope = r.new_ones(len(r))
    for _ in range(MOST_ITERATIONS):
        error = _cycle(levels, r)
        last = running & (error.flatten(1).abs().amax(1) <= tolerance / MARGIN)
        values.addcmul_(error, _each(last))
        running &= ~last
        if not bool(running.any()):
            return values
        before, slope = slope, _dot(r, error)
        # What has stopped may have no slope left, and 0 / 0 would spoil it.
        direction.mul_(_each(torch.where(running, slope / before, 0))).add_(error)
        change = levels[0].energy(direction)
        length = torch.where(running, slope / _dot(direction, change), 0)
        values.addcmul_(direction, _each(length))
        r.addcmul_(change, _each(length), value=-1)
    raise FloatingPointError(f"the imputation has not converged to {tolerance} in {MOST_ITERATIONS} iterations")


def _cycle(levels: list[_Level], r: Tensor) -> Tensor:
    """About the values whose differences are r: a symmetric V-cycle with one step of Jacobi's before and after."""
    level, *coarser = levels
    values = level.step * r
    if not coarser:
        for _ in range(SWEEPS):
            values = level.sweep(values, r)
        return values
    # Of the first step from zero, total * step is JACOBI.
    left = torch.addcmul(r * (1 - JACOBI), level.unknown, _spread(values, level.axes), value=level.stiffness)
    correction = _cycle(coarser, level.restrict(left) * coarser[0].unknown)
    values.addcmul_(level.prolong(correction), level.unknown)
    return level.sweep(values, r)


def _spread(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Values times the kernel 1 2 1 along every axis, nothing beyond the border."""
    for axis in axes:
        n = values.shape[axis] - 1
        sums = values * 2
        sums.narrow(axis, 1, n).add_(values.narrow(axis, 0, n))
        sums.narrow(axis, 0, n).add_(values.narrow(axis, 1, n))
        values = sums
    return values


def _all_of_two(unknown: Tensor, axis: int) -> Tensor:
    """1 where both voxels of a pair along the axis are; a last one without a partner counts alone."""
    first, second = unknown.unfold(axis, 1, 2)[..., 0].clone(), unknown.narrow(axis, 1, unknown.shape[axis] - 1)
    second = second.unfold(axis, 1, 2)[..., 0] if second.shape[axis] else second
    first.narrow(axis, 0, second.shape[axis]).mul_(second)
    return first


@functools.lru_cache(maxsize=64)
def _interpolation(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Linear interpolation (n, ceil(n / 2)) from a grid of twice the spacing, constant beyond its outermost centres."""
    place = ((torch.arange(n) - 0.5) / 2).clamp(0, (n + 1) // 2 - 1)
    weights = 1 - (place[:, None] - torch.arange((n + 1) // 2)).abs()
    return weights.clamp(min=0).to(device, dtype)


def _along(matrix: Tensor, values: Tensor, axis: int) -> Tensor:
    """A matrix (m, n) applied along an axis of length n."""
    if axis == -1:
        return values @ matrix.T
    if axis == -2:
        return matrix @ values
    return (matrix @ values.flatten(-2)).view(*values.shape[:-3], len(matrix), *values.shape[-2:])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (M,)."""
    products: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return products


def _each(scalars: Tensor) -> Tensor:
    """(M,) as it multiplies (M, C, T, H, W)."""
    return scalars.view(-1, 1, 1, 1, 1)
