"""Writes a tiny folder of clips as users have them: nested and flat, videos and pictures, with labels and boxes.

Run as a script, it writes below the folder that is its only argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

from vidattr_bench.video import write_video

T, H, W = 9, 24, 36
NAMES = ('day 1/door\'s "open".avi', "day 1/lid.mkv", "day 2/deeper/cup", "plain.avi")
LABELS = """\
video,label,group,part
"day 1/door's ""open"".avi",open,kitchen,
day 1/lid.mkv,open,kitchen,test
day 2/deeper/cup,close,,test
plain.avi,,,test
gone.avi,close,,train
"""
BOXES = """\
video,frame,x0,y0,x1,y1,instance
"day 1/door's ""open"".avi",1,6,4,18,20,
"day 1/door's ""open"".avi",2,7,4,19,20,
"day 1/door's ""open"".avi",3,,,,,
day 1/lid.mkv,0,0,0,9.5,12,lid
day 1/lid.mkv,0,20,10,36,24,hand
day 1/lid.mkv,4,-3,0,12,12,lid
"""


def frames_of(number: int) -> torch.Tensor:
    """Uint8 (T, H, W, 3): a bright bar that moves, on a level of grey that tells the videos apart."""
    frames = torch.full((T, H, W, 3), 30 * number, dtype=torch.uint8)
    for t in range(T):
        frames[t, 4:20, 6 + t : 18 + t] = 255
    return frames


def write(root: Path) -> Path:
    """Three video files, one folder of pictures, labels.csv and boxes.csv."""
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            write_video(path, frames_of(number), lossless=True)
        else:
            path.mkdir()
            for i, frame in enumerate(frames_of(number).numpy()):
                Image.fromarray(frame).save(path / f"frame_{i:04d}.png")
    (root / "labels.csv").write_text(LABELS)
    (root / "boxes.csv").write_text(BOXES)
    (root / "notes.txt").write_text("not a video")
    return root


if __name__ == "__main__":
    write(Path(sys.argv[1]))
