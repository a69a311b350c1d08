import math

import numpy as np
import pandas as pd
import pytest

from vidattr_bench.statistics import (
    compare_methods,
    derived,
    paired_difference,
    rank_biserial,
    ratio_of_means,
    reliability_table,
    sign_flip_p,
    skill,
    skill_table,
)

METHODS = {"good": {"informed": True}, "fair": {"informed": True}, "poor": {"informed": True}}
METHODS |= {"chance": {"informed": False, "is_chance": True}, "truth": {"informed": False, "needs_truth": True}}
METRICS = {
    "hit": {"family": "localisation", "higher_is_better": True, "derives": "log2_skill"},
    "fall": {"family": "faithfulness", "higher_is_better": False},
    "gain:steps=8": {"higher_is_better": True, "derives": "static_share", "substrate": "blur3d"},
    "gain:steps=8,substrate=freeze": {"higher_is_better": True, "derives": "static_share", "substrate": "freeze"},
}
FACTS = {"methods": METHODS, "metrics": METRICS}
LEVELS = {"good": 2.0, "fair": 1.5, "poor": 1.0, "chance": 0.4, "truth": 3.0}


def scores() -> pd.DataFrame:
    """Twenty clips in ten groups; on `fall` less is better; one clip of `fair` is undefined."""
    generator = np.random.default_rng(0)
    rows = []
    for metric in METRICS:
        sign = -1 if metric == "fall" else 1
        for method, level in LEVELS.items():
            for clip, noise in enumerate(0.1 * generator.normal(size=20)):
                undefined = method == "fair" and clip == 3
                rows.append(
                    {"clip": f"c{clip:02}", "group": f"g{clip // 2}", "method": method, "metric": metric, "seed": 0}
                    | {"value": math.nan if undefined else sign * (level + noise), "chance": 0.5}
                    | {"status": "undefined" if undefined else "ok", "reason": "truth" if undefined else ""}
                )
    return pd.DataFrame(rows)


def column(frame, metric, method):
    own = frame[(frame["metric"] == metric) & (frame["method"] == method)].sort_values("clip")
    return own["value"].to_numpy(), own["group"].to_numpy()


def test_all_pairs_are_compared_on_shared_clips():
    frame = scores()
    table = compare_methods(frame, "hit", FACTS, flips=2000).set_index(["a", "b"])
    assert len(table) == 10
    row = table.loc[("good", "fair")]
    (a, groups), (b, _) = column(frame, "hit", "good"), column(frame, "hit", "fair")
    interval = paired_difference(a, b, groups)
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((interval.mean, interval.low, interval.high))
    assert (row["clips"], row["groups"]) == (19, 10)
    assert row["mean_a"] - row["mean_b"] == pytest.approx(row["difference"])
    assert row["p"] == sign_flip_p(a - b, groups, flips=2000)
    assert row["rank_biserial"] == rank_biserial(a - b)
    assert (table["p_holm"] >= table["p"]).all()


def test_effect_sizes_say_who_is_better_whatever_the_direction():
    for metric, sign in (("hit", 1), ("fall", -1)):
        row = compare_methods(scores(), metric, FACTS, flips=2000).set_index(["a", "b"]).loc[("good", "poor")]
        assert (row["rank_biserial"], row["superiority"]) == (1, 1)
        assert np.sign(row["difference"]) == sign


def test_rows_in_any_order_give_the_same_tables():
    frame = scores()
    shuffled = frame.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(
        compare_methods(frame, "hit", FACTS, flips=2000), compare_methods(shuffled, "hit", FACTS, flips=2000)
    )
    pd.testing.assert_frame_equal(reliability_table(frame, FACTS), reliability_table(shuffled, FACTS))


def test_an_unknown_metric_is_named():
    with pytest.raises(KeyError, match="there are: fall"):
        compare_methods(scores(), "mist", FACTS)


def test_skill_is_of_localisation_only_and_not_of_its_ends():
    frame = scores()
    table = skill_table(frame, FACTS).set_index("method")
    assert list(table.index) == ["good", "fair", "poor"]
    assert set(table["metric"]) == {"hit"}
    (a, groups), (low, _), (high, _) = (column(frame, "hit", name) for name in ("good", "chance", "truth"))
    assert table.loc["good", "skill"] == pytest.approx(skill(a, low, high, groups).mean)
    assert skill_table(frame[frame["method"] != "truth"], FACTS).empty


def test_quantities_of_the_run():
    frame = scores()
    table = derived(frame, FACTS).set_index(["quantity", "method"])
    value, groups = column(frame, "hit", "good")
    assert table.loc[("log2_skill", "good"), "value"] == pytest.approx(math.log2(value.mean() / 0.5))
    still, moving = (column(frame, name, "good")[0] for name in list(METRICS)[:1:-1])
    share = ratio_of_means(still, moving, groups)
    row = table.loc[("static_share", "good")]
    assert (row["value"], row["low"], row["high"]) == pytest.approx((1 - share.mean, 1 - share.high, 1 - share.low))
    assert derived(frame[frame["metric"] == "fall"], FACTS).empty


def test_a_metric_that_ranks_every_clip_alike_is_reliable():
    table = reliability_table(scores(), FACTS).set_index("metric")
    for metric in ("hit", "fall"):
        assert table.loc[metric, "li_alpha"] == pytest.approx(1)
        assert table.loc[metric, "split_half"] == pytest.approx(1)
        assert table.loc[metric, "discrimination"] == 0
        assert table.loc[metric, "krippendorff_alpha"] > 0.95


def test_reliability_counts_the_groups_of_the_clips_it_counts():
    frame = scores()
    informed = frame["method"].isin(["good", "fair", "poor"])
    frame.loc[frame["group"].eq("g4") & informed, ["value", "status"]] = [math.nan, "undefined"]
    assert reliability_table(frame, FACTS)[["clips", "groups"]].drop_duplicates().to_numpy().tolist() == [[18, 9]]


def test_a_method_that_shares_no_clip_with_random_does_not_hide_the_others():
    frame = scores()
    first = frame["clip"] < "c10"
    apart = (frame["method"].eq("poor") & first) | (frame["method"].eq("chance") & ~first)
    frame.loc[apart, ["value", "status"]] = [math.nan, "undefined"]
    assert (reliability_table(frame, FACTS)["discrimination"] == 0).all()
