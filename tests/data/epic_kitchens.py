"""Writes a tiny EPIC-Kitchens in the real layout: a white rectangle jumps through black frames, boxes say where.

P01_01 is a folder of frames from the midst of a long video, P01_02 a tar archive, P02_01 a video, P01_101 a folder of
EPIC-100 alone. Run as a script, it writes below the folder that is its only argument.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from vidattr_bench.video import write_video

SIZE = (36, 64)  # height and width of the RGB frames


class Recording(NamedTuple):
    """Frame rate and resolution of a recording, and the RGB frames of it that are written."""

    fps: float
    size: tuple[int, int]
    first: int
    last: int


RECORDINGS = {
    "P01_01": Recording(60000 / 1001, (1080, 1920), 20641, 20760),
    "P01_02": Recording(60000 / 1001, (720, 1280), 1, 75),
    "P02_01": Recording(30000 / 1001, (1080, 1920), 1, 80),
    "P01_101": Recording(50.0, (1080, 1920), 1, 45),
}
# Pictures with boxes of a noun, by video: object frame n shows what RGB frame 1.001 n does, where fps is 59.94.
OBJECT_FRAMES = {
    "P01_01": {20641: 20662, 20671: 20692, 20701: 20722, 20731: 20752},
    "P01_02": {1: 1, 31: 31, 61: 61},
    "P02_01": {31: 31, 61: 61},
}
NOUNS = ["Nothing", "pan", "tap", "sponge", "drawer"]
NOUNS_100 = ["tap", "drawer", "pan", "sponge"]
VERBS = ["take", "put", "open"]
VERBS_100 = ["take", "put", "wash", "open"]

# uid, video, first and last frame, verb, noun; EPIC-55, and EPIC-100's validation list by narration id.
SEGMENTS = [
    (900, "P01_01", 20643, 20700, 0, 3),
    (901, "P01_01", 20704, 20758, 0, 3),
    (902, "P01_02", 1, 40, 2, 4),
    (903, "P01_02", 28, 70, 1, 1),
    (904, "P02_01", 12, 78, 1, 2),
    (905, "P03_01", 5, 60, 1, 1),
]
SEGMENTS_100 = [
    ("P01_01_17", "P01_01", 20670, 20730, 0, 3),
    ("P01_101_0", "P01_101", 3, 44, 3, 1),
    ("P01_02_2", "P01_02", 2, 41, 3, 1),
]
UNLABELLED = [(7, "P01_02", 40, 72)]


def slot(video: str, frame: int) -> int:
    """Which of the annotated pictures an RGB frame is nearest to, counted from 0."""
    shown = list(OBJECT_FRAMES.get(video, {0: 0}).values())
    return min(range(len(shown)), key=lambda i: abs(shown[i] - frame))


def boxes_at(video: str, number: int) -> list[tuple[int, int, int, int]]:
    """Top, left, height, width of the rectangles at an annotated picture, in the resolution of the recording."""
    height, width = RECORDINGS[video].size
    unit = height // 12, width // 16
    boxes = [(unit[0] * (1 + number), unit[1] * (2 + 3 * number), unit[0] * 4, unit[1] * 3)]
    if video == "P01_02":
        # It reaches over the lower edge, as some of the official ones do.
        boxes.append((unit[0] * 10, unit[1] * 12, unit[0] * 2 + 2, unit[1] * 2))
    return boxes


def frame_of(video: str, frame: int) -> torch.Tensor:
    """The pixels of an RGB frame, uint8 (H, W, 3): white where the centre of a pixel lies in a box."""
    pixels = torch.zeros(*SIZE, 3, dtype=torch.uint8)
    height, width = RECORDINGS[video].size
    ys, xs = (torch.arange(SIZE[0]) + 0.5) * height / SIZE[0], (torch.arange(SIZE[1]) + 0.5) * width / SIZE[1]
    for top, left, h, w in boxes_at(video, slot(video, frame)):
        rows, columns = (ys > top) & (ys < top + h), (xs > left) & (xs < left + w)
        pixels[rows[:, None] & columns] = 255
    return pixels


def write(root: Path) -> Path:
    """Footage in the layout of the official download script, the lists of both versions, and a joined list."""
    write_folder(root / "P01" / "rgb_frames" / "P01_01", "P01_01")
    write_folder(root / "P01" / "rgb_frames" / "P01_101", "P01_101")
    write_archive(root / "P01" / "rgb_frames" / "P01_02.tar", "P01_02")
    write_recording(root / "P02" / "videos" / "P02_01.MP4", "P02_01")
    write_lists_55(root / "epic-kitchens-55-annotations")
    write_lists_100(root / "epic-kitchens-100-annotations")
    write_joined(root / "step_boxes")
    return root


def numbers(video: str) -> range:
    return range(RECORDINGS[video].first, RECORDINGS[video].last + 1)


def jpeg(video: str, frame: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame_of(video, frame).numpy()).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_folder(folder: Path, video: str) -> None:
    folder.mkdir(parents=True)
    for number in numbers(video):
        (folder / f"frame_{number:010d}.jpg").write_bytes(jpeg(video, number))


def write_archive(path: Path, video: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        archive.addfile(_directory("./"))
        for number in numbers(video):
            data = jpeg(video, number)
            member = tarfile.TarInfo(f"./frame_{number:010d}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _directory(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def write_recording(path: Path, video: str) -> None:
    """At half the rate of its RGB frames: frame i of the video is shown by RGB frames 2 i + 1 and 2 i + 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = torch.stack([frame_of(video, number) for number in list(numbers(video))[::2]])
    lower = path.with_suffix(".mp4")
    write_video(lower, frames, RECORDINGS[video].fps)
    lower.rename(path)


def write_csv(path: Path, header: str, rows: list[tuple], *, zipped: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header.split(","))
    writer.writerows(rows)
    data = text.getvalue().encode()
    if zipped:
        path = path.with_name(path.name + ".gz")
        data = gzip.compress(data)
    path.write_bytes(data)


def write_lists_55(folder: Path) -> None:
    """The segments gzipped, the rest plain; boxes with an empty list where the object is out of sight."""
    names = (
        "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,stop_frame,verb,verb_class"
    )
    rows = [
        (uid, video[:3], video, "", "", "", start, stop, VERBS[verb], verb, NOUNS[noun], noun, [NOUNS[noun]], [noun])
        for uid, video, start, stop, verb, noun in SEGMENTS
    ]
    header = f"{names},noun,noun_class,all_nouns,all_noun_classes"
    write_csv(folder / "EPIC_train_action_labels.csv", header, rows, zipped=True)
    timestamps = "uid,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame"
    tests = [(uid, video[:3], video, "", "", start, stop) for uid, video, start, stop in UNLABELLED]
    write_csv(folder / "EPIC_test_s1_timestamps.csv", timestamps, tests)
    write_csv(folder / "EPIC_test_s2_timestamps.csv", timestamps, [])
    write_csv(folder / "EPIC_verb_classes.csv", "verb_id,class_key,verbs", [(i, v, [v]) for i, v in enumerate(VERBS)])
    nouns = [(i, noun, [noun, f"{noun}:large"]) for i, noun in enumerate(NOUNS)]
    write_csv(folder / "EPIC_noun_classes.csv", "noun_id,class_key,nouns", nouns)
    videos = [
        (video, f"{one.size[1]}x{one.size[0]}", 400.0, one.fps) for video, one in RECORDINGS.items() if len(video) == 6
    ]
    write_csv(
        folder / "EPIC_video_info.csv", "video,resolution,duration,fps", [*videos, ("P03_01", "1920x1080", 9, 60)]
    )
    header = "noun_class,noun,participant_id,video_id,frame,bounding_boxes"
    write_csv(folder / "EPIC_train_object_labels.csv", header, object_labels())


def object_labels() -> list[tuple]:
    """A row a noun and picture; another noun's boxes and empty lists are among them."""
    rows = []
    for video, nouns in {"P01_01": (3,), "P01_02": (1, 4), "P02_01": (2,)}.items():
        for i, frame in enumerate(OBJECT_FRAMES[video]):
            for noun in nouns:
                rows.append((noun, NOUNS[noun], video[:3], video, f"{frame:06d}", boxes_at(video, i)))
            rows.append((0, NOUNS[0], video[:3], video, frame, [(0, 0, 9, 9)]))
        rows.append((nouns[0], NOUNS[nouns[0]], video[:3], video, 99991, []))
    return rows


def write_lists_100(folder: Path) -> None:
    """The validation list, and a training list and test timestamps of one segment each."""
    start = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame"
    header = f"{start},stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    rows = [
        (id, video[:3], video, "", "", "", start, stop, "", VERBS_100[verb], verb, NOUNS_100[noun], noun, [], [])
        for id, video, start, stop, verb, noun in SEGMENTS_100
    ]
    write_csv(folder / "EPIC_100_validation.csv", header, rows)
    train = ("P02_01_5", "P02", "P02_01", "", "", "", 20, 70, "", "put", 1, "tap", 0, ["tap"], [0])
    write_csv(folder / "EPIC_100_train.csv", header, [train], zipped=True)
    tests = [("P01_02_9", "P01", "P01_02", "", "", "", 30, 66)]
    write_csv(folder / "EPIC_100_test_timestamps.csv", f"{start},stop_frame", tests)
    for kind, names in (("verb", VERBS_100), ("noun", NOUNS_100)):
        classes = [(i, name, [name, f"{name}:small"], "") for i, name in enumerate(names)]
        write_csv(folder / f"EPIC_100_{kind}_classes.csv", "id,key,instances,category", classes)
    videos = [(video, 400.0, one.fps, f"{one.size[1]}x{one.size[0]}") for video, one in RECORDINGS.items()]
    write_csv(folder / "EPIC_100_video_info.csv", "video_id,duration,fps,resolution", videos)


def write_joined(folder: Path) -> None:
    """Joined as the published lists are: boxes whose number lies within the segment, one box a picture."""
    rows = []
    for uid, video, start, stop, _, noun in SEGMENTS[:3]:
        inside = {f: boxes_at(video, i)[0] for i, f in enumerate(OBJECT_FRAMES[video]) if start <= f <= stop}
        rows.append((uid, video, NOUNS[noun], {3: 0, 4: 1}[noun], "take", start, stop, inside))
    header = "seg_id,video_id,noun,noun_label,verb,start_frame,stop_frame,bounding_boxes"
    write_csv(folder / "Valid_seg_top20_500_val.csv", header, rows)
    train = (904, "P02_01", "tap", 2, "put", 12, 78, {31: boxes_at("P02_01", 0)})
    write_csv(folder / "Valid_seg_top20_train.csv", header, [train])
    classes = [("sponge", 0, 349), ("drawer", 1, 576), ("tap", 2, 962)]
    write_csv(folder / "Valid_seg_top20_noun_labels.csv", "noun,noun_label,num", classes)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
