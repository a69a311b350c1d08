"""Planted actions as a folder in UCF101's layout: videos, split lists and finalAnnots.mat."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from vidattr_bench.clip import Clip
from vidattr_bench.datamodule import ClipDataModule
from vidattr_bench.video import write_video

# Height and width of UCF101's videos, whose pixels its annotations count.
_SIZE = (240, 320)


def write_ucf101(module: ClipDataModule, root: Path) -> None:
    """Write the train and test part of `module` under `root` as UCF101 lies on a user's disk.

    Videos are lossless, `UCF-101/<Class>/v_<Class>_gNN_c01.avi`, 320 x 240; `splits/` holds the numbered classes, twice
    as there, trainlist01.txt and testlist01.txt; `tubes/finalAnnots.mat` holds the boxes, x, y, w, h from 1 in those
    pixels. Every clip is a group of its own. A clip that is already there is written again.

    Args:
        module: planted actions; its `clips` and `train_clips` say how many are written.
        root: folder, made where it does not exist.
    """
    names: dict[str, list[tuple[str, int]]] = {"test": [], "train": []}
    annotations = []
    for part, name, clip in _named_clips(module):
        assert clip.label is not None
        path = root / "UCF-101" / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, (clip.frames * 255).round().byte().permute(1, 2, 3, 0), lossless=True)
        names[part].append((name, clip.label))
        annotations.append(_annotation(name, clip))
    _write_splits(root / "splits", module.classes, names)
    (root / "tubes").mkdir(parents=True, exist_ok=True)
    savemat(root / "tubes" / "finalAnnots.mat", {"annot": _struct_array(annotations)}, do_compression=True)


def _named_clips(module: ClipDataModule) -> Iterator[tuple[str, str, Clip]]:
    """Part, UCF101 name and clip; the groups of a class are numbered through, those of the test part first."""
    groups = [0] * len(module.classes)
    for part in ("test", "train"):
        chosen = dataclasses.replace(module, part=part, size=_SIZE)
        for ref in chosen.refs():
            assert ref.label is not None
            groups[ref.label] += 1
            yield part, _name(module.classes[ref.label], groups[ref.label]), chosen.load(ref)


def _name(label: str, group: int) -> str:
    return f"{label}/v_{label}_g{group:02d}_c01"


def _annotation(name: str, clip: Clip) -> dict[str, Any]:
    return {
        "name": name,
        "num_imgs": clip.frames.shape[1],
        "tubes": _struct_array(
            [
                {
                    "sf": tube.start + 1,
                    "ef": tube.start + len(tube.boxes),
                    "class": tube.label + 1,
                    "boxes": _matlab_boxes(tube.boxes.numpy()),
                }
                for tube in clip.tubes
            ]
        ),
    }


def _matlab_boxes(boxes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """x0, y0, x1, y1, half-open from 0 -> x, y, w, h from 1, in the small type that UCF101 uses."""
    corner, end = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([corner + 1, end - corner], 1).astype(np.uint16)


def _struct_array(structs: Sequence[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """A MATLAB struct array (1, n)."""
    array = np.empty((1, len(structs)), dtype=[(field, object) for field in structs[0]])
    for i, struct in enumerate(structs):
        array[0, i] = tuple(struct.values())
    return array


def _write_splits(folder: Path, classes: Sequence[str], names: dict[str, list[tuple[str, int]]]) -> None:
    """Lists as UCF101 writes them: CRLF, labels from 1 in the train list alone."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = [f"{i} {label}" for i, label in enumerate(classes, 1)]
    lists = {
        "classInd": numbered,
        "ucf24-classInd": numbered,
        "testlist01": [f"{name}.avi" for name, _ in names["test"]],
        "trainlist01": [f"{name}.avi {label + 1}" for name, label in names["train"]],
    }
    for stem, lines in lists.items():
        (folder / f"{stem}.txt").write_text("".join(f"{line}\r\n" for line in lines), newline="")
