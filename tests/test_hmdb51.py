"""HMDB51 and JHMDB: official lists, clips on disk, groups, headers that over-count, and boxes around outlines."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from scipy.io import savemat

from vidattr_bench import check_data
from vidattr_bench.errors import DataError, InconsistentError, PluginError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create
from vidattr_bench.video import frame_count


def _writer(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_data", Path(__file__).parent / "data" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hmdb51, jhmdb = _writer("hmdb51"), _writer("jhmdb")


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> dict[str, Path]:
    return {
        "hmdb51": hmdb51.write(tmp_path_factory.mktemp("hmdb51")),
        "jhmdb": jhmdb.write(tmp_path_factory.mktemp("jhmdb")),
    }


@pytest.fixture(params=["hmdb51", "jhmdb"])
def either(request, templates, tmp_path) -> tuple[str, Path]:
    return request.param, Path(shutil.copytree(templates[request.param], tmp_path / "root"))


@pytest.fixture
def hmdb_root(templates, tmp_path) -> Path:
    return Path(shutil.copytree(templates["hmdb51"], tmp_path / "root"))


@pytest.fixture
def jhmdb_root(templates, tmp_path) -> Path:
    return Path(shutil.copytree(templates["jhmdb"], tmp_path / "root"))


def module(name: str, root: Path, options: str = "part=test", **wanted):
    data = create("datasets", f'{name}:root="{root}",{options}')
    data.adapt(ClipInput(**{"length": 9, "anchor": "start", "size": (24, 32), "crop": "none"} | wanted))
    return data


def clip_of(data, name: str):
    return data.load(next(ref for ref in data.refs() if ref.id.startswith(name)))


# --- lists, of both


def test_marks_choose_parts_and_0_is_in_neither(hmdb_root):
    names = {mark: [c for clips in hmdb51.LISTS.values() for c, m in clips if m == mark] for mark in (0, 1, 2)}
    test = module("hmdb51", hmdb_root)
    assert [ref.id for ref in test.refs()] == [name for name in names[2] if name != hmdb51.ABSENT]
    assert test.missing() == [hmdb51.ABSENT]
    assert [ref.id for ref in module("hmdb51", hmdb_root, "part=train").refs()] == names[1]
    assert [ref.id for ref in module("hmdb51", hmdb_root, "split=3,part=test").refs()] == names[1]
    everything = {ref.id for ref in module("hmdb51", hmdb_root, "part=all").refs()}
    assert everything == set(names[1] + names[2]) - {hmdb51.ABSENT}
    assert test.classes == ("brush_hair", "flic_flac", "wave")
    assert [ref.label for ref in test.refs()] == [0, 1, 2, 2]


def test_classes_are_in_the_order_of_their_names(either):
    """Not of their files: `_stairs` comes before `_test`."""
    name, root = either
    lists = next(root.rglob("*_test_split1.txt")).parent
    for label in ("sword", "climb_stairs", "kick_ball", "climb", "sword_exercise", "kick"):
        (lists / f"{label}_test_split1.txt").write_text(f"a_{label}.avi 2\n")
    classes = module(name, root).classes
    assert {"climb", "kick_ball"} <= set(classes)
    assert list(classes) == sorted(classes)


def test_the_group_is_the_source_whatever_its_class(hmdb_root, templates):
    groups = [ref.group for ref in module("hmdb51", hmdb_root, "part=all").refs()]
    assert groups == [
        "April_09",
        "My_Hair_Routine",
        "1996_Champions_Show_Pt_1",
        "(Rad)Schlag_die_Bank!",
        "RATRACE",
        "#122_Cleaning_Up",
    ]
    people = module("jhmdb", templates["jhmdb"], "part=all").refs()
    both = {ref.group for ref in people if ref.id.startswith("21_klettert")}
    assert both == {"21_klettert"}


@pytest.mark.parametrize("line", ["../../etc/passwd.avi 2", ".. 2", "clip.avi 3", "clip.avi", "\\\\host\\clip.avi 1"])
def test_a_line_that_is_no_clip_is_refused_by_name(either, line):
    name, root = either
    path = next(root.rglob("*_test_split1.txt"))
    path.write_text(f"a_clip.avi 1\n{line}\n")
    with pytest.raises(DataError, match=rf"{path.name}:2"):
        module(name, root).refs()


def test_what_is_missing_is_named_with_a_remedy(either, tmp_path):
    name, root = either
    with pytest.raises(DataError, match="give root=DIR"):
        module(name, tmp_path / "nowhere").refs()
    lists = next(root.rglob("*_test_split1.txt")).parent
    shutil.move(lists, tmp_path / "lists")
    with pytest.raises(DataError, match="give splits=DIR"):
        module(name, root).refs()
    assert module(name, root, f'splits="{tmp_path / "lists"}"').refs()
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="none of the"):
        module(name, tmp_path / "bare", f'splits="{tmp_path / "lists"}"').refs()
    for option in ("split=4", "part=dev"):
        with pytest.raises((DataError, PluginError), match=option.partition("=")[0]):
            module(name, root, option)


def test_the_fingerprint_follows_lists_clips_and_outlines(either):
    name, root = either
    seen = {module(name, root).fingerprint()}
    changed = [next(root.rglob("*_test_split1.txt")), *root.rglob("*brush_hair_u*/*00003.*g")][:2]
    changed += [*root.rglob("April*/puppet_mask.mat")]
    for path in changed:
        assert module(name, root).fingerprint() in seen
        data = path.read_bytes()
        path.write_bytes(data + (b"a_new_one.avi 2\n" if path.suffix == ".txt" else b"\0"))
        seen.add(module(name, root).fingerprint())
    assert len(seen) == 1 + len(changed)


# --- HMDB51


def test_a_header_that_over_counts_costs_nothing(hmdb_root):
    path = hmdb_root / "hmdb51_org" / "wave" / "RATRACE_wave_f_nm_np1_fr_goo_37.avi"
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == hmdb51.FRAMES + 1
    assert frame_count(path) == hmdb51.FRAMES
    clip = clip_of(module("hmdb51", hmdb_root), "RATRACE")
    levels = torch.tensor([40 + 10 * t for t in range(hmdb51.FRAMES)] + [0, 0]) / 255  # black past the end
    torch.testing.assert_close(clip.frames.mean((0, 2, 3)), levels, atol=2e-3, rtol=0)
    assert not clip.annotated.any()
    last = clip_of(module("hmdb51", hmdb_root, length=2, anchor="end"), "RATRACE")
    torch.testing.assert_close(last.frames.mean((0, 2, 3)), levels[5:7], atol=2e-3, rtol=0)


def test_pictures_are_read_where_there_is_no_video(hmdb_root):
    clip = clip_of(module("hmdb51", hmdb_root, length=7), "April")
    torch.testing.assert_close(clip.frames.mean((0, 2, 3)), torch.arange(7) * 10 / 255, atol=5e-3, rtol=0)


@pytest.mark.real
def test_real_clips_decode_one_frame_less_than_their_headers_promise(real_data, tmp_path):
    folder = real_data / "hmdb51" / "clips"
    (tmp_path / "splits").mkdir()
    (tmp_path / "videos").mkdir()
    clips = {path.stem: path for path in folder.glob("*_wave_*.avi")}
    (tmp_path / "splits" / "wave_test_split1.txt").write_text("".join(f"{clip}.avi 2\n" for clip in sorted(clips)))
    shutil.copytree(folder, tmp_path / "videos" / "wave")
    data = module("hmdb51", tmp_path)
    assert [ref.group for ref in data.refs()] == ["RATRACE", "SchoolRulesHowTheyHelpUs", "TrumanShow"]
    for ref in data.refs():
        with av.open(str(clips[ref.id])) as container:
            assert frame_count(clips[ref.id]) == container.streams.video[0].frames - 1
        assert data.load(ref).frames.std() > 0.05
    report = check_data.check(data, "hmdb51", decode=True)
    assert (report.usable, report.listed, report.status) == (3, 3, 0)
    assert len(report.unannotated) == 3


# --- JHMDB


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"size": (48, 64)},
        {"size": (30, 50), "crop": "centre"},
        {"size": (48, 64), "length": 3, "stride": 2, "anchor": "middle"},
    ],
)
def test_boxes_lie_around_the_white_figure(jhmdb_root, wanted):
    data = module("jhmdb", jhmdb_root, **wanted)
    for ref in data.refs():
        clip = data.load(ref)
        for tube in clip.tubes:
            _, t, h, w = clip.frames.shape
            white, mask = clip.frames.mean(0) > 0.5, tube.mask(t, h, w)
            for i in clip.annotated.nonzero()[:, 0].tolist():
                rows, columns = (white[i].any(axis).nonzero()[:, 0] for axis in (1, 0))
                inside = mask[i].nonzero()
                found = torch.stack([inside.amin(0), inside.amax(0)])
                expected = torch.tensor([[rows[0], columns[0]], [rows[-1], columns[-1]]])
                assert (found - expected).abs().max() <= 1


def test_boxes_are_tight_and_half_open(jhmdb_root):
    clip = clip_of(module("jhmdb", jhmdb_root, size=(48, 64), length=2), "April")
    assert clip.tubes[0].boxes.tolist() == [[6, 8, 21, 28], [10, 9, 25, 29]]
    assert clip.tubes[0].label == 0


def test_frames_without_an_outline_are_unknown_and_so_is_a_clip_without_the_file(jhmdb_root):
    clip = clip_of(module("jhmdb", jhmdb_root), "Brushing")  # 8 frames, 6 outlined, 9 sampled
    assert clip.annotated.tolist() == [True] * 6 + [False] * 3
    assert [(tube.start, len(tube.boxes)) for tube in clip.tubes] == [(0, 6)]
    late = clip_of(module("jhmdb", jhmdb_root, length=2, anchor="end"), "Brushing")
    assert (late.tubes, late.annotated.tolist()) == ((), [False, False])
    bare = clip_of(module("jhmdb", jhmdb_root), "Torwart")
    assert (bare.tubes, bare.annotated.any().item()) == ((), False)


def test_a_gap_in_the_outlines_is_unknown_and_keeps_the_person_one_instance(jhmdb_root):
    path = next((jhmdb_root / "puppet_mask").rglob("April*/puppet_mask.mat"))
    masks = jhmdb.figure(9, 0)
    masks[:, :, [0, 4]] = 0
    savemat(path, {"part_mask": masks})
    clip = clip_of(module("jhmdb", jhmdb_root), "April")
    assert clip.annotated.tolist() == [False, True, True, True, False, True, True, True, True]
    (tube,) = clip.tubes
    assert (tube.start, len(tube.boxes)) == (1, 8)
    assert not tube.boxes[3].any()
    truth = next(iter(module("jhmdb", jhmdb_root).truths()))
    counted = check_data.count([truth])
    assert (counted.boxes, counted.tube_frames, counted.frames) == (7, 7, 9)


def test_more_outlines_than_frames_are_inconsistent(jhmdb_root):
    folder = next((jhmdb_root / "Rename_Images").rglob("April*"))
    (folder / "00009.png").unlink()
    with pytest.raises(InconsistentError, match=r"8 frames, but .*outlines 9"):
        clip_of(module("jhmdb", jhmdb_root), "April")


@pytest.mark.parametrize("wrong", [b"no outlines", {"other": np.ones((4, 6, 3))}, {"part_mask": np.zeros((4, 6, 3))}])
def test_a_damaged_outline_costs_its_clip_only(jhmdb_root, wrong):
    path = next((jhmdb_root / "puppet_mask").rglob("April*/puppet_mask.mat"))
    if isinstance(wrong, bytes):
        path.write_bytes(wrong)
    else:
        savemat(path, wrong)
    data = module("jhmdb", jhmdb_root)
    with pytest.raises(DataError, match=r"puppet_mask\.mat"):
        clip_of(data, "April")
    report = check_data.check(data, "jhmdb")
    assert list(report.inconsistent) == ["April_09_brush_hair_u_nm_np1_ba_goo_0"]
    assert (report.usable, report.localisable, report.status) == (3, 2, 1)


def test_outlines_give_controls_without_decoding(jhmdb_root):
    for path in jhmdb_root.rglob("*.png"):
        path.write_bytes(b"")
    data = module("jhmdb", jhmdb_root)
    report = check_data.with_controls(check_data.check(data, "jhmdb"), data)
    assert report.annotation["test"].videos == 3
    assert report.annotation["all"].boxes == 9 + 6 + 6 + 7
    assert {row.control: row.frames for row in report.controls}["oracle"] == 1


# --- JHMDB's outlines as the truth

MASKS = "part=test,truth=masks"


@pytest.mark.parametrize(
    "wanted",
    [
        {"size": (48, 64)},
        {"size": (30, 50), "crop": "centre", "interpolation": "area"},
        {"size": (24, 32), "interpolation": "area", "length": 3, "stride": 2, "anchor": "middle"},
    ],
)
def test_masks_are_the_white_figure(jhmdb_root, wanted):
    data = module("jhmdb", jhmdb_root, MASKS, **wanted)
    found = 0
    for ref in data.refs():
        clip = data.load(ref)
        grey, tubes = clip.frames.mean(0), [tube.mask(*clip.frames.shape[1:]) for tube in clip.tubes]
        for mask in tubes:
            decided = ((grey - 0.5).abs() > 1e-3) & clip.annotated[:, None, None]
            assert torch.equal((grey > 0.5)[decided], mask[decided])
            assert decided[clip.annotated].double().mean() > 0.9
            found += 1
    assert found >= 2


def test_masks_and_boxes_know_the_same_frames_and_lie_in_one_another(jhmdb_root):
    path = next((jhmdb_root / "puppet_mask").rglob("April*/puppet_mask.mat"))
    masks = jhmdb.figure(9, 0)
    masks[:, :, [0, 4]] = 0
    savemat(path, {"part_mask": masks})
    for name in ("April", "Brushing", "Torwart"):
        boxed, outlined = (clip_of(module("jhmdb", jhmdb_root, o, size=(48, 64)), name) for o in ("part=test", MASKS))
        assert torch.equal(boxed.annotated, outlined.annotated)
        for box, tube in zip(boxed.tubes, outlined.tubes, strict=True):
            assert (box.masks, box.start) == (None, tube.start)
            assert torch.equal(box.boxes, tube.boxes)
            whole, inside = (one.mask(9, 48, 64) for one in (box, tube))
            assert torch.equal(whole & inside, inside)
            assert inside.sum() / whole.sum() == pytest.approx((20 * 8 + 4 * 7) / (20 * 15))


def test_masks_keep_the_contract_and_change_the_name_of_the_split(jhmdb_root):
    from vidattr_bench.testing import check_dataset

    assert module("jhmdb", jhmdb_root, "part=test").split_name == "1/test"
    data = module("jhmdb", jhmdb_root, MASKS)
    assert data.split_name == "1/test/masks"
    check_dataset(data)
    with pytest.raises((DataError, PluginError), match=r"truth.*mask"):
        module("jhmdb", jhmdb_root, "part=test,truth=mask")


def test_an_outline_in_other_pixels_than_the_frames_is_stretched_over_them(jhmdb_root):
    path = next((jhmdb_root / "puppet_mask").rglob("April*/puppet_mask.mat"))
    whole = clip_of(module("jhmdb", jhmdb_root, MASKS, size=(48, 64)), "April")
    savemat(path, {"part_mask": jhmdb.figure(9, 0).repeat(3, 0).repeat(2, 1)})
    large = clip_of(module("jhmdb", jhmdb_root, MASKS, size=(48, 64)), "April")
    assert torch.equal(large.tubes[0].masks, whole.tubes[0].masks)


def test_controls_of_outlines_are_lower_than_those_of_their_boxes(jhmdb_root):
    found = {}
    for options in ("part=test", MASKS):
        data = module("jhmdb", jhmdb_root, options)
        report = check_data.with_controls(check_data.check(data, "jhmdb"), data)
        assert report.annotation["all"].boxes == 9 + 6 + 6 + 7
        found[options] = {row.control: row.frames for row in report.controls}
    assert found[MASKS]["oracle"] == 1
    assert found[MASKS]["random"] < found["part=test"]["random"]
