"""Supervoxels: scikit-image's SLIC on the pixels, a partition, the same for the same pixels, true to moving things."""

import numpy as np
import pytest
import torch
from skimage.segmentation import slic

from vidattr_bench.fixtures import small_batch
from vidattr_bench.supervoxels import supervoxels

T, H, W = 8, 30, 44


@pytest.fixture
def pixels():
    return small_batch(1, (T, H, W)).frames[0]


def moving_square():
    """A red square that moves a pixel a frame over blue, and where it is."""
    inside = torch.zeros(T, H, W, dtype=torch.bool)
    for t in range(T):
        inside[t, 9:21, 8 + t : 20 + t] = True
    red, blue = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.8]])[:, :, None, None, None]
    return torch.where(inside, red, blue), inside


def frames_of_each(labels):
    return [len(torch.unique((labels == s).nonzero()[:, 0])) for s in range(int(labels.max()) + 1)]


@pytest.mark.parametrize("size", [(T, H, W), (1, 20, 28), (4, 23, 33)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_number_occurs(size, channels):
    labels = supervoxels(torch.rand(channels, *size, generator=torch.Generator().manual_seed(0)), segments=40)
    assert labels.shape == size
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))


def test_it_is_slic_on_the_pixels_in_lab_with_time_at_a_fifth(pixels):
    image = pixels.permute(1, 2, 3, 0).numpy().astype(np.float64)
    expected = slic(image, n_segments=200, compactness=10, spacing=(0.2, 1, 1), convert2lab=True, start_label=0)
    found = supervoxels(pixels).numpy()
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(found)) == len(np.unique(expected))


def test_precision_order_in_memory_and_repetition_change_nothing(pixels):
    labels = supervoxels(pixels)
    assert torch.equal(supervoxels(pixels.double()), labels)
    assert torch.equal(supervoxels(pixels.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)), labels)
    first = supervoxels(pixels)
    first[:] = -1
    assert torch.equal(supervoxels(pixels), labels)


def test_a_change_of_one_part_in_ten_million_moves_next_to_nothing(pixels):
    moved = supervoxels(pixels * (1 + 1e-7)) != supervoxels(pixels)
    assert moved.float().mean() < 0.01


def test_supervoxels_follow_what_moves():
    pixels, inside = moving_square()
    labels = supervoxels(pixels, segments=60)
    shares = torch.bincount(labels.flatten(), inside.flatten().double()) / torch.bincount(labels.flatten())
    assert set(shares.tolist()) == {0.0, 1.0}
    assert max(frames_of_each(labels)) == T


def test_the_smaller_the_spacing_the_more_frames_a_supervoxel_spans(pixels):
    means = [np.mean(frames_of_each(supervoxels(pixels, 100, spacing))) for spacing in (0.2, 1.0, 5.0)]
    assert means[0] > means[1] > means[2]
    assert means[0] > 1.3 * means[2]


def test_the_number_is_about_what_was_asked_for():
    pixels, _ = moving_square()
    for segments in (12, 50, 200):
        assert 0.5 * segments <= int(supervoxels(pixels, segments).max()) + 1 <= 2 * segments


def test_a_grey_clip_is_cut_alike_in_one_channel_and_in_three():
    inside = moving_square()[1]
    grey = torch.where(inside, 1.0, 0.0)[None]
    labels = [supervoxels(clip, 60) for clip in (grey, grey.expand(3, T, H, W))]
    assert torch.equal(*labels)


def test_a_constant_clip_is_cut_too():
    assert int(supervoxels(torch.full((3, T, H, W), 0.5), 30).max()) > 10


@pytest.mark.parametrize("options", [{"segments": 0}, {"spacing": 0.0}, {"compactness": -1.0}])
def test_options_must_be_positive(pixels, options):
    with pytest.raises(ValueError, match="must be positive"):
        supervoxels(pixels, **options)


def test_pixels_must_be_a_clip_without_nan(pixels):
    with pytest.raises(ValueError, match=r"\(C, T, H, W\)"):
        supervoxels(pixels[None])
    with pytest.raises(ValueError, match="NaN"):
        supervoxels(pixels.clone().fill_(torch.nan))
