"""Flow that was extracted before: every layout gives the fields that were written, and what is wrong is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.stored_flow import PicturePairs, SideBySide, StoredFlow, find_fields, flow_values
from vidattr_bench.video import write_video

_spec = importlib.util.spec_from_file_location("flow_data", Path(__file__).parent / "data" / "flow.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)
VIDEO = Path("videos/clip.avi")


@pytest.mark.parametrize("layout", fake.LAYOUTS)
@pytest.mark.parametrize("name", ["v_Punch_g03_c01", "Punch/v_Punch_g03_c01"])
def test_every_layout_gives_the_fields_that_were_written(layout, name, tmp_path):
    fields = fake.flat_fields(12)
    fake.write(tmp_path, name, fields, layout)
    found = find_fields(tmp_path, ["videos/Punch/v_Punch_g03_c01", "Punch/v_Punch_g03_c01", "v_Punch_g03_c01"])
    assert found.count == 12
    for k, field in zip([7, 2, 11], found.read([7, 2, 11]), strict=True):
        np.testing.assert_array_equal(field, fields[k])


@pytest.mark.parametrize("layout", fake.LAYOUTS)
def test_a_field_that_varies_comes_through_the_files_as_it_was(layout, tmp_path):
    """To a level or two: pictures are JPEG files."""
    ramp = np.linspace(0, 255, 24 * 32).reshape(24, 32)
    field = np.stack([ramp, ramp[::-1, ::-1]], -1).round().astype(np.uint8)
    fake.write(tmp_path, "clip", np.stack([field] * 2), layout)
    (found,) = find_fields(tmp_path, ["clip"]).read([1])
    assert np.abs(found.astype(int) - field).max() <= (0 if layout.startswith("video") else 3)


def test_grey_jpeg_files_keep_every_level(tmp_path):
    for level in range(256):
        Image.fromarray(np.full((16, 16), level, np.uint8)).save(tmp_path / f"frame{level:06d}.jpg", quality=95)
    found = PicturePairs(tmp_path, tmp_path, tmp_path).read(range(256))
    assert [int(field[3, 4, 0]) for field in found] == list(range(256))


def test_the_first_name_that_has_flow_counts(tmp_path):
    fake.write(tmp_path, "clip", fake.flat_fields(3), "epic")
    fake.write(tmp_path, "Punch/clip", fake.flat_fields(5), "twostreamfusion")
    assert find_fields(tmp_path, ["Punch/clip", "clip"]).count == 5
    assert find_fields(tmp_path, ["Kick/clip", "clip"]).count == 3


def test_flow_that_is_not_there_is_named_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"holds no flow of clip.*leave flow_root out"):
        find_fields(tmp_path, ["Punch/clip", "clip"])
    with pytest.raises(DataError, match=r"nowhere: there is no such folder; give flow_root"):
        find_fields(tmp_path / "nowhere", ["clip"])


@pytest.mark.parametrize(("layout", "half"), [("twostreamfusion", "v/clip"), ("epic", "clip/u")])
def test_half_of_a_flow_is_no_flow(layout, half, tmp_path):
    fake.write(tmp_path, "clip", fake.flat_fields(3), layout)
    (tmp_path / half).rename(tmp_path / "away")
    with pytest.raises(DataError, match=f"{half}: is missing beside the other half"):
        find_fields(tmp_path, ["clip"])


@pytest.mark.parametrize("layout", ["twostreamfusion", "tsn"])
def test_a_picture_more_to_the_right_than_down_is_inconsistent(layout, tmp_path):
    fake.write(tmp_path, "clip", fake.flat_fields(4), layout)
    (tmp_path / fake.PAIRS[layout][1].replace("NAME", "clip").format(4)).unlink()
    with pytest.raises(InconsistentError, match=r"holds 4 pictures of motion to the right.* 3 of"):
        StoredFlow(find_fields(tmp_path, ["clip"]), VIDEO, 5, 1)


def test_a_picture_that_is_missing_or_damaged_is_named(tmp_path):
    fake.write(tmp_path, "clip", fake.flat_fields(4), "twostreamfusion")
    picture = tmp_path / "v/clip/frame000002.jpg"
    picture.write_bytes(picture.read_bytes()[:200])
    fields = find_fields(tmp_path, ["clip"])
    fields.read([0, 2])
    with pytest.raises(DataError, match=r"v/clip/frame000002.jpg: is damaged"):
        fields.read([0, 1])
    picture.unlink()
    with pytest.raises(DataError, match="picture number 2 is missing"):
        find_fields(tmp_path, ["clip"]).read([0])


def test_pictures_of_unequal_size_are_refused(tmp_path):
    fake.write(tmp_path, "clip", fake.flat_fields(3), "twostreamfusion")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "u/clip/frame000002.jpg")
    flow = StoredFlow(find_fields(tmp_path, ["clip"]), VIDEO, 4, 1)
    with pytest.raises(DataError, match=r"frame000002.jpg: is of another size than"):
        flow.found([1])
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "v/clip/frame000002.jpg")
    with pytest.raises(DataError, match="differ in size"):
        flow.found([0, 1])


def test_pictures_in_colour_are_no_flow(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8).repeat(6, 0).repeat(8, 1)
    (tmp_path / "clip").mkdir()
    Image.fromarray(colours).save(tmp_path / "clip/00001.jpg")
    with pytest.raises(DataError, match=r"clip: is a picture in colour, not one of flow; give flow_root"):
        find_fields(tmp_path, ["clip"]).read([0])
    assert flow_values(np.full((4, 6, 3), 77, np.uint8), VIDEO).tolist() == [[77] * 6] * 4


def test_an_odd_width_has_no_halves(tmp_path):
    write_video(tmp_path / "clip.avi", torch.full((3, 8, 13, 3), 128, dtype=torch.uint8), lossless=True)
    with pytest.raises(DataError, match=r"clip.avi: an odd width of 13"):
        SideBySide(tmp_path / "clip.avi").read([0])


@pytest.mark.parametrize(("every", "total", "fits"), [(1, 9, (8, 9)), (2, 9, (4, 5)), (2, 10, (5,)), (3, 10, (3, 4))])
def test_there_are_as_many_fields_as_pairs_of_frames_or_one_for_the_last_frame_too(every, total, fits, tmp_path):
    for count in range(1, 12):
        fake.write(tmp_path, f"clip{count}", fake.flat_fields(count, 8, 8), "tsn")
        fields = find_fields(tmp_path, [f"clip{count}"])
        if count in fits:
            flow = StoredFlow(fields, VIDEO, total, every)
            assert flow.fields == count
            assert [flow.place(i) for i in range(6)] == [i // every for i in range(6)]
        else:
            with pytest.raises(InconsistentError, match=rf"holds {count} fields.*{total} frames of videos/clip.avi"):
                StoredFlow(fields, VIDEO, total, every)


def test_the_stamp_changes_with_the_files(tmp_path):
    for layout in fake.LAYOUTS:
        fake.write(tmp_path / layout, "clip", fake.flat_fields(4), layout)
        before = find_fields(tmp_path / layout, ["clip"]).stamp()
        assert find_fields(tmp_path / layout, ["clip"]).stamp() == before
        fake.write(tmp_path / layout, "clip", fake.flat_fields(5), layout)
        assert find_fields(tmp_path / layout, ["clip"]).stamp() != before


@pytest.mark.real
def test_a_real_video_of_flow_side_by_side(real_data):
    path = real_data / "epic/clips/P01_01_uid10_open_drawer_f1498-1572_flow_uv.mp4"
    fields = find_fields(path.parent, [path.name.removesuffix("_flow_uv.mp4")])
    assert fields.path == path
    flow = StoredFlow(fields, path.with_name("rgb"), 75, 2)
    (field,) = flow.found([20]).values()
    assert field.shape == (256, 456, 2)
    assert abs(float(np.median(field)) - 128) < 25
