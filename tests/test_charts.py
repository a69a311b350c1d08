"""Charts hold every method once, with the numbers that statistics give, on as many pages as it takes."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from vidattr_bench import agreement, charts, figures
from vidattr_bench.statistics import cluster_intervals, rank_intervals

FAMILIES = ("gradient", "CAM", "perturbation")
METRICS = {"srg": True, "deletion": False, "roc_auc": True}


def methods_of(count):
    labels = [f"method_{at:02d}:option=value_{at},sign=absolute,another_option=long_{at}" for at in range(count)]
    return {label: {"family": FAMILIES[at % 3], "informed": True} for at, label in enumerate(labels)} | {
        "random": {"family": "control", "informed": False, "is_chance": True}
    }


def facts_of(count):
    metrics = {m: {"family": "faithfulness", "higher_is_better": higher} for m, higher in METRICS.items()}
    return {"methods": methods_of(count), "metrics": metrics}


def scores_of(count, clips=12):
    """Method k scores k / 10 on every metric, higher being better or not, with a little noise."""
    generator = np.random.default_rng(1)
    rows = []
    for rank, method in enumerate(methods_of(count)):
        level = 0.0 if method == "random" else rank / 10
        for metric in METRICS:
            for clip in range(clips):
                value = level + 0.01 * generator.normal()
                where = {"clip": f"c{clip:02d}", "group": f"g{clip // 2}", "seed": 0, "status": "ok", "reason": ""}
                rows.append({**where, "method": method, "metric": metric, "value": value, "chance": math.nan})
    return pd.DataFrame(rows)


@pytest.fixture
def drawn(monkeypatch):
    found = []
    for module in (agreement, charts):
        monkeypatch.setattr(module, "save", lambda figure, stem: found.append(figure) or figures.save(figure, stem))
    return found


def labels(figure):
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def dots(figure):
    lines = figure.axes[0].lines
    return [float(line.get_xdata()[0]) for line in lines if len(line.get_xdata()) == 1]


def test_a_forest_shows_every_difference_to_chance_the_best_first(tmp_path, drawn):
    scores, facts = scores_of(4), facts_of(4)
    files = charts.draw_forest(scores, "srg", facts, tmp_path)
    assert [path.name for path in files] == ["forest-srg.png", "forest-srg.pdf"]
    wide = scores[scores["metric"] == "srg"].pivot_table(index="clip", columns="method", values="value")
    groups = scores.groupby("clip")["group"].first()
    expected = [cluster_intervals((wide[m] - wide["random"]).to_frame(), groups)[0].mean for m in wide if m != "random"]
    assert dots(drawn[0]) == pytest.approx(sorted(expected, reverse=True))
    charts.draw_forest(scores, "deletion", facts, tmp_path)
    assert dots(drawn[1]) == sorted(dots(drawn[1]))


def test_hollow_means_that_the_interval_holds_zero_for_controls_too(tmp_path, drawn):
    scores = scores_of(2)
    level = scores["method"].map({"random": 0.0}).fillna(0.5)
    scores["value"] = level + 0.01 * np.random.default_rng(2).normal(size=len(scores))
    null = scores[scores["method"] == "random"].assign(method="edges")
    null["value"] += 0.1 * np.random.default_rng(3).normal(size=len(null))
    oracle = scores[scores["method"] == "random"].assign(method="oracle", value=1.0)
    facts = facts_of(2)
    facts["methods"] |= {name: {"family": "control", "informed": False} for name in ("edges", "oracle")}
    charts.draw_forest(pd.concat([scores, null, oracle]), "srg", facts, tmp_path)
    lines = drawn[0].axes[0].lines
    pairs = [(lines[at], lines[at + 1]) for at in range(0, 8, 2)]
    holds_zero = [min(interval.get_xdata()) <= 0 <= max(interval.get_xdata()) for interval, _ in pairs]
    assert holds_zero == [False, False, False, True]
    assert [dot.get_markerfacecolor() == "white" for _, dot in pairs] == holds_zero
    assert labels(drawn[0])[0] == "oracle"


def test_many_methods_take_more_pages_on_one_scale_and_none_is_lost(tmp_path, drawn):
    files = charts.draw_forest(scores_of(60), "srg", facts_of(60), tmp_path)
    assert len(files) == 4
    assert len({figure.axes[0].get_xlim() for figure in drawn}) == 1
    shown = [label for figure in drawn for label in labels(figure)]
    assert len(shown) == len(set(shown)) == 60
    assert all(len(label) <= 44 for label in shown)


def test_labels_of_fifty_methods_do_not_overlap(tmp_path, drawn):
    charts.draw_forest(scores_of(50), "srg", facts_of(50), tmp_path)
    for figure in drawn:
        boxes = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)


def test_ranks_are_those_of_statistics(tmp_path, drawn):
    scores = scores_of(5)
    charts.draw_ranks(scores, "deletion", facts_of(5), tmp_path)
    wide = scores[scores["metric"] == "deletion"].pivot_table(index="clip", columns="method", values="value")
    wide = wide.drop(columns="random")
    found = rank_intervals(wide.to_numpy(), scores.groupby("clip")["group"].first(), higher_is_better=False)
    assert dots(drawn[0]) == sorted(interval.mean for interval in found) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("count", "ticks"), [(5, [1, 2, 3, 4, 5]), (37, [1, 5, 10, 15, 20, 25, 30, 35])])
def test_the_axis_of_ranks_begins_at_the_best_rank(tmp_path, drawn, count, ticks):
    charts.draw_ranks(scores_of(count), "srg", facts_of(count), tmp_path)
    for figure in drawn:
        assert figure.axes[0].get_xlim() == pytest.approx((0.5 - count / 100, count + 0.5 + count / 100))
        assert figure.axes[0].get_xticks().tolist() == ticks


def test_correlation_within_a_clip_ranks_the_methods_that_both_metrics_have(tmp_path, drawn):
    scores = scores_of(6, clips=3)
    generator = np.random.default_rng(4)
    scores["value"] = generator.normal(size=len(scores))
    gone = (scores["metric"] == "srg") & (scores["clip"] == "c01") & scores["method"].str.startswith("method_02")
    scores.loc[gone, "status"] = "failed"
    facts = facts_of(6)
    agreement.draw_correlation(scores, ["srg", "roc_auc"], facts, tmp_path)
    table = np.array(drawn[0].axes[0].collections[0].get_array()).reshape(2, 2)
    usable = scores[(scores["status"] == "ok") & (scores["method"] != "random")]
    found = []
    for _, clip in usable.groupby("clip"):
        pair = clip.pivot_table(index="method", columns="metric", values="value")[["srg", "roc_auc"]].dropna()
        found.append(stats.spearmanr(pair).statistic)
    assert len(found) == 3
    assert table[1, 0] == pytest.approx(np.mean(found))


def test_correlation_turns_every_metric_so_that_more_is_better(tmp_path, drawn):
    agreement.draw_correlation(scores_of(6), list(METRICS), facts_of(6), tmp_path)
    names = labels(drawn[0])
    table = np.array(drawn[0].axes[0].collections[0].get_array()).reshape(3, 3)
    i, j = sorted((names.index("srg"), names.index("deletion")))
    assert table[i, j] == pytest.approx(-1)
    i, j = sorted((names.index("srg"), names.index("roc_auc")))
    assert table[i, j] == pytest.approx(1)
    assert table[j, i] == pytest.approx(1)


def summary_of(points):
    rows = [
        {"method": method, "metric": metric, "subset": "all", "mean": value}
        for method, (mean, forwards, backwards) in points.items()
        for metric, value in (("srg", mean), ("forwards", forwards), ("backwards", backwards))
    ]
    return pd.DataFrame(rows)


def test_the_front_holds_the_methods_that_no_other_beats_in_both(tmp_path, drawn):
    points = {
        "cheap": (0.2, 1, 0),
        "worse": (0.1, 1, 1),
        "good": (0.5, 5, 5),
        "waste": (0.4, 50, 0),
        "best": (0.9, 100, 0),
    }
    points["random"] = (0.95, 0, 0)
    charts.draw_cost(summary_of(points), "srg", facts_of(1), tmp_path)
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert [text for text in texts if text[0].isdigit()] == ["1  cheap", "2  good", "3  best"]
    assert drawn[0].axes[0].get_xscale() == "log"


@pytest.mark.parametrize("count", [0, 1])
def test_too_little_to_compare_draws_nothing(tmp_path, count):
    scores, facts = scores_of(count), facts_of(count)
    assert charts.draw_ranks(scores, "srg", facts, tmp_path) == []
    assert agreement.draw_correlation(scores, list(METRICS), facts, tmp_path) == []
    assert charts.draw_cost(summary_of({"random": (0.1, 0, 0)}), "srg", facts, tmp_path) == []
    without_chance = {**facts, "methods": {}}
    assert charts.draw_forest(scores, "srg", without_chance, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_scores_without_a_value_draw_nothing(tmp_path):
    scores = scores_of(4).assign(value=math.nan, status="undefined", reason="constant_map")
    facts = facts_of(4)
    assert charts.draw_forest(scores, "srg", facts, tmp_path) == []
    assert charts.draw_ranks(scores, "srg", facts, tmp_path) == []
    assert agreement.draw_correlation(scores, list(METRICS), facts, tmp_path) == []
    assert agreement.draw_reliability(scores, list(METRICS), facts, tmp_path) == []


def test_reliability_has_a_row_for_every_metric(tmp_path, drawn):
    files = agreement.draw_reliability(scores_of(6), list(METRICS), facts_of(6), tmp_path)
    assert [path.suffix for path in files] == [".png", ".pdf"]
    assert set(labels(drawn[0])) == set(METRICS)
    alpha = drawn[0].axes[0].lines[0].get_xdata()
    assert alpha == pytest.approx([1, 1, 1], abs=0.05)


def test_nothing_overlaps_the_legend_or_is_cut_at_the_edge(tmp_path, drawn):
    files = charts.draw_forest(scores_of(9), "srg", facts_of(9), tmp_path)
    files += charts.draw_cost(summary_of({"a": (0.2, 1, 0), "b": (0.4, 2, 0)}), "srg", facts_of(1), tmp_path)
    for figure in drawn:
        assert figure.legends[0].get_window_extent().y1 <= figure.axes[0].get_tightbbox().y0 + 1
    for picture in (path for path in files if path.suffix == ".png"):
        with Image.open(picture) as image:
            ink = np.array(image.convert("L")) < 250
        assert not ink[:, [0, -1]].any()
