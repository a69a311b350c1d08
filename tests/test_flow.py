"""The optical flow of rendered motion, and maps carried along it."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from vidattr_bench.flow import optical_flow, visible, warp

T, H, W = 5, 40, 56


def sliding_texture(dy: int, dx: int) -> torch.Tensor:
    """A texture that slides by (dy, dx) pixels a frame, (3, T, H, W)."""
    noise = torch.rand(1, 1, 30, 40, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(noise, (H + 40, W + 40), mode="bicubic")[0, 0].clamp(0, 1)
    frames = [large[20 - t * dy : 20 - t * dy + H, 20 - t * dx : 20 - t * dx + W] for t in range(T)]
    return torch.stack(frames).expand(3, -1, -1, -1)


def test_the_flow_is_the_motion_and_warping_undoes_it():
    frames = sliding_texture(1, 2)
    flow = optical_flow(frames, 2, 5)
    inner = flow[:, :, 6:-6, 6:-6]
    torch.testing.assert_close(inner.mean((0, 2, 3)), torch.tensor([1.0, 2.0]), rtol=0, atol=0.1)
    warped, inside = warp(frames[0, 1:], flow)
    assert (warped - frames[0, :-1])[inside].abs().mean() < 0.02
    assert (frames[0, 1:] - frames[0, :-1]).abs().mean() > 0.08


@given(dy=st.integers(-4, 4), dx=st.integers(-4, 4))
def test_whole_pixels_of_flow_move_the_map_exactly(dy, dx):
    maps = torch.rand(2, 9, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flow = torch.tensor([dy, dx], dtype=torch.float32).view(1, 2, 1, 1).expand(2, 2, 9, 13)
    warped, inside = warp(maps, flow)
    expected = torch.zeros_like(maps)
    for y in range(9):
        for x in range(13):
            within = 0 <= y + dy < 9 and 0 <= x + dx < 13
            assert inside[0, y, x] == within
            if within:
                expected[:, y, x] = maps[:, y + dy, x + dx]
    torch.testing.assert_close(warped[inside], expected[inside], rtol=0, atol=1e-6)


def test_fractions_are_read_bilinearly_as_scipy_reads_them():
    random = torch.Generator().manual_seed(2)
    maps = torch.rand(1, 9, 13, generator=random, dtype=torch.float64)
    flow = torch.rand(1, 2, 9, 13, generator=random, dtype=torch.float64) * 4 - 2
    warped, inside = warp(maps, flow)
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(13), indexing="ij")
    expected = map_coordinates(maps[0].numpy(), [(rows + flow[0, 0]).numpy(), (columns + flow[0, 1]).numpy()], order=1)
    torch.testing.assert_close(warped[inside], torch.from_numpy(expected)[inside[0]], rtol=0, atol=1e-6)


def test_what_is_covered_or_leaves_is_not_visible():
    flow, back = torch.zeros(1, 2, 9, 13), torch.zeros(1, 2, 9, 13)
    assert visible(flow, back).all()
    flow[0, 1, :, 3:6] = 4.0
    back[0, 1, :, 7:10] = -4.0
    seen = visible(flow, back)[0]
    assert seen[:, 3:6].all()
    assert not seen[:, 7:10].any(), "the square covers what stood still there"
    assert seen[:, :3].all()
    flow[0, 1, :, 11:] = 4.0
    assert not visible(flow, back)[0, :, 11:].any()
