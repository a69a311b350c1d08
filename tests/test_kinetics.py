"""Kinetics: label files, class folders, clips by YouTube id, and the order of the classes."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from vidattr_bench.classes import match
from vidattr_bench.errors import DataError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create

_spec = importlib.util.spec_from_file_location("kinetics_data", Path(__file__).parent / "data" / "kinetics.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

SHARED = Path(__file__).parents[2] / "shared" / "data" / "kinetics"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real Kinetics data in {SHARED}")
DRUMMING, ABSEILING, MASSAGING = "-0Xy_aB3d_4_000013_000023", "R6llTwEh07w_000000_000010", "mSoCqhYTLpk_000004_000014"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return fake.write(tmp_path_factory.mktemp("kinetics"))


@pytest.fixture
def root(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "root"))


def module(root: Path, options: str = ""):
    data = create("datasets", f'kinetics:root="{root}"{options and "," + options}')
    data.adapt(ClipInput(length=5, anchor="start", size=(24, 36)))
    return data


def named(data) -> dict[str, str]:
    return {ref.id: data.classes[ref.label] for ref in data.refs()}


def test_the_plan_holds_what_is_there_and_counts_the_rest(root):
    data = module(root)
    assert named(data) == {
        DRUMMING: "air drumming",
        ABSEILING: "abseiling",
        MASSAGING: "massaging person's head",
    }
    assert [ref.id for ref in data.refs()] == [DRUMMING, ABSEILING, MASSAGING]
    assert data.missing() == ["Gone_Gone_1_000107_000117"]
    assert [ref.group for ref in data.refs()] == ["-0Xy_aB3d_4", "R6llTwEh07w", "mSoCqhYTLpk"]
    assert data.split_name == "400/val"


def test_a_clip_that_two_parts_list_is_not_lost_with_all_of_them(root):
    lists = root / "annotations"
    (lists / "test.csv").write_text((lists / "validate.csv").read_text())
    assert DRUMMING in named(module(root, "part=val"))
    assert DRUMMING in named(module(root, "part=all"))


def test_each_clip_is_its_own_file(root):
    data = module(root)
    for ref, level in zip(data.refs(), (40, 80, 120), strict=True):
        clip = data.load(ref)
        assert (clip.frames * 255).mean().item() == pytest.approx(level, abs=2)
        assert not clip.annotated.any()


def test_clips_of_one_video_share_a_group(root):
    refs = module(root, "part=train").refs()
    assert [ref.id for ref in refs] == ["0347ZoDXyP0_000095_000105", "0347ZoDXyP0_000195_000205"]
    assert {ref.group for ref in refs} == {"0347ZoDXyP0"}
    assert len(module(root, "part=all").refs()) == 5


def test_a_clip_that_two_parts_list_lies_in_either(root):
    train, val = (next((root / "annotations").glob(name)) for name in ("*train*.csv", "*val*.csv"))
    theirs = next(line for line in val.read_text().splitlines() if DRUMMING[:11] in line).rpartition(",")[0]
    train.write_text(train.read_text().rstrip("\n") + "\n" + theirs + "\n")
    own = next(line for line in train.read_text().splitlines() if "0347ZoDXyP0" in line)
    val.write_text(val.read_text().rstrip("\n") + "\n" + own + ",1\n")
    assert len(module(root, "part=all").refs()) == 5


def test_a_file_that_names_no_moment_is_no_clip_of_a_video_with_several(root):
    path = root / "annotations" / "validate.csv"
    path.write_text(path.read_text() + "abseiling,R6llTwEh07w,20,30,validate,1\n")
    data = module(root)
    assert set(named(data)) == {DRUMMING, MASSAGING}
    vague = root / "val" / "abseiling" / "R6llTwEh07w.mkv"
    assert set(data.missing()) == {"Gone_Gone_1_000107_000117", ABSEILING, "R6llTwEh07w_000020_000030"}
    vague.rename(vague.with_name(f"{ABSEILING}.mkv"))
    assert ABSEILING in named(module(root))


def test_without_label_files_the_folders_name_the_classes(root):
    shutil.rmtree(root / "annotations")
    data = module(root)
    assert named(data) == {
        "R6llTwEh07w": "abseiling",
        DRUMMING: "air drumming",
        MASSAGING: "massaging person's head",
    }
    assert data.missing() == []
    assert module(root, "version=600").classes == ("abseiling", "air_drumming", "massaging person's head")
    (root / "val" / "abseiling").rename(root / "val" / "knitting socks")
    with pytest.raises(DataError, match=r"knitting socks: is called like none of the 400 classes"):
        module(root).refs()


@pytest.mark.parametrize("place", ["k400/val", "videos_val", "val_256", "kinetics400/validate"])
def test_the_folders_of_other_crawlers(root, place):
    (root / place).parent.mkdir(exist_ok=True)
    (root / "val").rename(root / place)
    assert len(module(root).refs()) == 3


def test_clips_in_one_flat_folder(root):
    for path in list(root.glob("val/*/*")):
        path.rename(root / "val" / path.name)
    assert len(named(module(root))) == 3


def test_of_a_clip_in_several_folders_the_first_is_read(root):
    shutil.copytree(root / "train" / "abseiling", root / "val_256" / "abseiling")
    shutil.copytree(root / "val", root / "val_256", dirs_exist_ok=True)
    shutil.rmtree(root / "annotations")
    data = module(root)
    assert len(data.refs()) == len(data.batches(9)[0]) == 5
    assert data._paths[DRUMMING].parent.parent.name == "val"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,youtube_id,time_start,time_end\nabseiling,../../../x,0,10\n", r"line 2: youtube_id='../../../x' is no"),
        ("label,youtube_id,time_start,time_end\nabseiling,R6llTwEh07w,10,0\n", r"line 2: time_start=10 must come bef"),
        ("label,youtube_id,time_start,time_end\nabseiling,R6llTwEh07w,x,10\n", r"line 2: time_start='x' is no number"),
        ("label,youtube_id,time_start,time_end\nabsailing,R6llTwEh07w,0,10\n", r"'absailing'.*did you mean abseiling"),
        (
            "label,youtube_id,time_start,time_end\nabseiling,R6llTwEh07w,0,10\nair drumming,R6llTwEh07w,0,10\n",
            r"line 3: R6llTwEh07w_000000_000010 is 'abseiling' on an earlier line",
        ),
        ("/path/abseiling/R6llTwEh07w.mp4 0\n", r"needs the column youtube_id"),
    ],
)
def test_bad_label_files_are_refused(root, text, said):
    (root / "annotations" / "validate.csv").write_text(text)
    with pytest.raises(DataError, match=f"validate.csv: .*{said}"):
        module(root).refs()


def test_withheld_labels_leave_clips_without_one(root):
    (root / "annotations" / "validate.csv").write_text("youtube_id,time_start,time_end,split\nR6llTwEh07w,0,10,test\n")
    assert [ref.label for ref in module(root).refs()] == [None]


def test_a_label_map_gives_classes_and_order(root):
    (root / "label_map_600.txt").write_text("massaging person's head\nair drumming\nabseiling\n")
    assert [ref.label for ref in module(root, "version=600").refs()] == [1, 2, 0]


def test_nothing_there_is_said_with_a_remedy(root, tmp_path):
    with pytest.raises(DataError, match="give kinetics:root=DIR"):
        module(tmp_path / "nowhere").refs()
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="expects val/<class>"):
        module(tmp_path / "bare").refs()
    with pytest.raises(DataError, match="version='500' is unknown"):
        module(root, "version=500")


def test_a_damaged_clip_costs_its_own_rows(root):
    path = root / fake.CLIPS[0]
    path.write_bytes(path.read_bytes()[:100])
    data = module(root)
    work = data.read(0, data.refs())
    assert [one.id for one in work.unreadable] == [DRUMMING]


@needs_shared
def test_the_classes_are_those_of_the_real_label_maps(root):
    official = tuple((SHARED / "label_map_400.txt").read_text().splitlines())
    assert module(root).classes == official
    assert match(module(root).classes, official) == list(range(400))
    data = module(root, f'version=600,label_map="{SHARED / "label_map_600.txt"}"')
    assert len(data.classes) == 600
    assert list(data.classes) == sorted(data.classes)


@needs_shared
def test_real_clips_decode(tmp_path):
    (tmp_path / "val" / "abseiling").mkdir(parents=True)
    for path in (SHARED / "clips").glob("???????????.mp4"):
        (tmp_path / "val" / "abseiling" / path.name).symlink_to(path)
    data = module(tmp_path)
    work = data.read(0, data.refs())
    assert sorted(work.batch.ids) == ["R6llTwEh07w", "SOX5yA1l24A", "WUzgd7C1pWA"]
    assert work.batch.frames.std() > 0.05
