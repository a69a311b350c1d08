"""Scores and costs of one run -> one row a (method, metric, subset): mean, interval, counts, difference to chance."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from vidattr_bench.errors import DataError
from vidattr_bench.sheets import Facts as Facts
from vidattr_bench.sheets import per_clip as per_clip
from vidattr_bench.statistics import Interval, class_means, cluster_intervals, tied_with_best

Mean = Literal["clip", "class"]
SUBSETS = ("all", "correct", "shared")
COLUMNS = [
    *("method", "metric", "subset", "clips", "groups", "mean", "low", "high", "chance"),
    *("defined", "undefined", "failed", "not_applicable"),
    *("difference", "difference_low", "difference_high", "reason"),
    *("class_mean", "tied", "class_low", "class_high"),
]
RESAMPLES, ALPHA = 10_000, 0.05
COST_FACTS: dict[str, dict[str, Any]] = {
    "seconds": {"units": "seconds a clip", "summary": "Wall time of one attribution."},
    "forwards": {"units": "clips forward", "summary": "Clips sent forward through the model by one attribution."},
    "backwards": {"units": "clips backward", "summary": "Clips sent backward through the model by one attribution."},
    "peak_memory": {"units": "bytes", "summary": "Peak memory of the device during one attribution."},
}
COST_COLUMNS = {"seconds": "seconds", "forwards": "forwards", "backwards": "backwards", "peak_memory": "memory"}
_NONE = Interval(np.nan, np.nan, np.nan, 0, 0)
_WORST_FIRST = ("failed", "not_applicable", "undefined")


@dataclasses.dataclass(frozen=True)
class _Cells:
    """All cells of one metric: frames with a row a clip and a column a method."""

    metric: str
    value: pd.DataFrame
    chance: pd.DataFrame
    status: pd.DataFrame
    reason: pd.DataFrame


def metric_facts(facts: Facts) -> dict[str, Any]:
    """The declared facts of all metrics by label, those of cost included."""
    cost = {name: {"family": "cost", "higher_is_better": False, **fact} for name, fact in COST_FACTS.items()}
    return {**facts.get("metrics", {}), **cost}


def summarise(
    scores: pd.DataFrame,
    costs: pd.DataFrame,
    facts: Facts,
    *,
    mean: Mean = "clip",
    metrics: Collection[str] | None = None,
    tested: Collection[str] | None = None,
) -> pd.DataFrame:
    """One row a (method, metric, subset), in the order of `facts`, metrics of cost last.

    The subset `all` is every clip; `correct`, the clips whose prediction is right; `shared`, the clips on which every
    method that is defined anywhere is defined for this metric. `clips` and `groups` are what the mean is over;
    `defined`, `undefined`, `failed` and `not_applicable` count all clips of the subset (of `all` for `shared`). The
    draws of a stochastic method are averaged within a clip first; a clip is defined where any draw is. `difference` is
    the paired difference to the method that `facts` calls chance, as raw values. `reason` is the most frequent one of
    what failed, else of what does not apply, else of what is undefined. Costs are those of one attribution.
    `class_mean` is the mean over classes of the means over their clips, with its interval, of the clips that have a
    label; with `mean=class` so are `mean`, `chance`, `difference` and their intervals. `tied` tells the informed
    methods that are not significantly worse than the best of them, the best itself included
    (`statistics.tied_with_best`, of means over clips); the metrics `tested` for that are the primary endpoints by
    default, since one metric of fifty methods takes seconds. `metrics` restricts the rows.

    Raises:
        DataError: the scores are of more than one data set, split, model or weights.
    """
    _check_one_run(scores)
    clips = _clips(scores, costs)
    found = [*_score_cells(scores, clips, facts), *_cost_cells(scores, costs, clips, facts)]
    cells = [metric for metric in found if metrics is None or metric.metric in metrics]
    if tested is None:
        tested = {metric for metric, fact in facts.get("metrics", {}).items() if fact.get("primary")}
    rows = [
        row
        for metric in cells
        for subset in SUBSETS
        for row in _rows(metric, subset, clips, facts, mean=mean, test=metric.metric in tested)
    ]
    order = {method: at for at, method in enumerate(_ordered(facts.get("methods", {}), (r["method"] for r in rows)))}
    rows.sort(key=lambda row: order[row["method"]])
    return pd.DataFrame(rows, columns=COLUMNS)


def _check_one_run(scores: pd.DataFrame) -> None:
    for column in ("dataset", "split", "model", "weights"):
        found = sorted(map(str, scores[column].unique())) if column in scores else []
        if len(found) > 1:
            raise DataError(
                f"the scores are of {len(found)} values of {column} ({', '.join(found)}); summarise one run"
            )


def _clips(scores: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Group and correctness of every clip, indexed by clip in sorted order.

    An unknown prediction is not correct; a clip without scores is a group of its own.
    """
    frame = scores[["clip", "group", "label"]].assign(correct=scores["correct"].eq(True).fillna(False).astype(bool))
    known = frame.groupby("clip").agg(group=("group", "first"), label=("label", "first"), correct=("correct", "max"))
    clips = known.reindex(sorted({*known.index, *costs.loc[costs["step"] == "attribution", "clip"]}))
    own = clips.index.to_series()
    return clips.assign(group=clips["group"].fillna(own), correct=clips["correct"].eq(True))


def _ordered(known: Mapping[str, Any], found: Any) -> list[str]:
    """Labels in the order in which they are declared, those not declared after them."""
    present = dict.fromkeys(found)
    return [*(label for label in known if label in present), *(label for label in present if label not in known)]


def _score_cells(scores: pd.DataFrame, clips: pd.DataFrame, facts: Facts) -> Iterator[_Cells]:
    long = per_clip(scores)
    for metric in _ordered(facts.get("metrics", {}), long["metric"].unique()):
        if metric in COST_FACTS:
            continue
        rows = long[long["metric"] == metric]
        wide = {
            column: rows.pivot_table(index="clip", columns="method", values=column, aggfunc="first", dropna=False)
            for column in ("value", "chance", "status", "reason")
        }
        present = _ordered(facts.get("methods", {}), rows["method"].unique())
        yield _Cells(metric, **{name: frame.reindex(clips.index, columns=present) for name, frame in wide.items()})


def attribution_costs(scores: pd.DataFrame, costs: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """One row a (method, metric of cost, clip): the value of one attribution.

    Rows of `costs` hold the sum over a method's draws, of memory the maximum. Maps that were not made cost nothing.
    """
    own = _without_failures(costs[costs["step"] == "attribution"], scores)
    draws = own["method"].map(lambda label: facts.get("methods", {}).get(label, {}).get("draws", 1)).astype(float)
    parts = [
        own[["method", "clip"]].assign(metric=metric, value=own[column] / (1 if column == "memory" else draws))
        for metric, column in COST_COLUMNS.items()
    ]
    return pd.concat(parts, ignore_index=True)[["method", "metric", "clip", "value"]]


def _cost_cells(scores: pd.DataFrame, costs: pd.DataFrame, clips: pd.DataFrame, facts: Facts) -> Iterator[_Cells]:
    own = attribution_costs(scores, costs, facts)
    methods = _ordered(facts.get("methods", {}), own["method"].unique())
    for metric, amounts in own.groupby("metric", sort=False):
        value = amounts.pivot_table(index="clip", columns="method", values="value", aggfunc="mean", dropna=False)
        value = value.reindex(clips.index, columns=methods).astype(float)
        if value.notna().to_numpy().any():
            status = pd.DataFrame(np.where(value.notna(), "ok", "undefined"), value.index, value.columns)
            yield _Cells(str(metric), value, value * np.nan, status, status.where(status == "", ""))


def _without_failures(own: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The costs of maps that were made: not of those whose every score failed or does not apply."""
    useless = scores["status"].isin(["failed", "not_applicable"]).groupby([scores["clip"], scores["method"]]).all()
    failed = useless[useless].index
    return own[~pd.MultiIndex.from_frame(own[["clip", "method"]]).isin(failed)]


def _rows(
    cells: _Cells, subset: str, clips: pd.DataFrame, facts: Facts, *, mean: Mean, test: bool
) -> Iterator[dict[str, Any]]:
    chosen = _subset(cells.value, subset, clips)
    asked = chosen if subset == "correct" else pd.Series(True, index=clips.index)
    value, chance, own = cells.value[chosen], cells.chance[chosen], clips[chosen]
    differences = _differences(value, own, facts, mean)
    classes = _by_method(value, own, "class")
    tied = _tied(cells.metric, value, own, facts) if test else set()
    for method, interval in _by_method(value, own, mean).items():
        difference = differences.get(method, _NONE)
        yield {
            "method": method,
            "metric": cells.metric,
            "subset": subset,
            "clips": interval.clips,
            "groups": interval.groups,
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "chance": _level(chance[method].where(value[method].notna()), own, mean),
            **_counts(cells.status[method][asked], cells.reason[method][asked]),
            "difference": difference.mean,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "class_mean": classes[method].mean,
            "tied": method in tied,
            "class_low": classes[method].low,
            "class_high": classes[method].high,
        }


def _tied(metric: str, value: pd.DataFrame, clips: pd.DataFrame, facts: Facts) -> set[str]:
    """Informed methods that are not significantly worse than the best one; none for costs or without a direction."""
    higher = facts.get("metrics", {}).get(metric, {}).get("higher_is_better")
    declared = facts.get("methods", {})
    rivals = [m for m in value if declared.get(m, {}).get("informed", True) and value[m].notna().any()]
    if higher is None or metric in COST_FACTS or not rivals:
        return set()
    matrix = value[rivals].to_numpy(float)
    _, tied = tied_with_best(matrix, clips["group"].to_numpy(), higher_is_better=higher, alpha=ALPHA)
    return {str(method) for method, is_tied in zip(rivals, tied, strict=True) if is_tied}


def _differences(value: pd.DataFrame, clips: pd.DataFrame, facts: Facts, mean: Mean) -> dict[str, Interval]:
    """Paired differences of every other method to the one that is chance; none where there is no such method."""
    baseline = next((m for m in value if facts.get("methods", {}).get(m, {}).get("is_chance")), None)
    if baseline is None:
        return {}
    return _by_method(value.drop(columns=baseline).sub(value[baseline], axis=0), clips, mean)


def _subset(value: pd.DataFrame, subset: str, clips: pd.DataFrame) -> pd.Series:
    """Which clips belong to a subset, bool by clip."""
    if subset == "correct":
        return clips["correct"]
    if subset == "shared":
        applied = value.dropna(axis=1, how="all")
        return applied.notna().all(axis=1) & (applied.shape[1] > 0)
    return pd.Series(True, index=clips.index)


def _by_method(value: pd.DataFrame, clips: pd.DataFrame, mean: Mean) -> dict[str, Interval]:
    """Means of the columns with intervals; over classes, a clip without a label is of none and left out."""
    if mean == "clip":
        found = cluster_intervals(value.to_numpy(float), clips["group"].to_numpy(), resamples=RESAMPLES)
    else:
        named = clips["label"].notna()
        labels, groups = (clips.loc[named, name].to_numpy() for name in ("label", "group"))
        found = class_means(value[named].to_numpy(float), labels, groups, resamples=RESAMPLES)
    return dict(zip(value.columns, found, strict=True))


def _level(chance: pd.Series, clips: pd.DataFrame, mean: Mean) -> float:
    """Mean of chance levels over clips, or over classes of their means."""
    return float(chance.mean() if mean == "clip" else chance.groupby(clips["label"]).mean().mean())


def _counts(status: pd.Series, reason: pd.Series) -> dict[str, Any]:
    """Clips by status, and the most frequent reason of the worst status there is."""
    pairs = Counter(zip(status.tolist(), reason.tolist(), strict=True))
    counts = {name: sum(n for (found, _), n in pairs.items() if found == name) for name in _WORST_FIRST}
    worst = next((name for name in _WORST_FIRST if counts[name]), "")
    reasons = sorted((-n, text) for (found, text), n in pairs.items() if found == worst and isinstance(text, str))
    defined = sum(n for (found, _), n in pairs.items() if found == "ok")
    return {"defined": defined, **counts, "reason": reasons[0][1] if reasons else ""}
