"""Linear imputation: a literal system solved directly, the authors' imputer on images, and closed forms."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch import nn

from vidattr_bench.imputation import _impute, impute

C, T, H, W = 3, 5, 14, 19


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(C, T, H, W, generator=draws(), dtype=torch.float64) + 0.7


def scattered(share: float, seed: int = 1) -> torch.Tensor:
    return torch.rand(T, H, W, generator=draws(seed)) < share


def blob(share: float, seed: int = 2) -> torch.Tensor:
    coarse = torch.rand(1, 1, 2, 3, 4, generator=draws(seed))
    smooth = nn.functional.interpolate(coarse, (T, H, W), mode="trilinear")[0, 0]
    return smooth >= torch.quantile(smooth, 1 - share)


def solved_directly(x: torch.Tensor, removed: torch.Tensor, dims: int) -> torch.Tensor:
    """The definition, voxel by voxel: weights 2^-k (k axes apart), renormalised at the border, SciPy's sparse LU."""
    axes = 3 if dims == 3 else 2
    mean, filled = x.mean((1, 2, 3)), x.clone()
    whole = removed.all() if dims == 3 else removed.all(2).all(1)
    orphaned = whole.expand(T) if dims == 3 else whole
    filled[:, orphaned] = mean[:, None, None, None]
    voxels = [tuple(v) for v in removed.nonzero().tolist() if not orphaned[v[0]]]
    number = {voxel: i for i, voxel in enumerate(voxels)}
    system, given = scipy.sparse.lil_matrix((len(voxels), len(voxels))), np.zeros((len(voxels), C))
    for i, (t, h, w) in enumerate(voxels):
        for offset in itertools.product((-1, 0, 1), repeat=3):
            k = sum(map(abs, offset))
            other = (t + offset[0], h + offset[1], w + offset[2])
            inside = all(0 <= o < n for o, n in zip(other, (T, H, W), strict=True))
            if k == 0 or not inside or (axes == 2 and offset[0]):
                continue
            system[i, i] += 2.0**-k
            if other in number:
                system[i, number[other]] -= 2.0**-k
            else:
                given[i] += 2.0**-k * x[:, *other].numpy()
    if voxels:
        solution = scipy.sparse.linalg.spsolve(system.tocsc(), given).reshape(-1, C)
        filled[:, *zip(*voxels, strict=True)] = torch.from_numpy(solution).T
    return filled


MASKS = [scattered(0.1), scattered(0.5), scattered(0.9), scattered(0.99), blob(0.3), blob(0.8), blob(0.97)]


@pytest.mark.parametrize("dims", [2, 3])
def test_it_solves_the_system_of_the_definition(dims, x):
    removed = torch.stack(MASKS).to(x)
    expected = torch.stack([solved_directly(x, mask, dims) for mask in MASKS])
    assert torch.allclose(impute(x, removed, dims, tolerance=1e-9), expected, rtol=0, atol=1e-8)
    for tolerance in (1e-2, 1e-3, 1e-4):
        found = impute(x.float(), removed.float(), dims, tolerance)
        assert float((found - expected).abs().max()) <= tolerance


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("make", [scattered, blob])
def test_an_image_is_imputed_as_by_the_authors_code(make, share, x):
    removed = make(share)[2]
    expected = NoisyLinearImputer(noise=0)(x[:, 2].float(), (~removed).float())
    found = impute(x[:, 2:3].float(), removed[None, None].float(), tolerance=1e-6)[0, :, 0]
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_changes_linearly_is_restored_inside(dims):
    t, h, w = torch.meshgrid(*(torch.arange(float(n), dtype=torch.float64) for n in (T, H, W)), indexing="ij")
    ramp = torch.stack([2 * t - h + 0.5 * w, h, w + 3])
    removed = torch.zeros(1, T, H, W, dtype=torch.float64)
    removed[:, 1:-1, 2:-3, 4:-2] = 1
    assert torch.allclose(impute(ramp, removed, dims, tolerance=1e-10)[0], ramp, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
def test_one_kept_voxel_spreads_over_all_that_it_reaches(dims, x):
    removed = torch.ones(1, T, H, W)
    removed[0, 3, 5, 7] = 0
    found = impute(x, removed, dims, tolerance=1e-9)[0]
    mean = x.mean((1, 2, 3)).view(C, 1, 1, 1).expand(C, T, H, W)
    expected = x[:, 3, 5, 7].view(C, 1, 1, 1).expand(C, T, H, W)
    if dims == 2:
        expected = torch.cat([mean[:, :3], expected[:, 3:4], mean[:, 4:]], 1)
    assert torch.allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dims", [2, 3])
def test_where_nothing_is_kept_there_is_the_channels_mean(dims, x):
    assert torch.equal(impute(x, torch.ones(1, T, H, W), dims)[0], x.mean((1, 2, 3), keepdim=True).expand_as(x))


def test_a_removed_frame_is_the_mean_in_two_dimensions_and_between_its_neighbours_in_three(x):
    removed = torch.zeros(1, T, H, W)
    removed[0, 2] = 1
    flat = torch.arange(T).view(1, T, 1, 1) + torch.zeros_like(x)
    assert torch.equal(impute(flat, removed, 2)[0, :, 2], torch.full((C, H, W), (T - 1) / 2, dtype=x.dtype))
    ramp = 10 + 3 * flat
    assert torch.allclose(impute(ramp, removed, 3, tolerance=1e-9)[0], ramp, atol=1e-8)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_clip_does_not_depend_on_the_other_removed_sets_or_their_order(dims, x):
    removed = torch.stack(MASKS).float()
    together = impute(x.float(), removed, dims)
    order = [3, 0, 6, 1, 2, 5, 4]
    assert torch.equal(impute(x.float(), removed[order], dims), together[order])
    assert torch.equal(torch.cat([impute(x.float(), mask[None], dims) for mask in removed]), together)


@pytest.mark.parametrize("dims", [2, 3])
def test_all_removed_sets_solved_for_together_as_on_an_accelerator_are_those_of_each_alone(dims, x):
    still = torch.where(torch.arange(T)[:, None, None] < 2, x[:, :1, :1, :1], x)
    nothing, everything = torch.zeros(T, H, W), torch.ones(T, H, W)
    removed = torch.stack([nothing, *MASKS, everything, scattered(0.5) * (torch.arange(T) == 0)[:, None, None]])
    for clip in (x, still):
        together = _impute(clip, removed[:, None] != 0, dims, 1e-4)
        assert torch.allclose(together, impute(clip, removed, dims, 1e-4), rtol=0, atol=2e-4)


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 13), st.integers(1, 17)),
    st.sampled_from([2, 3]),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_kept_voxels_stay_and_imputed_ones_lie_between_them_whatever_the_size(size, dims, share, seed):
    clip = torch.rand(2, *size, generator=draws(seed), dtype=torch.float64)
    removed = torch.rand(size, generator=draws(seed + 1)) < share
    found = impute(clip, removed[None].to(clip), dims, tolerance=1e-7)[0]
    assert torch.equal(found[:, ~removed], clip[:, ~removed])
    for channel, was in zip(found, clip, strict=True):
        values = [*was[~removed].tolist(), was.mean().item()]
        assert min(values) - 1e-6 <= channel.min() <= channel.max() <= max(values) + 1e-6


@pytest.mark.parametrize(("dims", "axes"), [(2, [2]), (2, [1, 3]), (3, [1]), (3, [1, 2, 3])])
def test_a_flipped_clip_is_imputed_flipped(dims, axes, x):
    removed = torch.stack([blob(0.6), scattered(0.7)]).to(x)
    found = impute(x, removed, dims, tolerance=1e-9)
    flipped = impute(x.flip(axes), removed.flip(axes), dims, tolerance=1e-9)
    assert torch.allclose(flipped.flip([a + 1 for a in axes]), found, rtol=0, atol=1e-8)


def test_imputing_commutes_with_scale_and_offset(x):
    removed = blob(0.7)[None].to(x)
    found = impute(x, removed, 3, tolerance=1e-9)
    assert torch.allclose(impute(5 * x - 3, removed, 3, tolerance=1e-9), 5 * found - 3, rtol=0, atol=1e-7)


def test_nothing_removed_leaves_the_clip_and_the_arguments_alone(x):
    before, none = x.clone(), torch.zeros(2, T, H, W)
    assert torch.equal(impute(x, none), x.expand(2, -1, -1, -1, -1))
    impute(x, torch.stack(MASKS).to(x))
    assert torch.equal(x, before)


def test_a_clip_that_is_not_finite_is_refused(x):
    x[1, 2, 3, 4] = float("nan")
    removed = torch.zeros(1, T, H, W)
    removed[:, :, 4:] = 1
    with pytest.raises(FloatingPointError, match="not converged"):
        impute(x, removed)
