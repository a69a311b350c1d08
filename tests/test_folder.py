"""A plain folder of videos: what is a clip, where labels and boxes come from, and which lines are refused."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from vidattr_bench.clip import collate
from vidattr_bench.errors import DataError, UserError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create
from vidattr_bench.video import write_video

_spec = importlib.util.spec_from_file_location("folder_data", Path(__file__).parent / "data" / "folder.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)
DOOR, LID, CUP, PLAIN = fake.NAMES


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return fake.write(tmp_path_factory.mktemp("folder"))


@pytest.fixture
def root(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "root"))


def module(root: Path, options: str = "", **wanted):
    data = create("datasets", f'folder:root="{root}"{options and "," + options}')
    data.adapt(ClipInput(**{"length": 5, "anchor": "start", "size": (24, 36), "interpolation": "area"} | wanted))
    return data


def clip_of(data, name: str):
    return data.load(next(ref for ref in data.refs() if ref.id == name))


def test_labels_csv_says_what_is_in_the_data_set(root):
    data = module(root)
    assert data.classes == ("close", "open")
    assert [(ref.id, ref.group, ref.label) for ref in data.refs()] == [
        (DOOR, "kitchen", 1),
        (LID, "kitchen", 1),
        (CUP, CUP, 0),
        (PLAIN, PLAIN, None),
    ]
    assert data.missing() == []
    assert module(root, "part=all").missing() == ["gone.avi"]
    with pytest.raises(DataError, match=r"part=train is there; 1 are listed"):
        module(root, "part=train").refs()


def test_every_form_of_video_is_read(root):
    data = module(root)
    for number, name in enumerate(fake.NAMES):
        expected = fake.frames_of(number)[:5].permute(3, 0, 1, 2).float() / 255
        assert torch.equal(clip_of(data, name).frames, expected), name


def test_boxes_lie_on_their_frames_and_other_frames_are_unknown(root):
    door = clip_of(module(root), DOOR)
    assert door.annotated.tolist() == [False, True, True, True, False]
    (tube,) = door.tubes
    assert (tube.label, tube.start, tube.boxes.tolist()) == (1, 1, [[6, 4, 18, 20], [7, 4, 19, 20]])
    # The bar of frame t is white from column 6 + t on; the boxes of this file lag one frame behind.
    assert bool((door.frames[:, 1:3, 4:20, 8:18] == 1).all())
    assert collate([door]).tubes[0, 3].sum() == 0


def test_instances_stay_apart_and_boxes_are_cut_at_the_edge(root):
    lid = clip_of(module(root, size=(48, 72)), LID)
    assert lid.annotated.tolist() == [True, False, False, False, True]
    first, second = lid.tubes
    assert first.boxes[[0, 4]].tolist() == [[0, 0, 19, 24], [0, 0, 24, 24]]
    assert first.boxes[1:4].count_nonzero() == 0
    assert (second.start, second.boxes.tolist()) == (0, [[40, 20, 72, 48]])
    assert collate([lid]).instances[0].shape == (2, 5, 48, 72)


def test_a_sampled_frame_takes_the_nearest_boxes_within_the_tolerance(root):
    lid = clip_of(module(root, "tolerance=1"), LID)
    assert lid.annotated.tolist() == [True, True, False, True, True]
    assert lid.tubes[0].boxes[1].tolist() == [0, 0, 9.5, 12]
    assert lid.tubes[0].boxes[3].tolist() == [0, 0, 12, 12]


def test_boxes_of_a_clip_without_label_are_not_taken_for_empty_frames(root):
    (root / "boxes.csv").write_text("video,frame,x0,y0,x1,y1\nplain.avi,0,1,1,5,5\n")
    plain = clip_of(module(root), PLAIN)
    assert plain.tubes == ()
    assert not plain.annotated.any()


def test_without_csv_the_subfolders_are_the_classes(root):
    for name in ("labels.csv", "boxes.csv", PLAIN):
        (root / name).unlink()
    data = module(root)
    assert data.classes == ("day 1", "day 2")
    assert [(ref.id, ref.label) for ref in data.refs()] == [(DOOR, 0), (LID, 0), (CUP, 1)]
    assert module(root, "labels_by=none").classes == ()


def test_flat_videos_without_csv_have_no_classes(root):
    (root / "labels.csv").unlink()
    (root / "boxes.csv").unlink()
    data = module(root)
    assert data.classes == ()
    assert {ref.label for ref in data.refs()} == {None}
    assert len(data.refs()) == 4
    with pytest.raises(DataError, match=r"'plain.avi' lies in no subfolder"):
        module(root, "labels_by=folder").refs()


def test_a_class_list_gives_the_order(root, tmp_path):
    (tmp_path / "names.txt").write_text("open\nshut\nclose\n")
    data = module(root, f'class_list="{tmp_path / "names.txt"}"')
    assert [ref.label for ref in data.refs()] == [0, 0, 2, None]
    before = data.fingerprint()
    (tmp_path / "names.txt").write_text("shut\nopen\nclose\n")
    assert module(root, f'class_list="{tmp_path / "names.txt"}"').fingerprint() != before
    (tmp_path / "names.txt").write_text("open\nclosed\n")
    with pytest.raises(UserError, match=r"lacks the label 'close'; did you mean closed"):
        module(root, f'class_list="{tmp_path / "names.txt"}"').refs()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video,label\n../../etc/passwd,a\n", r"labels.csv: line 2: '../../etc/passwd' is no path inside"),
        ("video,label\n/etc/passwd,a\nplain.avi,b\nday\\..\\..\\x,a\n", r"line 2: '/etc/passwd'.*line 4: "),
        ("video,label\nplain.avi,a\n./plain.avi,b\n", r"line 3: plain.avi is on line 2 already"),
        ("video,lable\nplain.avi,a\n", r"unknown column 'lable'; did you mean label"),
        ("name,label\nplain.avi,a\n", r"needs the column video"),
        ("video;label\nplain.avi;a\n", r"needs the column video"),
        ("", r"header is missing"),
        ("video,label\nplain.avi\n", r"line 2: 1 cells, the header has 2"),
        ("video,label\nplain.avi,a\n\nx.avi,a,b\n", r"line 4: 3 cells"),
        ("video,part\nplain.avi,tset\n", r"line 2: part='tset' is unknown; did you mean test"),
        ('video,label\nplain.avi,"a\n', r"is no CSV file"),
    ],
)
def test_bad_lines_of_the_labels_are_named(root, text, said):
    (root / "labels.csv").write_text(text)
    (root / "boxes.csv").unlink()
    with pytest.raises(DataError, match=f"(?s){said}"):
        module(root).refs()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("plain.avy,0,1,1,2,2", r"line 2: there is no video 'plain.avy'; did you mean plain.avi"),
        ("plain.avi,-1,1,1,2,2", r"frame='-1' is no whole number"),
        ("plain.avi,1.5,1,1,2,2", r"frame='1.5' is no whole number"),
        ("plain.avi,0,1,1,1,2", r"the box 1,1,1,2 is empty"),
        ("plain.avi,0,1,,2,2", r"y0='' is no number"),
        ("plain.avi,0,nan,1,2,2\nplain.avi,0,1,1,inf,2", r"line 2: x0='nan' is no number; line 3: x1='inf'"),
        ("plain.avi,0,1,1,2,2\nplain.avi,0,1,1,2,3", r"line 3: frame 0 of plain.avi has this box already"),
    ],
)
def test_bad_lines_of_the_boxes_are_named(root, lines, said):
    (root / "boxes.csv").write_text(f"video,frame,x0,y0,x1,y1\n{lines}\n")
    with pytest.raises(DataError, match=f"boxes.csv: .*{said}"):
        module(root).refs()


def test_not_more_bad_lines_are_quoted_than_can_be_read(root):
    (root / "labels.csv").write_text("video\n" + "../x\n" * 30)
    with pytest.raises(DataError, match=r"line 21: .*; and 10 more; correct these lines"):
        module(root).refs()


@pytest.mark.parametrize(
    ("line", "said"),
    [(",9,1,1,2,2,", "frame 9 of .*, which has 9"), (",0,40,1,50,9,", "line 2: the box .* lies outside the frames")],
)
def test_a_box_that_does_not_belong_costs_its_own_clip_alone(root, line, said):
    quoted = LID.replace('"', '""')
    (root / "boxes.csv").write_text(f"video,frame,x0,y0,x1,y1,instance\n{quoted}{line}\n")
    data = module(root)
    work = data.read(0, data.refs())
    assert [(one.id, one.inconsistent) for one in work.unreadable] == [(LID, True)]
    with pytest.raises(DataError, match=said):
        clip_of(data, LID)


def test_boxes_without_any_label_are_refused(root):
    (root / "labels.csv").unlink()
    with pytest.raises(DataError, match="there are no labels"):
        module(root).refs()


def test_nothing_there_is_said_with_a_remedy(root, tmp_path):
    with pytest.raises(DataError, match="give folder:root=DIR"):
        module(tmp_path / "nowhere").refs()
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no video file"):
        module(tmp_path / "bare").refs()
    with pytest.raises(DataError, match="there is no such file"):
        module(root, f"boxes={tmp_path}/none.csv").refs()
    with pytest.raises(DataError, match="did you mean folder"):
        module(root, "labels_by=folders")


def test_damaged_files_cost_their_own_rows(root):
    (root / "labels.csv").unlink()
    (root / "boxes.csv").unlink()
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.avi").write_text("ffconcat version 1.0\nfile plain.avi\n")
    (root / PLAIN).write_bytes((root / PLAIN).read_bytes()[:-900])
    data = module(root)
    work = data.read(0, data.refs())
    assert {one.id for one in work.unreadable} == {"empty.mp4", "text.avi", PLAIN}
    assert len(work.batch) == 3


def test_links_and_hidden_files(root, tmp_path):
    write_video(tmp_path / "elsewhere.avi", fake.frames_of(5), lossless=True)
    (root / "linked.avi").symlink_to(tmp_path / "elsewhere.avi")
    (root / "loop").symlink_to(root)
    (root / "._plain.avi").write_bytes(b"resource fork")
    (root / "labels.csv").unlink()
    (root / "boxes.csv").unlink()
    assert {ref.id for ref in module(root).refs()} == {*fake.NAMES, "linked.avi"}


def test_a_link_nearer_the_root_does_not_hide_the_folder(root):
    for name in ("labels.csv", "boxes.csv"):
        (root / name).unlink()
    (root / "a link").symlink_to(root / "day 2" / "deeper")
    assert {ref.id for ref in module(root).refs()} == set(fake.NAMES)


def test_a_folder_and_links_to_it_are_one(root, tmp_path):
    for name in ("labels.csv", "boxes.csv"):
        (root / name).unlink()
    shutil.copytree(root / "day 2", tmp_path / "elsewhere")
    for name in ("b link", "a link"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    (root / "day 0").symlink_to(root / "day 1")
    assert {ref.id for ref in module(root).refs()} == {*fake.NAMES, "a link/deeper/cup"}


def test_a_name_that_is_no_utf8_can_be_written_down(root):
    (root / "labels.csv").unlink()
    (root / "boxes.csv").unlink()
    (root / PLAIN).rename(root / b"caf\xe9.avi".decode(errors="surrogateescape"))
    ref = next(ref for ref in module(root).refs() if ref.id.startswith("caf"))
    assert ref.id == "caf\\xe9.avi"
    ref.id.encode()
    module(root).load(ref)


def test_the_fingerprint_follows_labels_boxes_and_videos(root):
    before = module(root).fingerprint()
    assert module(root).fingerprint() == before
    with (root / "boxes.csv").open("a") as file:
        file.write("plain.avi,0,1,1,2,2,\n")
    changed = module(root).fingerprint()
    assert changed != before
    write_video(root / PLAIN, fake.frames_of(7)[:4], lossless=True)
    assert module(root).fingerprint() != changed
