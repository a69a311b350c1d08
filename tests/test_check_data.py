"""`check-data`: what it counts, what it names, its exit status, and the pointing game without a network."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vidattr_bench import check_data, pointing_controls
from vidattr_bench.cli import main
from vidattr_bench.clip import Batch, Tube, VideoTruth
from vidattr_bench.fixtures import small_model
from vidattr_bench.metric import Case
from vidattr_bench.metrics.localisation import PointingGame
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create
from vidattr_bench.transform import fit_boxes, sample_indices

_spec = importlib.util.spec_from_file_location("ucf101_data", Path(__file__).parent / "data" / "ucf101.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return fake.write(tmp_path_factory.mktemp("ucf101"))


@pytest.fixture
def root(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "root"))


def call(capsys, *words):
    status = main(["check-data", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def looked(capsys, root: Path, *words, options="part=all"):
    status, out, _ = call(capsys, f'ucf101:root="{root}",{options}', "--format", "json", *words)
    report = json.loads(out)
    assert report["status"] == status
    return report


# --- what is found


def test_listing_counts_what_is_there_and_names_what_is_not(capsys, root):
    report = looked(capsys, root)
    counts = {key: report[key] for key in ("listed", "on_disk", "groups", "classes", "usable", "localisable", "status")}
    assert counts == {
        "listed": 7,
        "on_disk": 5,
        "groups": 5,
        "classes": 5,
        "usable": 5,
        "localisable": 3,
        "status": 1,
    }
    assert set(report["missing"]) == {"v_Basketball_g01_c02", "v_Basketball_g08_c01"}
    assert report["unannotated"] == ["v_HandStandPushups_g01_c01", "v_Punch_g03_c01"]
    assert report["corrupt"] is None
    assert report["empty_classes"] == []
    assert looked(capsys, root, options="part=train")["empty_classes"] == list(fake.CLASSES[:4])
    # Tubes 8; 11 and 5; 13 frames long, in clips of 20, 11 and 13 frames: those of one clip overlap.
    expected = {"videos": 3, "groups": 3, "several": 1, "tubes": 4, "boxes": 37, "frames": 44, "tube_frames": 32}
    assert report["annotation"] == {"all": expected}


def test_parts_are_counted_apart_and_together(capsys, root):
    annotation = looked(capsys, root, options="part=test")["annotation"]
    assert {part: found["videos"] for part, found in annotation.items()} == {"test": 2, "all": 3}


def test_all_well_is_status_0(capsys, root):
    for name in ("testlist01.txt", "trainlist01.txt"):
        path = root / "splits" / name
        lines = [line for line in path.read_text().splitlines() if "g01_c02" not in line and "g08_c01" not in line]
        path.write_text("\n".join(lines))
    report = looked(capsys, root, "--decode")
    assert report["status"] == 0
    assert report["usable"] == report["listed"] == 5
    assert report["corrupt"] == report["inconsistent"] == {}
    assert report["localisable"] == 3
    assert report["unannotated"] == ["v_HandStandPushups_g01_c01", "v_Punch_g03_c01"]


def damage(root: Path) -> None:
    """Four kinds: truncated, empty, text named .avi, and a frame less than the annotation was drawn on."""
    biking = root / "UCF-101" / "Biking" / "v_Biking_g05_c02.mkv"
    biking.write_bytes(biking.read_bytes()[:400])
    (root / "UCF-101" / "Basketball" / "v_Basketball_g01_c01.avi").write_bytes(b"")
    (root / "UCF-101" / "Punch" / "v_Punch_g03_c01.avi").write_text("not a video at all\n")
    (root / "rgb-images" / "SalsaSpin" / "v_SalsaSpin_g09_c03" / "00013.jpg").unlink()


@pytest.mark.parametrize("workers", [0, 2])
def test_decoding_tells_corrupt_from_inconsistent_and_goes_on(capsys, root, workers):
    damage(root)
    report = looked(capsys, root, "--decode", "--workers", workers)
    assert set(report["corrupt"]) == {"v_Biking_g05_c02", "v_Basketball_g01_c01", "v_Punch_g03_c01"}
    assert all(f"{clip}." in reason for clip, reason in report["corrupt"].items())
    assert set(report["inconsistent"]) == {"v_SalsaSpin_g09_c03"}
    assert "12 frames" in report["inconsistent"]["v_SalsaSpin_g09_c03"]
    assert (report["usable"], report["localisable"], report["status"]) == (1, 0, 1)


def test_listing_alone_sees_an_absurd_annotation_but_no_damage(capsys, root):
    damage(root)
    clip = fake.CLIPS["v_Biking_g05_c02"]
    absurd = (*clip[:3], [(8, clip[3][1][1])])  # five boxes from frame 8 on, of 11 frames
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fake.CLIPS, "v_Biking_g05_c02", absurd)
        patch.setitem(fake.TUBE_LABELS, "SalsaSpin", 3)
        shutil.rmtree(root / "tubes")
        fake.write_tubes(root / "tubes")
    report = looked(capsys, root)
    assert report["corrupt"] is None
    assert "ends in frame 12 of 11" in report["inconsistent"]["v_Biking_g05_c02"]
    assert "another class" in report["inconsistent"]["v_SalsaSpin_g09_c03"]
    assert (report["usable"], report["localisable"]) == (3, 1)


def test_without_any_video_the_annotation_still_counts(capsys, root):
    for folder in ("UCF-101", "rgb-images"):
        shutil.rmtree(root / folder)
    report = looked(capsys, root, "--controls", "--decode")
    assert (report["usable"], report["listed"], report["status"]) == (0, 7, 2)
    assert "none of the 7 clips" in report["problem"]
    assert report["annotation"]["all"]["tubes"] == 4
    assert {row["control"]: row["clips"] for row in report["controls"]}["oracle"] == 1


def test_where_nothing_is_the_error_says_what_to_give(capsys, tmp_path):
    status, _, err = call(capsys, f"ucf101:root={tmp_path / 'nowhere'}")
    assert status == 2
    assert "give ucf101:root=DIR" in err


def test_text_names_a_few_and_counts_the_rest(capsys, root):
    damage(root)
    status, out, _ = call(capsys, f'ucf101:root="{root}",part=all', "--decode", "--controls")
    assert status == 1
    assert "usable: 1 of 7 clips, 0 of them with a tube" in out
    assert "corrupt: 3\n" in out
    assert "missing: 2\n" in out
    assert "oracle" in out


def test_a_data_set_without_lists_and_undecoded_truth_says_so(capsys):
    status, out, _ = call(capsys, "planted_actions:clips=2", "--controls")
    assert status == 0
    assert "not to be known without --decode" in out
    assert "controls: planted_actions:clips=2 does not tell tubes without decoding" in out
    status, out, _ = call(capsys, "planted_actions:clips=2", "--decode")
    assert "usable: 2 of 2 clips, 2 of them with a tube" in out


def test_what_the_training_part_holds_too_is_named(capsys, root):
    report = looked(capsys, root)  # part=all
    assert report["trained_clips"] == ["v_SalsaSpin_g09_c03"]
    assert looked(capsys, root, options="part=train")["trained_clips"] is None
    lists = root / "splits"
    (lists / "trainlist01.txt").write_text("Biking/v_Biking_g05_c02.avi 2\n")
    (lists / "testlist01.txt").write_text("Basketball/v_Basketball_g01_c01.avi\n")
    report = looked(capsys, root, options="part=test")
    assert (report["trained_clips"], report["trained_groups"]) == ([], [])
    clip = root / "UCF-101" / "Biking" / "v_Biking_g05_c02.mkv"
    shutil.copy(clip, clip.with_name("v_Biking_g05_c03.mkv"))
    (lists / "testlist01.txt").write_text("Biking/v_Biking_g05_c03.avi\n")
    report = looked(capsys, root, options="part=test")
    assert (report["trained_clips"], len(report["trained_groups"])) == ([], 1)
    _, out, _ = call(capsys, f'ucf101:root="{root}",part=test')
    assert "sources that part=train holds too: 1\n" in out
    _, out, _ = call(capsys, f'ucf101:root="{root}",part=all')
    assert "in part=train too, so not to be held out: 1\n  v_Biking_g05_c02\n" in out


# --- the pointing game without a network


def a_truth() -> VideoTruth:
    """47 frames of 90 x 120: the label's tubes overlap, one leaves the middle, another class lies about."""
    steps = np.arange(30)[:, None]
    first = torch.from_numpy(np.array([[20, 30, 55, 52]]) + steps * np.array([[2, 1, 2, 1]])).clamp(max=90).double()
    second = torch.from_numpy(np.array([[40, 20, 75, 44]]) + 0 * steps[:12]).double()
    other = torch.tensor([[0.0, 0.0, 120.0, 90.0]]).expand(47, 4)
    return VideoTruth("clip", "group", 1, 47, (90, 120), (Tube(0, 0, other), Tube(1, 3, first), Tube(1, 20, second)))


def test_controls_score_what_the_plug_ins_score_in_the_metric():
    truth, wanted = a_truth(), ClipInput(length=11, anchor="spread", size=(48, 64), crop="none")
    indices = sample_indices(truth.frames, wanted)
    tubes = torch.zeros(1, 11, 48, 64, dtype=torch.bool)
    for t, i in enumerate(indices):
        for tube in truth.tubes[1:]:
            if tube.start <= i < tube.start + len(tube.boxes):
                box = fit_boxes(tube.boxes[[i - tube.start]], truth.size, wanted)
                tubes[0, t] |= Tube(1, 0, box).mask(1, 48, 64)[0]
    batch = Batch(["clip"], torch.zeros(1, 3, 11, 48, 64), torch.tensor([1]), tubes, torch.ones(1, 11).bool())
    scores = {
        row.control: row.frames for row in pointing_controls.controls([truth], wanted) if row.truth == "all boxes"
    }
    model, targets = small_model(), batch.labels
    maps = {
        "centre": create("methods", "centre").attribute(model, batch.frames, targets),
        "random": torch.ones(1, 11, 48, 64),
        "oracle": create("methods", "oracle").attribute(model, batch.frames, targets, tubes),
    }
    for name, relevance in maps.items():
        measured = PointingGame().measure(Case(model, batch, targets, relevance, seed=0))
        assert scores[name] == pytest.approx(float(measured.values[0]), abs=1e-12)
    assert 0 < scores["centre"] < 1
    assert 0 < scores["random"] < 1


def test_one_box_a_frame_is_that_of_the_first_tube():
    truth, wanted = a_truth(), ClipInput(length=47, size=(45, 60), crop="none", anchor="start")
    first, nearest = pointing_controls.squared_distances(truth, wanted)
    known = torch.zeros(47, dtype=torch.bool)
    known[3:33] = True
    assert torch.equal(first[:, 0, 0].isfinite(), known)
    masks = (
        Tube(1, 3, truth.tubes[1].boxes / 2).mask(47, 45, 60),
        Tube(1, 20, truth.tubes[2].boxes / 2).mask(47, 45, 60),
    )
    assert torch.equal(first == 0, masks[0])
    assert torch.equal(nearest[3:33] == 0, (masks[0] | masks[1])[3:33])
    # A frame in which the first tube is not there shows the second one's box.
    alone = VideoTruth("clip", "group", 1, 47, (90, 120), (Tube(1, 3, truth.tubes[1].boxes[:5]), truth.tubes[2]))
    first, _ = pointing_controls.squared_distances(alone, wanted)
    assert torch.equal(first[20:32] == 0, masks[1][20:32])


def test_distances_are_those_to_the_nearest_voxel_of_the_box():
    distances = pointing_controls._squared(torch.tensor([[2.0, 1.0, 4.0, 2.0], [0, 0, 0, 0]]).double(), (4, 6))
    assert distances[0].tolist() == [[5, 2, 1, 1, 2, 5], [4, 1, 0, 0, 1, 4], [5, 2, 1, 1, 2, 5], [8, 5, 4, 4, 5, 8]]
    assert distances[1].isinf().all()


# --- the real annotation, and a tree as large as the real one


@pytest.mark.real
@pytest.mark.slow
def test_the_real_annotation_has_the_published_counts_and_controls(real_data):
    data = create("datasets", f'ucf101:root="{real_data / "ucf101"}",split=1')
    report = check_data.with_controls(check_data.check(data, "ucf101"), data)
    whole, test = report.annotation["all"], report.annotation["test"]
    assert (whole.videos, whole.tubes, whole.boxes) == (3194, 4458, 573_862)
    assert (test.videos, test.groups, test.several) == (910, 168, 204)
    assert round(test.tube_frames / test.frames, 3) == 0.870
    shown = {
        (row.control, row.truth): [round(100 * x, 1) for x in (row.frames, row.clips, row.classes)]
        for row in report.controls
    }
    assert shown == {
        ("centre", "one box a frame"): [74.6, 72.8, 71.8],
        ("random", "one box a frame"): [23.9, 23.1, 22.9],
        ("oracle", "one box a frame"): [100, 100, 100],
        ("centre", "all boxes"): [77.6, 75.3, 74.5],
        ("random", "all boxes"): [26.9, 25.7, 25.5],
        ("oracle", "all boxes"): [100, 100, 100],
    }


@pytest.mark.real
@pytest.mark.slow
def test_all_three_splits_are_listed_in_under_two_seconds(real_data, tmp_path):
    splits = shutil.copytree(real_data / "ucf101" / "splits", tmp_path / "splits")
    for name in ("trainlist01.txt", "testlist01.txt"):
        for line in (splits / name).read_text().split("\n"):
            if line.strip():
                path = tmp_path / "UCF-101" / line.split()[0]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    counts = {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696), "all": (13320, 11213)}
    for split, expected in counts.items():
        parts = [
            create("datasets", f'ucf101:root="{tmp_path}",split={split},part={part}') for part in ("train", "test")
        ]
        assert tuple(len(data.refs()) for data in parts) == expected
        assert not any(data.missing() for data in parts)
    data = create("datasets", f'ucf101:root="{tmp_path}",split=all,part=all')
    began = time.process_time()  # on a busy machine the clock on the wall tells of other processes
    assert len(data.refs()) == 13320
    assert time.process_time() - began < 2
