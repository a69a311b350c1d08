"""UCF101: lists, clips on disk, tubes, and boxes that lie where the pixels are."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vidattr_bench.errors import DataError, PluginError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create, load
from vidattr_bench.video import frame_count

_spec = importlib.util.spec_from_file_location("ucf101_data", Path(__file__).parent / "data" / "ucf101.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)
ucf101 = importlib.import_module(load("datasets", "ucf101").__module__)
on_disk = importlib.import_module(ucf101.__name__.replace("ucf101", "_ucf101"))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return fake.write(tmp_path_factory.mktemp("ucf101"))


@pytest.fixture
def root(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "root"))


def module(root: Path, options: str = "part=all", **wanted):
    data = create("datasets", f'ucf101:root="{root}",{options}')
    data.adapt(ClipInput(**{"length": 20, "anchor": "start", "size": (60, 72), "interpolation": "area"} | wanted))
    return data


def clip_of(data, name: str):
    return data.load(next(ref for ref in data.refs() if ref.id == name))


# --- lists, and what is on disk


def test_the_plan_holds_what_is_there_and_counts_the_rest(root):
    data = module(root, "part=test")
    assert [ref.id for ref in data.refs()] == [
        "v_Basketball_g01_c01",
        "v_Biking_g05_c02",
        "v_HandStandPushups_g01_c01",
        "v_Punch_g03_c01",
    ]
    assert data.missing() == ["v_Basketball_g01_c02"]
    assert [ref.label for ref in data.refs()] == [0, 1, 2, 3]
    assert [ref.group for ref in data.refs()] == [
        "Basketball_g01",
        "Biking_g05",
        "HandstandPushups_g01",
        "Punch_g03",
    ]


def test_splits_and_parts_choose_their_lists(root):
    first = {ref.id for ref in module(root, "split=1,part=train").refs()}
    assert first == {"v_SalsaSpin_g09_c03"}
    assert {ref.id for ref in module(root, "split=2,part=test").refs()} == first
    everything = [ref.id for ref in module(root, "split=all,part=all").refs()]
    assert len(everything) == len(set(everything)) == 5
    assert module(root, "split=2,part=train,subset=24").split_name == "2/train/24"


def test_the_subset_with_tubes_has_its_24_classes(root):
    data = module(root, "part=all,subset=24")
    assert len(data.classes) == 24
    assert {ref.id: data.classes[ref.label] for ref in data.refs()} == {
        "v_SalsaSpin_g09_c03": "SalsaSpin",
        "v_Basketball_g01_c01": "Basketball",
        "v_Biking_g05_c02": "Biking",
    }
    assert {tube.label for tube in clip_of(data, "v_Biking_g05_c02").tubes} == {data.classes.index("Biking")}


def test_folders_and_clips_are_matched_whatever_their_case(root):
    (root / "UCF-101" / "HandstandPushups").rename(root / "UCF-101" / "HandStandPushups")
    assert clip_of(module(root), "v_HandStandPushups_g01_c01").label == 2


def test_of_a_clip_in_several_forms_the_documented_one_is_read(root):
    pixels = fake.frames_of("v_Punch_g03_c01")
    fake.write_folder(root / "rgb-images" / "Punch" / "v_Punch_g03_c01", pixels)
    fake.write_video(root / "videos.gif", pixels)
    (root / "UCF-101" / "Punch" / "v_Punch_g03_c01.gif").write_bytes((root / "videos.gif").read_bytes())
    forms = [".avi", "", ".gif"]
    for form in forms:
        path = module(root)._clips["v_punch_g03_c01"]
        assert path.suffix == form
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "v_Punch_g03_c01" in module(root).missing()


def test_clips_directly_below_root_are_found(root):
    (root / "UCF-101" / "Punch").rename(root / "Punch")
    assert clip_of(module(root), "v_Punch_g03_c01").label == 3


@pytest.mark.parametrize(
    "line",
    [
        "../../../etc/passwd",
        "Basketball/../../v_Basketball_g01_c01.avi",
        "/Basketball/v_Basketball_g01_c01.avi",
        "Knitting/v_Knitting_g01_c01.avi",
        "Basketball/passwd",
    ],
)
def test_a_line_that_is_no_clip_of_a_class_is_refused(root, line):
    (root / "splits" / "testlist01.txt").write_text(f"Punch/v_Punch_g03_c01.avi\n{line}\n")
    with pytest.raises(DataError, match=r"testlist01\.txt:2"):
        module(root, "part=test").refs()


def test_what_is_missing_is_named_with_a_remedy(root, tmp_path):
    with pytest.raises(DataError, match="give ucf101:root=DIR"):
        module(tmp_path / "nowhere").refs()
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="give splits=DIR"):
        module(tmp_path / "bare").refs()
    shutil.copytree(root / "splits", tmp_path / "bare" / "ucfTrainTestlist")
    with pytest.raises(DataError, match="none of the 7 clips"):
        module(tmp_path / "bare").refs()
    (root / "splits" / "testlist01.txt").unlink()
    with pytest.raises(DataError, match=r"testlist01\.txt"):
        module(root).refs()


@pytest.mark.parametrize(("options", "what"), [("split=4", "split"), ("part=dev", "part"), ("subset=50", "subset")])
def test_unknown_options_are_refused(root, options, what):
    with pytest.raises((DataError, PluginError), match=what):
        module(root, options)


def test_clips_without_any_tube_file_are_unknown_and_the_24_need_it(root):
    shutil.rmtree(root / "tubes")
    assert not clip_of(module(root), "v_Biking_g05_c02").annotated.any()
    with pytest.raises(DataError, match="tubes=FILE"):
        clip_of(module(root, "part=all,subset=24"), "v_Biking_g05_c02")


def test_the_fingerprint_follows_sizes_lists_and_tubes(root):
    seen = {module(root).fingerprint()}
    changes = [root / "UCF-101/Punch/v_Punch_g03_c01.avi", root / "splits/classInd.txt", root / "tubes/finalAnnots.mat"]
    changes.append(root / "rgb-images/SalsaSpin/v_SalsaSpin_g09_c03/00003.jpg")
    for path in changes:
        assert module(root).fingerprint() in seen
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(module(root).fingerprint())
    assert len(seen) == 5


def test_a_damaged_clip_costs_no_other_its_place(root):
    clip = root / "UCF-101" / "Biking" / "v_Biking_g05_c02.mkv"
    clip.write_bytes(clip.read_bytes()[:400])
    data = module(root)
    work = data.read(0, data.refs())
    assert len(work.batch) == 4
    assert [bad.id for bad in work.unreadable] == ["v_Biking_g05_c02"]
    assert clip.name in work.unreadable[0].reason


def test_refs_decode_nothing(root):
    for path in [*root.rglob("*.avi"), *root.rglob("*.mkv"), *root.rglob("*.jpg")]:
        path.write_bytes(b"")
    assert len(module(root).refs()) == 5


# --- tubes


def check_that_boxes_lie_where_pixels_are(root: Path, **wanted) -> None:
    """The white rectangles of the fake clips fill the masks of their tubes, frame by frame, and nothing else."""
    data = module(root, "part=all,subset=24", **wanted)
    for ref in data.refs():
        clip = data.load(ref)
        white = clip.frames.mean(0) > 0.5
        masks = torch.zeros_like(white)
        for tube in clip.tubes:
            masks |= tube.mask(*white.shape)
        inside, outside = erode(masks), ~erode(~masks)
        assert inside.any()
        assert (white | ~inside).all(), "a pixel inside the tube is black"
        assert (~white | outside).all(), "a pixel outside the tube is white"


def erode(masks: torch.Tensor) -> torch.Tensor:
    """Without the pixels within one of the edge, where resampling and JPEG blur."""
    return torch.nn.functional.max_pool2d((~masks).float(), 3, 1, 1) == 0


GEOMETRIES = [
    {"size": (60, 72)},
    {"size": (96, 128), "crop": "none"},
    {"size": (80, 64), "resize": 90, "length": 5, "stride": 2, "anchor": "middle"},
    {"size": (120, 160), "length": 4, "anchor": "spread", "interpolation": "bilinear"},
]


@pytest.mark.parametrize("wanted", GEOMETRIES)
@pytest.mark.parametrize("tubes", ["finalAnnots.mat", "pyannot.pkl"])
def test_boxes_lie_where_pixels_are(root, wanted, tubes):
    for path in (root / "tubes").iterdir():
        if path.name != tubes:
            path.unlink()
    check_that_boxes_lie_where_pixels_are(root, **wanted)


def roll(tube, by: int):
    return dataclasses.replace(tube, boxes=np.roll(tube.boxes, by, axis=0))


def wrapped(boxes_in, tube, size, clip):
    boxes = boxes_in(tube, on_disk.FRAME, clip)
    boxes[:, 2:] %= 256
    return boxes * torch.tensor([size[1] / 320, size[0] / 240] * 2)


MISTAKES = {
    "a frame late": lambda boxes_in, tube, size, clip: boxes_in(roll(tube, 1), size, clip),
    "a frame early": lambda boxes_in, tube, size, clip: boxes_in(roll(tube, -1), size, clip),
    "x and y swapped": lambda boxes_in, tube, size, clip: boxes_in(tube, size, clip)[:, [1, 0, 3, 2]],
    "not scaled": lambda boxes_in, tube, size, clip: boxes_in(tube, on_disk.FRAME, clip),
    "wrapped at 256": wrapped,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_caught(root, monkeypatch, mistake):
    monkeypatch.setattr(ucf101, "boxes_in", functools.partial(MISTAKES[mistake], on_disk.boxes_in))
    with pytest.raises(AssertionError, match=r"(inside|outside) the tube"):
        check_that_boxes_lie_where_pixels_are(root, **GEOMETRIES[1])


def test_frames_outside_the_tubes_are_empty_and_past_the_end_unknown(root):
    clip = clip_of(module(root, length=24), "v_Basketball_g01_c01")
    assert clip.annotated.tolist() == [True] * 20 + [False] * 4
    (tube,) = clip.tubes
    assert (tube.start, len(tube.boxes)) == (4, 8)
    assert not clip_of(module(root), "v_Punch_g03_c01").annotated.any()


def test_several_tubes_of_a_clip_stay_apart(root):
    clip = clip_of(module(root, length=11), "v_Biking_g05_c02")
    assert [(tube.start, len(tube.boxes)) for tube in clip.tubes] == [(0, 11), (2, 5)]
    late = clip_of(module(root, length=3, anchor="end"), "v_Biking_g05_c02")
    assert [(tube.start, len(tube.boxes)) for tube in late.tubes] == [(0, 3)]


def test_another_number_of_frames_than_the_annotation_is_refused(root):
    picture = root / "rgb-images" / "SalsaSpin" / "v_SalsaSpin_g09_c03" / "00013.jpg"
    picture.unlink()
    with pytest.raises(DataError, match=r"12 frames, but its tubes .* drawn on 13"):
        clip_of(module(root), "v_SalsaSpin_g09_c03")


@pytest.mark.parametrize(
    ("tube", "what"),
    [
        (on_disk.RawTube("Biking", 3, 4, np.array([[1, 1, 9, 9]])), "has 1 boxes"),
        (on_disk.RawTube("Biking", 0, 0, np.array([[1, 1, 9, 9]])), "has 1 boxes"),
        (on_disk.RawTube("Biking", 3, 4, np.array([[1, 1, 9, 9], [400, 1, 9, 9]])), "in frame 4"),
        (on_disk.RawTube("Biking", 3, 3, np.array([[50, 60, 0, 9]])), "in frame 3"),
    ],
)
def test_an_absurd_tube_is_refused_by_name(tube, what):
    with pytest.raises(DataError, match=f"v_X: the tube of frames .*{what}"):
        on_disk.boxes_in(tube, (240, 320), "v_X")


def test_a_box_over_the_edge_is_cut_to_the_frame():
    tube = on_disk.RawTube("Biking", 1, 1, np.array([[0, 201, 21, 90]], np.uint8))
    assert on_disk.boxes_in(tube, (480, 320), "v_X").tolist() == [[0, 400, 20, 480]]


class Malicious:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: np.array([x], dtype=object), lambda x: np.float64.fromhex])
def test_a_pickle_that_asks_for_anything_but_arrays_is_refused_and_not_run(tmp_path, wrap):
    path, made = tmp_path / "evil.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps({"Biking/v_Biking_g05_c02": wrap(Malicious(made))}))
    with pytest.raises(DataError, match=r"evil\.pkl.*only NumPy arrays"):
        on_disk.read_tubes(path)
    assert not made.exists()


def test_the_unpickler_admits_the_names_of_old_and_new_numpy():
    data = pickle.dumps({"boxes": np.array([[1, 2, 3, 4]], np.uint8), "numf": np.uint8(7)}, protocol=3)
    new = b"numpy._core.multiarray"
    for name in (new, b"numpy.core.multiarray"):
        path = data.replace(b"numpy.core.multiarray", new).replace(new, name)
        loaded = on_disk._ArraysOnly(on_disk.io.BytesIO(path)).load()
        assert loaded["boxes"].tolist() == [[1, 2, 3, 4]]
        assert loaded["numf"] == 7


@pytest.mark.parametrize("name", ["finalAnnots.mat", "pyannot.pkl"])
def test_damaged_tube_files_are_refused(root, name):
    path = root / "tubes" / name
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"no annotation"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=name):
            on_disk.read_tubes(path)


# --- the real clips

# Numbers of frames from the annotation (data/README.md).
FRAMES = {
    "v_Basketball_g01_c01": 141,
    "v_Basketball_g01_c02": 180,
    "v_Biking_g05_c02": 201,
    "v_CliffDiving_g01_c01": 90,
    "v_Diving_g01_c01": 259,
    "v_Fencing_g01_c01": 147,
    "v_Fencing_g01_c02": 161,
    "v_HorseRiding_g16_c02": 161,
    "v_SalsaSpin_g03_c01": 168,
    "v_SkateBoarding_g02_c01": 369,
    "v_Skiing_g24_c01": 134,
    "v_SoccerJuggling_g16_c01": 599,
    "v_SoccerJuggling_g23_c01": 240,
    "v_Surfing_g25_c02": 153,
    "v_WalkingWithDog_g19_c05": 240,
}


@pytest.mark.real
@pytest.mark.slow
def test_every_annotated_clip_decodes_to_the_annotated_number_of_frames(real_data):
    data = module(real_data / "ucf101", "part=all,subset=24")
    assert {ref.id for ref in data.refs()} == set(FRAMES)
    for ref in data.refs():
        key = ref.id.casefold()
        assert frame_count(data._clips[key]) == data._annotations[key].frames == FRAMES[ref.id]


@pytest.mark.real
def test_the_official_lists_name_every_clip_once(real_data):
    data = module(real_data / "ucf101", "split=all,part=all")
    assert len(data.refs()) + len(data.missing()) == 13320
    assert len(data.refs()) == 23
    assert len(data.classes) == 101
    hand_stands = [name for name in data.missing() if name.casefold().startswith("v_handstandpushups")]
    assert len(hand_stands) == 128


@pytest.mark.real
def test_mat_and_pickle_hold_the_same_4458_tubes(real_data):
    tubes = real_data / "ucf101" / "tubes"
    mat, pickled = on_disk.read_tubes(tubes / "finalAnnots.mat"), on_disk.read_tubes(tubes / "pyannot.pkl")
    assert mat.keys() == pickled.keys()
    assert sum(len(annotation.tubes) for annotation in mat.values()) == 4458
    for name, annotation in mat.items():
        assert annotation.frames == pickled[name].frames
        for one, other in zip(annotation.tubes, pickled[name].tubes, strict=True):
            assert (one.label, one.first, one.last) == (other.label, other.first, other.last)
            assert np.array_equal(one.boxes, other.boxes)
            on_disk.boxes_in(one, on_disk.FRAME, name)


# Boxes x, y, w, h read from the original XML (tubes/xgtf/<clip>.xgtf) in frames where the corrected file agrees with
# it, and turned into x0, y0, x1, y1 of the decoded frames by hand: x0 = x - 1, x1 = x0 + w, times 340/320 and 256/240
# in a 340x256 video; in the last case times 149/320 and 112/240, minus the 18 columns that the crop takes off.
BY_HAND = [
    # avi; frame 1: 7 3 139 229 and 191 9 115 164; frame 31: 48 1 139 229 and 158 7 115 164
    (
        "v_Biking_g05_c02",
        {"size": (240, 320), "length": 2, "stride": 30},
        [(0, [[6, 2, 145, 231], [47, 0, 186, 229]]), (0, [[190, 8, 305, 172], [157, 6, 272, 170]])],
    ),
    # avi, the tube begins in frame 123; frames 136: 147 10 67 173; 151: 144 29 67 173; 166: 138 43 86 161
    (
        "v_Diving_g01_c01",
        {"size": (240, 320), "length": 12, "stride": 15},
        [(9, [[146, 9, 213, 182], [143, 28, 210, 201], [137, 42, 223, 203]])],
    ),
    # folder; the tube ends in frame 68; frames 31: 129 28 98 126; 61: 132 118 40 46; frame 1: 162 51 87 102
    (
        "v_CliffDiving_g01_c01",
        {"size": (240, 320), "length": 4, "stride": 30},
        [(0, [[161, 50, 248, 152], [128, 27, 226, 153], [131, 117, 171, 163]])],
    ),
    # 340x256 mp4; frame 1: 159 49 93 124; frame 61: 103 72 62 78
    (
        "v_SkateBoarding_g02_c01",
        {"size": (256, 340), "length": 2, "stride": 60},
        [(0, [[167.875, 51.2, 266.6875, 183.46667], [108.375, 75.73333, 174.25, 158.93333]])],
    ),
    # 340x256 mp4; frame 1: 102 50 75 157 and 172 34 89 183; frame 46: 114 31 79 179, the second tube has ended
    (
        "v_SalsaSpin_g03_c01",
        {"size": (256, 340), "length": 2, "stride": 45},
        [
            (0, [[107.3125, 52.26667, 187, 219.73333], [120.0625, 32, 204, 222.93333]]),
            (0, [[181.6875, 35.2, 276.25, 230.4]]),
        ],
    ),
    # gif; frame 1: 83 25 86 181; frame 46: 113 19 86 181
    (
        "v_HorseRiding_g16_c02",
        {"size": (112, 112), "resize": 112, "length": 2, "stride": 45},
        [(0, [[20.18125, 11.2, 60.225, 95.66667], [34.15, 8.4, 74.19375, 92.86667]])],
    ),
]


def check_by_hand(real_data: Path, name: str, wanted: dict, tubes: list) -> None:
    clip = clip_of(module(real_data / "ucf101", "part=all,subset=24", **wanted), name)
    assert len(clip.tubes) == len(tubes), "another number of tubes"
    for tube, (start, boxes) in zip(clip.tubes, tubes, strict=True):
        assert tube.start == start, "another first frame"
        torch.testing.assert_close(tube.boxes, torch.tensor(boxes, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.real
@pytest.mark.parametrize(("name", "wanted", "tubes"), BY_HAND, ids=[case[0] for case in BY_HAND])
def test_boxes_of_real_clips_are_those_of_the_original_annotation(real_data, name, wanted, tubes):
    check_by_hand(real_data, name, wanted, tubes)


# The mistakes that must show in each of the cases by hand: a 320x240 frame needs no scale, few boxes reach past 256.
SHOWN = [
    (case, mistake)
    for case in BY_HAND
    for mistake in MISTAKES
    if not (mistake == "not scaled" and case[1]["size"] == (240, 320))
    and not (mistake == "not scaled" and case[0] == "v_HorseRiding_g16_c02")
    and not (mistake == "wrapped at 256" and case[0] not in ("v_Biking_g05_c02", "v_SalsaSpin_g03_c01"))
]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("case", "mistake"), SHOWN, ids=[f"{case[0]}-{mistake}" for case, mistake in SHOWN])
def test_each_mistake_is_caught_by_real_clips(real_data, monkeypatch, case, mistake):
    monkeypatch.setattr(ucf101, "boxes_in", functools.partial(MISTAKES[mistake], on_disk.boxes_in))
    with pytest.raises(AssertionError, match=r"not close|not equal|another"):
        check_by_hand(real_data, *case)
