"""Writes a tiny Kinetics-400 as the crawlers leave it: class folders, label files, and clips that are gone.

Run as a script, it writes below the folder that is its only argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from vidattr_bench.video import write_video

T, H, W = 7, 24, 36
VAL = """\
label,youtube_id,time_start,time_end,split,is_cc
air drumming,-0Xy_aB3d_4,13,23,validate,0
abseiling,R6llTwEh07w,0,10,validate,1
abseiling,Gone_Gone_1,107,117,validate,0
"massaging person's head",mSoCqhYTLpk,4,14,validate,0
"""
TRAIN = """\
label,youtube_id,time_start,time_end,split
abseiling,0347ZoDXyP0,95,105,train
abseiling,0347ZoDXyP0,195,205,train
"""
CLIPS = (
    "val/air_drumming/-0Xy_aB3d_4_000013_000023.mp4",
    "val/abseiling/R6llTwEh07w.mkv",
    "val/massaging person's head/mSoCqhYTLpk_000004_000014.mp4",
    "train/abseiling/0347ZoDXyP0_000095_000105.mp4",
    "train/abseiling/0347ZoDXyP0_000195_000205.mp4",
)


def write(root: Path) -> Path:
    """Five clips in class folders and the label files of train and val."""
    for number, name in enumerate(CLIPS):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, torch.full((T, H, W, 3), 40 * (number + 1), dtype=torch.uint8))
    (root / "annotations").mkdir()
    (root / "annotations" / "validate.csv").write_text(VAL)
    (root / "annotations" / "train.csv").write_text(TRAIN)
    return root


if __name__ == "__main__":
    write(Path(sys.argv[1]))
