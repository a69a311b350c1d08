"""VISOR's masks in EPIC-Kitchens: polygons filled in, pictures carried to RGB frames, nouns, and damaged files."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vidattr_bench.errors import DataError, PluginError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create, load
from vidattr_bench.testing import check_dataset

_spec = importlib.util.spec_from_file_location("visor_data", Path(__file__).parent / "data" / "epic_visor.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)
_package = load("datasets", "epic_kitchens").__module__.rpartition(".")[0]
visor, lists, boxes = (importlib.import_module(f"{_package}._epic_{name}") for name in ("visor", "lists", "boxes"))


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    root = fake.epic.write(tmp_path_factory.mktemp("epic"))
    fake.write(root / "VISOR")
    return root


@pytest.fixture
def root(template, tmp_path) -> Path:
    """Lists and footage as they are, and a deposit of VISOR to be changed."""
    (tmp_path / "root").mkdir()
    for path in template.iterdir():
        if path.name != "VISOR":
            (tmp_path / "root" / path.name).symlink_to(path)
    shutil.copytree(template / "VISOR", tmp_path / "root" / "VISOR")
    return tmp_path / "root"


def module(root: Path, options: str = "version=100", **wanted):
    data = create("datasets", f'epic_kitchens:root="{root}",{options}')
    given = {"length": 9, "anchor": "spread", "size": (36, 64), "crop": "none", "interpolation": "area"}
    data.adapt(ClipInput(**given | wanted))
    return data


def clip_of(data, name: str):
    return data.load(next(ref for ref in data.refs() if ref.id == name))


def polygons(*corners) -> list[np.ndarray]:
    return [np.array(one, dtype=np.int32) for one in corners]


def annotations(root: Path, video: str = "P01_01") -> Path:
    return root / "VISOR" / visor.ANNOTATIONS / fake.PICTURES[video][0] / f"{video}.json"


# --- polygons


def test_a_square_holds_the_pixels_of_its_outline_and_within():
    mask = visor.filled(polygons([[3, 2], [8, 2], [8, 5], [3, 5]]), (9, 14))
    expected = np.zeros((9, 14), bool)
    expected[2:6, 3:9] = True
    assert np.array_equal(mask, expected)


def test_a_polygon_within_a_polygon_is_a_hole_with_its_outline_filled():
    mask = visor.filled(polygons([[1, 1], [12, 1], [12, 9], [1, 9]], [[4, 3], [8, 3], [8, 6], [4, 6]]), (11, 14))
    expected = np.zeros((11, 14), bool)
    expected[1:10, 1:13] = True
    expected[4:6, 5:8] = False
    assert np.array_equal(mask, expected)


def test_parts_that_touch_leave_no_gap():
    mask = visor.filled(polygons([[1, 1], [5, 1], [5, 4], [1, 4]], [[5, 1], [9, 1], [9, 4], [5, 4]]), (6, 12))
    assert mask[1:5, 1:10].all()
    assert mask.sum() == 4 * 9


def test_what_lies_over_the_edge_is_cut_off():
    mask = visor.filled(
        polygons([[-50, -3], [4, -3], [4, 2], [-50, 2]], [[10, 5], [900, 5], [900, 70], [10, 70]]), (8, 13)
    )
    expected = np.zeros((8, 13), bool)
    expected[:3, :5] = True
    expected[5:, 10:] = True
    assert np.array_equal(mask, expected)
    assert not visor.filled(polygons([[20, 20], [30, 20], [30, 30]]), (8, 13)).any()


@pytest.mark.parametrize("seed", range(8))
def test_polygons_are_filled_as_by_opencv(seed):
    """Even-odd, with the outlines; where slanted edges are concerned, up to the pixels beside them."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is what VISOR's own tools fill polygons with")
    draws, size = np.random.default_rng(seed), (170, 210)
    shapes = polygons(*(draws.uniform(-20, 220, (int(draws.integers(3, 8)), 2)) for _ in range(3)))
    ours, theirs, edges = visor.filled(shapes, size), np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    cv2.fillPoly(theirs, shapes, 1)
    cv2.polylines(edges, shapes, isClosed=True, color=1, thickness=5)
    assert np.array_equal(ours[edges == 0], theirs[edges == 0] > 0)
    assert (ours & (theirs > 0)).sum() > 0.95 * (ours | (theirs > 0)).sum()
    assert 0.05 < ours.mean() < 0.95


# --- masks on the footage


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"length": 60, "anchor": "start", "size": (24, 40), "crop": "centre"},
        {"length": 33, "anchor": "middle", "size": (30, 30), "resize": 32, "interpolation": "bilinear"},
    ],
)
def test_masks_lie_where_pixels_are(template, wanted):
    known = 0
    for options in ("version=100,tolerance=5", "version=55,part=train,tolerance=5"):
        data = module(template, options, **wanted)
        for ref in data.refs():
            clip = data.load(ref)
            white, masks = clip.frames.mean(0) > 0.5, torch.zeros(clip.frames.shape[1:], dtype=torch.bool)
            for tube in clip.tubes:
                assert tube.masks is not None
                masks |= tube.mask(*masks.shape)
            assert not masks[~clip.annotated].any()
            inside, near = -pooled(-masks.float()) > 0, pooled(masks.float()) > 0
            for t in clip.annotated.nonzero()[:, 0].tolist():
                assert inside[t].any()
                assert white[t][inside[t]].all()
                assert not white[t][~near[t]].any()
            known += int(clip.annotated.sum())
    assert known > 10


def pooled(masks: torch.Tensor) -> torch.Tensor:
    """The maximum within one pixel, where resampling and JPEG blur."""
    return torch.nn.functional.max_pool2d(masks, 3, 1, 1)


def test_frames_within_the_tolerance_of_a_picture_are_known_by_the_number_that_the_mapping_gives(template):
    data = module(template, "version=100,tolerance=2", length=61, anchor="start")
    clip = clip_of(data, "P01_01_17")  # frames 20670 to 20730; pictures on 20662, 20692, 20722
    expected = [20670 + i for i in clip.annotated.nonzero()[:, 0].tolist()]
    assert expected == [*range(20690, 20695), *range(20720, 20725)]
    (tube,) = clip.tubes
    assert (tube.start, len(tube.boxes)) == (20, 35)
    assert not tube.masks[5:30].any()
    assert clip_of(data, "P01_101_0").annotated.nonzero()[:, 0].tolist() == [*range(7, 12), *range(28, 33)]


def test_objects_of_one_name_are_one_instance_and_others_of_the_noun_are_further_ones(template):
    clip = clip_of(module(template, "tolerance=1", length=40, anchor="start"), "P01_02_2")
    assert [(tube.label, tube.start, len(tube.boxes)) for tube in clip.tubes] == [(1, 0, 31), (1, 0, 31)]
    assert clip.annotated.nonzero()[:, 0].tolist() == [0, 28, 29, 30]
    # The second one reaches over the lower edge of a recording of 720 lines, drawn on a canvas of 1080.
    assert clip.tubes[1].boxes[29].tolist() == [48, 30, 56, 36]


def test_the_masks_are_those_of_the_noun_and_no_hands(template):
    clip = clip_of(module(template, "tolerance=0", length=61, anchor="start"), "P01_01_17")
    x0, y0, x1, y1 = fake.boxes_at("P01_01", 20692)[0]
    assert clip.tubes[0].boxes[0].tolist() == [x0 / 30, y0 / 30, x1 / 30, y1 / 30]
    assert clip.tubes[0].masks[0].sum() == (x1 - x0) * (y1 - y0) / 900


def test_the_contract_is_kept_and_a_copy_reads_the_same(template):
    data = module(template, "tolerance=5", length=5, anchor="start")
    check_dataset(data)
    clip = clip_of(data, "P01_01_17")
    again = clip_of(pickle.loads(pickle.dumps(data)), "P01_01_17")
    assert torch.equal(clip.tubes[0].masks, again.tubes[0].masks) if clip.tubes else not again.tubes
    assert "_truth" not in data.__getstate__()


# --- which truth


def test_masks_are_taken_where_they_are_and_the_name_of_the_split_says_so(root):
    assert module(root).split_name == "100/official/test/noun/masks"
    boxed = module(root, "truth=boxes", length=61, anchor="start")
    assert boxed.split_name == "100/official/test/noun"
    assert clip_of(boxed, "P01_01_17").tubes[0].masks is None
    prints = {module(root, f"truth={truth}").fingerprint() for truth in ("boxes", "masks", "auto")}
    assert len(prints) == 2
    path = annotations(root)
    told = path.read_text()
    path.write_text(told.replace('"noun_seq', '"noun_Seq').replace("sponge", "spinge", 1))
    assert path.stat().st_size == len(told)
    assert module(root).fingerprint() not in prints
    assert module(root, "truth=boxes").fingerprint() in prints
    (root / "VISOR").rename(root.parent / "elsewhere")
    assert module(root).split_name == "100/official/test/noun"
    assert module(root, f'visor="{root.parent / "elsewhere"}"').split_name == "100/official/test/noun/masks"
    with pytest.raises(DataError, match=r"no VISOR/GroundTruth.*give visor=DIR"):
        module(root, "truth=masks").fingerprint()
    with pytest.raises(DataError, match="visor= takes the folder of VISOR's deposit"):
        module(root, f'visor="{root}"').fingerprint()


def test_what_asks_for_boxes_gets_them_though_masks_are_there(root):
    joined = module(root, "version=55,split=top20_500")
    assert joined.split_name == "55/top20_500/test/noun"
    assert module(root, "version=55,split=top20_500,truth=masks").split_name == "55/top20_500/test/noun/masks"
    given = f'boxes="{root}/step_boxes/Valid_seg_top20_500_val.csv"'
    assert module(root, f"version=55,part=train,{given}").split_name == "55/official/train/noun"
    assert module(root, "version=55,part=train,box_frames=rgb").split_name == "55/official/train/noun"
    for options in (f"{given},truth=masks", f"truth=boxes,visor={root}", f"{given},visor={root}"):
        with pytest.raises((DataError, PluginError), match="give one"):
            module(root, options)
    with pytest.raises((DataError, PluginError), match=r"truth.*mask"):
        module(root, "truth=mask")


def test_epic_55_takes_the_class_that_has_its_name_among_its_words(template):
    data = module(template, "version=55,part=train,tolerance=0", length=61, anchor="start")
    clip = clip_of(data, "P01_01_900")  # sponge is class 3 in both; frames 20643 to 20700
    assert clip.annotated.nonzero()[:, 0].tolist() == [19, 49]
    drawer = clip_of(data, "P01_02_902")  # drawer is class 4 of EPIC-55 and class 1 of EPIC-100
    assert [tube.label for tube in drawer.tubes] == [4, 4]
    assert not clip_of(data, "P01_02_903").annotated.any()  # a pan, which nobody outlined


def test_sides_belong_to_the_noun():
    assert visor.with_sides(["hand", "tap", "hand:guard", "hand:left", "glove:right"], 3) == {
        0: (0, 3),
        1: (1,),
        2: (2,),
        3: (3,),
        4: (4,),
    }


@pytest.mark.real
def test_sides_of_the_real_list(real_data):
    path = real_data / "epic" / "annotations100" / visor.NOUNS
    found = visor.with_sides(lists.read_classes(path, "id", "key"), lists.VERSIONS[100].nouns_used)
    assert {noun: classes for noun, classes in found.items() if len(classes) > 1} == {
        11: (11, 300, 301),
        60: (60, 303, 304),
    }


def test_coverage_counts_masks(template):
    found = module(template, "tolerance=0", length=61, anchor="start").coverage()
    assert (found.segments, found.without, found.annotated) == (3, 0, 2 + 2 + 1)
    assert "5 of 183 sampled frames carry truth" in str(found)
    assert found.area == pytest.approx((2 * 12 + 2 * 12 + 16) / 192 / 5, rel=1e-3)


def test_pictures_of_one_frame_are_joined_and_one_that_is_listed_twice_counts_once(root):
    path, mapping = annotations(root), root / "VISOR" / "frame_mapping.json"
    told, names = json.loads(path.read_text()), json.loads(mapping.read_text())
    told["video_annotations"] += [told["video_annotations"][1]]
    other = json.loads(json.dumps(told["video_annotations"][1]))
    other["image"]["name"] = "P01_01_frame_0000020687.jpg"
    other["annotations"][1] |= {"name": "another sponge", "segments": [fake.rectangle(0, 0, 90, 90)]}
    told["video_annotations"] += [other]
    names["P01_01"][other["image"]["name"]] = "frame_0000020692.jpg"
    path.write_text(json.dumps(told))
    mapping.write_text(json.dumps(names))
    clip = clip_of(module(root, "tolerance=0", length=61, anchor="start"), "P01_01_17")
    assert len(clip.tubes) == 2


def test_a_picture_without_mapping_costs_only_those_whose_objects_it_shows(root):
    path = annotations(root)
    told = json.loads(path.read_text())
    other = json.loads(json.dumps(told["video_annotations"][1]))
    other["image"]["name"] = "P01_01_frame_0000099999.jpg"
    other["annotations"] = other["annotations"][:1]  # a hand
    told["video_annotations"] += [other]
    path.write_text(json.dumps(told))
    assert clip_of(module(root, length=61, anchor="start"), "P01_01_17").annotated.any()


# --- damaged files


def broken(root: Path, change) -> str:
    """The reason for which P01_01_17 is not read once its annotations are changed; the other videos are."""
    path = annotations(root)
    told = json.loads(path.read_text())
    path.write_text(change(told) or json.dumps(told))
    data = module(root)
    work = data.read(0, data.refs())
    assert [bad.id for bad in work.unreadable] == ["P01_01_17"]
    assert list(work.batch.ids) == ["P01_101_0", "P01_02_2"]
    assert str(path) in work.unreadable[0].reason
    assert "download the file again" in work.unreadable[0].reason
    return work.unreadable[0].reason


def put(where: tuple, value):
    def change(told):
        *path, last = where
        for step in path:
            told = told[step]
        told[last] = value

    return change


FIRST, SECOND = ("video_annotations", 1), ("video_annotations", 1, "annotations", 1)
WRONG = {
    "no JSON": (lambda told: '{"video_annotations": [', "is damaged"),
    "too deep": (lambda told: "[" * 200_000, "is damaged"),
    "no object": (lambda told: "[1]", "the file is no JSON object"),
    "another layout": (lambda told: '{"images": []}', "video_annotations is no JSON array"),
    "no entry": (put(FIRST, 3), r"video_annotations\[1\] is no JSON object"),
    "no image": (put((*FIRST, "image"), None), r"video_annotations\[1\]\.image is no JSON object"),
    "another video": (put((*FIRST, "image", "name"), "P01_02_frame_0000000030.jpg"), r"\[1\]\.image\.name"),
    "a path": (put((*FIRST, "image", "name"), "../../P01_01_frame_0000020686.jpg"), r"\[1\]\.image\.name"),
    "a picture of no number": (put((*FIRST, "image", "name"), "P01_01_frame_1x.jpg"), r"\[1\]\.image\.name"),
    "no annotations": (put((*FIRST, "annotations"), {}), r"\[1\]\.annotations is no JSON array"),
    "no name": (put((*SECOND, "name"), 7), r"annotations\[1\]\.name is 7, no text"),
    "a class by name": (put((*SECOND, "class_id"), "sponge"), r"annotations\[1\]\.class_id is 'sponge'"),
    "a class that is none": (put((*SECOND, "class_id"), True), r"class_id is True, no whole number"),
    "flat corners": (put((*SECOND, "segments", 0), [1, 2, 3, 4]), r"segments\[0\] has the corner 1"),
    "three coordinates": (put((*SECOND, "segments", 2), [[1, 2, 3]] * 3), r"segments\[2\] has the corner \[1, 2, 3\]"),
    "not a number": (put((*SECOND, "segments", 0), [[1, float("nan")]] * 3), r"corner \[1, nan\]"),
    "far away": (put((*SECOND, "segments", 0), [[1, 1e300]] * 3), r"corner \[1, 1e\+300\]"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_damaged_file_costs_its_own_video_and_is_named_with_the_field(root, wrong):
    change, what = WRONG[wrong]
    assert re.search(what, broken(root, change))


def test_an_object_without_class_or_without_a_pixel_is_no_truth(root):
    path = annotations(root)
    told = json.loads(path.read_text())
    told["video_annotations"][1]["annotations"][1]["class_id"] = None
    told["video_annotations"][2]["annotations"][1]["segments"] = [[[2000, 5], [2100, 5], [2100, 90]], [[4, 4], [5, 5]]]
    path.write_text(json.dumps(told))
    clip = clip_of(module(root, "tolerance=3", length=61, anchor="start"), "P01_01_17")
    assert (clip.tubes, clip.annotated.any().item()) == ((), False)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda path: path.unlink(), r"frame_mapping\.json: there is no such file.*truth=boxes"),
        (lambda path: path.write_text("{"), r"frame_mapping\.json: is damaged"),
        (lambda path: path.write_text('{"P01_02": {}}'), r"frame_mapping\.json: has no video P01_01"),
        (lambda path: path.write_text('{"P01_01": {}}'), r"P01_01 has no picture P01_01_frame_0000020657\.jpg"),
        (
            lambda path: path.write_text('{"P01_01": {"P01_01_frame_0000020657.jpg": 20662}}'),
            "is 20662, not like",
        ),
        (lambda path: path.write_text('{"P01_01": {"x": "../frame_0000000001.jpg"}}'), r"is '\.\./frame_"),
    ],
)
def test_a_mapping_that_does_not_say_which_frame_a_picture_shows_is_refused(root, change, what):
    change(root / "VISOR" / "frame_mapping.json")
    with pytest.raises(DataError, match=what):
        clip_of(module(root), "P01_01_17")
    assert clip_of(module(root, "truth=boxes"), "P01_01_17").frames.any()


def test_without_the_mapping_nothing_is_begun(root):
    (root / "VISOR" / "frame_mapping.json").unlink()
    with pytest.raises(DataError, match=r"frame_mapping\.json: there is no such file.*truth=boxes"):
        module(root).fingerprint()


def test_places_may_be_given_as_text_and_options_that_say_nothing_are_refused(root):
    made = type(module(root))(root=root, version=100, visor=str(root / "VISOR"))
    made.adapt(ClipInput())
    assert made.split_name == "100/official/test/noun/masks"
    with pytest.raises(DataError, match="box_frames=rgb tells of boxes; leave it out with truth=masks"):
        module(root, "version=100,truth=masks,box_frames=rgb")
