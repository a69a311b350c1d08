"""Scores of one run as a data frame -> comparisons of methods, skills, quantities of the whole run, reliability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from vidattr_bench import spec
from vidattr_bench.differences import holm, rank_biserial, sign_flip_max_t, sign_flip_ps, superiority
from vidattr_bench.intervals import Interval, cluster_intervals, ratio_of_means, skill
from vidattr_bench.ranking import pairs
from vidattr_bench.reliability import clip_ranks, discrimination, krippendorff_alpha, li_alpha, split_half
from vidattr_bench.resampling import Array
from vidattr_bench.sheets import Facts, Sheet, sheet

PAIR_COLUMNS = [
    *("metric", "a", "b", "clips", "groups", "mean_a", "mean_b", "difference", "low", "high"),
    *("rank_biserial", "superiority", "p", "p_holm", "p_max_t"),
]
SKILL_COLUMNS = ["method", "metric", "clips", "groups", "skill", "low", "high"]
DERIVED_COLUMNS = ["method", "quantity", "metric", "clips", "groups", "value", "low", "high"]
RELIABILITY_COLUMNS = [
    *("metric", "clips", "groups", "methods", "krippendorff_alpha", "li_alpha"),
    *("split_half", "spearman_brown", "discrimination"),
]


def compare_methods(
    scores: pd.DataFrame, metric: str, facts: Facts, *, flips: int = 100_000, resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """All pairs of the methods in `scores`, which are the family, on one metric, paired by clip: `PAIR_COLUMNS`.

    `difference` is mean a - mean b over the clips that have both, in the metric's units, with its 95 % interval;
    `rank_biserial` and `superiority` are turned so that above 0 and above 1/2 `a` is the better one, where the metric
    has a direction. `p` is that of the cluster sign-flip test, `p_holm` and `p_max_t` are adjusted for all pairs: where
    the family is so large that Holm could not reject with so many flips, the second still can.
    """
    table = sheet(scores, metric, facts)
    values, names = table.value.to_numpy(), list(table.value.columns)
    first, second = pairs(len(names))
    differences = values[:, first] - values[:, second]
    sign = -1.0 if facts.get("metrics", {}).get(metric, {}).get("higher_is_better") is False else 1.0
    p = sign_flip_ps(differences, table.groups, flips=flips, seed=seed)
    both = np.isfinite(differences)
    frame = pd.DataFrame(
        {
            "metric": metric,
            "a": [names[at] for at in first],
            "b": [names[at] for at in second],
            "mean_a": _means(np.where(both, values[:, first], np.nan)),
            "mean_b": _means(np.where(both, values[:, second], np.nan)),
            **_columns(cluster_intervals(differences, table.groups, resamples=resamples, seed=seed), "difference"),
            "rank_biserial": [rank_biserial(sign * column) for column in differences.T],
            "superiority": [superiority(sign * column, 0 * column) for column in differences.T],
            "p": p,
            "p_holm": holm(p),
            "p_max_t": sign_flip_max_t(differences, table.groups, flips=flips, seed=seed),
        }
    )
    return frame[PAIR_COLUMNS]


def _means(values: Array) -> Array:
    """Means of the columns of `values` (N, K), NaN dropped; NaN where nothing is left."""
    return pd.DataFrame(values).mean().to_numpy(dtype=np.float64)


def _columns(intervals: list[Interval], name: str) -> dict[str, list[float]]:
    """Intervals as columns of a frame, the estimate under `name`."""
    fields = {name: "mean", "low": "low", "high": "high", "clips": "clips", "groups": "groups"}
    return {column: [getattr(interval, field) for interval in intervals] for column, field in fields.items()}


def _role(facts: Facts, role: str, present: pd.Index[str]) -> str | None:
    """The first method present for which `facts` declare a role: `is_chance`, `needs_truth`."""
    methods: Mapping[str, Any] = facts.get("methods", {})
    return next((method for method in present if methods.get(method, {}).get(role)), None)


def skill_table(scores: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """Skill of every method on every metric of localisation, between chance and truth: `SKILL_COLUMNS`.

    (score - random) / (oracle - random), as `statistics.skill`; no rows where the run lacks either control. On other
    families the truth of the annotation bounds nothing, so that there is no such skill.
    """
    rows = [
        {"method": method, "metric": metric, **_record(interval, "skill")}
        for metric in _of(scores, facts, "family", "localisation")
        for method, interval in _skills(sheet(scores, metric, facts), facts)
    ]
    return pd.DataFrame(rows, columns=SKILL_COLUMNS)


def _of(scores: pd.DataFrame, facts: Facts, key: str, wanted: str) -> list[str]:
    """Metrics in `scores` whose fact `key` is as wanted, in the order of `facts`."""
    present = set(scores["metric"])
    return [label for label, fact in facts.get("metrics", {}).items() if label in present and fact.get(key) == wanted]


def _record(interval: Interval, name: str) -> dict[str, float]:
    return {
        "clips": interval.clips,
        "groups": interval.groups,
        name: interval.mean,
        "low": interval.low,
        "high": interval.high,
    }


def _skills(table: Sheet, facts: Facts) -> Iterator[tuple[str, Interval]]:
    random, oracle = (_role(facts, role, table.value.columns) for role in ("is_chance", "needs_truth"))
    if random is None or oracle is None:
        return
    for method in table.value:
        if method not in (random, oracle):
            score, chance, best = (table.value[name].to_numpy() for name in (method, random, oracle))
            yield str(method), skill(score, chance, best, table.groups)


def derived(scores: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """Quantities of the whole run, which no mean over clips gives, for every method: `DERIVED_COLUMNS`.

    Metrics declare them (`derives`): `log2_skill`, the logarithm to base 2 of the mean score over the mean chance
    level; `static_share`, 1 - mean with the substrate freeze / mean with blur3d, of two metrics that differ in nothing
    else: how much of what a method finds is there without motion. Limits are NaN where the denominator may be 0.
    """
    rows = [*_log2_skills(scores, facts), *_static_shares(scores, facts)]
    return pd.DataFrame(rows, columns=DERIVED_COLUMNS)


def _log2_skills(scores: pd.DataFrame, facts: Facts) -> Iterator[dict[str, Any]]:
    for metric in _of(scores, facts, "derives", "log2_skill"):
        table = sheet(scores, metric, facts)
        for method in table.value:
            interval = ratio_of_means(table.value[method], table.chance[method], table.groups, log2=True)
            yield {"method": method, "quantity": "log2_skill", "metric": metric, **_record(interval, "value")}


def _static_shares(scores: pd.DataFrame, facts: Facts) -> Iterator[dict[str, Any]]:
    labels = _of(scores, facts, "derives", "static_share")
    still = {_but_substrate(label): label for label in labels if _substrate(label, facts) == "freeze"}
    for moving in (label for label in labels if _substrate(label, facts) == "blur3d"):
        frozen = still.get(_but_substrate(moving))
        if frozen is None:
            continue
        above, below = sheet(scores, frozen, facts), sheet(scores, moving, facts)
        for method in below.value.columns.intersection(above.value.columns, sort=False):
            share = ratio_of_means(above.value[method].reindex(below.value.index), below.value[method], below.groups)
            turned = Interval(1 - share.mean, 1 - share.high, 1 - share.low, share.clips, share.groups)
            yield {"method": method, "quantity": "static_share", "metric": moving, **_record(turned, "value")}


def _substrate(label: str, facts: Facts) -> str:
    return str(facts["metrics"][label].get("substrate", ""))


def _but_substrate(label: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """A metric's name and options, its substrate left out."""
    parsed = spec.parse(label)
    return parsed.name, frozenset((key, value) for key, value in parsed.options.items() if key != "substrate")


def reliability_table(scores: pd.DataFrame, facts: Facts, *, seed: int = 0) -> pd.DataFrame:
    """How far each metric that has a direction can be trusted to rank methods: `RELIABILITY_COLUMNS`.

    Agreement is that of the informed methods: Krippendorff's alpha of their ranks within clips, and the split-half
    correlation with its Spearman-Brown step; Li's alpha weighs by the rank of random, which it adds. `discrimination`
    is the share of clips on which random beats a method, mean over the informed ones that share a clip with it. NaN
    without the methods it needs.
    """
    metrics = facts.get("metrics", {})
    present = set(scores["metric"])
    chosen = [label for label, fact in metrics.items() if label in present and fact.get("higher_is_better") is not None]
    rows = [{"metric": label, **_reliability(sheet(scores, label, facts), label, facts, seed)} for label in chosen]
    return pd.DataFrame(rows, columns=RELIABILITY_COLUMNS)


def _reliability(table: Sheet, metric: str, facts: Facts, seed: int) -> dict[str, Any]:
    sign = 1.0 if facts["metrics"][metric]["higher_is_better"] else -1.0
    methods = facts.get("methods", {})
    defined = sign * table.value.dropna(axis=1, how="all")
    informed = defined[[method for method in defined if methods.get(method, {}).get("informed", True)]].to_numpy()
    random = _role(facts, "is_chance", defined.columns)
    scored = np.isfinite(informed).any(1)
    halves = split_half(informed, table.groups, seed=seed)
    found = {
        "clips": int(scored.sum()),
        "groups": len(set(table.groups[scored])),
        "methods": informed.shape[1],
        "krippendorff_alpha": krippendorff_alpha(clip_ranks(informed)) if informed.size else np.nan,
        "split_half": halves.correlation,
        "spearman_brown": halves.stepped_up,
    }
    if random is None or not informed.size:
        return found
    chance = defined[random].to_numpy()
    found["li_alpha"] = li_alpha(np.column_stack([informed, chance]), informed.shape[1])
    found["discrimination"] = float(pd.Series(discrimination(informed, chance)).mean())
    return found
