"""Rows of scores -> one number a clip and method: what statistics over methods read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Facts = Mapping[str, Any]
_BEST_FIRST = ("ok", "failed", "not_applicable", "undefined")


def per_clip(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a (method, metric, clip): value and chance averaged over draws, the best status and its reason."""
    rank = scores["status"].map({status: at for at, status in enumerate(_BEST_FIRST)})
    usable = scores["status"].eq("ok")
    frame = scores.assign(
        rank=rank,
        value=scores["value"].astype(float).where(usable),
        chance=scores["chance"].astype(float).where(usable),
    )
    cells = frame.sort_values("rank", kind="stable").groupby(["method", "metric", "clip"], sort=False)
    return cells.agg(
        value=("value", "mean"), chance=("chance", "mean"), status=("status", "first"), reason=("reason", "first")
    ).reset_index()


class Sheet(NamedTuple):
    """One metric: value and chance a clip (rows) and method (columns), the draws of a method averaged, and groups."""

    value: pd.DataFrame
    chance: pd.DataFrame
    groups: NDArray[np.object_]


def sheet(scores: pd.DataFrame, metric: str, facts: Facts) -> Sheet:
    """The sheet of one metric, clips in the order of their names, methods in that of `facts`.

    Raises:
        KeyError: no row is of this metric.
    """
    own = scores[scores["metric"] == metric]
    if own.empty:
        raise KeyError(f"no score is of {metric!r}; there are: {', '.join(sorted(scores['metric'].unique()))}")
    cells = per_clip(own)
    groups = own.groupby("clip")["group"].first()
    known = [*facts.get("methods", {}), *sorted(cells["method"].unique())]
    methods = [method for method in dict.fromkeys(known) if method in set(cells["method"])]
    value, chance = (
        cells.pivot_table(index="clip", columns="method", values=name).reindex(index=groups.index, columns=methods)
        for name in ("value", "chance")
    )
    return Sheet(value.astype(float), chance.astype(float), groups.to_numpy())
