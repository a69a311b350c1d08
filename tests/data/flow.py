"""Writes optical flow that was extracted before, in the layouts that two-stream code and EPIC-KITCHENS store it in."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vidattr_bench.video import write_video

# Where the motion to the right and down of the clip NAME lies, by layout; pictures count from 1.
PAIRS = {
    "twostreamfusion": ("u/NAME/frame{:06d}.jpg", "v/NAME/frame{:06d}.jpg"),
    "epic": ("NAME/u/frame_{:010d}.jpg", "NAME/v/frame_{:010d}.jpg"),
    "tsn": ("NAME/flow_x_{:05d}.jpg", "NAME/flow_y_{:05d}.jpg"),
    "zipped tsn": ("NAME/x_{:05d}.jpg", "NAME/y_{:05d}.jpg"),
}
BESIDE = ("pictures", "video", "video uv")
LAYOUTS = (*PAIRS, *BESIDE)


def flat_fields(n: int, h: int = 24, w: int = 32) -> np.ndarray:
    """Fields (n, h, w, 2), each of one value: 100 + k to the right and 160 + k down in field k."""
    fields = np.zeros((n, h, w, 2), np.uint8)
    fields[..., 0] = 100 + np.arange(n)[:, None, None]
    fields[..., 1] = 160 + np.arange(n)[:, None, None]
    return fields


def write(root: Path, name: str, fields: np.ndarray, layout: str) -> None:
    """Fields (n, h, w, 2), uint8, of the clip `name` below `root`."""
    if layout in PAIRS:
        for axis, pattern in enumerate(PAIRS[layout]):
            write_pictures(root, pattern.replace("NAME", name), fields[..., axis])
        if "tsn" in layout:
            write_pictures(root, f"{name}/img_{{:05d}}.jpg", np.zeros((len(fields) + 1, *fields.shape[1:3]), np.uint8))
        return
    beside = np.concatenate([fields[..., 0], fields[..., 1]], 2)
    if layout == "pictures":
        write_pictures(root, f"{name}/{{:05d}}.jpg", beside)
    else:
        path = root / f"{name}{'_flow_uv.avi' if layout.endswith('uv') else '.avi'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, torch.from_numpy(beside)[..., None].expand(-1, -1, -1, 3), lossless=True)


def write_pictures(root: Path, pattern: str, values: np.ndarray, first: int = 1) -> None:
    """Grey JPEG files, as OpenCV writes one channel."""
    for i, picture in enumerate(values, start=first):
        path = root / pattern.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, quality=95)


def write_archive(path: Path, fields: np.ndarray, first: int = 1) -> None:
    """A tar archive of EPIC-KITCHENS: u/frame_0000000001.jpg, v/frame_0000000001.jpg, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in _members(fields, first):
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _members(fields: np.ndarray, first: int) -> Iterator[tuple[str, bytes]]:
    for axis, letter in enumerate("uv"):
        for i, field in enumerate(fields, start=first):
            data = io.BytesIO()
            Image.fromarray(field[..., axis]).save(data, "JPEG", quality=95)
            yield f"{letter}/frame_{i:010d}.jpg", data.getvalue()
