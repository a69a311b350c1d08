"""EPIC-Kitchens: lists of both versions, footage in three forms, and boxes on the frames that show what they show."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import io
import shutil
import tarfile
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
import torch
from PIL import Image

from vidattr_bench.cli import main
from vidattr_bench.errors import DataError, InconsistentError, PluginError
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create, load
from vidattr_bench.runner import Run
from vidattr_bench.video import frame_times, read_frames, write_video

_spec = importlib.util.spec_from_file_location("epic_data", Path(__file__).parent / "data" / "epic_kitchens.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)
epic = importlib.import_module(load("datasets", "epic_kitchens").__module__)
_package = epic.__name__.rpartition(".")[0]
_parts = ("lists", "boxes", "frames", "truth")
lists, boxes, frames, truth = (importlib.import_module(f"{_package}._epic_{name}") for name in _parts)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return fake.write(tmp_path_factory.mktemp("epic"))


@pytest.fixture
def root(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "root"))


def module(root: Path, options: str = "version=55,part=train", **wanted):
    data = create("datasets", f'epic_kitchens:root="{root}",{options}')
    given = {"length": 9, "anchor": "spread", "size": (36, 64), "crop": "none", "interpolation": "nearest"}
    data.adapt(ClipInput(**given | wanted))
    return data


def clip_of(data, name: str):
    return data.load(next(ref for ref in data.refs() if ref.id == name))


# --- lists, and what is on disk


def test_the_plan_holds_what_is_there_in_any_form_and_counts_the_rest(template):
    data = module(template)
    assert [ref.id for ref in data.refs()] == ["P01_01_900", "P01_01_901", "P01_02_902", "P01_02_903", "P02_01_904"]
    assert data.missing() == ["P03_01_905"]
    assert [ref.group for ref in data.refs()] == ["P01_01", "P01_01", "P01_02", "P01_02", "P02_01"]
    assert [data.classes[ref.label] for ref in data.refs()] == ["sponge", "sponge", "drawer", "pan", "tap"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ("noun", ["sponge", "drawer", "drawer"]),
        ("verb", ["take", "open", "open"]),
        ("action", ["take sponge", "open drawer", "open drawer"]),
    ],
)
def test_epic_100_has_class_ids_of_its_own(template, labels, names):
    data = module(template, f"labels={labels}")
    assert data.split_name == f"100/official/test/{labels}"
    assert [ref.id for ref in data.refs()] == ["P01_01_17", "P01_101_0", "P01_02_2"]
    assert [data.classes[ref.label] for ref in data.refs()] == names
    assert data.classes != module(template, f"labels={labels},version=55,part=train").classes


def test_action_classes_are_the_pairs_of_all_labelled_lists_in_the_order_of_their_ids(template):
    assert module(template, "labels=action").classes == ("take sponge", "put tap", "open drawer")
    assert module(template, "labels=action,part=train").classes == ("take sponge", "put tap", "open drawer")


def test_the_withheld_tests_have_no_labels(template):
    for version, id in ((55, "P01_02_7"), (100, "P01_02_9")):
        (ref,) = module(template, f"version={version},part=unlabelled").refs()
        assert (ref.id, ref.label) == (id, None)
        assert module(template, f"version={version},part=unlabelled").load(ref).tubes == ()


def test_epic_55_has_no_labelled_test_and_says_what_there_is(template):
    with pytest.raises(DataError, match="part=train, part=unlabelled or split=top20_500"):
        module(template, "version=55").refs()


def test_a_named_split_has_its_own_classes(template):
    data = module(template, "version=55,split=top20_500")
    assert data.classes == ("sponge", "drawer", "tap")
    assert [(ref.id, ref.label) for ref in data.refs()] == [("P01_01_900", 0), ("P01_01_901", 0), ("P01_02_902", 1)]
    assert {tube.label for tube in clip_of(data, "P01_02_902").tubes} == {1}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("version=56", "version"),
        ("split=top50", "split"),
        ("part=dev", "part"),
        ("labels=hands", "labels"),
        ("tolerance=15", "tolerance"),
        ("box_frames=native", "box_frames"),
        ("split=top20_500", "needs version=55"),
        ("version=55,split=top20_500,labels=verb", "needs version=55 and labels=noun"),
    ],
)
def test_unknown_options_are_refused(template, options, what):
    with pytest.raises((DataError, PluginError), match=what):
        module(template, options)


def test_what_is_missing_is_named_with_a_remedy(root, tmp_path):
    with pytest.raises(DataError, match="give epic_kitchens:root=DIR"):
        module(tmp_path / "nowhere").refs()
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"no EPIC_train_action_labels\.csv .*annotations=DIR"):
        module(tmp_path / "bare").refs()
    with pytest.raises(DataError, match=r"none of the 6 segments .*rgb_frames"):
        module(tmp_path / "bare", f'version=55,part=train,annotations="{root}/epic-kitchens-55-annotations"').refs()
    with pytest.raises(DataError, match="boxes= takes EPIC_train_object_labels"):
        clip_of(module(root, f'version=55,part=train,boxes="{root}/none.csv"'), "P01_01_900")


BROKEN = [
    ("video_id", "P01_01", "../../P01", "is not like P01_01"),
    ("verb_class", "take,0", "take,9", "verb_class 9 is not below 3"),
    ("noun_class", "sponge,3", "sponge,-1", "class '-1' is not a whole number"),
    ("start_frame", "20643", "start", "start_frame 'start' is not a whole number"),
    ("stop_frame", "20700", "20600", "comes before start_frame"),
    ("fields", "[3]\n", "[3],more\n", "fields under 14 headings"),
    ("column", "video_id", "video", "has no column 'video_id'"),
]


@pytest.mark.parametrize(("old", "new", "message"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_line_that_makes_no_sense_is_refused_by_name(root, old, new, message):
    path = root / "epic-kitchens-55-annotations" / "EPIC_train_action_labels.csv.gz"
    text = lists.gzip.decompress(path.read_bytes()).decode()
    assert old in text
    path.write_bytes(lists.gzip.compress(text.replace(old, new).encode()))
    with pytest.raises(DataError, match=rf"EPIC_train_action_labels\.csv\.gz.*{message}"):
        module(root).refs()


def test_damaged_lists_are_refused(root):
    path = root / "epic-kitchens-55-annotations" / "EPIC_train_action_labels.csv.gz"
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"no gzip", data[:40] + b"\0\0\0" + data[43:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"EPIC_train_action_labels\.csv\.gz"):
            module(root).refs()


def test_refs_decode_nothing(root):
    for path in [*root.rglob("*.jpg"), *root.rglob("*.tar"), *root.rglob("*.MP4")]:
        path.write_bytes(b"")
    assert len(module(root).refs()) == 5


def test_the_fingerprint_follows_footage_lists_and_boxes(root):
    seen = {module(root).fingerprint()}
    changes = [
        root / "P01/rgb_frames/P01_01/frame_0000020643.jpg",
        root / "P01/rgb_frames/P01_02.tar",
        root / "P02/videos/P02_01.MP4",
        root / "epic-kitchens-55-annotations/EPIC_train_object_labels.csv",
        root / "epic-kitchens-55-annotations/EPIC_noun_classes.csv",
    ]
    for path in changes:
        assert module(root).fingerprint() in seen
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(module(root).fingerprint())
    assert len(seen) == 6


@pytest.mark.parametrize(("labels", "follows"), [("action", True), ("noun", False)])
def test_numbers_of_actions_follow_the_lists_of_other_parts(root, labels, follows):
    """A pair of verb and noun that the training list alone holds moves the numbers of those after it."""
    before = module(root, f"labels={labels}")
    classes, stamp = before.classes, before.fingerprint()
    path = root / "epic-kitchens-100-annotations" / "EPIC_100_train.csv.gz"
    text = gzip.decompress(path.read_bytes())
    extra = b"P02_01_6,P02,P02_01,,,,20,70,,take,0,tap,0,[],[]\n"
    path.write_bytes(gzip.compress(text + extra))
    after = module(root, f"labels={labels}")
    assert (after.classes != classes) == follows
    assert (after.fingerprint() != stamp) == follows


# --- footage


def test_folder_archive_and_video_give_the_same_frames(root):
    shelf = frames.find_footage(root)
    (archive,), (video,) = shelf.videos["P01_02"], shelf.videos["P02_01"]
    fake.write_folder(root / "folder", "P01_02")
    wanted = [61, 1, 30, 75]
    assert torch.equal(frames.FrameFolder(root / "folder").read(wanted), archive.read(wanted))
    half = [frame for frame in range(1, 81) if frame % 7 == 0]
    white = video.read(half).float().mean(-1) > 127
    expected = torch.stack([fake.frame_of("P02_01", frame - 1 + frame % 2)[..., 0] > 127 for frame in half])
    assert (white != expected).float().mean() < 0.01, "frame n is what the video shows when picture n is taken"
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in expected}) == 2


def resampled(path: Path, rate: int) -> list[int]:
    """Which frame, counted from 0, each picture shows that FFmpeg's own `fps` filter extracts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        graph.link_nodes(graph.add_buffer(template=stream), graph.add("fps", str(rate)), graph.add("buffersink"))
        graph.configure()
        pictures = []
        for frame in [*container.decode(stream), None]:
            graph.push(frame)
            while True:
                try:
                    pictures.append(graph.pull().to_ndarray(format="rgb24").mean() / 10)
                except (BlockingIOError, EOFError):
                    break
    return [round(picture) for picture in pictures]


@pytest.mark.parametrize("fps", [24, 30, 48, 59.94, 90])
def test_a_video_is_read_as_its_frames_were_extracted(tmp_path, fps):
    path = tmp_path / "P01_01.mkv"
    grey = torch.arange(24, dtype=torch.uint8)[:, None, None, None].expand(24, 32, 48, 3) * 10
    write_video(path, grey, fps, lossless=True)
    expected = resampled(path, 60)
    read = frames.VideoFile(path, 60).read(range(1, len(expected) + 1)).float().mean((1, 2, 3)) / 10
    assert read.round().int().tolist() == expected


def test_frames_of_segments_alone_are_found(root):
    shutil.rmtree(root / "P01")
    folder = root / "frames_rgb_flow" / "rgb" / "seg_train" / "P01" / "P01_01" / "P01_01_901-take-sponge"
    folder.mkdir(parents=True)
    for number in range(20704, 20759):
        (folder / f"frame_{number:010d}.jpg").write_bytes(fake.jpeg("P01_01", number))
    (root / "clips").mkdir()
    pictures = torch.stack([fake.frame_of("P01_02", number) for number in range(28, 71)])
    write_video(root / "clips" / "P01_02_903.mp4", pictures, 60)
    write_video(root / "clips" / "P01_02_open_drawer_f1-40_rgb.mp4", pictures[:40], 60)
    write_video(root / "clips" / "P01_02_open_drawer_f1-40_flow_uv.mp4", pictures[:40], 60)
    data = module(root)
    assert [ref.id for ref in data.refs()] == ["P01_01_901", "P01_02_902", "P01_02_903", "P02_01_904"]
    for name in ("P01_01_901", "P01_02_903"):
        check_clip(clip_of(data, name))


def test_a_folder_comes_before_an_archive_and_an_archive_before_a_video(root):
    fake.write_folder(root / "frames_rgb_flow" / "rgb" / "train" / "P01" / "P01_02", "P01_02")
    fake.write_recording(root / "videos" / "train" / "P01" / "P01_02.MP4", "P01_02")
    kinds = [type(one).__name__ for one in frames.find_footage(root).videos["P01_02"]]
    assert kinds == ["FrameFolder", "FrameArchive", "VideoFile"]


def test_what_is_wrong_with_footage_costs_its_own_segments_only(root):
    (root / "P01/rgb_frames/P01_01/frame_0000020661.jpg").unlink()
    archive = root / "P01/rgb_frames/P01_02.tar"
    archive.write_bytes(archive.read_bytes()[:90_000])
    data = module(root, length=20)
    work = data.read(0, data.refs())
    reasons = {bad.id: bad.reason for bad in work.unreadable}
    assert "frame_0000020661.jpg is missing" in reasons.pop("P01_01_900")
    assert all("P01_02.tar" in reason for reason in reasons.values())
    assert "P01_02_903" in reasons
    assert set(work.batch.ids) >= {"P01_01_901", "P02_01_904"}


def test_an_archive_of_something_else_is_refused_and_its_names_are_no_paths(root, tmp_path):
    path = root / "P01/rgb_frames/P01_02.tar"
    for data, message in ((b"text" * 300, "cannot be read as a tar"), (b"", "cannot be read|holds no frame")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            clip_of(module(root), "P01_02_902")
    link = tarfile.TarInfo("frame_0000000001.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(path, "w") as archive:
        archive.addfile(link)
    with pytest.raises(DataError, match="holds no frame_0000000001"):
        clip_of(module(root), "P01_02_902")
    picture = fake.jpeg("P01_02", 1)
    with tarfile.open(path, "w") as archive:
        for number in range(1, 76):
            member = tarfile.TarInfo(f"../../frame_{number:010d}.jpg")
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
    before = sorted(root.rglob("*"))
    assert len(clip_of(module(root), "P01_02_902").frames) == 3
    assert sorted(root.rglob("*")) == before


def test_a_video_that_ends_early_or_tells_no_times_is_refused(root):
    path = root / "P02/videos/P02_01.MP4"
    short = torch.stack([fake.frame_of("P02_01", number) for number in range(1, 40, 2)])
    write_video(path.with_suffix(".mp4"), short, 30000 / 1001)
    path.unlink()
    with pytest.raises(DataError, match=r"P02_01\.mp4: ends before frame"):
        clip_of(module(root), "P02_01_904")
    write_video(root / "other.avi", short, 30)
    path.with_suffix(".mp4").unlink()
    (root / "other.avi").rename(path.with_suffix(".mkv"))
    with pytest.raises(DataError, match="does not tell when its frames are shown"):
        clip_of(module(root), "P02_01_904")


def test_pictures_of_two_sizes_are_refused(root):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "P01/rgb_frames/P01_01/frame_0000020643.jpg")
    with pytest.raises(DataError, match="differ in size"):
        clip_of(module(root), "P01_01_900")


def test_frame_times_are_seconds_from_the_first_frame(tmp_path):
    write_video(tmp_path / "a.mp4", torch.zeros(7, 32, 48, 3, dtype=torch.uint8), 25)
    assert frame_times(tmp_path / "a.mp4") == pytest.approx([i / 25 for i in range(7)])
    write_video(tmp_path / "a.avi", torch.zeros(7, 32, 48, 3, dtype=torch.uint8), 25)
    assert frame_times(tmp_path / "a.avi") == ()


# --- boxes


def check_clip(clip, least: int = 1) -> None:
    """On annotated frames the white rectangles fill the masks of the tubes, and nothing else is white."""
    white = clip.frames.mean(0) > 0.5
    masks = torch.zeros_like(white)
    for tube in clip.tubes:
        masks |= tube.mask(*white.shape)
    assert int(clip.annotated.sum()) >= least, "too few frames are annotated"
    assert not masks[~clip.annotated].any(), "an unknown frame has a box"
    inside, outside = erode(masks), ~erode(~masks)
    for t in clip.annotated.nonzero()[:, 0].tolist():
        assert inside[t].any()
        assert (white[t] | ~inside[t]).all(), "a pixel inside the tube is black"
        assert (~white[t] | outside[t]).all(), "a pixel outside the tube is white"


def erode(masks: torch.Tensor) -> torch.Tensor:
    """Without the pixels within one of the edge, where resampling and JPEG blur."""
    return torch.nn.functional.max_pool2d((~masks).float(), 3, 1, 1) == 0


GEOMETRIES = [
    {},
    {"length": 60, "anchor": "start", "size": (24, 40), "crop": "centre", "interpolation": "bilinear"},
    {"length": 30, "stride": 2, "anchor": "middle", "size": (72, 64), "crop": "centre", "interpolation": "area"},
]


@pytest.mark.parametrize("wanted", GEOMETRIES)
def test_boxes_lie_where_pixels_are(template, wanted):
    for data in (module(template, "tolerance=6,version=55,part=train", **wanted), module(template, **wanted)):
        for ref in data.refs():
            check_clip(data.load(ref), least=2 if wanted else 1)


def test_boxes_of_epic_55_serve_the_segments_of_epic_100_by_the_names_of_the_nouns(template):
    data = module(template, "tolerance=6", length=61, anchor="start")
    check_clip(clip_of(data, "P01_01_17"), least=26)
    check_clip(clip_of(data, "P01_02_2"), least=14)
    unknown = clip_of(data, "P01_101_0")
    assert not unknown.annotated.any()
    assert unknown.tubes == ()


def turned(found: dict, order: tuple) -> dict:
    return {t: [tuple(box[i] for i in order) for box in all] for t, all in found.items()}


MISTAKES = {
    "the numbers of their pictures": ("rgb_frame", lambda real: lambda frame, fps: frame),
    "rgb frames everywhere resampled": ("rgb_frame", lambda real: lambda frame, fps: round(frame * 60 / fps)),
    "top and left swapped": (
        "tubes_of",
        lambda real: lambda found, *rest: real(turned(found, (1, 0, 2, 3)), *rest),
    ),
    "height and width swapped": (
        "tubes_of",
        lambda real: lambda found, *rest: real(turned(found, (0, 1, 3, 2)), *rest),
    ),
    "not scaled": (
        "Canvas",
        lambda real: lambda drawn, read, wanted: real(read, read, wanted),
    ),
    "another resolution": (
        "Canvas",
        lambda real: lambda drawn, read, wanted: real((1080, 1920), read, wanted),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_caught(template, monkeypatch, mistake):
    name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(truth, name, wrong(getattr(truth, name)))
    with pytest.raises((AssertionError, DataError)):  # noqa: PT012
        data = module(template, "tolerance=6,version=55,part=train", length=60, anchor="start")
        for ref in data.refs():
            check_clip(data.load(ref), least=10)


def test_a_frame_is_matched_to_the_nearest_boxes_within_the_tolerance():
    there = {10: ((1, 2, 3, 4),), 16: ((5, 6, 7, 8),), 30: ()}
    sampled = [6, 7, 10, 13, 14, 19, 20, 30, None]
    assert boxes.matched(there, sampled, 3) == {1: there[10], 2: there[10], 3: there[10], 4: there[16], 5: there[16]}
    assert boxes.matched(there, sampled, 0) == {2: there[10]}


@pytest.mark.parametrize("tolerance", [0, 3])
def test_frames_without_boxes_are_unknown_and_a_tube_spans_its_boxes(template, tolerance):
    data = module(template, f"version=55,part=train,tolerance={tolerance}", length=40, anchor="start")
    clip = clip_of(data, "P01_02_902")
    near = [i for i in range(40) if min(abs(i + 1 - 1), abs(i + 1 - 31)) <= tolerance]
    assert clip.annotated.nonzero()[:, 0].tolist() == near
    assert [(tube.start, len(tube.boxes)) for tube in clip.tubes] == [(0, near[-1] + 1)] * 2
    past = clip_of(module(template, length=60, anchor="start"), "P01_02_902")
    assert not past.annotated[40:].any()
    assert not past.frames[:, 40:].any()


def test_published_joins_took_the_numbers_of_the_boxes_for_rgb_frames(template):
    """The option reproduces them: boxes 20 frames before what they show, found on the wrong frames."""
    options = f"version=55,split=top20_500,boxes={template}/step_boxes/Valid_seg_top20_500_val.csv"
    right = clip_of(module(template, options, length=58, anchor="start"), "P01_01_900")
    wrong = clip_of(module(template, f"{options},box_frames=rgb", length=58, anchor="start"), "P01_01_900")
    assert right.annotated.nonzero()[:, 0].tolist() == [i + 20692 - 20643 for i in range(-3, 4)]
    assert wrong.annotated.nonzero()[:, 0].tolist() == [i + 20671 - 20643 for i in range(-3, 4)]
    check_clip(right)
    with pytest.raises(AssertionError):
        check_clip(wrong)


def test_without_the_official_boxes_a_named_split_takes_those_of_all_its_lists(root):
    (root / "epic-kitchens-55-annotations" / "EPIC_train_object_labels.csv").unlink()
    data = module(root, "version=55,split=top20_500,part=all", length=60, anchor="start")
    assert [ref.id for ref in data.refs()] == ["P02_01_904", "P01_01_900", "P01_01_901", "P01_02_902"]
    clips = {ref.id: data.load(ref) for ref in data.refs()}
    assert {id: int(clip.annotated.sum()) for id, clip in clips.items()} == {
        "P02_01_904": 7,
        "P01_01_900": 7,
        # By its number picture 20701 lies in neither segment, so that no list has it.
        "P01_01_901": 7,
        "P01_02_902": 11,
    }
    check_clip(clips["P02_01_904"])
    assert not clip_of(module(root), "P01_01_900").annotated.any()
    (root / "step_boxes" / "Valid_seg_top20_500_val.csv").rename(root / "step_boxes" / "Valid_seg_top50.csv")
    assert clip_of(module(root), "P01_01_900").annotated.any()


def test_the_numbers_of_boxes_follow_the_official_correspondence():
    """Rows of EPIC_test_s1_object_action_correspondence.csv and of s2: video, object frame, action frame."""
    rows = [
        (59.9400599400599, 481, 481),
        (59.9400599400599, 511, 512),
        (59.9400599400599, 1531, 1533),
        (59.9400599400599, 3481, 3485),
        (59.9400599400599, 5971, 5977),
        (29.97002997002997, 5971, 5969),
        (90.0, 5971, 5970),
        (47.952047952047955, 20281, 20280),
    ]
    for fps, drawn, shown in rows:
        assert abs(boxes.rgb_frame(drawn, fps) - shown) <= (1 if fps > 40 else 2)


@pytest.mark.parametrize(
    "text", ["[(1, 2, 3)]", "[(1, 2, 3, 4.5)]", "open('x')", "[" * 2000, "{1: (1, 2, 3, 4)}", "''"]
)
def test_boxes_that_are_no_boxes_cost_their_own_segment(root, text):
    path = root / "epic-kitchens-55-annotations" / "EPIC_train_object_labels.csv"
    lines = path.read_text().splitlines()
    line = next(i for i, line in enumerate(lines) if line.startswith("3,sponge,P01,P01_01,020701"))
    lines[line] = f'3,sponge,P01,P01_01,020701,"{text}"'
    path.write_text("\n".join(lines) + "\n")
    data = module(root)
    work = data.read(0, data.refs())
    assert [bad.id for bad in work.unreadable] == ["P01_01_900", "P01_01_901"]
    assert "EPIC_train_object_labels.csv: P01_01: bounding_boxes" in work.unreadable[0].reason


def test_a_box_outside_the_recording_is_refused_by_name():
    with pytest.raises(InconsistentError, match=r"x: the box .*\(1080, 4, 9, 9\)"):
        boxes.pixels_of([(1, 2, 3, 4), (1080, 4, 9, 9)], (1080, 1920), "x")
    assert boxes.pixels_of([(872, 958, 210, 140)], (1080, 1920), "x").tolist() == [[958, 872, 1098, 1080]]


def test_the_union_counts_what_overlaps_once():
    assert boxes.union_area([(0, 0, 50, 20), (25, 10, 50, 20)], (100, 80)) == pytest.approx((1000 + 1000 - 250) / 8000)


def test_coverage_counts_from_the_lists_alone(root):
    for folder in ("P01", "P02"):
        shutil.rmtree(root / folder)
    found = module(root, "version=55,part=train,tolerance=0", length=40, anchor="start").coverage()
    # 900: 20662; 901: 20722; 902: 1, 31; 903: 31, 61; 904: 31; 905 has none.
    assert (found.segments, found.without, found.frames, found.annotated) == (6, 1, 240, 7)
    areas = {
        video: boxes.union_area(fake.boxes_at(video, 0), fake.RECORDINGS[video].size) for video in fake.OBJECT_FRAMES
    }
    assert found.area == pytest.approx((3 * areas["P01_01"] + 4 * areas["P01_02"]) / 7)
    assert "7 of 240 sampled frames carry truth (2.9%)" in str(found)
    assert "1 of 6 segments have none" in str(found)


# --- the real lists and clip

REAL = "version=55,split=top20_500"
OPEN_DRAWER = "P01_01_10"


def published_sampling(total: int, wanted: ClipInput) -> list[int | None]:
    """The last frame of each of T equal parts, counted back from the end, as the joined lists' authors sample."""
    return [total - 1 - i * (total // wanted.length) for i in reversed(range(wanted.length))]


@pytest.mark.real
def test_the_500_segments_parse_whole_with_the_published_statistics(real_data, monkeypatch):
    """Figures of data/README.md: truth on 23 % of sampled frames, area about 10 %, 24 segments without any."""
    monkeypatch.setattr(epic, "sample_indices", published_sampling)
    data = module(real_data / "epic", f"{REAL},box_frames=rgb", length=16)
    assert len(data.missing()) == 500
    assert len(data.classes) == 20
    found = data.coverage()
    assert (found.segments, found.without, found.frames, found.annotated) == (500, 24, 8000, 1828)
    assert round(found.annotated / found.frames, 2) == 0.23
    assert found.area == pytest.approx(0.1028, abs=5e-5)


@pytest.mark.real
def test_of_the_500_segments_fewer_frames_have_boxes_once_these_lie_on_the_right_ones(real_data):
    data = module(real_data / "epic", REAL, length=16)
    found = data.coverage()
    assert (found.segments, found.without, found.annotated) == (500, 42, 1488)
    late = [boxes.rgb_frame(one.start, data._video(one).fps) - one.start for one in data._segments.values()]
    assert np.median(late) == 17.5
    assert np.mean(np.array(late) > 3) == 0.84


@pytest.mark.real
def test_the_official_lists_have_the_published_sizes(real_data):
    """EPIC-55: 28 472 segments, 125 verbs, 352 nouns, 2513 actions; EPIC-100: 9668 segments, 97 verbs, 300 nouns."""
    root = real_data / "epic"
    sizes = {labels: len(module(root, f"version=55,part=train,labels={labels}").classes) for labels in ("verb", "noun")}
    assert sizes == {"verb": 125, "noun": 352}
    data = module(root, "version=55,part=train,labels=action")
    assert (len(data._segments), len(data.classes)) == (28472, 2513)
    assert [ref.id for ref in data.refs()] == [OPEN_DRAWER]
    validation = module(root, "version=100")
    assert (len(validation._segments), len(validation.classes)) == (9668, 300)
    assert len(module(root, "version=100,labels=verb").classes) == 97


@pytest.mark.real
def test_the_boxes_of_the_real_clip_lie_on_the_drawer(real_data):
    """Boxes 614 558 244 818 at 1531 and 518 684 394 614 at 1561, of 1080 x 1920, shown by RGB frames 1533 and 1563."""
    data = module(real_data / "epic", length=75, anchor="start", size=(256, 456))
    clip = clip_of(data, OPEN_DRAWER)
    assert data.classes[clip.label] == "drawer"
    assert clip.group == "P01_01"
    known = [*range(1530, 1537), *range(1560, 1567)]
    assert (clip.annotated.nonzero()[:, 0] + 1498).tolist() == known
    (tube,) = clip.tubes
    drawn = {1533: (614, 558, 244, 818), 1563: (518, 684, 394, 614)}
    for frame, (top, left, height, width) in drawn.items():
        x, y = 456 / 1920, 256 / 1080
        expected = [left * x, top * y, (left + width) * x, (top + height) * y]
        assert tube.boxes[frame - 1498 - tube.start].tolist() == pytest.approx(expected)


@pytest.mark.real
def test_the_sponge_is_in_its_box_on_the_frame_that_the_clock_names_and_not_before(real_data):
    """Uid 901 takes a yellow sponge; its box at picture 20671 shows RGB frame 20692 and, taken as it stands, a sink."""
    path = real_data / "epic" / "clips" / "P01_06_take_sponge_f20643-20700_rgb_flowuv.mp4"
    assert boxes.rgb_frame(20671, 59.9400599400599) == 20692
    pixels = read_frames(path, [20671 - 20643, 20692 - 20643])[:, :, :456].float()
    drawn = boxes.pixels_of([(474, 790, 264, 204)], (1080, 1920), "")[0]
    x0, y0, x1, y1 = (drawn * torch.tensor([456 / 1920, 256 / 1080] * 2)).int()
    red, green, blue = pixels[:, y0:y1, x0:x1].unbind(-1)
    yellow = ((torch.minimum(red, green) - blue > 40).float().mean((1, 2))).tolist()
    assert yellow[0] < 0.01 < 0.1 < yellow[1], yellow


@pytest.mark.real
@pytest.mark.slow
def test_the_real_clip_runs_with_its_boxes(real_data, tmp_path, monkeypatch, capsys):
    """As docs/epic_kitchens.md shows."""
    monkeypatch.syspath_prepend(str(tmp_path))
    page = (Path(__file__).parents[1] / "docs" / "epic_kitchens.md").read_text()
    (tmp_path / "any_network.py").write_text(page.split("```python\n")[1].split("```")[0])
    dataset = f"epic_kitchens:root={real_data / 'epic'},version=55,part=train,tolerance=5"
    command = ["run", "--dataset", dataset, "--model", "any_network:net", "--methods", "oracle", "centre", "random"]
    command += ["--metrics", "roc_auc", "pointing_game", "--output", str(tmp_path / "run")]
    assert main(command) == 0, capsys.readouterr().out
    scores = Run(tmp_path / "run").scores()
    assert set(scores["clip"]) == {OPEN_DRAWER}
    assert set(scores["label"]) == {"drawer"}
    values = scores.set_index(["method", "metric"])["value"]
    assert (values["oracle"] == 1).all()
    assert values["centre", "roc_auc"] == pytest.approx(0.887, abs=5e-4)
    assert values["centre", "pointing_game"] == 0.5
    assert (tmp_path / "run" / "clips" / OPEN_DRAWER / "heat.png").is_file()
