"""Pictures of one clip: what every method marks as evidence, frame by frame.

Relevance is scaled from its least to its largest value in the clip, for display only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vidattr_bench.text import printable, slug

Frames = NDArray[np.uint8]
Shown = NDArray[np.float32]
Mask = NDArray[np.bool_]
_STRIP, _FILM = 128, 192  # pixels that the longer side of a frame is enlarged to, roughly
_GAP = 4
_FONT_SIZE = 15
_OPACITY = (20, 255)
_COLOURS = "turbo"


def scaled(relevance: NDArray[np.floating[Any]], saturated: float = 0) -> Shown:
    """Relevance (T, H, W) in [0, 1] by its least and its largest value; zeros where all are equal.

    A share `saturated` of the voxels at either end is shown alike, so that a few outliers do not hide all others; not
    where that leaves no difference.
    """
    values = np.asarray(relevance, dtype=np.float32)
    for share in (saturated, 0):
        low, high = np.quantile(values, [share, 1 - share])
        if high > low:
            shown: Shown = ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
            return shown
    return np.zeros_like(values)


def heat(frames: Frames, shown: Shown) -> Frames:
    """The heat tube: frames (T, H, W, 3) half, colours of `shown` (T, H, W) in [0, 1] half (Stergiou 2019)."""
    colours = mpl.colormaps[_COLOURS](shown)[..., :3] * 255
    blended: Frames = np.rint(0.5 * frames + 0.5 * colours).astype(np.uint8)
    return blended


def focus(frames: Frames, shown: Shown) -> Frames:
    """The focus tube: frames (T, H, W, 3) on black with `shown` (T, H, W) as opacity from 20 to 255 (Stergiou 2019)."""
    least, most = _OPACITY
    opacity = (least + (most - least) * shown) / 255
    dimmed: Frames = np.rint(frames * opacity[..., None]).astype(np.uint8)
    return dimmed


STYLES = {"heat": heat, "focus": focus}


def strip(
    frames: Frames,
    maps: Mapping[str, NDArray[np.floating[Any]]],
    tube: Mask | None = None,
    *,
    style: str = "heat",
    columns: int = 8,
) -> Image.Image:
    """A picture with the plain clip on top, then a row a method, and a column for each of some evenly spaced frames.

    Args:
        frames: uint8 (T, H, W, 3).
        maps: relevance (T, H, W) by label.
        tube: bool (T, H, W), outlined in every row.
        style: heat or focus.
        columns: how many frames at most.

    Raises:
        ValueError: a map or the tube has another size than the frames.
    """
    chosen = evenly_spaced(len(frames), columns)
    rows = _rows(frames, maps, tube, style, chosen)
    return _sheet(rows, [f"frame {at + 1}" for at in chosen])


def contact_sheet(
    frames: Frames,
    maps: Mapping[str, NDArray[np.floating[Any]]],
    tube: Mask | None = None,
    *,
    columns: int = 4,
    abreast: int = 3,
) -> Image.Image:
    """Heat tubes of many methods on one page: strips as `strip` draws them, `abreast` of them side by side.

    Signed maps in fine grain are shown as well, since half a percent of the voxels at either end saturates.

    Args:
        frames: uint8 (T, H, W, 3).
        maps: relevance (T, H, W) by label.
        tube: bool (T, H, W), outlined everywhere.
        columns: frames of each method at most.
        abreast: strips side by side.

    Raises:
        ValueError: a map or the tube has another size than the frames.
    """
    chosen = evenly_spaced(len(frames), columns)
    clip, *rows = _rows(frames, maps, tube, "heat", chosen, saturated=0.005).items()
    length = max(1, math.ceil(len(rows) / abreast))
    parts = [dict([clip, *rows[at : at + length]]) for at in range(0, max(1, len(rows)), length)]
    sheets = [_sheet(part, [f"frame {at + 1}" for at in chosen]) for part in parts]
    page = Image.new("RGB", (sum(sheet.width for sheet in sheets), sheets[0].height), "white")
    for number, sheet in enumerate(sheets):
        page.paste(sheet, (sum(before.width for before in sheets[:number]), 0))
    return page


def _rows(
    frames: Frames,
    maps: Mapping[str, NDArray[np.floating[Any]]],
    tube: Mask | None,
    style: str,
    chosen: Sequence[int],
    saturated: float = 0,
) -> dict[str, Frames]:
    """The chosen frames of the plain clip, then of every map drawn on it, enlarged, by label."""
    _check_sizes(frames, {**maps, "tube": frames[..., 0] if tube is None else tube})
    factor = _factor(frames, _STRIP)
    plain = _enlarged(frames[chosen], factor)
    rows = {"clip": plain}
    for label, relevance in maps.items():
        rows[label] = STYLES[style](plain, _enlarged_map(scaled(relevance, saturated)[chosen], factor))
    return rows if tube is None else {label: _outlined(row, tube[chosen]) for label, row in rows.items()}


def animation(
    frames: Frames,
    relevance: NDArray[np.floating[Any]],
    path: Path,
    tube: Mask | None = None,
    *,
    fps: float = 8,
) -> Path:
    """Write frame, heat tube and focus tube side by side as a film; the suffix of `path`, .mp4 or .gif, chooses."""
    from vidattr_bench.video import write_video

    _check_sizes(frames, {"relevance": relevance, "tube": frames[..., 0] if tube is None else tube})
    factor = _factor(frames, _FILM)
    plain, shown = _enlarged(frames, factor), _enlarged_map(scaled(relevance), factor)
    panels = [plain, heat(plain, shown), focus(plain, shown)]
    if tube is not None:
        panels = [_outlined(panel, tube) for panel in panels]
    gap = np.full((*plain.shape[:2], _GAP, 3), 255, dtype=np.uint8)
    film = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, torch.from_numpy(film), fps)
    return path


def draw_clip(
    folder: Path,
    frames: Frames,
    maps: Mapping[str, NDArray[np.floating[Any]]],
    tube: Mask | None = None,
    *,
    suffix: str = ".mp4",
    fps: float = 8,
) -> list[Path]:
    """Write heat.png, focus.png and a film a method, named after its label, into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for style in STYLES:
        files.append(folder / f"{style}.png")
        strip(frames, maps, tube, style=style).save(files[-1])
    for label, relevance in maps.items():
        files.append(animation(frames, relevance, folder / f"film-{slug(label)}{suffix}", tube, fps=fps))
    return files


def evenly_spaced(length: int, count: int) -> list[int]:
    """At most `count` frame indices, each in the middle of one of equal spans of the clip."""
    count = min(count, length)
    return [int((2 * at + 1) * length / (2 * count)) for at in range(count)]


def _check_sizes(frames: Frames, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.shape != frames.shape[:3]:
            raise ValueError(f"{name} has shape {array.shape}; frames of {frames.shape} need {frames.shape[:3]}")


def _factor(frames: Frames, size: int) -> int:
    """The whole number that brings a frame's longer side nearest to `size`."""
    longer = max(frames.shape[1:3])
    return max(1, int(size / longer + 0.5))


def _enlarged(frames: Frames, factor: int) -> Frames:
    size = (frames.shape[2] * factor, frames.shape[1] * factor)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def _enlarged_map(shown: Shown, factor: int) -> Shown:
    """Linear, so that no value leaves [0, 1] and no edge rings."""
    size = (shown.shape[2] * factor, shown.shape[1] * factor)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in shown])


def _outlined(frames: Frames, tube: Mask) -> Frames:
    """Frames (T, H, W, 3) with the border of `tube` (T, h, w) in white on black, H and W multiples of h and w."""
    factor = frames.shape[1] // tube.shape[1]
    large = np.kron(tube, np.ones((1, factor, factor), dtype=bool)).astype(bool)
    drawn = frames.copy()
    inner = _eroded(large)
    drawn[inner & ~_eroded(inner)] = 0
    drawn[large & ~inner] = 255
    return drawn


def _eroded(mask: Mask) -> Mask:
    """The voxels of a mask (T, H, W) whose four neighbours in their frame belong to it; outside the frame none does."""
    padded = np.pad(mask, [(0, 0), (1, 1), (1, 1)])
    return padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2] & mask


def _sheet(rows: Mapping[str, Frames], captions: Sequence[str]) -> Image.Image:
    """Rows of tiles on white with their labels on the left and `captions` above the columns."""
    n, h, w, _ = next(iter(rows.values())).shape
    margin = 2 * _GAP + math.ceil(max(_font().getlength(line) for label in rows for line in _wrapped(label)))
    top = _FONT_SIZE + 2 * _GAP
    sheet = Image.new("RGB", (margin + n * (w + _GAP), top + len(rows) * (h + _GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for at, caption in enumerate(captions):
        pen.text((margin + at * (w + _GAP) + w / 2, top / 2), caption, "black", _font(), anchor="mm")
    for number, (label, tiles) in enumerate(rows.items()):
        y = top + number * (h + _GAP)
        text = "\n".join(_wrapped(label))
        pen.multiline_text((margin - _GAP, y + h / 2), text, "black", _font(), anchor="rm", align="right")
        for at, tile in enumerate(tiles):
            sheet.paste(Image.fromarray(tile), (margin + at * (w + _GAP), y))
    return sheet


def _wrapped(label: str, width: int = 22, lines: int = 4) -> list[str]:
    """A label in short lines, broken after punctuation where there is some; what is too long ends in dots."""
    found: list[str] = []
    rest = printable(label)
    while rest and len(found) < lines:
        head = rest[:width]
        cut = max(head.rfind(mark) for mark in ":,_= ") + 1
        found.append(rest if len(rest) <= width else head[: cut or width])
        rest = rest[len(found[-1]) :]
    return [*found[:-1], f"{found[-1][: width - 3]}..."] if rest else found or [""]


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The typeface that comes with Matplotlib."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _FONT_SIZE)
