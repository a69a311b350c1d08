"""Decode and write video: local files only, and never silently wrong frames.

A video is a file of an allowed container (read with PyAV), a GIF (read with Pillow), or a folder of numbered pictures.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import itertools
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from vidattr_bench.errors import DataError
from vidattr_bench.stills import (
    REMEDY,
    STRICT,
    Picture,
    gif_frames,
    is_gif,
    picture_files,
    quantise,
    read_picture,
    to_rgb,
)

CONTAINERS = ("avi", "mov", "mp4", "matroska", "webm", "m4v", "mpeg", "mpegts", "mpegvideo", "ogg", "flv", "asf")
# MPEG-4, lossy, at its finest quantiser.
_FINE = {"qmin": "2", "qmax": "2"}
# A text file can be a playlist that returns another file's frames; FFmpeg checks both lists before it reads a header.
_LOCAL_ONLY = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}


def frame_count(path: Path | str) -> int:
    """The number of frames that decode, whatever the header says; the whole file is decoded once and the answer kept.

    Raises:
        DataError: the file is missing, empty, damaged anywhere, or not a video of an allowed container.
    """
    path = _existing(path)
    if path.is_dir():
        return len(picture_files(path))
    counted = _counted(*_state(path))
    if not counted:
        counted.append(_count(path))
    return counted[0]


def read_frames(path: Path | str, indices: Sequence[int]) -> Tensor:
    """Frames of a video, uint8 (n, H, W, 3) RGB, by 0-based index in the order asked for; an index may be repeated.

    Seeks where that is exact (MP4 and Matroska), else decodes from the start up to the last index.

    Raises:
        DataError: as `frame_count`, or the video ends before an index, or its frames differ in size.
        ValueError: no index is given, or a negative one.
    """
    path, wanted = _existing(path), sorted(set(indices))
    if not wanted or wanted[0] < 0:
        raise ValueError(f"indices of frames must be at least one and not negative, not {list(indices)}")
    return _stacked(path, _read(path, wanted), indices)


def read_chosen(path: Path | str, choose: Callable[[int], Sequence[int]]) -> tuple[Tensor, int]:
    """The frames that `choose` picks when it is told how many there are, and that number.

    The same as `frame_count` and `read_frames`, but that a file that was not counted yet is decoded once, not twice:
    frames are picked for as many as its packets promise, and picked again where another number decodes.

    Raises:
        DataError: as `frame_count` and `read_frames`.
        ValueError: as `read_frames`.
    """
    path = _existing(path)
    if path.is_file() and not is_gif(path) and not (counted := _counted(*_state(path))):
        # An AVI of DivX has a packet more than frames, as those of HMDB51.
        picks = {n: choose(n) for n in _promised(path) if n > 0}
        found, total = _decode_whole(path, set().union(*picks.values()))
        counted.append(total)
        if picks.get(total):
            return _stacked(path, {i: found[i] for i in picks[total] if i in found}, picks[total]), total
    total = frame_count(path)
    return read_frames(path, choose(total)), total


def _stacked(path: Path, found: Mapping[int, Picture], indices: Sequence[int]) -> Tensor:
    absent = sorted(i for i in indices if i not in found)
    if absent:
        raise DataError(f"{path}: the video ends before frame {absent[0]} (counted from 0); {REMEDY}")
    if len({picture.shape for picture in found.values()}) > 1:
        raise DataError(f"{path}: the size of the frames changes within the video; re-encode it to one size")
    return torch.from_numpy(np.stack([found[i] for i in indices]))


def _read(path: Path, wanted: Sequence[int]) -> dict[int, Picture]:
    if path.is_dir():
        files = picture_files(path)
        return {i: read_picture(files[i]) for i in wanted if i < len(files)}
    if is_gif(path):
        chosen = set(wanted)
        pictures = itertools.islice(gif_frames(path), wanted[-1] + 1)
        return {i: np.asarray(picture.convert("RGB")) for i, picture in enumerate(pictures) if i in chosen}
    table, counted = _seek_table(*_state(path)), _counted(*_state(path))
    # A packet may show no frame, and behind it a packet's number is another one than its frame's.
    exact = counted[0] == len(table.times) if counted else table.a_frame_each
    try:
        return _decode(path, wanted, table if exact else _SEQUENTIAL)
    except _InexactSeekError:
        return _decode(path, wanted, _SEQUENTIAL)


def _existing(path: Path | str) -> Path:
    # An absolute path is never taken for a protocol such as concat: or http:.
    path = Path(path).absolute()
    if not path.exists():
        raise DataError(f"{path}: there is no such video")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; {REMEDY}")
    return path


def _state(path: Path) -> tuple[Path, int, int]:
    """What a file's count is kept by: another one may take its place."""
    return path, path.stat().st_size, path.stat().st_mtime_ns


@functools.lru_cache(maxsize=65536)
def _counted(path: Path, _size: int, _mtime: int) -> list[int]:
    """Where the number of a file's frames is put once all of them have been decoded; empty before."""
    return []


def _count(path: Path) -> int:
    if not is_gif(path):
        return _decode_whole(path, ())[1]
    n = sum(1 for _ in gif_frames(path))
    return _some(path, n)


def _decode_whole(path: Path, chosen: Collection[int]) -> tuple[dict[int, Picture], int]:
    """The chosen frames of a file, decoded to its end, and how many there are."""
    found: dict[int, Picture] = {}
    reformatter, n = VideoReformatter(), 0
    with _opened(path) as (container, stream):
        for frame in _intact_frames(path, container, stream):
            if n in chosen:
                found[n] = to_rgb(frame, reformatter)
            n += 1
    return found, _some(path, n)


def _some(path: Path, frames: int) -> int:
    if frames == 0:
        raise DataError(f"{path}: not a single frame decodes; {REMEDY}")
    return frames


def _promised(path: Path) -> tuple[int, int]:
    """How many frames the packets promise, and one less."""
    n = len(_seek_table(*_state(path)).times)
    if not n:
        with _opened(path) as (container, stream):
            n = sum(1 for packet in _packets(path, container, stream))
    return n, n - 1


def _packets(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet[av.VideoStream]]:
    """The packets that hold something."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{path}: is damaged, reading stopped ({error}); {REMEDY}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        container = av.open(str(path), metadata_errors="replace", options=_LOCAL_ONLY)
    except (av.FFmpegError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be opened as a video ({error}); it is damaged, or not of an allowed container "
            f"({', '.join(CONTAINERS)}, gif): {REMEDY} or convert it"
        ) from error
    with container:
        if "matroska" in container.format.name:
            _check_length(path)
        if not container.streams.video:
            raise DataError(f"{path}: holds no video stream; {REMEDY}")
        stream = container.streams.video[0]
        stream.codec_context.options = STRICT
        stream.codec_context.thread_type = "NONE"
        yield container, stream


def _check_length(path: Path) -> None:
    """Raise `DataError` where a Matroska file ends before its segment does, which FFmpeg takes for a shorter video."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = head.find(_SEGMENT) + len(_SEGMENT)
    size, start = _vint(head, at)
    if at >= len(_SEGMENT) and size is not None and start + size > path.stat().st_size:
        raise DataError(f"{path}: is cut off, {path.stat().st_size} of {start + size} bytes are there; {REMEDY}")


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """A number of EBML's variable length (None: unknown), and where it ends."""
    length = 9 - data[at].bit_length()
    bits = (1 << 7 * length) - 1
    value = int.from_bytes(data[at : at + length]) & bits
    return None if value == bits else value, at + length


def _intact_frames(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise DataError(f"{path}: a frame is marked as damaged; {REMEDY}")
            yield frame
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{path}: is damaged, decoding stopped ({error}); {REMEDY}") from error


class _InexactSeekError(Exception):
    """After a seek, the decoder did not begin at the key frame that the table of packets promised."""


@dataclasses.dataclass(frozen=True)
class _SeekTable:
    """Presentation times of all packets (empty: unknown), and which of them are key frames.

    Attributes:
        times: in ascending order.
        keys: indices of the key frames.
        a_frame_each: the codec is one whose packets show a frame each; of others that has to be counted.
    """

    times: Sequence[int]
    keys: Sequence[int]
    a_frame_each: bool = False

    def runs(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Ascending frames in groups, each with the key frame from which to decode it."""
        first, run = 0, list[int]()
        for key, group in itertools.groupby(wanted, lambda i: self.keys[bisect.bisect_right(self.keys, i) - 1]):
            if run and key - run[-1] > _NEAR:
                yield first, run
                run = []
            first = first if run else key
            run += group
        yield first, run


_SEQUENTIAL = _SeekTable((), (0,))
_SEGMENT = b"\x18\x53\x80\x67"  # the element of a Matroska file that holds all but its header
# MPEG-4 has packets of a picture that is not coded, VP8 and VP9 have some that are not shown.
_A_FRAME_A_PACKET = frozenset(("h264", "hevc", "ffv1", "mjpeg"))
# A seek costs about as much as decoding so many frames: none is made to skip fewer.
_NEAR = 4


@functools.lru_cache(maxsize=4096)
def _seek_table(path: Path, _size: int, _mtime: int) -> _SeekTable:
    """Where to seek, read from the packets without decoding; `_SEQUENTIAL` where they do not tell frames one to one."""
    with _opened(path) as (container, stream):
        if not {"mp4", "matroska"} & set(container.format.name.split(",")):
            return _SEQUENTIAL
        packets = list(_packets(path, container, stream))
        a_frame_each = stream.codec_context.name in _A_FRAME_A_PACKET
    pts = [packet.pts for packet in packets]
    told = [time for time in pts if time is not None]
    one_to_one = len(set(told)) == len(pts) and not any(packet.is_discard for packet in packets)
    if not one_to_one or not packets or not packets[0].is_keyframe:
        return _SEQUENTIAL
    position = {time: i for i, time in enumerate(sorted(told))}
    keys = sorted(position[packet.pts] for packet in packets if packet.is_keyframe and packet.pts is not None)
    # Eight bytes a frame: tables of many long videos are kept.
    return _SeekTable(array("q", position), array("q", keys), a_frame_each) if keys[0] == 0 else _SEQUENTIAL


def frame_times(path: Path | str) -> tuple[float, ...]:
    """When each frame of a video is shown, in seconds from the first, read from the packets without decoding.

    Empty where the file does not tell its frames one to one: it is no MP4 or Matroska, or it skips some.

    Raises:
        DataError: as `frame_count`, but for damage within a frame.
    """
    path = _existing(path)
    times = _seek_table(*_state(path)).times
    if not times:
        return ()
    with _opened(path) as (_, stream):
        unit = stream.time_base or Fraction(0)
    return tuple(float((time - times[0]) * unit) for time in times)


def _decode(path: Path, wanted: Sequence[int], table: _SeekTable) -> dict[int, Picture]:
    found: dict[int, Picture] = {}
    reformatter = VideoReformatter()
    with _opened(path) as (container, stream):
        for key, group in table.runs(wanted):
            if key:
                container.seek(table.times[key], stream=stream)
            chosen = set(group)
            for i, frame in enumerate(_intact_frames(path, container, stream), start=key):
                if table.times and (i >= len(table.times) or table.times[i] != frame.pts):
                    raise _InexactSeekError
                if i in chosen:
                    found[i] = to_rgb(frame, reformatter)
                if i == group[-1]:
                    break
    return found


def write_video(path: Path | str, frames: Tensor, fps: float = 25.0, *, lossless: bool = False) -> None:
    """Write frames, uint8 (T, H, W, 3) RGB, as .mp4, .mov or .mkv (H.264), .avi (MPEG-4) or .gif (256 colours).

    Args:
        path: the suffix chooses the format.
        frames: an odd height or width is made even by repeating the last row or column, except in a GIF or lossless.
        fps: frames a second; a GIF rounds the time of a frame to 1/100 s.
        lossless: FFV1 in .avi or .mkv, which `read_frames` returns bit for bit.

    Raises:
        DataError: the suffix names no format that can be written so.
        ValueError: frames of another shape or type.
    """
    path, pixels = Path(path), frames.numpy(force=True)
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {pixels.dtype} {pixels.shape}")
    codec, pixel_format, options = _encoding(path, lossless)
    with av.open(str(path.absolute()), "w") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = cast(av.VideoStream, container.add_stream(codec, rate, options=options))
        pictures = list(_encodable(pixels, pixel_format))
        stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, pixel_format
        for picture in pictures:
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _encoding(path: Path, lossless: bool) -> tuple[str, str, dict[str, str]]:
    """Codec, pixel format and options for a file of this name."""
    suffix = path.suffix.lower()
    if lossless and suffix in (".avi", ".mkv"):
        return "ffv1", "bgr0", {}
    if suffix == ".gif" and not lossless:
        return "gif", "pal8", {}
    if suffix in (".mp4", ".mov", ".mkv") and not lossless:
        h264 = "libx264" in av.codecs_available
        return ("libx264", "yuv420p", {"crf": "18"}) if h264 else ("mpeg4", "yuv420p", _FINE)
    if suffix == ".avi":
        return "mpeg4", "yuv420p", _FINE
    known = ".avi or .mkv" if lossless else ".mp4, .mov, .mkv, .avi or .gif"
    raise DataError(f"{path}: cannot write {'lossless ' if lossless else ''}video as {suffix!r}; name it {known}")


def _encodable(pixels: Picture, pixel_format: str) -> Iterator[av.VideoFrame]:
    h, w = pixels.shape[1:3]
    if pixel_format == "pal8":
        for drawing in quantise(pixels):
            yield av.VideoFrame.from_ndarray(drawing, format="pal8")
        return
    if pixel_format == "yuv420p":
        pixels = np.pad(pixels, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    for picture in pixels:
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
