"""What all figures share: the theme, the file formats, colours and markers that survive grey print."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from vidattr_bench.families import METHOD_FAMILIES
from vidattr_bench.text import printable

GREY = "0.45"
_MARKERS = "osD^vXP"

_SETTINGS: Any = {
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "legend.frameon": False,
    "axes.titlesize": 9,
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
}


@contextmanager
def theme() -> Iterator[None]:
    """Seaborn's ticks for paper, fonts embedded as journals want them; the global state comes back."""
    with mpl.rc_context(), sns.axes_style("ticks"), sns.plotting_context("paper"):
        mpl.rcParams.update(_SETTINGS)
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and PDF, the same bytes for the same figure; returns the files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    with theme():
        figure.savefig(png, dpi=200, metadata={"Software": None})
        figure.savefig(pdf, metadata={"CreationDate": None})
    return [png, pdf]


def short(label: str, length: int = 40) -> str:
    """A label as it is; of a very long one the middle, which tells least, is left out."""
    safe = printable(label)
    if len(safe) <= length:
        return safe
    tail = (length - 3) * 3 // 5
    return f"{safe[: length - 3 - tail]}...{safe[-tail:]}"


def family_style(family: str) -> dict[str, Any]:
    """Colour and marker of a family of methods, the same in every figure; controls are grey."""
    if family == METHOD_FAMILIES[-1]:
        return {"color": GREY, "marker": "d"}
    at = METHOD_FAMILIES.index(family) if family in METHOD_FAMILIES else METHOD_FAMILIES.index("other")
    colours = sns.color_palette("colorblind", 10)
    return {"color": colours[(0, 3, 2, 4, 1, 5)[at % 6]], "marker": _MARKERS[at % len(_MARKERS)]}
