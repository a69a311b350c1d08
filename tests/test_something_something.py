"""Something-Something V2: lists, clips by number, and the boxes of Something-Else on the frames that show them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vidattr_bench import check_data
from vidattr_bench.clip import collate
from vidattr_bench.errors import DataError, InconsistentError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create, load
from vidattr_bench.video import write_video

_spec = importlib.util.spec_from_file_location("ssv2_data", Path(__file__).parent / "data" / "something_something.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)
_package = load("datasets", "something_something").__module__.rpartition(".")[0]
boxes = importlib.import_module(f"{_package}._something_boxes")
PART1 = "something_else/bounding_box_smthsmth_part1.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return fake.write(tmp_path_factory.mktemp("ssv2"))


@pytest.fixture
def root(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "root"))


def module(root: Path, options: str = "", **wanted):
    data = create("datasets", f'something_something:root="{root}"{options and "," + options}')
    given = {"length": 12, "anchor": "start", "size": (48, 72), "crop": "none"}
    data.adapt(ClipInput(**given | wanted))
    return data


def clip_of(data, id: str):
    return data.load(next(ref for ref in data.refs() if ref.id == id))


# --- lists, and what is on disk


def test_the_plan_holds_what_is_there_and_counts_the_rest(template):
    data = module(template)
    assert data.classes == tuple(sorted(fake.CLASSES))
    names = {ref.id: data.classes[ref.label] for ref in data.refs()}
    assert names == {"101": fake.CLASSES[0], "7": fake.CLASSES[1], "23": fake.CLASSES[2]}
    assert [ref.id for ref in data.refs()] == ["101", "7", "23"]
    assert all(ref.group == ref.id for ref in data.refs())
    assert data.missing() == ["404"]
    assert [ref.id for ref in module(template, "part=all").refs()] == ["101", "7", "23", "9", "88"]


def test_the_answers_name_the_classes_of_the_test_part(root):
    assert [module(root).classes[ref.label] for ref in module(root, "part=test").refs()] == [fake.ANSWER]
    (root / "labels" / "test-answers.csv").unlink()
    assert [ref.label for ref in module(root, "part=test").refs()] == [None]
    clip = clip_of(module(root, "part=test"), "88")
    assert clip.tubes == ()
    assert not clip.annotated.any()


def test_other_places_and_names_of_the_official_files(root, template):
    expected = module(template).refs()
    (root / "labels").rename(root / "annotations")
    for path in list((root / "annotations").glob("*.json")):
        path.rename(path.with_name(f"something-something-v2-{path.name}"))
    (root / "20bn-something-something-v2").rename(root / "videos")
    (root / "something_else").rename(root / "boxes")
    assert module(root).refs() == expected
    assert clip_of(module(root), "101").annotated.any()
    lists_at = root / "annotations"
    lists_at.rename(root / "compositional")
    with pytest.raises(DataError, match=r"no labels\.json or something-something-v2-labels\.json in labels, "):
        module(root).refs()
    assert module(root, f'lists="{root}/compositional"').refs() == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("labels.json", "[1, 2]", r"labels\.json: is no mapping of class names"),
        ("labels.json", "{", r"labels\.json: is no JSON"),
        ("validation.json", '{"id": "7"}', r"validation\.json: is no list of clips"),
        ("validation.json", '[{"id": "../7", "template": "x"}]', r"validation\.json: entry 0 has no id of digits"),
        ("validation.json", '[{"id": "7", "template": 3}]', r"entry 0 has no id of digits and no template"),
        ("validation.json", "[7]", r"entry 0 has no id of digits"),
        (
            "validation.json",
            '[{"id": "7", "template": "Moving [something] down"}]',
            r"entry 0: the class 'Moving something down' is unknown; did you mean Moving something up",
        ),
        ("validation.json", '[{"id": "7", "label": "moving"}]', r"clip 7 has no template, its class"),
        ("test-answers.csv", "88\n", r"test-answers\.csv:1: '88' is not <id>;<class>"),
    ],
)
def test_damaged_lists_are_refused_by_name(root, name, text, said):
    (root / "labels" / name).write_text(text)
    with pytest.raises(DataError, match=said):
        module(root, "part=all").refs()


def test_nothing_there_is_said_with_a_remedy(root, tmp_path):
    with pytest.raises(DataError, match="give something_something:root=DIR"):
        module(tmp_path / "nowhere").refs()
    for folder in ("20bn-something-something-v2", "frames"):
        shutil.rmtree(root / folder)
    with pytest.raises(DataError, match=r"none of the 4 clips of part=val is there; below root there must be 20bn-"):
        module(root).refs()
    (root / "labels" / "train.json").unlink()
    with pytest.raises(DataError, match=r"there is no train\.json or something-something-v2-train\.json"):
        module(root, "part=train").refs()
    for option, said in (("part=vall", "did you mean val"), ("truth=hands", "did you mean hand"), ("fps=0", "0")):
        with pytest.raises(DataError, match=said):
            module(root, option)


# --- boxes


@pytest.mark.parametrize("id", ["101", "7"])
@pytest.mark.parametrize("truth", ["objects", "hand", "all"])
def test_boxes_lie_on_the_frames_that_show_them(template, id, truth):
    clip, shown = clip_of(module(template, f"truth={truth}"), id), fake.CLIPS[id]
    levels = {"objects": (0.75, 1.1), "hand": (0.25, 0.75), "all": (0.25, 1.1)}[truth]
    grey, mask = clip.frames.mean(0), collate([clip]).tubes[0]
    for t in range(12):
        known = t < shown.frames and fake.picture_of(id, t) <= shown.drawn
        assert bool(clip.annotated[t]) == known, t
        expected = (grey[t] > levels[0]) & (grey[t] < levels[1]) if known else torch.zeros(48, 72, dtype=torch.bool)
        # Compression leaves edges of a pixel or two.
        wrong = (mask[t] != expected).sum() if known else torch.tensor(0)
        assert wrong <= 0.1 * max(int(expected.sum()), 150), (t, int(wrong), int(expected.sum()))
    assert clip.annotated.any()


def test_a_frame_without_such_a_box_is_empty_and_one_that_is_not_listed_unknown(template):
    clip = clip_of(module(template), "101")
    assert clip.annotated.tolist() == [True] * 8 + [False] * 4
    (tube,) = clip.tubes
    assert (tube.start, len(tube.boxes)) == (0, 8)
    assert tube.boxes[3].tolist() == [0, 0, 0, 0]
    # x1 = 20 + 10 n of 240 rows is, in 48 rows, a fifth of it.
    assert tube.boxes[0].tolist() == [6, 1, 26, 21]
    hands = clip_of(module(template, "truth=hand"), "101")
    assert hands.annotated.tolist() == clip.annotated.tolist()
    assert [(tube.start, len(tube.boxes)) for tube in hands.tubes] == [(2, 6)]


def test_objects_are_tubes_of_their_own_and_boxes_follow_the_crop(template):
    clip = clip_of(module(template, "truth=all", size=(24, 24), crop="centre"), "7")
    assert [tube.start for tube in clip.tubes] == [0, 0, 3]
    assert collate([clip]).instances[0].shape == (3, 12, 24, 24)
    # Half the size, 6 columns cut off: x1 = 30 of picture 1 is 3 - 6, so outside; x2 = 130 is 13 - 6.
    assert clip.tubes[0].boxes[0].tolist() == [0, 0.5, 7, 10.5]


def test_a_clip_without_boxes_is_unknown(template):
    clip = clip_of(module(template), "23")
    assert clip.tubes == ()
    assert not clip.annotated.any()
    assert clip.frames.max() > 0.9


def test_a_video_larger_than_the_original_has_its_boxes_scaled(root):
    """The rate and the height that boxes were drawn at are known; a folder of pictures of another rate needs fps."""
    folder = root / "frames" / "23"
    for path in folder.iterdir():
        with fake.Image.open(path) as picture:
            picture.resize((144, 96)).save(path)
    annotate(root, "23", [{"name": f"23/{n:04d}.jpg", "labels": label(n)} for n in range(1, 7)])
    clip = clip_of(module(root, size=(96, 144)), "23")
    assert clip.annotated.tolist() == [True] * 6 + [False] * 6
    assert clip.tubes[0].boxes[0].tolist() == pytest.approx([0.4 * 24, 0.4 * 10, 0.4 * 36, 0.4 * 30])
    clip = clip_of(module(root, "fps=6", size=(96, 144)), "23")
    assert clip.annotated.tolist() == [True] * 3 + [False] * 9
    assert clip.tubes[0].boxes[:, 0].tolist() == pytest.approx([0.4 * 24, 0.4 * 32, 0.4 * 40])


def label(n: int, **box: float):
    """One object that moves by 4 a picture."""
    corners = {"x1": 20.0 + 4 * n, "y1": 10.0, "x2": 32.0 + 4 * n, "y2": 30.0} | box
    return [{"box2d": corners, "category": "cup", "standard_category": "0000"}]


def annotate(root: Path, id: str, pictures) -> None:
    path = root / PART1
    path.write_text(json.dumps(json.loads(path.read_text()) | {id: pictures}))


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (9, "has boxes up to picture 9, but the video ends with 6, at 12 a second"),
        (1, "has boxes up to picture 1, but the video ends with 6, at 12 a second; .* give fps="),
    ],
)
def test_boxes_of_another_number_of_pictures_are_inconsistent(root, pictures, said):
    annotate(root, "23", [{"name": f"23/{n:04d}.jpg", "labels": label(n)} for n in range(1, pictures + 1)])
    with pytest.raises(InconsistentError, match=rf"frames.23: .*part1\.json {said}"):
        clip_of(module(root), "23")


def test_boxes_that_end_early_may_be_of_another_rate_unless_it_is_told(root):
    """A folder of 6 pictures of which 3 have boxes may have been extracted at 24 a second."""
    annotate(root, "23", [{"name": f"23/{n:04d}.jpg", "labels": label(n)} for n in range(1, 4)])
    with pytest.raises(InconsistentError, match=r"has boxes up to picture 3, .* \(fps=12 where it is that\)"):
        clip_of(module(root), "23")
    assert sum(clip_of(module(root, "fps=12"), "23").annotated.tolist()) == 3


def test_a_clip_whose_annotation_is_empty_is_unknown(root):
    annotate(root, "23", [])
    assert not clip_of(module(root), "23").annotated.any()


def test_a_video_that_does_not_tell_its_times_is_taken_at_the_given_rate(root):
    """An avi of 12 frames: at 24 a second, frames 0 to 6 show pictures 1 to 4."""
    folder = root / "frames" / "23"
    with fake.Image.open(folder / "0001.jpg") as picture:
        still = torch.from_numpy(np.asarray(picture).copy())
    shutil.rmtree(folder)
    write_video(root / "23.avi", still.expand(12, -1, -1, -1), 24.0, lossless=True)
    annotate(root, "23", [{"name": f"23/{n:04d}.jpg", "labels": label(n)} for n in range(1, 5)])
    with pytest.raises(InconsistentError, match="has boxes up to picture 4, but the video ends with 12"):
        clip_of(module(root), "23")
    assert clip_of(module(root, "fps=24"), "23").annotated.tolist() == [True] * 7 + [False] * 5


def test_boxes_of_a_wider_video_are_inconsistent(root):
    annotate(root, "23", [{"name": f"23/{n:04d}.jpg", "labels": label(n, x2=420.0)} for n in range(1, 7)])
    with pytest.raises(InconsistentError, match="has boxes up to x = 420, but a video of 72 x 48 is 360 wide where"):
        clip_of(module(root), "23")
    report = check_data.check(module(root), "ssv2", decode=True)
    assert set(report.inconsistent) == {"23"}
    assert (report.usable, report.listed, report.localisable) == (2, 4, 2)


def test_a_box_without_extent_leaves_its_frame_unknown(root):
    pictures = [{"name": f"23/{n:04d}.jpg", "labels": label(n)} for n in range(1, 7)]
    pictures[2]["labels"] += label(3, x1=50.0, x2=50.0)
    annotate(root, "23", pictures)
    clip = clip_of(module(root), "23")
    assert clip.annotated.tolist() == [True, True, False, True, True, True] + [False] * 6
    assert clip_of(module(root, "truth=hand"), "23").annotated.tolist() == [True] * 6 + [False] * 6


@pytest.mark.parametrize(
    "picture",
    [
        {"name": "7/0001.jpg", "labels": []},
        {"name": "101/one.jpg", "labels": []},
        {"labels": []},
        {"name": "101/0001.jpg", "labels": [{"category": "cup", "box2d": {"x1": 1, "y1": 1, "x2": 2}}]},
        {
            "name": "101/0001.jpg",
            "labels": [{"category": "cup", "box2d": dict.fromkeys(("x1", "y1", "x2", "y2"), "x")}],
        },
        7,
    ],
)
def test_damaged_boxes_cost_their_own_clip(root, picture):
    annotate(root, "101", [picture])
    work = module(root).read(0, module(root).refs())
    assert [one.id for one in work.unreadable] == ["101"]
    assert f"{root / PART1}: video 101: its boxes are damaged" in work.unreadable[0].reason


def test_a_truncated_file_costs_its_last_video_and_one_without_any_is_refused(root):
    path = root / PART1
    path.write_text(path.read_text()[:-40])
    assert [one.id for one in module(root).read(0, module(root).refs()).unreadable] == ["7"]
    path.write_text("<html>quota exceeded</html>")
    with pytest.raises(DataError, match=r"part1\.json: holds the boxes of no video; download it again"):
        clip_of(module(root), "101")
    with pytest.raises(DataError, match="boxes= takes a file, or the folder of parts"):
        clip_of(module(root, f'boxes="{root}/labels"'), "101")


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("step", [1, 7, 64, 1 << 20])
def test_the_index_finds_every_video_wherever_blocks_end(tmp_path, monkeypatch, indent, step):
    monkeypatch.setattr(boxes, "_STEP", step)
    written = {str(7**n): [{"name": f"{7**n}/0001.jpg", "labels": label(n)}] * (n % 3) for n in range(9)}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(written, indent=indent))
    index = boxes.index_boxes([path], set(written) - {"49"})
    assert set(index.places) == set(written) - {"49"}
    for id in index.places:
        found, _ = json.JSONDecoder().raw_decode(index.text(id).decode())
        assert found == written[id]


def test_the_fingerprint_follows_lists_clips_and_the_boxes_of_the_part(root):
    stamps = [module(root).fingerprint()]
    assert module(root).fingerprint() == stamps[0]
    annotate(root, "9", [])  # a clip of the training part
    assert module(root).fingerprint() == stamps[0]
    for change in (
        lambda: annotate(root, "7", fake.annotation("7")[:3]),
        lambda: (root / "frames/23/0001.jpg").write_bytes(b"x"),
        lambda: (root / "labels/labels.json").write_text((root / "labels/labels.json").read_text() + "\n"),
    ):
        change()
        stamps.append(module(root).fingerprint())
    assert len(set(stamps)) == 4


# --- a tree as large as the real one


@pytest.mark.slow
def test_all_220_847_clips_are_listed_in_a_few_seconds(tmp_path):
    """Empty files under the official names; numbers of clips as the data set's card gives them."""
    parts = {"train": 168_913, "validation": 24_777, "test": 27_157}
    ids = iter(map(str, range(1, sum(parts.values()) + 1)))
    folder, labels = tmp_path / "20bn-something-something-v2", tmp_path / "labels"
    fake.write_lists(labels)
    folder.mkdir()
    for name, count in parts.items():
        entries = [{"id": next(ids), "label": "x" * 40, "template": fake.TEMPLATES[0]} for _ in range(count)]
        (labels / f"{name}.json").write_text(json.dumps(entries))
        for entry in entries:
            (folder / f"{entry['id']}.webm").touch()
    began = time.process_time()
    data = create("datasets", f'something_something:root="{tmp_path}",part=all')
    assert len(data.refs()) == 220_847
    assert time.process_time() - began < 5
