"""Statistics of scores: intervals, tests, ranks and reliability, all of which respect groups of clips."""

from __future__ import annotations

from vidattr_bench.class_intervals import class_mean, class_means
from vidattr_bench.comparisons import compare_methods, derived, reliability_table, skill_table
from vidattr_bench.differences import (
    holm,
    rank_biserial,
    sign_flip_max_t,
    sign_flip_p,
    sign_flip_ps,
    sign_flip_step_down,
    superiority,
)
from vidattr_bench.intervals import (
    Interval,
    cluster_interval,
    cluster_intervals,
    paired_difference,
    ratio_of_means,
    skill,
)
from vidattr_bench.ranking import Friedman, friedman, rank_intervals, tied_with_best
from vidattr_bench.reliability import (
    SplitHalf,
    clip_ranks,
    discrimination,
    krippendorff_alpha,
    li_alpha,
    split_half,
)

__all__ = [
    "Friedman",
    "Interval",
    "SplitHalf",
    "class_mean",
    "class_means",
    "clip_ranks",
    "cluster_interval",
    "cluster_intervals",
    "compare_methods",
    "derived",
    "discrimination",
    "friedman",
    "holm",
    "krippendorff_alpha",
    "li_alpha",
    "paired_difference",
    "rank_biserial",
    "rank_intervals",
    "ratio_of_means",
    "reliability_table",
    "sign_flip_max_t",
    "sign_flip_p",
    "sign_flip_ps",
    "sign_flip_step_down",
    "skill",
    "skill_table",
    "split_half",
    "superiority",
    "tied_with_best",
]
