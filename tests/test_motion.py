"""Fields of flow between the frames of a video: how they are computed, kept, stacked and shown."""

from __future__ import annotations

import multiprocessing
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vidattr_bench import motion
from vidattr_bench.errors import DataError
from vidattr_bench.flow import warp
from vidattr_bench.flow_cache import FlowCache
from vidattr_bench.model import ClipInput
from vidattr_bench.motion import ComputedFlow, Flow, NoFlow, VideoFrames, grey_picture, quantised, sample_streams
from vidattr_bench.transform import sample_clip
from vidattr_bench.video import write_video

H, W = 48, 64


class Numbered(Flow):
    """`n` fields that hold their own number to the right, and 200 more than that down."""

    def __init__(self, n: int) -> None:
        self.n = n

    @property
    def fields(self) -> int:
        return self.n

    def found(self, numbers):
        return {k: np.stack([np.full((H, W), k, np.uint8), np.full((H, W), 200 + k, np.uint8)], -1) for k in numbers}


class Held:
    """Frames in memory, and which were asked for."""

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames, self.asked = frames, []

    def read(self, indices):
        self.asked += indices
        return self.frames[list(indices)]

    def identity(self, indices):
        return str([self.frames[i].sum().item() for i in indices])


def sliding(dy: int, dx: int, n: int = 3, h: int = H, w: int = W) -> torch.Tensor:
    """A texture that slides by (dy, dx) pixels a frame, uint8 (n, h, w, 3)."""
    noise = torch.rand(1, 1, 40, 50, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(noise, (h + 80, w + 80), mode="bicubic")[0, 0].clamp(0, 1)
    frames = [large[40 - t * dy : 40 - t * dy + h, 40 - t * dx : 40 - t * dx + w] for t in range(n)]
    return (torch.stack(frames) * 255).to(torch.uint8)[..., None].repeat(1, 1, 1, 3)


def computed(frames, cache, side: int = H, step: int = 1) -> ComputedFlow:
    held = Held(frames) if isinstance(frames, torch.Tensor) else frames
    total = len(frames) if isinstance(frames, torch.Tensor) else len(held.frames)
    return ComputedFlow(held, total, side, step, FlowCache(cache))


def field(frames, cache, number: int = 0, **options) -> np.ndarray:
    flow = computed(frames, cache, **options)
    before, after = flow.ends(number)
    return flow.computed(number, frames[before], frames[after])


def wanted(**options) -> ClipInput:
    given = {"length": 3, "anchor": "start", "size": (H, W), "pixels": False, "flow": 1}
    return ClipInput(**given | options)


@pytest.fixture
def no_more_flow(monkeypatch):
    """From its call on, whatever computes flow fails."""

    def stop() -> None:
        monkeypatch.setattr(motion, "optical_flow", lambda *args: pytest.fail("flow was computed again"))

    return stop


# --- values


@pytest.mark.parametrize(
    ("pixels", "level"),
    [(0.0, 128), (-0.01, 127), (20.0, 255), (-20.0, 0), (31.0, 255), (-25.0, 0), (10.0, 191), (-10.0, 64), (1.0, 134)],
)
def test_20_pixels_either_way_are_0_to_255_and_no_motion_is_128(pixels, level):
    assert quantised(torch.full((2, 1, 1), pixels)).tolist() == [[[level, level]]]


@given(st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=2))
def test_a_level_is_the_motion_to_a_fifth_of_a_pixel(uv):
    levels = quantised(torch.tensor(uv).view(2, 1, 1))[0, 0].astype(float)
    np.testing.assert_allclose(levels / 255 * 40 - 20, np.clip(uv, -20, 20), atol=20 / 255 + 1e-5)


def test_grey_pictures_have_even_sides_and_the_short_one_as_asked():
    frame = torch.zeros(240, 320, 3, dtype=torch.uint8)
    assert grey_picture(frame, 256).shape == (256, 340)  # the size of the flow that twostreamfusion publishes
    assert grey_picture(frame.transpose(0, 1), 120).shape == (160, 120)
    colours = torch.tensor([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=torch.uint8)
    torch.testing.assert_close(grey_picture(colours, 2), torch.tensor([[0.299, 0.587], [0.114, 1.0]]))


@pytest.mark.parametrize(("dy", "dx"), [(1, 2), (-2, 3), (0, -4)])
def test_a_texture_that_slides_has_the_flow_of_its_motion(dy, dx, tmp_path):
    inner = field(sliding(dy, dx), tmp_path)[8:-8, 8:-8]
    u, v = (inner.reshape(-1, 2).astype(float) / 255 * 40 - 20).mean(0)
    assert (u, v) == pytest.approx((dx, dy), abs=0.15)


def test_flow_is_in_pixels_of_the_picture_it_is_computed_on_and_spans_the_step(tmp_path):
    larger = field(sliding(1, 2), tmp_path, side=2 * H)
    assert larger.shape == (2 * H, 2 * W, 2)
    far = field(sliding(1, 2), tmp_path, step=2)
    for one in (larger[16:-16, 16:-16], far[8:-8, 8:-8]):
        u, v = (one.reshape(-1, 2).astype(float) / 255 * 40 - 20).mean(0)
        assert (u, v) == pytest.approx((4, 2), abs=0.25)


def test_the_flow_of_a_mirrored_video_is_mirrored_and_its_motion_to_the_right_is_to_the_left(tmp_path):
    frames = sliding(1, 3)
    plain, mirrored = field(frames, tmp_path), field(frames.flip(2), tmp_path)
    expected = plain[:, ::-1].astype(int)
    expected[..., 0] = 255 - expected[..., 0]
    inner = np.abs(mirrored.astype(int) - expected)[8:-8, 8:-8]
    assert inner.mean() < 1
    assert inner.max() <= 4


# --- stacks


@pytest.mark.parametrize(
    ("count", "offsets"), [(1, [0]), (2, [-1, 0]), (3, [-1, 0, 1]), (5, range(-2, 3)), (10, range(-5, 5))]
)
def test_a_stack_is_centred_on_its_frame_as_in_twostreamfusion(count, offsets):
    assert NoFlow().fields == 0
    assert Numbered(60).stack(30, count) == [30 + offset for offset in offsets]


def test_a_stack_stays_within_the_video():
    assert Numbered(6).stack(0, 4) == [0, 0, 0, 1]
    assert Numbered(6).stack(6, 4) == [4, 5, 5, 5]  # the last frame begins no field


def test_channels_are_colour_and_then_for_each_field_right_and_down():
    frames = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, H, W, 3) * 30
    clip = sample_streams(Held(frames), 8, wanted(pixels=True, flow=2, stride=2), Numbered(7)).frames
    assert clip.shape == (3 + 4, 3, H, W)
    levels = (clip[:, :, 5, 9] * 255).round().int()
    assert levels[:3].tolist() == [[0, 60, 120]] * 3
    assert levels[3:].tolist() == [[0, 1, 3], [200, 201, 203], [0, 2, 4], [200, 202, 204]]


def test_past_the_end_pixels_are_black_and_flow_does_not_move():
    frames = torch.full((2, H, W, 3), 255, dtype=torch.uint8)
    sampled = sample_streams(Held(frames), 2, wanted(pixels=True, length=4), Numbered(1))
    assert sampled.known.tolist() == [True, True, False, False]
    assert (sampled.frames[:3, 2:] == 0).all()
    assert torch.equal(sampled.frames[3:, 2:], torch.full((2, 2, H, W), 128 / 255))
    assert (sampled.frames[3, :2] == 0).all(), "field 0 is level 0 to the right"


def test_a_single_frame_does_not_move(tmp_path):
    flow = computed(sliding(0, 0, n=1), tmp_path)
    assert flow.fields == 0
    sampled = sample_streams(flow.frames, 1, wanted(flow=3), flow)
    assert torch.equal(sampled.frames, torch.full((6, 3, H, W), 128 / 255))
    assert sampled.known.tolist() == [True, False, False]


GEOMETRIES = [
    {"crop": "centre", "resize": 40, "size": (20, 33)},
    {"crop": "none", "size": (30, 20), "interpolation": "area"},
    {"crop": "centre", "size": (17, 21), "interpolation": "nearest"},
    {"crop": "centre", "resize": (60, 50), "size": (48, 40)},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_flow_goes_through_the_geometry_of_the_pixels(geometry):
    frames = torch.randint(0, 256, (4, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    class RedAndGreen(Numbered):
        def found(self, numbers):
            return {k: frames[k, ..., :2].numpy() for k in numbers}

    clip = sample_streams(Held(frames), 4, wanted(pixels=True, **geometry), RedAndGreen(4)).frames
    assert clip.shape == (5, 3, *geometry["size"])
    assert torch.equal(clip[3:], clip[:2])


def test_flow_of_another_size_than_the_video_lies_where_the_pixels_lie():
    """A video of 20 x 33, whose flow was computed on a picture of 10 x 16: even sides change the shape."""
    frames = torch.zeros(2, 20, 33, 3, dtype=torch.uint8)
    frames[:, 4:10, 26:31] = 255

    class Halved(Numbered):
        def found(self, numbers):
            small = F.interpolate(frames[:1, None, ..., 0].float(), (10, 16), mode="bilinear", antialias=True)[0, 0]
            return {k: small.to(torch.uint8)[..., None].repeat(1, 1, 2).numpy() for k in numbers}

    geometry = {"crop": "centre", "resize": 100, "size": (100, 160), "pixels": True, "length": 1}
    sampled = sample_streams(Held(frames), 2, wanted(**geometry), Halved(1))
    white = [(channel * torch.arange(160)).sum() / channel.sum() for channel in sampled.frames[:, 0]]
    assert sampled.size == (20, 33)
    torch.testing.assert_close(white[3], white[0], atol=0.5, rtol=0)


def test_without_flow_the_sampled_clip_is_that_of_sample_clip(tmp_path):
    frames = sliding(1, 2, n=7)
    write_video(tmp_path / "a.avi", frames, lossless=True)
    asked = ClipInput(length=4, stride=2, size=(20, 30))
    ours = sample_streams(VideoFrames(tmp_path / "a.avi"), 7, asked, NoFlow())
    theirs = sample_clip(tmp_path / "a.avi", asked)
    assert torch.equal(ours.frames, theirs.frames)
    assert (ours.indices, ours.size) == (theirs.indices, theirs.size)


# --- what is decoded, and what is kept


def test_without_pixels_no_frame_is_read_but_for_flow_that_is_not_there_yet(tmp_path):
    flow = computed(sliding(1, 2, n=20), tmp_path)
    asked = wanted(stride=6)
    first = sample_streams(flow.frames, 20, asked, flow).frames
    assert flow.frames.asked == [0, 1, 6, 7, 12, 13]
    flow.frames.asked.clear()
    assert torch.equal(sample_streams(flow.frames, 20, asked, flow).frames, first)
    assert flow.frames.asked == [0], "one frame tells the size of the video"


def test_what_is_kept_is_what_was_computed_bit_for_bit(tmp_path, no_more_flow):
    frames = sliding(1, 2, n=4)
    fields = [field(frames, tmp_path, number) for number in range(3)]
    no_more_flow()
    found = computed(frames, tmp_path).found([0, 1, 2])
    for number in range(3):
        np.testing.assert_array_equal(found[number], fields[number])
        assert found[number].dtype == np.uint8
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(path.suffix == ".png" for path in files), "nothing temporary stays behind"


def test_a_field_is_found_for_the_same_frames_and_settings_only(tmp_path):
    video = tmp_path / "a.avi"
    write_video(video, sliding(1, 2, n=4), lossless=True)
    cache = FlowCache(tmp_path / "cache")

    def flow(path=video, **options):
        return ComputedFlow(VideoFrames(path), 4, **{"side": H, "step": 1, "cache": cache} | options)

    frames = VideoFrames(video).read([0, 1])
    flow().computed(0, frames[0], frames[1])
    assert flow().found([0, 1]).keys() == {0}
    assert not flow(side=H - 2).found([0])
    assert not flow(step=2).found([0])
    moved = tmp_path / "elsewhere" / "b.avi"
    moved.parent.mkdir()
    shutil.copy(video, moved)
    assert flow(moved).found([0]), "a copy of the video has its flow"
    write_video(video, sliding(2, 1, n=4), lossless=True)
    assert not flow().found([0]), "another video of the same name has not"


def test_the_field_of_two_pictures_depends_on_these_two(tmp_path):
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(sliding(1, 2, n=4).numpy(), start=1):
        Image.fromarray(frame).save(folder / f"{i:05d}.png")
    flow = ComputedFlow(VideoFrames(folder), 4, H, 1, FlowCache(tmp_path / "cache"))
    for number in range(3):
        frames = flow.frames.read(flow.ends(number))
        flow.computed(number, frames[0], frames[1])
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(folder / "00004.png")
    assert flow.found([0, 1, 2]).keys() == {0, 1}


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit": lambda path: path.write_bytes(
        bytes(byte ^ (8 * (i == 300)) for i, byte in enumerate(path.read_bytes()))
    ),
    "text": lambda path: path.write_text("ffconcat version 1.0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_found_out_and_made_again(damage, tmp_path):
    frames = sliding(1, 2)
    original = field(frames, tmp_path)
    (path,) = tmp_path.rglob("*.png")
    DAMAGE[damage](path)
    flow = computed(frames, tmp_path)
    assert flow.found([0]) == {}
    sample_streams(flow.frames, 3, wanted(length=1), flow)
    np.testing.assert_array_equal(flow.found([0])[0], original)


def test_a_whole_file_of_another_field_is_not_taken_for_this_one(tmp_path):
    cache = FlowCache(tmp_path)
    cache.put("aa1", np.zeros((4, 6, 2), np.uint8))
    cache.put("aa2", np.ones((4, 6, 2), np.uint8))
    (tmp_path / "aa" / "aa2.png").replace(tmp_path / "aa" / "aa1.png")
    assert cache.get("aa1") is None
    assert cache.get("aa2") is None


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*give flow_cache=DIR"):
        FlowCache(tmp_path / "file").put("aa", np.zeros((4, 6, 2), np.uint8))


def _hammer(folder) -> bool:
    cache, field = FlowCache(folder), np.random.default_rng(0).integers(0, 255, (40, 60, 2), np.uint8)
    for _ in range(60):
        cache.put("abcdef", field)
        found = cache.get("abcdef")
        if found is None or not np.array_equal(found, field):
            return False
    return True


def test_several_processes_keep_one_field_at_the_same_time(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.map(_hammer, [tmp_path] * 3))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["abcdef.png"]


@pytest.mark.real
def test_the_flow_of_a_real_video_leads_from_a_frame_to_the_next(real_data, tmp_path):
    frames = VideoFrames(real_data / "ucf101/UCF-101/Diving/v_Diving_g01_c01.avi").read([150, 151])
    flow = ComputedFlow(Held(frames), 2, 128, 1, FlowCache(tmp_path))
    u, v = torch.from_numpy(flow.computed(0, frames[0], frames[1])).permute(2, 0, 1).float() / 255 * 40 - 20
    before, after = (grey_picture(frame, 128) for frame in frames)
    warped, inside = warp(after[None], torch.stack([v, u])[None])
    still, moved = (float((other - before)[inside[0]].abs().mean()) for other in (after, warped[0]))
    assert moved < still / 2
