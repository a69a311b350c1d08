"""Resident memory of a run over many clips: `python tests/benchmarks/memory.py --clips 2000 --every 100 [--videos]`.

Prints `clips,MB` lines, MB measured after freed memory was given back to the system, and then the growth in % from a
tenth of the clips to the most that there is later. With `--videos` every clip is decoded from a file of its own, else
it is rendered; with `--large` it is 16 x 48 x 64 and not 8 x 24 x 32.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

import torch  # noqa: E402

import vidattr_bench as vb  # noqa: E402
from vidattr_bench import runner  # noqa: E402
from vidattr_bench.video import write_video  # noqa: E402

FRAMES = 240
METHODS = ("gradient", "random")
SMALL, LARGE = 'length=8,size="[24,32]"', 'length=16,size="[48,64]"'
METRICS = ("gini", "deletion:steps=4")


def resident() -> float:
    """MB of physical memory, Linux only."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def videos(folder: Path, clips: int) -> str:
    """A folder of so many copies of four videos, in two containers."""
    noise = torch.rand(FRAMES, 6, 8, 3, generator=torch.Generator().manual_seed(0))
    frames = noise.repeat_interleave(8, 1).repeat_interleave(8, 2).mul(255).byte()
    sources = [folder / name for name in ("a.mp4", "b.avi", "c.mkv", "d.mp4")]
    for i, source in enumerate(sources):
        write_video(source, frames.roll(i, 0))
    root = folder / "root"
    root.mkdir()
    for i in range(clips):
        source = sources[i % len(sources)]
        shutil.copyfile(source, root / f"{i:05d}{source.suffix}")
    return f"folder:root={root},anchor=spread,"


def measured(clips: int, every: int, dataset: str, output: Path) -> list[tuple[int, float]]:
    """Resident memory after every so many clips of a run."""
    found: list[tuple[int, float]] = []
    step, seen = runner.Explainer.predict_step, 0

    def recording(self: runner.Explainer, work: runner.Work, batch_idx: int) -> None:
        nonlocal seen
        step(self, work, batch_idx)
        seen += 0 if work.batch is None else len(work.batch.ids)
        if seen % every == 0:
            found.append((seen, resident()))

    runner.Explainer.predict_step = recording  # type: ignore[method-assign]
    options = {"methods": METHODS, "metrics": METRICS, "limit": clips, "output": output, "target": "predicted"}
    run = vb.run(dataset=dataset, accelerator="cpu", devices="1", forward_batch=8, sample=0, **options)
    assert run.failed == 0
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--videos", action="store_true")
    parser.add_argument("--large", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset = videos(root, asked.clips) if asked.videos else f"planted_actions:clips={asked.clips},"
        dataset += LARGE if asked.large else SMALL
        found = dict(measured(asked.clips, asked.every, dataset, root / "run"))
    for clips, megabytes in found.items():
        print(f"{clips},{megabytes:.1f}")
    first = min(clips for clips in found if clips >= asked.clips / 10)
    print(f"growth,{100 * (max(found[clips] for clips in found if clips >= first) / found[first] - 1):.2f}")


if __name__ == "__main__":
    main()
