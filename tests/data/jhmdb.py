"""Writes a tiny JHMDB in the real layout: a white figure walks through black pictures, and the outlines say where.

Run as a script, it writes below the folder that is its only argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

HEIGHT, WIDTH = 48, 64
# Per class: clip, frames, outlined frames, and mark: 1 train, 2 test.
LISTS = {
    "brush_hair": [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", 9, 9, 2),
        ("Brushing_my_Hair_brush_hair_u_nm_np1_ba_goo_1", 8, 6, 2),
    ],
    "climb_stairs": [("21_klettert_climb_stairs_f_cm_np1_ba_med_0", 6, 6, 2)],
    "walk": [("21_klettert_walk_f_cm_np1_ba_med_3", 7, 7, 1), ("Torwarttraining_walk_f_nm_np1_ri_med_1", 5, 0, 2)],
}


def figure(n: int, number: int) -> np.ndarray:
    """A figure of two parts, uint8 (H, W, n): body and, to its right, a lower arm; both drift to the right."""
    masks = np.zeros((HEIGHT, WIDTH, n), np.uint8)
    for i in range(n):
        left, top = 6 + 4 * i, 8 + 2 * number + i
        masks[top : top + 20, left : left + 8, i] = 1
        masks[top + 6 : top + 10, left + 8 : left + 15, i] = 1
    return masks


def write(root: Path) -> Path:
    """Pictures, outlines (none for one clip) and the lists of three splits, of which 2 and 3 swap train and test."""
    for label, clips in LISTS.items():
        for number, (clip, frames, outlined, _) in enumerate(clips):
            folder = root / "Rename_Images" / label / clip
            folder.mkdir(parents=True)
            for i, mask in enumerate(figure(frames, number).transpose(2, 0, 1), start=1):
                Image.fromarray(np.repeat(255 * mask[..., None], 3, axis=2)).save(folder / f"{i:05d}.png")
            if outlined:
                path = root / "puppet_mask" / label / clip / "puppet_mask.mat"
                path.parent.mkdir(parents=True)
                savemat(path, {"part_mask": figure(frames, number)[:, :, :outlined]}, do_compression=True)
        for split in (1, 2, 3):
            path = root / "splits" / f"{label}_test_split{split}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{clip}.avi {mark if split == 1 else 3 - mark}\n" for clip, _, _, mark in clips))
    return root


if __name__ == "__main__":
    write(Path(sys.argv[1]))
