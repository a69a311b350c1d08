"""The embedded benchmark, on clips from test seeds: what has to come out if data, network and code are right."""

import numpy as np
import pytest

import vidattr_bench as vb

METHODS = ["grad_cam", "saliency_tubes", "random", "centre", "oracle"]
SUBSTRATES = ["srg", "srg:substrate=freeze"]
LOCALISATION = ["roc_auc", "rank_accuracy", "pointing_game"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # one run serves all


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The default data set and network: 40 test clips."""
    return vb.run(
        output=tmp_path_factory.mktemp("benchmark") / "run",
        methods=METHODS,
        metrics=[*SUBSTRATES, *LOCALISATION],
        forward_batch=2,
        pictures=0,
    )


@pytest.fixture(scope="module")
def summary(planted):
    return planted.summary().query("subset == 'all'").set_index(["method", "metric"])


def test_there_are_at_least_forty_clips_each_its_own_group(summary):
    assert (summary["clips"] >= 40).all()
    assert (summary["groups"] == summary["clips"]).all()


@pytest.mark.parametrize("metric", LOCALISATION)
def test_the_oracle_is_perfect(planted, metric):
    values = planted.scores().query("method == 'oracle' and metric == @metric")["value"]
    assert (values == 1.0).all()


def test_random_knows_nothing(planted, summary):
    assert summary.loc[("random", "roc_auc"), "mean"] == pytest.approx(0.5, abs=0.02)
    scores = planted.scores().query("method == 'random'")
    assert scores["seed"].nunique() >= 5
    for metric in SUBSTRATES:
        values = scores[scores["metric"] == metric].groupby("clip")["value"].mean()
        assert abs(values.mean()) < 3 * values.std(ddof=1) / np.sqrt(len(values))


def test_the_centre_does_not_know_where_the_actor_is(summary):
    assert summary.loc[("centre", "roc_auc"), "mean"] <= 0.6


@pytest.mark.parametrize("method", ["grad_cam", "saliency_tubes"])
@pytest.mark.parametrize("metric", SUBSTRATES)
def test_maps_of_the_network_are_more_faithful_than_random(summary, method, metric):
    row = summary.loc[(method, metric)]
    assert row["difference_low"] > 0
    assert row["difference"] > 0.1
