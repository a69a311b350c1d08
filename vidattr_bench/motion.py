"""Optical flow as networks take it: fields between the frames of a video, stacked around each sampled frame."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vidattr_bench.flow import optical_flow
from vidattr_bench.flow_cache import FlowCache
from vidattr_bench.model import ClipInput
from vidattr_bench.stills import picture_files
from vidattr_bench.transform import Sampled, fit, sample_indices
from vidattr_bench.video import read_frames

BOUND = 20.0
Field = NDArray[np.uint8]
"""Flow (H, W, 2) to the right and down: -20 to 20 pixels as 0 to 255, no motion as 128."""

# What OpenCV's implementation takes at each scale, and what scikit-image takes by default.
_WARPS, _ITERATIONS = 5, 10
_LUMA = (0.299, 0.587, 0.114)
_BLOCK, _BLOCKS = 1 << 20, 64  # of a video that tell it from others


class Frames(Protocol):
    """The frames of a video, or of a part of one, by 0-based index."""

    def read(self, indices: Sequence[int]) -> Tensor:
        """Frames, uint8 (n, H, W, 3), in the order asked for; raises `DataError`."""

    def identity(self, indices: Sequence[int]) -> str:
        """What is another text once these frames are others, wherever they lie; nothing is decoded."""


@dataclasses.dataclass(frozen=True)
class VideoFrames:
    """The frames of a video file, or of a folder of numbered pictures."""

    path: Path

    def read(self, indices: Sequence[int]) -> Tensor:
        """Frames, uint8 (n, H, W, 3); raises `DataError` as `read_frames`."""
        return read_frames(self.path, indices)

    def identity(self, indices: Sequence[int]) -> str:
        """The hashes of the pictures, or that of the file with the indices."""
        if self.path.is_dir():
            files = picture_files(self.path)
            return " ".join(file_identity(files[i]) for i in indices)
        return f"{file_identity(self.path)} {list(indices)}"


def file_identity(path: Path) -> str:
    """SHA-256 of a file, above 64 MiB of its size and 64 blocks of a MiB that are spread over it."""
    stat = path.stat()
    return _file_identity(path.absolute(), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_identity(path: Path, size: int, _mtime: int) -> str:
    digest = hashlib.sha256(f"{size} ".encode())
    with path.open("rb") as file:
        for i in range(_BLOCKS):
            if size > _BLOCKS * _BLOCK:
                file.seek(i * (size - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


class Flow(ABC):
    """The optical flow of one video: its fields by number, in the order of the frames at which they begin."""

    @property
    @abstractmethod
    def fields(self) -> int:
        """How many there are."""

    def place(self, index: int) -> int:
        """The field that begins at a frame of the video (0-based), or last before it; it may lie past the last one."""
        return index

    @abstractmethod
    def found(self, numbers: Sequence[int]) -> dict[int, Field]:
        """Those of these fields that need not be computed; raises `DataError` where one is damaged."""

    def ends(self, number: int) -> tuple[int, int]:
        """The two frames that a field that is not found is computed from."""
        raise NotImplementedError

    def computed(self, number: int, before: Tensor, after: Tensor) -> Field:
        """A field that is not found, from two frames, uint8 (H, W, 3)."""
        raise NotImplementedError

    def stack(self, index: int, count: int) -> list[int]:
        """The numbers of the `count` fields stacked for a frame: centred on it, and clamped to those that there are.

        They are n - count // 2, ..., n + (count - 1) // 2, where n begins at the frame: of 10, five begin before it, as
        in the code of Feichtenhofer et al. 2016 (github.com/feichtenhofer/twostreamfusion,
        cnn_ucf101_get_im_flow_batch.m). Simonyan and Zisserman 2014 (arXiv 1406.2199, equation 1) begin at the frame.
        """
        first = self.place(index) - count // 2
        return [min(max(number, 0), self.fields - 1) for number in range(first, first + count)]


class NoFlow(Flow):
    """No field at all: nothing moves, or nobody asks."""

    @property
    def fields(self) -> int:
        """0."""
        return 0

    def found(self, numbers: Sequence[int]) -> dict[int, Field]:
        """Nothing."""
        return {}


@dataclasses.dataclass(frozen=True)
class ComputedFlow(Flow):
    """TV-L1 flow (Zach et al. 2007) from each frame of a video to the one `step` later, kept on disk.

    Frames are brought to grey values (BT.601) and to a short side of `side` pixels, larger or smaller, with even
    height and width, as github.com/feichtenhofer/gpu_flow does with 256; flow is in pixels of that picture.

    Attributes:
        frames: the video.
        total: number of its frames.
        side: short side in pixels of the pictures that the flow is computed on.
        step: frames from the first of two to the second.
        cache: where fields are kept.
    """

    frames: Frames
    total: int
    side: int
    step: int
    cache: FlowCache

    @property
    def fields(self) -> int:
        """Number of frames that have one `step` later."""
        return max(self.total - self.step, 0)

    def found(self, numbers: Sequence[int]) -> dict[int, Field]:
        """Those kept on disk from before."""
        kept = {number: self.cache.get(self._key(number)) for number in numbers}
        return {number: field for number, field in kept.items() if field is not None}

    def ends(self, number: int) -> tuple[int, int]:
        """Frame `number` and the one `step` later."""
        return number, number + self.step

    def computed(self, number: int, before: Tensor, after: Tensor) -> Field:
        """The flow from one frame to the other; it is kept."""
        grey = torch.stack([grey_picture(frame, self.side) for frame in (before, after)])
        field = quantised(optical_flow(grey[None], _WARPS, _ITERATIONS)[0].flip(0))
        self.cache.put(self._key(number), field)
        return field

    def _key(self, number: int) -> str:
        """What the field depends on: two frames, and how it is made of them."""
        facts = [*algorithm(self.side, self.step), _code(), self.frames.identity(self.ends(number))]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@functools.cache
def _code() -> str:
    """What decodes frames and makes fields of them: kept fields of other code are made again."""
    digest = hashlib.sha256(f"av {version('av')} numpy {version('numpy')}".encode())
    for name in ("flow", "motion", "stills", "video"):
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def algorithm(side: int, step: int) -> list[str | int]:
    """How computed fields are made, in words and numbers: others where they may come out otherwise."""
    how = f"tvl1 {_WARPS} {_ITERATIONS}, scikit-image {version('scikit-image')}, bt601, bicubic, +-{BOUND}"
    return [how, side, step]


def grey_picture(frame: Tensor, side: int) -> Tensor:
    """Grey values (h, w) in [0, 1] of a frame, uint8 (H, W, 3), at a short side of `side`, h and w even."""
    red, green, blue = (frame[..., channel].float() * (_LUMA[channel] / 255) for channel in range(3))
    grey = red + green + blue
    short = min(grey.shape)
    size = [length * side // short // 2 * 2 for length in grey.shape]
    if list(grey.shape) == size:
        return grey
    return F.interpolate(grey[None, None], size, mode="bicubic", antialias=True)[0, 0].clamp(0, 1)


def quantised(flow: Tensor) -> Field:
    """Flow (2, H, W) in pixels as a field: cut off at -20 and 20 and rounded, as gpu_flow and dense_flow write it."""
    levels = ((flow.clamp(-BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).round()  # half to even: no motion is 128
    return levels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def sample_streams(frames: Frames, total: int, wanted: ClipInput, flow: Flow) -> Sampled:
    """The frames of a video that `wanted` asks for, in the streams that it asks for.

    Channels are colour, then for each field of a frame's stack the motion to the right and down. Flow goes through the
    resize and the crop as a picture does: its values stay pixels of the picture that it was computed on. A video too
    short for a field has no motion. Without colour no frame is decoded but to compute flow, and one for its size.

    Args:
        frames: the video.
        total: number of its frames.
        wanted: streams, sampling and geometry.
        flow: of the same video; `NoFlow` where `wanted` asks for none.

    Raises:
        DataError: the video or its flow cannot be read, or `wanted` makes no sense.
    """
    indices = sample_indices(total, wanted)
    shown = [i for i in indices if i is not None]
    stacks = [flow.stack(i, wanted.flow) for i in shown] if flow.fields else []
    needed = sorted({number for stack in stacks for number in stack})
    found = flow.found(needed)
    ends = {number: flow.ends(number) for number in needed if number not in found}
    read = sorted({i for pair in ends.values() for i in pair}.union(shown if wanted.pixels else ())) or [0]
    pictures = dict(zip(read, frames.read(read), strict=True))
    for number, (before, after) in ends.items():
        found[number] = flow.computed(number, pictures[before], pictures[after])
    size = (pictures[read[0]].shape[0], pictures[read[0]].shape[1])
    clip = torch.tensor(wanted.blank).view(-1, 1, 1, 1).repeat(1, wanted.length, *wanted.size)
    if wanted.pixels:
        clip[:3, : len(shown)], _ = fit(torch.stack([pictures[i] for i in shown]), torch.zeros(0, 4), wanted)
    if stacks:
        clip[-2 * wanted.flow :, : len(shown)] = _stacked(found, stacks, wanted, size)
    return Sampled(clip, tuple(indices), size)


def _stacked(
    fields: Mapping[int, Field], stacks: Sequence[Sequence[int]], wanted: ClipInput, size: tuple[int, int]
) -> Tensor:
    """The stacks of fields (2 L, T, h, w) in [0, 1], from a video of height and width `size`."""
    numbers = sorted(fields)
    pictures = torch.from_numpy(np.stack([fields[number] for number in numbers]))
    fitted, _ = fit(pictures, torch.zeros(0, 4), wanted, size)
    row = {number: i for i, number in enumerate(numbers)}
    chosen = fitted[:, [[row[number] for number in stack] for stack in stacks]]
    return chosen.permute(2, 0, 1, 3, 4).flatten(0, 1)
