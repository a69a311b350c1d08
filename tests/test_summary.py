import math

import pandas as pd
import pytest

from vidattr_bench.statistics import class_mean
from vidattr_bench.summary import summarise

CLIPS = {"a": ("walk", 1.0, 0.1), "b": ("walk", 3.0, 0.3), "c": ("run", 6.0, 0.8), "d": (None, 50.0, 0.5)}
COSTS = pd.DataFrame(columns=["clip", "method", "step", "seconds", "forwards", "backwards", "memory"])
FACTS = {"methods": {"m": {"informed": True}}, "metrics": {"hit": {"higher_is_better": True, "family": "localisation"}}}


@pytest.fixture
def scores():
    """Two clips of one class, one of another, and one that has no label."""
    rows = [
        {"clip": clip, "group": clip, "label": label, "correct": True, "method": "m", "metric": "hit", "seed": 0}
        | {"value": value, "chance": chance, "status": "ok", "reason": ""}
        for clip, (label, value, chance) in CLIPS.items()
    ]
    return pd.DataFrame(rows)


def row(scores, mean):
    return summarise(scores, COSTS, FACTS, mean=mean).query("subset == 'all'").iloc[0]


def test_means_over_clips_and_over_classes_are_both_there(scores):
    found = row(scores, "clip")
    assert (found["mean"], found["clips"]) == (15, 4)
    assert found["class_mean"] == (2 + 6) / 2
    assert found["chance"] == pytest.approx((0.1 + 0.3 + 0.8 + 0.5) / 4)


def test_a_mean_over_classes_is_of_clips_that_have_a_class_and_so_is_its_chance_level(scores):
    found = row(scores, "class")
    interval = class_mean([1.0, 3.0, 6.0], ["walk", "walk", "run"], list("abc"))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((4, interval.low, interval.high))
    assert (found["class_mean"], found["clips"], found["groups"]) == (4, 3, 3)
    assert found["chance"] == pytest.approx((0.2 + 0.8) / 2)


def test_without_any_label_there_is_no_mean_over_classes(scores):
    assert math.isnan(row(scores.assign(label=None), "class")["mean"])
