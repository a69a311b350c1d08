"""EPIC-Kitchens' own flow: which of its pictures belong to which frames, and how it compares with ours."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vidattr_bench import motion, plugins
from vidattr_bench.errors import DataError
from vidattr_bench.flow_cache import FlowCache
from vidattr_bench.model import ClipInput
from vidattr_bench.motion import ComputedFlow, VideoFrames
from vidattr_bench.stored_flow import SideBySide

DATA = Path(__file__).parent / "data"
ASKED = ClipInput(length=4, stride=3, anchor="start", size=(36, 64), crop="none", pixels=False, flow=1)


def writer(name: str):
    spec = importlib.util.spec_from_file_location(f"write_{name}", DATA / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = writer("flow")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return writer("epic_kitchens").write(tmp_path_factory.mktemp("epic"))


def module(root: Path, asked: ClipInput = ASKED, options: str = "version=55,part=train", **more):
    data = plugins.create("datasets", f'epic_kitchens:root="{root}",{options}', **more)
    data.adapt(asked)
    return data


def clip_of(data, name: str):
    return data.load(next(ref for ref in data.refs() if ref.id == name))


def numbered(first: int, last: int) -> np.ndarray:
    """A field for each picture of EPIC's flow, whose level to the right tells its number."""
    fields = np.full((last - first + 1, 18, 32, 2), 7, np.uint8)
    fields[..., 0] = (np.arange(first, last + 1) % 10000 % 251)[:, None, None]
    return fields


def write_folder(folder: Path, first: int, last: int) -> None:
    for axis, letter in enumerate("uv"):
        fake.write_pictures(folder, f"{letter}/frame_{{:010d}}.jpg", numbered(first, last)[..., axis], first)


def shown(clip) -> list[int]:
    assert (clip.frames[1] * 255).round().unique().tolist() == [7.0]
    return (clip.frames[0, :, 3, 4] * 255).round().int().tolist()


# Frames 20643, 20646, 20649, 20652 of segment 900 of a video of EPIC-55 have pictures 10322, 10323, 10325, 10326.
PLACES = ["P01/flow_frames", "frames_rgb_flow/flow/train/P01", "EPIC-KITCHENS/P01/flow_frames", "."]


@pytest.mark.parametrize("place", PLACES)
def test_a_picture_of_flow_belongs_to_two_frames_of_a_video_of_epic_55(place, root, tmp_path, monkeypatch):
    monkeypatch.setattr(motion, "optical_flow", lambda *args: pytest.fail("flow was computed"))
    write_folder(tmp_path / place / "P01_01", 10320, 10352)
    assert shown(clip_of(module(root, flow_root=tmp_path), "P01_01_900")) == [
        n % 10000 % 251 for n in (10322, 10323, 10325, 10326)
    ]


def test_the_pixels_are_those_without_flow_and_boxes_are_the_same(root, tmp_path):
    write_folder(tmp_path / "P01_01", 10320, 10352)
    both = clip_of(
        module(root, dataclasses.replace(ASKED, pixels=True, length=9, stride=6), flow_root=tmp_path), "P01_01_900"
    )
    plain = clip_of(module(root, dataclasses.replace(ASKED, pixels=True, flow=0, length=9, stride=6)), "P01_01_900")
    assert torch.equal(both.frames[:3], plain.frames)
    assert torch.equal(both.annotated, plain.annotated)
    assert [tube.boxes.tolist() for tube in both.tubes] == [tube.boxes.tolist() for tube in plain.tubes] != []


def test_a_stack_stays_within_the_segment(root, tmp_path):
    """Frames 20643 to 20700 have the pictures 10322 to 10350; those on either side are there and not taken."""
    write_folder(tmp_path / "P01_01", 10310, 10380)
    first = clip_of(module(root, dataclasses.replace(ASKED, length=1, flow=4), flow_root=tmp_path), "P01_01_900")
    last = clip_of(
        module(root, dataclasses.replace(ASKED, length=1, flow=4, anchor="end"), flow_root=tmp_path), "P01_01_900"
    )
    levels = [(clip.frames[::2, 0, 3, 4] * 255).round().int().tolist() for clip in (first, last)]
    assert levels == [
        [n % 10000 % 251 for n in numbers] for numbers in ((10322, 10322, 10322, 10323), (10348, 10349, 10350, 10350))
    ]


def test_flow_ends_before_the_frames_do_but_not_long_before(root, tmp_path):
    """The last field that there is stands in for those of the last frames."""
    data = module(root, dataclasses.replace(ASKED, length=1, anchor="end"), flow_root=tmp_path)
    write_folder(tmp_path / "P01_01", 10320, 10348)
    assert shown(clip_of(data, "P01_01_900")) == [10348 % 10000 % 251]
    for letter in "uv":
        for number in range(10340, 10349):
            (tmp_path / "P01_01" / letter / f"frame_{number:010d}.jpg").unlink()
    with pytest.raises(DataError, match=r"u/frame_0000010350.jpg is missing"):
        clip_of(data, "P01_01_900")


def test_an_archive_gives_what_its_folders_give(root, tmp_path):
    write_folder(tmp_path / "folders" / "P01_02", 1, 36)
    fake.write_archive(tmp_path / "archives" / "P01" / "flow_frames" / "P01_02.tar", numbered(1, 36))
    clips = [clip_of(module(root, flow_root=tmp_path / name), "P01_02_902") for name in ("folders", "archives")]
    assert torch.equal(clips[0].frames, clips[1].frames)
    archive = tmp_path / "archives" / "P01" / "flow_frames" / "P01_02.tar"
    archive.write_bytes(archive.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"P01_02.tar"):
        clip_of(module(root, flow_root=tmp_path / "archives"), "P01_02_902")


def test_videos_that_epic_100_added_have_a_picture_for_every_frame(root, tmp_path):
    write_folder(tmp_path / "P01_101", 1, 44)
    data = module(root, options="labels=noun", flow_root=tmp_path)
    segment = data._segments["P01_101_0"]
    assert shown(clip_of(data, "P01_101_0")) == [segment.start + 3 * i for i in range(4)]


def test_a_segment_without_flow_costs_its_own_rows_only(root, tmp_path):
    write_folder(tmp_path / "P01_01", 10320, 10352)
    data = module(root, flow_root=tmp_path)
    before = data.fingerprint()
    refs = data.refs()
    work = data.read(0, refs)
    assert list(work.batch.ids) == ["P01_01_900"]
    assert {one.id for one in work.unreadable} == {ref.id for ref in refs[1:]}
    assert "holds no flow of P01_02 with the pictures 1 to 20" in work.unreadable[1].reason
    write_folder(tmp_path / "P01_02", 1, 36)
    assert module(root, flow_root=tmp_path).fingerprint() != before
    shutil.rmtree(tmp_path / "P01_01")
    shutil.rmtree(tmp_path / "P01_02")
    with pytest.raises(DataError, match="holds no flow of P01_01"):
        module(root, flow_root=tmp_path).fingerprint()


@pytest.mark.parametrize("segment", ["P01_01_900", "P01_02_902", "P02_01_904"])
def test_flow_of_every_kind_of_footage_is_computed_and_kept(segment, root, tmp_path, monkeypatch):
    options = {"flow_cache": tmp_path, "flow_side": 36}
    first = clip_of(module(root, **options), segment)
    monkeypatch.setattr(motion, "optical_flow", lambda *args: pytest.fail("flow was computed again"))
    assert torch.equal(clip_of(module(root, **options), segment).frames, first.frames)
    assert (
        module(root, **options).fingerprint()
        != module(root, dataclasses.replace(ASKED, pixels=True, flow=0)).fingerprint()
    )


# --- the real clip


@pytest.fixture
def drawer(real_data) -> Path:
    return real_data / "epic" / "clips" / "P01_01_uid10_open_drawer_f1498-1572_rgb.mp4"


def motion_of(path: Path, cache: Path, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Our flow (n, 256, 456, 2) in pixels between pairs of frames, all as far apart."""
    step = pairs[0][1] - pairs[0][0]
    flow = ComputedFlow(VideoFrames(path), 75, 256, step, FlowCache(cache))
    frames = flow.frames.read([i for pair in pairs for i in pair])
    fields = [flow.computed(a, frames[2 * n], frames[2 * n + 1]) for n, (a, _) in enumerate(pairs)]
    return np.stack(fields).astype(np.float64) / 255 * 40 - 20


@pytest.mark.real
@pytest.mark.slow
def test_the_flow_that_epic_distributes_is_ours_over_six_frames(drawer, tmp_path):
    """Picture n shows the motion from RGB frame 2 n - 5 to 2 n + 1, at most 25 pixels of it.

    So the v1 of github.com/dl-container-registry/furnari-flow computes it with stride 2 and dilation 3, which EPIC's
    first README names along with the bound of 25 pixels.
    """
    numbers = [5, 14, 23, 32]  # of the file: 749 + these of the video, and frame 1498 is frame 0
    theirs = (
        np.stack(SideBySide(drawer.with_name(drawer.name.replace("_rgb", "_flow_uv"))).read(numbers)) / 255 * 50 - 25
    )
    ours = motion_of(drawer, tmp_path, [(2 * k - 5, 2 * k + 1) for k in numbers])
    within = (np.abs(theirs) < 19.5).all(-1)
    correlations = [np.corrcoef(ours[..., axis][within], theirs[..., axis][within])[0, 1] for axis in range(2)]
    error = np.linalg.norm(ours - theirs, axis=-1)[within].mean()
    print("correlation", correlations, "end-point error", error, "of", np.linalg.norm(theirs, axis=-1)[within].mean())
    assert min(correlations) > 0.85
    assert error < 1.3
    unlike = motion_of(drawer, tmp_path, [(2 * k, 2 * k + 6) for k in numbers])
    others = [np.corrcoef(unlike[..., axis][within], theirs[..., axis][within])[0, 1] for axis in range(2)]
    assert max(others) < min(correlations) - 0.1


@pytest.mark.real
def test_the_real_segment_reads_the_flow_that_was_cut_with_it(drawer, real_data, tmp_path):
    for path in [drawer, drawer.with_name(drawer.name.replace("_rgb", "_flow_uv"))]:
        (tmp_path / "clips").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "clips" / path.name)
    lists = real_data / "epic" / "annotations55"
    data = plugins.create(
        "datasets",
        f'epic_kitchens:root="{tmp_path}",annotations="{lists}",version=55,part=train,flow_root="{tmp_path}"',
    )
    data.adapt(ClipInput(length=5, anchor="spread", size=(256, 456), crop="none", pixels=True, flow=1))
    clip = clip_of(data, "P01_01_10")
    segment = data._segments["P01_01_10"]
    stored = SideBySide(tmp_path / "clips" / drawer.name.replace("_rgb", "_flow_uv"))
    numbers = [(segment.start + 15 * t - 1) // 2 + 1 - 749 for t in range(5)]
    for t, field in enumerate(stored.read(numbers)):
        np.testing.assert_allclose(clip.frames[3:, t].numpy() * 255, field.transpose(2, 0, 1), atol=1e-3)
