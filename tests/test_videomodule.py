"""Data sets of videos deliver the streams that a model asks for, with flow computed or read."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vidattr_bench import motion, plugins
from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.model import ClipInput
from vidattr_bench.spec import render
from vidattr_bench.video import frame_count, write_video

DATA = Path(__file__).parent / "data"
SETS = ("ucf101", "hmdb51", "jhmdb", "kinetics", "something_something", "folder")
ASKED = ClipInput(length=3, stride=2, anchor="start", size=(24, 32), crop="none", pixels=True, flow=2)
FLOW_ALONE = dataclasses.replace(ASKED, pixels=False)


def writer(name: str):
    spec = importlib.util.spec_from_file_location(f"write_{name}", DATA / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = writer("flow")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return {name: writer(name).write(tmp_path_factory.mktemp(name)) for name in SETS}


@pytest.fixture
def create(roots, tmp_path):
    """A data set on fakes, which keeps flow in a folder of the test."""

    def make(name: str, asked: ClipInput = ASKED, **options):
        given = {"root": roots[name], "flow_cache": tmp_path / "cache", "flow_side": 24, **options}
        given |= {"part": "all"} if name != "hmdb51" else {}
        data = plugins.create("datasets", render(name, given))
        data.adapt(asked)
        return data

    return make


@pytest.mark.parametrize("name", SETS)
def test_a_clip_holds_the_streams_that_are_asked_for(name, create):
    data = create(name)
    ref = data.refs()[0]
    both = data.load(ref)
    assert both.frames.shape == (3 + 4, 3, 24, 32)
    plain = create(name, dataclasses.replace(ASKED, flow=0)).load(ref)
    alone = create(name, FLOW_ALONE).load(ref)
    assert torch.equal(both.frames[:3], plain.frames)
    assert torch.equal(both.frames[3:], alone.frames)
    for one in (both, alone):
        assert torch.equal(one.annotated, plain.annotated)
        assert [tube.boxes.tolist() for tube in one.tubes] == [tube.boxes.tolist() for tube in plain.tubes]
    assert not data.read(0, data.refs()[:2]).unreadable


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("layout", ["twostreamfusion", "tsn"])
def test_flow_that_was_extracted_before_is_found_by_the_clips_place(name, layout, create, tmp_path, monkeypatch):
    monkeypatch.setattr(motion, "optical_flow", lambda *args: pytest.fail("flow was computed"))
    data = create(name, flow_root=tmp_path / "flow")
    ref = data.refs()[0]
    place = data.flow_names(ref)[0] if name == "folder" else data.video(ref).stem
    total = frame_count(data.video(ref))
    fake.write(tmp_path / "flow", place, fake.flat_fields(total - 1), layout)
    levels = (data.load(ref).frames[3:, :, 5, 7] * 255).round().int()
    shown = [i for i in (0, 2, 4) if i < total]
    expected = [[max(min(i + at, total - 2), 0) for i in shown] for at in (-1, 0)]
    for at in (0, 1):
        assert levels[2 * at, : len(shown)].tolist() == [100 + k for k in expected[at]]
        assert levels[2 * at + 1, : len(shown)].tolist() == [160 + k for k in expected[at]]


@pytest.mark.parametrize("spelt", ["v_HandStandPushups_g01_c01", "v_HandstandPushups_g01_c01"])
@pytest.mark.parametrize("folder", ["", "HandstandPushups/"])
def test_the_flow_of_handstand_push_ups_is_found_in_either_spelling(spelt, folder, create, tmp_path):
    data = create("ucf101", flow_root=tmp_path / "flow")
    fake.write(tmp_path / "flow", folder + spelt, fake.flat_fields(5), "twostreamfusion")
    clip = data.load(next(ref for ref in data.refs() if ref.id == "v_HandStandPushups_g01_c01"))
    assert (clip.frames[3:5, 1, 0, 0] * 255).round().tolist() == [101, 161]


def test_one_clip_without_its_flow_costs_its_own_rows_only(create, tmp_path):
    data = create("ucf101", flow_root=tmp_path / "flow")
    refs = data.refs()
    for ref in refs[1:]:
        total = frame_count(data.video(ref))
        wrong = 3 if ref is refs[1] else 0
        fake.write(tmp_path / "flow", ref.id, fake.flat_fields(total - 1 - wrong), "twostreamfusion")
    data.fingerprint()
    work = data.read(0, refs)
    assert list(work.batch.ids) == [ref.id for ref in refs[2:]]
    missing, short = work.unreadable
    assert (missing.id, missing.inconsistent) == (refs[0].id, False)
    assert "leave flow_root out" in missing.reason
    assert (short.id, short.inconsistent) == (refs[1].id, True)
    assert "fields of flow" in short.reason


def test_no_flow_at_all_is_said_before_anything_is_computed(create, tmp_path):
    with pytest.raises(DataError, match="there is no such folder; give flow_root"):
        create("ucf101", flow_root=tmp_path / "flow").fingerprint()
    (tmp_path / "flow").mkdir()
    with pytest.raises(DataError, match="holds no flow of v_SalsaSpin_g09_c03"):
        create("ucf101", flow_root=tmp_path / "flow").fingerprint()


@pytest.mark.parametrize("name", [*SETS, "concatenated"])
def test_the_fingerprint_tells_flow_from_none_and_one_flow_from_another(name, create, roots, tmp_path):
    def fingerprint(asked=ASKED, **options):
        if name != "concatenated":
            return create(name, asked, **options).fingerprint()
        of = create("ucf101", ClipInput(), **options)
        data = plugins.create("datasets", "concatenated", of=of)
        data.adapt(asked)
        return data.fingerprint()

    plain = dataclasses.replace(ASKED, flow=0)
    assert fingerprint(plain) == fingerprint(plain, flow_side=40)
    found = {fingerprint(plain), fingerprint(), fingerprint(flow_side=40), fingerprint(flow_step=2)}
    assert len(found) == 4
    assert fingerprint() == fingerprint(flow_cache=tmp_path / "other")
    source = create("ucf101" if name == "concatenated" else name)
    for ref in source.refs():
        total = frame_count(source.video(ref))
        fake.write(tmp_path / "flow", source.flow_names(ref)[0], fake.flat_fields(total - 1), "tsn")
    found.add(stored := fingerprint(flow_root=tmp_path / "flow"))
    assert len(found) == 5
    assert fingerprint(flow_root=tmp_path / "flow", flow_every=2) not in found
    shutil.copytree(tmp_path / "flow", tmp_path / "moved")
    assert fingerprint(flow_root=tmp_path / "moved") == stored
    picture = next((tmp_path / "moved").rglob("flow_x_00001.jpg"))
    picture.write_bytes(picture.read_bytes() + b"more")
    assert fingerprint(flow_root=tmp_path / "moved") != stored


def test_two_clips_never_share_a_flow(create, tmp_path):
    for name in ("a/1.avi", "a/1.mkv"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "videos" / name, torch.zeros(4, 8, 8, 3, dtype=torch.uint8), lossless=True)
    fake.write(tmp_path / "flow", "a/1", fake.flat_fields(3), "tsn")
    data = create("folder", root=tmp_path / "videos", flow_root=tmp_path / "flow")
    with pytest.raises(DataError, match=r"is the flow of a/1.avi and of a/1.mkv"):
        data.fingerprint()
    fake.write(tmp_path / "by name", "1", fake.flat_fields(3), "tsn")
    with pytest.raises(DataError, match="holds no flow of a/1"):
        create("folder", root=tmp_path / "videos", flow_root=tmp_path / "by name").fingerprint()


def test_an_option_out_of_range_is_named(create):
    for options in ({"flow_side": 8}, {"flow_step": 0}, {"flow_every": 0}):
        ((field, value),) = options.items()
        with pytest.raises(DataError, match=f"{field}={value} must be"):
            create("ucf101", **options)


def test_flow_for_every_second_frame(create, tmp_path):
    data = create("ucf101", flow_root=tmp_path / "flow", flow_every=2)
    ref = next(ref for ref in data.refs() if ref.id == "v_Biking_g05_c02")
    fake.write(tmp_path / "flow", ref.id, fake.flat_fields(5), "twostreamfusion")
    assert ((data.load(ref).frames[5, :, 0, 0] * 255).round() - 100).tolist() == [0, 1, 2]
    with pytest.raises(InconsistentError, match=r"5 fields of flow.* every 1 of the 11 frames"):
        create("ucf101", flow_root=tmp_path / "flow").load(ref)


# --- joined clips


def test_joined_clips_have_the_flow_of_their_members(create):
    source = create("ucf101", ClipInput())
    data = plugins.create("datasets", "concatenated:axis=time", of=source)
    assert data.delivers_flow
    data.adapt(dataclasses.replace(FLOW_ALONE, length=6))
    clip = data.load(data.refs()[0])
    assert clip.frames.shape == (4, 6, 24, 32)
    first, second = (create("ucf101", dataclasses.replace(FLOW_ALONE, length=3)).load(ref) for ref in _members(data))
    assert torch.equal(clip.frames, torch.cat([first.frames, second.frames], 1))


def _members(data):
    pair = data._pairs[data.refs()[0].id]
    return (pair.target, pair.partner) if pair.target_first else (pair.partner, pair.target)


def test_frames_past_the_end_of_a_member_are_unknown_in_flow_as_in_pixels(create):
    known = []
    for asked in (ASKED, FLOW_ALONE, dataclasses.replace(ASKED, flow=0)):
        data = plugins.create("datasets", "concatenated:axis=time", of=create("ucf101", ClipInput()))
        data.adapt(dataclasses.replace(asked, length=20))
        ref = next(ref for ref in data.refs() if ref.id.startswith("v_HandStandPushups"))
        known.append(data.load(ref).annotated)
    assert torch.equal(known[0], known[2])
    assert not known[1].all()
    assert (known[1] <= known[2]).all(), "a frame past the end is never known"


def test_a_data_set_that_is_rendered_delivers_no_flow():
    with pytest.raises(DataError, match="PlantedActions delivers no optical flow"):
        plugins.create("datasets", "planted_actions").adapt(FLOW_ALONE)
    with pytest.raises(DataError, match="Concatenated delivers no optical flow"):
        plugins.create("datasets", "concatenated").adapt(FLOW_ALONE)


def test_what_does_not_move_has_no_flow_and_what_moves_right_has_it_to_the_right(create, tmp_path):
    still, moving = (_texture(seed) for seed in (0, 1))
    frames = still.repeat(4, 1, 1, 1)
    for t in range(4):
        frames[t, 14:34, 10 + 2 * t : 38 + 2 * t] = moving[14:34, 10:38]
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.avi", frames, lossless=True)
    asked = ClipInput(length=2, anchor="start", size=(48, 64), pixels=False, flow=1)
    data = create("folder", asked, root=tmp_path / "videos", flow_side=48)
    u, v = (data.load(data.refs()[0]).frames[:, 0] * 40 - 20).numpy()
    assert abs(u[18:30, 18:34].mean() - 2) < 0.3
    assert np.abs(v[18:30, 18:34]).mean() < 0.3
    assert np.hypot(u, v)[:, :5].mean() < 0.3


def _texture(seed: int) -> torch.Tensor:
    """Uint8 (48, 64, 3)."""
    noise = torch.rand(1, 1, 12, 16, generator=torch.Generator().manual_seed(seed))
    grey = torch.nn.functional.interpolate(noise, (48, 64), mode="bicubic")[0, 0].clamp(0, 1) * 255
    return grey.to(torch.uint8)[..., None].repeat(1, 1, 3)
