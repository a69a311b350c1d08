"""Frames kept as pictures: GIFs and folders of numbered pictures such as 00001.jpg."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from vidattr_bench.errors import DataError

Picture = NDArray[np.uint8]

CODECS = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".png": "png"}
# By default FFmpeg conceals damage. These are options of the codec: a container ignores them.
STRICT = {"err_detect": "explode"}
REMEDY = "replace the file by an intact copy"


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> Picture:
    """The pixels of a decoded frame, uint8 (H, W, 3), turned and mirrored as its display matrix tells a player.

    A turn between two quarter turns becomes the nearer one. A reformatter is made once for all frames of a video.
    """
    # By default FFmpeg starts a thread a core for every frame, which takes eight times as long.
    pixels = np.asarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
    a, b, c, d = _display_matrix(frame)
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _display_matrix(frame: av.VideoFrame) -> tuple[float, float, float, float]:
    """Entries a, b, c, d: what lies at (x, y), counted to the right and down, is shown at (a x + c y, b x + d y)."""
    try:
        # PyAV's stubs describe a mapping with other keys.
        matrix = cast(Any, frame).side_data["DISPLAYMATRIX"]
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    except KeyError:
        return 1, 0, 0, 1
    except ValueError:
        # PyAV lists no side data at all beside a kind that it has no name for; the turn, without a mirror, it knows.
        turn = math.radians(frame.rotation)
        return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
    return a, b, c, d


def is_gif(path: Path) -> bool:
    """Whether a file is a GIF by its first bytes, whatever its name."""
    with path.open("rb") as file:
        return file.read(6) in (b"GIF87a", b"GIF89a")


def gif_frames(path: Path) -> Iterator[Image.Image]:
    """The frames of a GIF, each loaded; raises `DataError` where it is damaged.

    By Pillow: intact files give the pixels that FFmpeg gives; of 60 with 64 damaged bytes it refused 59, FFmpeg none.
    """
    try:
        with Image.open(path, formats=("GIF",)) as image:
            for frame in ImageSequence.Iterator(image):
                frame.load()
                yield frame
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is damaged, decoding stopped ({error}); {REMEDY}") from error


def picture_files(folder: Path, prefix: str = "") -> tuple[Path, ...]:
    """Pictures of a frame folder in the order of the numbers that end their names; these begin at 0 or 1.

    Args:
        folder: where they lie.
        prefix: how the names of those that are meant begin, in a folder of several kinds.

    Raises:
        DataError: there is no such picture, a number is missing, or two pictures share one.
    """
    return _picture_files(folder, prefix, folder.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _picture_files(folder: Path, prefix: str, _mtime: int) -> tuple[Path, ...]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in CODECS and file.name.startswith(prefix)]
    numbers = {file: int(digits[0]) for file in files if (digits := re.search(r"\d+$", file.stem))}
    if not numbers:
        raise DataError(f"{folder}: holds no numbered pictures such as 00001.jpg; extract the frames into it")
    number, times = Counter(numbers.values()).most_common(1)[0]
    if times > 1:
        raise DataError(f"{folder}: {times} pictures carry the number {number}; leave one picture a frame")
    ordered = sorted(numbers, key=numbers.__getitem__)
    first = 0 if numbers[ordered[0]] == 0 else 1
    for expected, file in enumerate(ordered, start=first):
        if numbers[file] != expected:
            raise DataError(f"{folder}: picture number {expected} is missing; extract the frames again")
    return tuple(ordered)


def read_picture(path: Path) -> Picture:
    """One picture, uint8 (H, W, 3), by FFmpeg, which refuses most damage that libjpeg only warns about.

    Raises:
        DataError: the file is empty, damaged or not what its suffix says.
    """
    return decode_picture(path.read_bytes(), path)


def decode_picture(data: bytes, path: Path) -> Picture:
    """The picture of a file that was read, perhaps out of an archive; its suffix tells the codec; raises as above."""
    codec = cast(av.VideoCodecContext, av.CodecContext.create(CODECS[path.suffix.lower()], "r"))
    codec.options = STRICT
    try:
        frames = [*codec.decode(av.Packet(data)), *codec.decode(None)] if data else []
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{path}: is damaged, decoding stopped ({error}); {REMEDY}") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise DataError(f"{path}: is empty or damaged; {REMEDY}")
    return to_rgb(frames[0], VideoReformatter())


def quantise(pixels: Picture) -> Iterator[Any]:
    """Frames (T, H, W, 3) drawn in one palette of 256 colours: for each the indices (H, W) and the palette (256, 4)."""
    t, h, w, _ = pixels.shape
    drawn = Image.fromarray(pixels.reshape(t * h, w, 3)).quantize(256)
    colours = np.array(drawn.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), 255, np.uint8)
    palette[: len(colours), 1:] = colours
    for indices in np.asarray(drawn).reshape(t, h, w):
        yield indices, palette
