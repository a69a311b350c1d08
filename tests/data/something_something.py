"""Writes a tiny Something-Something V2 with boxes of Something-Else: white objects move, grey hands lie still.

Run as a script, it writes below the folder that is its only argument.
"""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from PIL import Image

T_END = 8
H, W = 48, 72
CLASSES = (
    "Moving something up",
    "Moving something and something closer to each other",
    "Poking a hole into something soft",
)
TEMPLATES = (
    "Moving [something] up",
    "Moving [something] and [something] closer to each other",
    "Poking a hole into [something soft]",
)
ANSWER = CLASSES[0]


class Recording(NamedTuple):
    """A clip: frames, frames a second, objects, and how many pictures at 12 a second have boxes; 0: none."""

    frames: int
    fps: int
    objects: int
    drawn: int


CLIPS = {
    "101": Recording(10, 12, 1, T_END),
    "7": Recording(12, 20, 2, 7),
    "23": Recording(6, 12, 1, 0),
    "9": Recording(9, 12, 1, 9),
    "88": Recording(5, 12, 1, 0),
}
FOLDER = "23"
LISTS = {
    "validation": [("101", 0), ("7", 1), ("404", 2), ("23", 2)],
    "train": [("9", 1)],
}
TEST = ("88",)


def boxes_at(id: str, number: int) -> dict[str, tuple[float, float, float, float]]:
    """x1, y1, x2, y2 in a picture of 360 x 240, by standard category; clip 101 hides its object in picture 4."""
    shown = range(CLIPS[id].objects if (id, number) != ("101", 4) else 0)
    found = {f"{k:04d}": (20.0 + 10 * number, 5 + 110.0 * k, 120.0 + 10 * number, 105 + 110.0 * k) for k in shown}
    return found | ({"hand": (250.0, 150.0, 340.0, 230.0)} if number > 2 else {})


def picture_of(id: str, frame: int) -> int:
    """The picture, from 1, that a frame shows: the nearest at 12 a second, the later one half-way."""
    fps = CLIPS[id].fps
    return (2 * 12 * frame + fps) // (2 * fps) + 1


def frame_of(id: str, frame: int) -> torch.Tensor:
    """Uint8 (H, W, 3): objects white, hands grey."""
    pixels = torch.zeros(H, W, 3, dtype=torch.uint8)
    for name, box in boxes_at(id, picture_of(id, frame)).items():
        x0, y0, x1, y1 = (round(number * H / 240) for number in box)
        pixels[y0:y1, x0:x1] = 120 if name == "hand" else 255
    return pixels


def write_webm(path: Path, id: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", CLIPS[id].fps, options={"crf": "4", "b:v": "0", "cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        stream.time_base = Fraction(1, CLIPS[id].fps)
        for i in range(CLIPS[id].frames):
            picture = av.VideoFrame.from_ndarray(frame_of(id, i).numpy(), format="rgb24")
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def annotation(id: str) -> list[dict[str, Any]]:
    """As published: a picture each, with more fields than are needed."""
    return [
        {
            "url": f"https://example.org/annotated_frames/{id}/{number:04d}.jpg",
            "gt_placeholders": ["cup"] * CLIPS[id].objects,
            "name": f"{id}/{number:04d}.jpg",
            "nr_instances": len(boxes_at(id, number)),
            "labels": [
                {
                    "box2d": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
                    "gt_annotation": f"object {kind}",
                    "category": "hand" if kind == "hand" else 'cup, "red": [1]',
                    "standard_category": kind,
                }
                for kind, box in boxes_at(id, number).items()
            ],
        }
        for number in range(1, CLIPS[id].drawn + 1)
    ]


def write(root: Path) -> Path:
    """Four webm files, a folder of pictures, the official lists, and boxes in two parts."""
    for id in CLIPS:
        if id == FOLDER:
            folder = root / "frames" / id
            folder.mkdir(parents=True)
            for i in range(CLIPS[id].frames):
                Image.fromarray(frame_of(id, i).numpy()).save(folder / f"{i + 1:04d}.jpg", quality=95)
        else:
            write_webm(root / "20bn-something-something-v2" / f"{id}.webm", id)
    write_lists(root / "labels")
    write_boxes(root / "something_else")
    return root


def write_lists(folder: Path) -> None:
    folder.mkdir(parents=True)
    numbers = {name: str(i) for i, name in enumerate(sorted(CLASSES))}
    (folder / "labels.json").write_text(json.dumps(numbers))
    for name, lines in LISTS.items():
        entries = [
            {"id": id, "label": "moving a cup", "template": TEMPLATES[label], "placeholders": ["a cup"]}
            for id, label in lines
        ]
        (folder / f"{name}.json").write_text(json.dumps(entries))
    (folder / "test.json").write_text(json.dumps([{"id": id} for id in TEST]))
    (folder / "test-answers.csv").write_text("".join(f"{id};{ANSWER}\n" for id in TEST))


def write_boxes(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, ids in ((1, ("101", "7")), (2, ("9",))):
        path = folder / f"bounding_box_smthsmth_part{part}.json"
        path.write_text(json.dumps({id: annotation(id) for id in ids}))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
