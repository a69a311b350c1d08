"""Frames a second of the loader against plain PyAV and TorchCodec: whole clips, 16 of 300 frames, and workers.

TorchCodec is measured where it can be imported; it is no dependency. One thread decodes, and what is compared is the
processor's time in rounds that take turns, which other programs on the machine disturb least.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch

from vidattr_bench import plugins, video
from vidattr_bench.model import ClipInput
from vidattr_bench.transform import sample_indices
from vidattr_bench.video import frame_count, frame_times, read_frames, write_video

T, H, W = 300, 240, 320
ROUNDS = 3
# The overhead of one call, of the copy into a tensor and of the checks, with room for a loaded machine.
OVERHEAD = 1.25
SAMPLED = {
    "all 300": ClipInput(length=T, anchor="start"),
    "16 spread": ClipInput(length=16, anchor="spread"),
    "16 in the middle": ClipInput(length=16, stride=2, anchor="middle"),
    "16 at the start": ClipInput(length=16, stride=2, anchor="start"),
}


def plain(path: Path, indices: Sequence[int]) -> torch.Tensor:
    """What one writes by hand: decode from the start, keep the wanted frames, stop after the last."""
    wanted, found = set(indices), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"
        for i, frame in enumerate(container.decode(stream)):
            if i in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
            if i == max(wanted):
                break
    return torch.from_numpy(np.stack(found))


def torchcodec() -> ModuleType | None:
    try:
        return importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        return None


def by_torchcodec(decoders: ModuleType, mode: str) -> Callable[[Path, Sequence[int]], torch.Tensor]:
    def read(path: Path, indices: Sequence[int]) -> torch.Tensor:
        decoder = decoders.VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=mode)
        return decoder.get_frames_at(list(indices)).data

    return read


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """300 frames of moving noise as H.264 with a key frame every 250 (x264's habit) or 12, and as MPEG-4 in an AVI."""
    folder = tmp_path_factory.mktemp("clips")
    pattern = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    field = torch.nn.functional.interpolate(pattern, (H + T, W + T), mode="bicubic")[0, 0].mul(255).clamp(0, 255)
    level = torch.stack([field[t : t + H, t : t + W] for t in range(T)]).byte()
    frames = torch.stack([level, level.flip(1), level.flip(2)], -1)
    for name in ("h264_gop250.mp4", "mpeg4.avi"):
        write_video(folder / name, frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "_encoding", lambda path, lossless: ("libx264", "yuv420p", {"crf": "18", "g": "12"}))
        write_video(folder / "h264_gop12.mp4", frames)
    return {path.name: path for path in sorted(folder.iterdir())}


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    began = clock()
    work()
    return clock() - began


def forget() -> None:
    """As a clip is read for the first time: neither its count nor its table of packets is known."""
    for cache in (video._count, video._seek_table):
        cache.cache_clear()


def cold(path: Path, wanted: ClipInput) -> torch.Tensor:
    forget()
    return read_frames(path, [i for i in sample_indices(frame_count(path), wanted) if i is not None])


@pytest.mark.parametrize("sampled", SAMPLED)
@pytest.mark.parametrize("name", ["h264_gop12.mp4", "h264_gop250.mp4", "mpeg4.avi"])
def test_reading_a_clip(name, sampled, clips, benchmark):
    """`ours` with the count and the packets known, `ours_cold` with the first count, against the others."""
    path, wanted = clips[name], SAMPLED[sampled]
    indices = [i for i in sample_indices(T, wanted) if i is not None]
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: plain(path, indices),
        "ours": lambda: read_frames(path, indices),
        "ours_cold": lambda: cold(path, wanted),
    }
    decoders = torchcodec()
    if decoders is not None:
        ways["torchcodec_exact"] = lambda: by_torchcodec(decoders, "exact")(path, indices)
        ways["torchcodec_approximate"] = lambda: by_torchcodec(decoders, "approximate")(path, indices)
    assert frame_count(path) == T
    frame_times(path)
    pixels = {way: read() for way, read in ways.items()}
    assert torch.equal(pixels["plain"], pixels["ours"])
    assert torch.equal(pixels["plain"], pixels["ours_cold"])
    taken: dict[str, list[float]] = {way: [] for way in ways}

    def turn() -> None:
        for way in ("plain", "ours_cold", *(way for way in ways if way.startswith("torchcodec")), "ours"):
            if way == "ours":
                frame_count(path), frame_times(path)
            taken[way].append(seconds(ways[way]))

    benchmark.pedantic(turn, rounds=ROUNDS)
    best = {way: min(found) for way, found in taken.items()}
    benchmark.extra_info["frames_per_second"] = {way: round(len(indices) / found) for way, found in best.items()}
    benchmark.extra_info["time_to_plain"] = {way: round(found / best["plain"], 3) for way, found in best.items()}
    for way in ways:
        if way.startswith("torchcodec"):
            gap = (pixels[way].int() - pixels["plain"].int()).abs().float().mean().item()
            benchmark.extra_info[f"gap_of_{way}"] = round(gap, 3)
    assert best["ours"] <= OVERHEAD * best["plain"]


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_workers(workers, clips, tmp_path, benchmark):
    """Clips a second of the data module's loader over 24 copies of a clip, first reads, after its processes started."""
    for i in range(25):
        (tmp_path / f"{i:02d}.mp4").symlink_to(clips["h264_gop12.mp4"])
    data = plugins.create("datasets", f"folder:root={tmp_path}")
    data.adapt(ClipInput(length=16, anchor="spread"))
    data.workers, data.plan, data.pending = workers, data.batches(1), list(range(25))
    taken = []

    def read_all() -> None:
        forget()
        loader = iter(data.predict_dataloader())
        works = [next(loader)]
        taken.append(seconds(lambda: works.extend(loader), time.perf_counter))
        assert [work.unreadable for work in works] == [()] * 25

    benchmark.pedantic(read_all, rounds=2)
    benchmark.extra_info["clips_per_second"] = round(24 / min(taken), 2)
