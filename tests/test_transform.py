"""Sampling and the one geometry of pixels and boxes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from vidattr_bench.clip import Tube
from vidattr_bench.errors import DataError
from vidattr_bench.model import ClipInput
from vidattr_bench.transform import fit, fit_boxes, sample_clip, sample_indices
from vidattr_bench.video import write_video

GEOMETRIES = [
    ClipInput(size=(37, 53)),
    ClipInput(size=(37, 53), resize=48),
    ClipInput(size=(37, 53), resize=(60, 61)),
    ClipInput(size=(37, 53), crop="none"),
    ClipInput(size=(53, 37), resize=70),
    ClipInput(size=(96, 120), resize=(96, 120)),
    ClipInput(size=(150, 201)),
]


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        ("start", [0, 3, 6, 9]),
        ("middle", [5, 8, 11, 14]),
        ("end", [10, 13, 16, 19]),
        ("spread", [0, 5, 10, 15]),
    ],
)
def test_anchors_place_the_span_in_a_video_of_20_frames(anchor, expected):
    assert sample_indices(20, ClipInput(length=4, stride=3, anchor=anchor)) == expected


@pytest.mark.parametrize("anchor", ["start", "middle", "end"])
def test_a_short_video_is_read_from_its_start_and_leaves_the_rest_unknown(anchor):
    assert sample_indices(7, ClipInput(length=4, stride=3, anchor=anchor)) == [0, 3, 6, None]


def test_spread_follows_the_published_rule_and_ignores_the_stride():
    for total in (1, 19, 20, 45, 599):
        indices = sample_indices(total, ClipInput(length=20, stride=7, anchor="spread"))
        rule = [i * max(total // 20, 1) for i in range(20)]
        assert indices == [i if i < total else None for i in rule]


@pytest.mark.parametrize("total", [1, 2, 15, 16, 17, 90, 141])
@pytest.mark.parametrize("anchor", ["start", "middle", "end", "spread"])
def test_indices_ascend_stay_inside_and_end_in_the_unknown(anchor, total):
    indices = sample_indices(total, ClipInput(length=16, stride=2, anchor=anchor))
    known = [i for i in indices if i is not None]
    assert len(indices) == 16
    assert known == sorted(set(known))
    assert 0 <= known[0] <= known[-1] < total
    assert indices[len(known) :] == [None] * (16 - len(known))


def test_senseless_options_are_named_with_the_nearest():
    with pytest.raises(DataError, match="did you mean middle"):
        sample_indices(9, ClipInput(anchor="midle"))
    with pytest.raises(DataError, match="stride=0"):
        sample_indices(9, ClipInput(stride=0))
    frames, boxes = torch.zeros(1, 24, 32, 3, dtype=torch.uint8), torch.zeros(0, 4)
    with pytest.raises(DataError, match="did you mean centre"):
        fit(frames, boxes, ClipInput(crop="center"))
    with pytest.raises(DataError, match="did you mean bilinear"):
        fit(frames, boxes, ClipInput(interpolation="linear"))
    with pytest.raises(DataError, match="resize=20"):
        fit(frames, boxes, ClipInput(size=(24, 24), resize=20))


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "nearest"])
@pytest.mark.parametrize("wanted", GEOMETRIES)
def test_a_drawn_box_lands_where_the_transformed_box_says(wanted, interpolation):
    height, width = 96, 120
    x0, y0, x1, y1 = 42, 34, 78, 56
    frames = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    frames[:, y0:y1, x0:x1] = 255
    wanted = dataclasses.replace(wanted, interpolation=interpolation)
    pixels, boxes = fit(frames, torch.tensor([[x0, y0, x1, y1]]), wanted)
    assert pixels.shape == (3, 2, *wanted.size)
    said = Tube(0, 0, boxes).mask(1, *wanted.size)[0]
    for axis in (0, 1):
        profile = pixels.mean((0, 1)).amax(axis)
        decided = (profile / profile.max() - 0.5).abs() > 1e-3
        assert torch.equal((profile > profile.max() / 2)[decided], said.any(axis)[decided])
        assert decided.sum() >= len(decided) - 2


@pytest.mark.parametrize("wanted", GEOMETRIES)
def test_the_area_of_a_drawn_box_is_the_area_of_the_transformed_box(wanted):
    frames = torch.zeros(1, 96, 120, 3, dtype=torch.uint8)
    frames[:, 34:56, 42:78] = 255
    wanted = dataclasses.replace(wanted, interpolation="area")
    pixels, boxes = fit(frames, torch.tensor([[42, 34, 78, 56]]), wanted)
    x0, y0, x1, y1 = boxes[0].tolist()
    assert pixels[0].double().sum().item() == pytest.approx((x1 - x0) * (y1 - y0), rel=1e-5)


def test_a_box_is_scaled_moved_and_cut_as_by_hand():
    boxes = torch.tensor([[10, 20, 110, 220], [0, 0, 30, 240], [300, 5, 320, 9]])
    moved = fit_boxes(boxes, (240, 320), ClipInput(size=(120, 120), resize=120))
    # 240 x 320 -> 120 x 160, then columns 20 to 140.
    assert moved.tolist() == [[0, 10, 35, 110], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_box_hidden_by_the_crop_is_empty_and_one_that_is_cut_is_not():
    moved = fit_boxes(torch.tensor([[0, 0, 40, 10], [0, 0, 41, 10]]), (100, 200), ClipInput(size=(100, 120)))
    assert moved.tolist() == [[0, 0, 0, 0], [0, 0, 1, 10]]


def test_integer_factors_are_plain_means():
    frames = torch.randint(0, 256, (3, 48, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels, _ = fit(frames, torch.zeros(0, 4), ClipInput(size=(12, 20), interpolation="area"))
    expected = F.avg_pool2d(frames.permute(0, 3, 1, 2).float() / 255, 4).transpose(0, 1)
    torch.testing.assert_close(pixels, expected)


def test_area_is_what_opencv_calls_area():
    cv2 = pytest.importorskip("cv2")
    frames = torch.randint(0, 256, (1, 48, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels, _ = fit(frames, torch.zeros(0, 4), ClipInput(size=(21, 35), crop="none", interpolation="area"))
    expected = cv2.resize(frames[0].numpy(), (35, 21), interpolation=cv2.INTER_AREA)
    torch.testing.assert_close(
        pixels[:, 0] * 255, torch.from_numpy(expected).permute(2, 0, 1).float(), rtol=0, atol=0.51
    )


def test_the_same_size_changes_nothing():
    frames = torch.randint(0, 256, (3, 24, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for interpolation in ("area", "bilinear", "nearest"):
        pixels, _ = fit(frames, torch.zeros(0, 4), ClipInput(size=(24, 40), interpolation=interpolation))
        assert torch.equal(pixels, (frames.float() / 255).permute(3, 0, 1, 2))


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "nearest"])
def test_a_constant_picture_stays_constant(interpolation):
    frames = torch.full((1, 29, 31, 3), 51, dtype=torch.uint8)
    for wanted in (ClipInput(size=(13, 17)), ClipInput(size=(60, 71))):
        pixels, _ = fit(frames, torch.zeros(0, 4), dataclasses.replace(wanted, interpolation=interpolation))
        torch.testing.assert_close(pixels, torch.full_like(pixels, 0.2), rtol=0, atol=1e-6)


def test_a_clip_longer_than_its_video_ends_black_and_unknown(tmp_path):
    frames = torch.full((5, 24, 40, 3), 200, dtype=torch.uint8)
    write_video(tmp_path / "clip.avi", frames, lossless=True)
    sampled = sample_clip(tmp_path / "clip.avi", ClipInput(length=4, stride=2, anchor="start", size=(12, 16)))
    assert sampled.indices == (0, 2, 4, None)
    assert sampled.size == (24, 40)
    assert sampled.known.tolist() == [True, True, True, False]
    assert sampled.frames.shape == (3, 4, 12, 16)
    assert (sampled.frames[:, :3] > 0.7).all()
    assert (sampled.frames[:, 3] == 0).all()
