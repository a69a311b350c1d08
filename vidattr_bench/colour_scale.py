"""How relevance becomes colour and light: what is positive goes from dark through red, what is negative through blue.

Zero is dark on every map that has values on both sides of it or reaches it. A map that lies above zero is dark where it
is least: RISE, a mean of scores, differs from place to place by a fraction of its offset. Print in grey keeps how far
relevance is from there, and loses the sign.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Relevance = NDArray[np.floating[Any]]
Shown = NDArray[np.float32]

WITHIN = 0.995
"""The share of a map's voxels that its scale holds: were it to hold all, a few outliers would hide the others."""
_OPACITY = (20, 255)
# Without its palest tenths, which half a frame turns to grey; an odd number of colours has a middle one for zero.
_COLOURS = ListedColormap(sns.color_palette("icefire", as_cmap=True)(np.linspace(0.1, 0.9, 257)))


class Scale(NamedTuple):
    """The relevance at which a map is dark, and the distance from there, to either side, of full colour."""

    dark: float
    reach: float


def scale_of(relevance: Relevance) -> Scale:
    """The scale of relevance (T, H, W): dark at 0, or at the least value where that is above 0.

    It holds `WITHIN` of the voxels, or all where so many are dark; its reach is 0 where all are.
    """
    values = relevance.astype(np.float64)
    dark = max(float(values.min()), 0.0)
    distances = np.abs(values - dark)
    return Scale(dark, float(np.quantile(distances, WITHIN)) or float(distances.max()))


def scaled(relevance: Relevance) -> Shown:
    """Relevance (T, H, W) in [-1, 1]: 0 where its scale is dark, and cut off at full colour."""
    dark, reach = scale_of(relevance)
    shown: Shown = ((relevance.astype(np.float64) - dark) / (reach or 1)).clip(-1, 1).astype(np.float32)
    return shown


def heat(frames: Frames, shown: Shown) -> Frames:
    """The heat tube: frames (T, H, W, 3) half, colours of `shown` (T, H, W) in [-1, 1] half (Stergiou 2019)."""
    colours = _COLOURS((1 + shown) / 2)[..., :3] * 255
    blended: Frames = np.rint(0.5 * frames + 0.5 * colours).astype(np.uint8)
    return blended


def focus(frames: Frames, shown: Shown) -> Frames:
    """The focus tube: frames (T, H, W, 3) on black, opaque where `shown` (T, H, W) is 1 (Stergiou 2019).

    Opacity is 20 of 255 where it is 0 or negative, which is no evidence for the target.
    """
    least, most = _OPACITY
    opacity = (least + (most - least) * shown.clip(min=0)) / 255
    dimmed: Frames = np.rint(frames * opacity[..., None]).astype(np.uint8)
    return dimmed


STYLES = {"heat": heat, "focus": focus}


def spoken(relevance: Relevance) -> list[str]:
    """Two lines, the least and largest value of a map and the ends of its scale; or one on the value that all share."""
    least, largest = float(relevance.min()), float(relevance.max())
    if least == largest:
        return [f"{_number(least)} everywhere"]
    dark, reach = scale_of(relevance)
    low = dark if least >= 0 else -reach
    return [f"values {_number(least)} to {_number(largest)}", f"scale {_number(low)} to {_number(dark + reach)}"]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
