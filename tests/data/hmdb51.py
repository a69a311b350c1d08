"""Writes a tiny HMDB51 in the real layout: lists of every class, and videos whose headers promise a frame too many.

Run as a script, it writes below the folder that is its only argument.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import torch

from vidattr_bench.video import write_video

# Per class: clip (its name is as wild as the real ones) and mark: 1 train, 2 test, 0 neither.
LISTS = {
    "brush_hair": [("April_09_brush_hair_u_nm_np1_ba_goo_0", 2), ("My_Hair_Routine_brush_hair_h_nm_np1_le_goo_0", 1)],
    "flic_flac": [
        ("1996_Champions_Show_Pt_1_flic_flac_f_cm_np1_le_bad_0", 2),
        ("Bodenturnen_2004_flic_flac_f_cm_np1_le_med_0", 0),
    ],
    "wave": [
        ("(Rad)Schlag_die_Bank!_wave_f_cm_np1_le_med_0", 2),
        ("RATRACE_wave_f_nm_np1_fr_goo_37", 2),
        ("RATRACE_wave_f_nm_np1_fr_goo_3", 2),
        ("#122_Cleaning_Up_wave_u_nm_np2_ri_bad_1", 1),
    ],
}
ABSENT = "RATRACE_wave_f_nm_np1_fr_goo_3"
FOLDER = "April_09_brush_hair_u_nm_np1_ba_goo_0"  # as pictures, not as a video
FRAMES, HEIGHT, WIDTH = 7, 24, 32


def write(root: Path) -> Path:
    """Videos, a folder of pictures, and the lists of three splits, of which 2 and 3 swap train and test."""
    for label, clips in LISTS.items():
        for number, (clip, _) in enumerate(clips):
            if clip == FOLDER:
                _write_pictures(root / "rawframes" / label / clip, _frames(number))
            elif clip != ABSENT:
                path = root / "hmdb51_org" / label / f"{clip}.avi"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, _frames(number), lossless=True)
                over_count(path)
        for split in (1, 2, 3):
            path = root / "testTrainMulti_7030_splits" / f"{label}_test_split{split}.txt"
            path.parent.mkdir(exist_ok=True)
            marks = {0: 0, 1: 1, 2: 2} if split == 1 else {0: 0, 1: 2, 2: 1}
            path.write_text("".join(f"{clip}.avi {marks[mark]} \n" for clip, mark in clips))
    return root


def _frames(number: int) -> torch.Tensor:
    """Grey frames, each 10 levels lighter than the last."""
    levels = 40 * number + 10 * torch.arange(FRAMES, dtype=torch.uint8)
    return levels[:, None, None, None].expand(FRAMES, HEIGHT, WIDTH, 3).contiguous()


def _write_pictures(folder: Path, frames: torch.Tensor) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for i, frame in enumerate(frames.numpy(), start=1):
        Image.fromarray(frame).save(folder / f"img_{i:05d}.jpg", quality=95)


def over_count(path: Path) -> None:
    """Let both headers of an AVI promise one frame more than the file holds, as those of HMDB51 do."""
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):  # dwTotalFrames, dwLength
        at = data.index(tag) + offset
        (count,) = struct.unpack_from("<I", data, at)
        struct.pack_into("<I", data, at, count + 1)
    path.write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
