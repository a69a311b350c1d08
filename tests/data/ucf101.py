"""Writes a tiny UCF101 in the real layout: a white rectangle moves through black frames, and the tubes say where.

Run as a script, it writes below the folder that is its only argument.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from vidattr_bench.video import write_video

CLASSES = ("Basketball", "Biking", "HandstandPushups", "Punch", "SalsaSpin")
TUBE_LABELS = {"Basketball": 1, "Biking": 3, "SalsaSpin": 15}
TEST = [
    "Basketball/v_Basketball_g01_c01.avi",
    "Basketball/v_Basketball_g01_c02.avi",
    "Biking/v_Biking_g05_c02.avi",
    "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    "Punch/v_Punch_g03_c01.avi",
]
TRAIN = ["Basketball/v_Basketball_g08_c01.avi", "SalsaSpin/v_SalsaSpin_g09_c03.avi"]

# Per clip: number of frames, height, width, and tubes (first frame, 1-based, and x, y, w, h, 1-based, in 320 x 240).
CLIPS = {
    "v_Basketball_g01_c01": (20, 240, 320, [(5, [(191 + 6 * i, 21 + 12 * i, 90 - 4 * i, 40) for i in range(8)])]),
    "v_Biking_g05_c02": (
        11,
        120,
        160,
        [(1, [(1 + 10 * i, 21, 40, 80) for i in range(11)]), (3, [(201, 141 + 4 * i, 100, 60) for i in range(5)])],
    ),
    "v_HandStandPushups_g01_c01": (6, 24, 32, []),
    "v_Punch_g03_c01": (9, 24, 32, []),
    "v_SalsaSpin_g09_c03": (13, 256, 340, [(1, [(33 + 16 * i, 151 - 8 * i, 64, 45) for i in range(13)])]),
}


def frames_of(clip: str) -> torch.Tensor:
    """The pixels of a clip, uint8 (T, H, W, 3): white where the centre of a pixel lies in a box."""
    t, h, w, tubes = CLIPS[clip]
    frames = torch.zeros(t, h, w, 3, dtype=torch.uint8)
    ys, xs = (torch.arange(h) + 0.5) * 240 / h, (torch.arange(w) + 0.5) * 320 / w
    for first, boxes in tubes:
        for i, (x, y, width, height) in enumerate(boxes, start=first - 1):
            rows, columns = (ys > y - 1) & (ys < y - 1 + height), (xs > x - 1) & (xs < x - 1 + width)
            frames[i, rows[:, None] & columns] = 255
    return frames


def write(root: Path) -> Path:
    """Lists, tubes as .mat and as pickle, three .avi, one .mkv and one folder of pictures, as users have them."""
    for clip, folder, suffix in (
        ("v_Basketball_g01_c01", "UCF-101/Basketball", ".avi"),
        ("v_Biking_g05_c02", "UCF-101/Biking", ".mkv"),
        ("v_HandStandPushups_g01_c01", "UCF-101/HandstandPushups", ".avi"),
        ("v_Punch_g03_c01", "UCF-101/Punch", ".avi"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_video(root / folder / f"{clip}{suffix}", frames_of(clip), lossless=True)
    write_folder(root / "rgb-images" / "SalsaSpin" / "v_SalsaSpin_g09_c03", frames_of("v_SalsaSpin_g09_c03"))
    write_lists(root / "splits")
    write_tubes(root / "tubes")
    return root


def write_folder(folder: Path, frames: torch.Tensor) -> None:
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames.numpy(), start=1):
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=95)


def write_lists(folder: Path) -> None:
    """As the official ones: CRLF, labels in the train lists only; splits 2 and 3 swap train and test."""
    folder.mkdir(parents=True)
    numbers = {name: i for i, name in enumerate(CLASSES, start=1)}
    text = {"classInd": [f"{i} {name}" for name, i in numbers.items()]}
    for n, (train, test) in {1: (TRAIN, TEST), 2: (TEST, TRAIN), 3: (TEST, TRAIN)}.items():
        text[f"trainlist0{n}"] = [f"{line} {numbers[line.split('/')[0]]}" for line in train]
        text[f"testlist0{n}"] = test
    for name, lines in text.items():
        (folder / f"{name}.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def write_tubes(folder: Path) -> None:
    """The two files of the corrected annotations, with boxes of the narrow types that they have there."""
    folder.mkdir(parents=True, exist_ok=True)
    structs, pickled = [], {}
    for clip, (t, _, _, tubes) in CLIPS.items():
        if not tubes:
            continue
        label = TUBE_LABELS[clip.split("_")[1]]
        arrays = [(first, narrow(boxes)) for first, boxes in tubes]
        name = f"{clip.split('_')[1]}/{clip}"
        tube_structs = [
            {"sf": first, "ef": first + len(boxes) - 1, "class": label, "boxes": boxes} for first, boxes in arrays
        ]
        structs.append({"num_imgs": t, "name": name, "tubes": as_structs(tube_structs)})
        pickled[name] = {
            "numf": np.uint8(t),
            "label": label - 1,
            "annotations": [
                {"sf": first - 1, "ef": first - 1 + len(boxes), "label": label - 1, "boxes": boxes}
                for first, boxes in arrays
            ],
        }
    savemat(folder / "finalAnnots.mat", {"annot": as_structs(structs)})
    (folder / "pyannot.pkl").write_bytes(pickle.dumps(pickled, protocol=3))


def narrow(boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    array = np.array(boxes)
    return array.astype(np.uint8 if array.max() < 256 else np.uint16)


def as_structs(rows: list[dict]) -> np.ndarray:
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row.values())
    return array


if __name__ == "__main__":
    write(Path(sys.argv[1]))
