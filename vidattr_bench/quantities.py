"""Quantities of a whole run as columns of its tables, beside the metrics that they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vidattr_bench import spec
from vidattr_bench.summary import COLUMNS

FAMILY = "derived"
FACTS: dict[str, dict[str, Any]] = {
    "log2_skill": {
        "higher_is_better": True,
        "units": "logarithm to base 2 of mean / mean chance level, means over clips; chance 0",
        "chance": 0.0,
    },
    "static_share": {
        "higher_is_better": None,
        "units": "1 - mean with freeze / mean with blur3d, means over clips; 0 where motion is all that counts",
        "chance": np.nan,
    },
}
_PARTIAL = "what it is made of has no value there"
_UNBOUNDED = "a mean that it divides by, or takes the logarithm of, may be 0"


def rows_of(derived: pd.DataFrame, clips: int) -> pd.DataFrame:
    """Rows as those of a summary, of the quantities of a run of so many clips (`statistics.derived`).

    A quantity without limits is shown as undefined: any number is compatible with the data.
    """
    numbers = derived[["value", "low", "high"]].astype(float)
    known = np.isfinite(numbers["value"]) & (np.isfinite(numbers["low"]) | derived["groups"].lt(2))
    used, groups = (derived[name].where(known, 0).astype(int) for name in ("clips", "groups"))
    found = {
        "method": derived["method"],
        "metric": [label(*names) for names in zip(derived["quantity"], derived["metric"], strict=True)],
        "subset": "all",
        "clips": used,
        "groups": groups,
        **numbers.where(known).rename(columns={"value": "mean"}),
        "chance": [FACTS[quantity]["chance"] for quantity in derived["quantity"]],
        "defined": used,
        "undefined": clips - used,
        **dict.fromkeys(("failed", "not_applicable"), 0),
        **dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan),
        "reason": np.select([known, derived["clips"] > 0], [_PARTIAL, _UNBOUNDED], "no clip has what it is made of"),
        "tied": False,
        **dict.fromkeys(("class_mean", "class_low", "class_high"), np.nan),
    }
    return pd.DataFrame(found, columns=COLUMNS)


def facts_of(derived: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What tables need to know of each quantity, by label."""
    pairs = dict.fromkeys(zip(derived["quantity"], derived["metric"], strict=True))
    return {label(quantity, metric): {"family": FAMILY, **FACTS[quantity]} for quantity, metric in pairs}


def label(quantity: str, metric: str) -> str:
    """Row label of a quantity, as a spec: `log2_skill:of=tube_mass`."""
    return spec.render(quantity, {"of": metric})
