"""Writes a tiny deposit of VISOR in the real layout, for the tiny EPIC-Kitchens of epic_kitchens.py beside it.

Its polygons follow the white rectangles of that footage, in 1920 x 1080 whatever was recorded; its pictures have
numbers of their own, a few off those of the RGB frames. Run as a script, it writes below the folder that is its only
argument: a complete EPIC-Kitchens with a folder VISOR.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("epic_data", Path(__file__).with_name("epic_kitchens.py"))
epic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(epic)

HEIGHT, WIDTH = 1080, 1920
# Per video: the part of VISOR, the noun's class in EPIC-100 and its name, and the RGB frame of every picture.
PICTURES = {
    "P01_01": ("train", 3, "sponge", {20657: 20662, 20686: 20692, 20717: 20722, 20747: 20752}),
    "P01_02": ("val", 1, "fridge drawer", {2: 1, 30: 31, 62: 61}),
    "P01_101": ("val", 1, "drawer", {12: 12, 33: 33}),
}
LEFT_HAND = 300


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    """The corners of the pixels x0 to x1 - 1, y0 to y1 - 1, which a polygon includes."""
    return [[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]


def boxes_at(video: str, frame: int) -> list[tuple[int, int, int, int]]:
    """x0, y0, x1, y1 of the white rectangles of an RGB frame, on the canvas of the polygons."""
    height, width = epic.RECORDINGS[video].size
    drawn = epic.boxes_at(video, epic.slot(video, frame))
    return [
        (left * WIDTH // width, top * HEIGHT // height, (left + w) * WIDTH // width, (top + h) * HEIGHT // height)
        for top, left, h, w in drawn
    ]


def entities(video: str, frame: int, noun: int, name: str) -> list[dict]:
    """The noun in two touching halves and an empty part, a hand on it, and an object that nobody outlined."""
    found = []
    for k, (x0, y0, x1, y1) in enumerate(boxes_at(video, frame)):
        middle = (x0 + x1) // 2
        segments = [rectangle(x0, y0, middle, y1), [], rectangle(middle, y0, x1, y1)]
        # The segment's own object has one name; the second one of its class has another.
        own = name if k == 0 else f"{name} {k}"
        found.append(
            {"id": f"{video}{frame}{k}", "name": own, "class_id": noun, "exhaustive": "y", "segments": segments}
        )
    hand = {
        "id": "h",
        "name": "left hand",
        "class_id": LEFT_HAND,
        "exhaustive": "y",
        "in_contact_object": found[0]["id"],
    }
    hand["segments"] = [rectangle(1500, 900, 1700, 1080)]
    hidden = {"id": "o", "name": name, "class_id": noun, "exhaustive": "inconclusive", "segments": []}
    return [hand, *found, hidden]


def write(root: Path) -> Path:
    """The deposit's folder with its annotations, frame_mapping.json and noun classes."""
    mapping: dict[str, dict[str, str]] = {}
    for video, (part, noun, name, pictures) in PICTURES.items():
        entries = []
        for number, frame in pictures.items():
            picture = f"{video}_frame_{number:010d}.jpg"
            mapping.setdefault(video, {})[picture] = f"frame_{frame:010d}.jpg"
            sequence = f"{video}_seq_00001"
            image = {"image_path": f"{video}/{picture}", "name": picture, "subsequence": sequence, "video": video}
            entries.append({"image": image, "annotations": entities(video, frame, noun, name)})
        path = root / "GroundTruth-SparseAnnotations" / "annotations" / part / f"{video}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        info = {"Dataset Name": "VISOR", "Release Date": "Aug 2022", "URL": "https://epic-kitchens.github.io/VISOR"}
        path.write_text(json.dumps({"info": info, "video_annotations": entries}))
    (root / "frame_mapping.json").write_text(json.dumps(mapping))
    names = [*epic.NOUNS_100, *(f"other {i}" for i in range(len(epic.NOUNS_100), 300)), "hand:left", "hand:right"]
    classes = [(i, name, [name, f"{name}:small"], "") for i, name in enumerate(names)]
    epic.write_csv(root / "EPIC_100_noun_classes_v2.csv", "id,key,instances,category", classes)
    return root


if __name__ == "__main__":
    write(epic.write(Path(sys.argv[1])) / "VISOR")
