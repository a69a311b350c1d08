"""Pictures of one clip: what every method marks as evidence, frame by frame, with the scale of its colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vidattr_bench.colour_scale import STYLES, WITHIN, Frames, Relevance, Shown, focus, heat, scaled, spoken
from vidattr_bench.text import printable, slug

Mask = NDArray[np.bool_]
_STRIP, _FILM = 128, 192  # pixels that the longer side of a frame is enlarged to, roughly
_GAP = 4
_FONT_SIZE, _SMALL = 15, 12
_BAR = (280, 12)
_GREY = 160


class _Row(NamedTuple):
    """A row of a sheet: tiles (n, H, W, 3), what they show, and lines on its values."""

    label: str
    tiles: Frames
    lines: Sequence[str] = ()


def strip(
    frames: Frames,
    maps: Mapping[str, Relevance],
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
    return _with_legend(_sheet(rows, [f"frame {at + 1}" for at in chosen]), style, maps, tube)


def contact_sheet(
    frames: Frames,
    maps: Mapping[str, Relevance],
    tube: Mask | None = None,
    *,
    columns: int = 4,
    abreast: int = 3,
) -> Image.Image:
    """Heat tubes of many methods on one page: strips as `strip` draws them, `abreast` of them side by side.

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
    clip, *rows = _rows(frames, maps, tube, "heat", chosen)
    length = max(1, math.ceil(len(rows) / abreast))
    parts = [[clip, *rows[at : at + length]] for at in range(0, max(1, len(rows)), length)]
    sheets = [_sheet(part, [f"frame {at + 1}" for at in chosen]) for part in parts]
    page = Image.new("RGB", (sum(sheet.width for sheet in sheets), sheets[0].height), "white")
    for number, sheet in enumerate(sheets):
        page.paste(sheet, (sum(before.width for before in sheets[:number]), 0))
    return _with_legend(page, "heat", maps, tube)


def _rows(
    frames: Frames, maps: Mapping[str, Relevance], tube: Mask | None, style: str, chosen: Sequence[int]
) -> list[_Row]:
    """The chosen frames of the plain clip, then of every map drawn on it, enlarged."""
    _check_sizes(frames, {**maps, "tube": frames[..., 0] if tube is None else tube})
    factor = _factor(frames, _STRIP)
    plain = _enlarged(frames[chosen], factor)
    rows = [_Row("clip", plain)]
    for label, relevance in maps.items():
        tiles = STYLES[style](plain, _enlarged_map(scaled(relevance)[chosen], factor))
        rows.append(_Row(label, tiles, spoken(relevance)))
    return rows if tube is None else [row._replace(tiles=_outlined(row.tiles, tube[chosen])) for row in rows]


def animation(
    frames: Frames,
    relevance: Relevance,
    path: Path,
    tube: Mask | None = None,
    *,
    label: str = "",
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
    film = []
    for at, tiles in enumerate(np.stack(panels, axis=1)):
        row = _Row(label, tiles, spoken(relevance))
        sheet = _sheet([row], [f"frame {at + 1} of {len(frames)}", "heat tube", "focus tube"])
        film.append(np.asarray(_with_legend(sheet, "heat", {label: relevance}, tube)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, torch.from_numpy(np.stack(film)), fps)
    return path


def draw_clip(
    folder: Path,
    frames: Frames,
    maps: Mapping[str, Relevance],
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
        files.append(animation(frames, relevance, folder / f"film-{slug(label)}{suffix}", tube, label=label, fps=fps))
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
    """Linear, so that no value leaves [-1, 1] and no edge rings."""
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


def _sheet(rows: Sequence[_Row], captions: Sequence[str]) -> Image.Image:
    """Rows of tiles on white with their labels on the left and `captions` above the columns."""
    n, h, w, _ = rows[0].tiles.shape
    texts = [
        [*((line, _FONT_SIZE) for line in _wrapped(row.label)), *((line, _SMALL) for line in row.lines)] for row in rows
    ]
    margin = 2 * _GAP + math.ceil(max(_font(size).getlength(line) for text in texts for line, size in text))
    top = _FONT_SIZE + 2 * _GAP
    sheet = Image.new("RGB", (margin + n * (w + _GAP), top + len(rows) * (h + _GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for at, caption in enumerate(captions):
        pen.text((margin + at * (w + _GAP) + w / 2, top / 2), caption, "black", _font(), anchor="mm")
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        y = top + number * (h + _GAP)
        below = y + (h - sum(size + _GAP for _, size in text)) / 2
        for line, size in text:
            pen.text((margin - _GAP, below), line, "black", _font(size), anchor="ra")
            below += size + _GAP
        for at, tile in enumerate(row.tiles):
            sheet.paste(Image.fromarray(tile), (margin + at * (w + _GAP), y))
    return sheet


def _with_legend(sheet: Image.Image, style: str, maps: Mapping[str, Relevance], tube: Mask | None) -> Image.Image:
    """A sheet above the colours that a style gives a grey frame, from dark on where no map is negative, and words."""
    is_signed = any(relevance.min() < 0 for relevance in maps.values())
    ticks = ["lower end of scale", "0", "upper end"] if is_signed else ["dark end of scale", "", "light end"]
    words = [
        "dark: 0, or a map's least value where above 0",
        f"{100 * WITHIN:g} % of a map's voxels lie within its scale",
    ]
    words += ["outlined: the annotated tube"] if tube is not None and tube.any() else []
    (width, height), line = _BAR, _SMALL + _GAP
    wide = max(width, *(math.ceil(_font(_SMALL).getlength(text)) for text in words)) + 2 * _FONT_SIZE
    size = (max(sheet.width, wide), sheet.height + 2 * _GAP + height + line * (1 + len(words)))
    page = Image.new("RGB", size, "white")
    page.paste(sheet, (0, 0))
    pen, left, top = ImageDraw.Draw(page), _FONT_SIZE, sheet.height + _GAP
    page.paste(Image.fromarray(_bar(style, is_signed)), (left, top))
    for tick, anchor in zip(ticks, "lmr", strict=True):
        x = left + width * "lmr".index(anchor) / 2
        pen.text((x, top + height + _GAP), tick, "black", _font(_SMALL), anchor=f"{anchor}a")
    for number, text in enumerate(words, start=1):
        pen.text((left, top + height + _GAP + number * line), text, "black", _font(_SMALL), anchor="la")
    return page


def _bar(style: str, is_signed: bool) -> Frames:
    """What a style makes of a grey frame (height, width, 3) while relevance rises from left to right."""
    width, height = _BAR
    ramp = np.tile(np.linspace(-1 if is_signed else 0, 1, width, dtype=np.float32), (1, height, 1))
    bar: Frames = STYLES[style](np.full((*ramp.shape, 3), _GREY, dtype=np.uint8), ramp)[0]
    return bar


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
def _font(size: int = _FONT_SIZE) -> ImageFont.FreeTypeFont:
    """The typeface that comes with Matplotlib."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
