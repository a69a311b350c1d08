import math

import numpy as np
import pandas as pd
import pytest

from vidattr_bench import quantities
from vidattr_bench.comparisons import DERIVED_COLUMNS
from vidattr_bench.errors import DataError
from vidattr_bench.grid import layout
from vidattr_bench.report import choose, open_runs, write_tables
from vidattr_bench.selection import Choice
from vidattr_bench.store import Store

METRICS = {
    "srg": {"family": "faithfulness", "derives": "static_share", "substrate": "blur3d", "primary": True},
    "srg:substrate=freeze": {"family": "faithfulness", "derives": "static_share", "substrate": "freeze"},
    "tube_mass": {"family": "localisation", "derives": "log2_skill"},
}
FACTS = {
    "methods": {"alpha": {"informed": True}, "random": {"informed": False, "is_chance": True}},
    "metrics": {label: {"higher_is_better": True, **fact} for label, fact in METRICS.items()},
    "dataset": "planted_actions",
    "model": "tiny3d",
    "presets": {"small": list(METRICS)},
}
MEANS = {"srg": 0.8, "srg:substrate=freeze": 0.6, "tube_mass": 0.4}
LABELS = ["log2_skill:of=tube_mass", "static_share:of=srg"]


@pytest.fixture
def folder(tmp_path):
    """Twelve clips; the SRG of random is not distinguishable from 0, so that its static share may be anything."""
    generator = np.random.default_rng(0)
    common = {"dataset": "planted_actions", "split": "test", "model": "tiny3d", "weights": "f" * 64, "seed": 0}
    common |= {"label": "walk", "prediction": "walk", "target": "walk", "correct": True, "status": "ok", "reason": ""}
    rows = [
        {**common, "clip": f"c{clip:02}", "group": f"g{clip:02}", "method": method, "metric": metric, "chance": 0.1}
        | {"value": (mean if method == "alpha" or metric == "tube_mass" else 0.0) + 0.05 * generator.normal()}
        for method in FACTS["methods"]
        for metric, mean in MEANS.items()
        for clip in range(12)
    ]
    store = Store(tmp_path / "run")
    store.create()
    store.write(0, {"scores": rows, "costs": [], "curves": []})
    store.write_provenance(FACTS)
    return tmp_path / "run"


def cells(grid):
    """Means and intervals by title and method."""
    return {
        (header.title, line.label): line.cells[at]
        for block in grid.blocks
        for at, header in enumerate(block.headers)
        for line in block.lines
    }


def test_quantities_stand_in_every_table_of_the_run(folder):
    write_tables(open_runs([folder])[0])
    frame = pd.read_csv(folder / "derived.csv").set_index(["quantity", "method"])
    assert list(frame.reset_index()) == sorted(frame.reset_index(), key=["quantity", "method", *DERIVED_COLUMNS].index)
    markdown, latex = (folder / "summary.md").read_text(), (folder / "summary.tex").read_text()
    for quantity in ("log2_skill", "static_share"):
        row = frame.loc[(quantity, "alpha")]
        assert f"[{row['low']:.3f}, {row['high']:.3f}]" in markdown
        assert f"{row['value']:.3f}" in latex
    assert "### Derived" in markdown
    assert set(pd.read_csv(folder / "summary.csv")["metric"]) == set(METRICS), "which are of clips"


@pytest.mark.parametrize(
    ("name", "labels"), [("derived", LABELS), ("static_share", LABELS[1:]), (LABELS[0], LABELS[:1])]
)
def test_they_are_chosen_as_metrics_are(folder, name, labels):
    runs, choice = choose(open_runs([folder]), Choice(metrics=(name,)))
    assert choice.metrics == tuple(labels)
    assert [header.metric for block in layout(runs, choice).blocks for header in block.headers] == labels


def test_a_preset_is_still_named_where_it_derives_something(folder):
    assert "the preset small" in layout(*choose(open_runs([folder]), Choice())).caption


def test_what_any_number_is_compatible_with_is_undefined(folder):
    found = cells(layout(*choose(open_runs([folder]), Choice(metrics=("static_share",)))))
    assert found["static_share:of=srg", "alpha"].mean.startswith("0.2")
    assert found["static_share:of=srg", "random"].mean == "undefined"


def test_chance_is_zero_and_the_best_is_bold(folder):
    found = cells(layout(*choose(open_runs([folder]), Choice(metrics=("log2_skill",)))))
    assert found["log2_skill:of=tube_mass", "chance level"].mean == "0.000"
    assert found["log2_skill:of=tube_mass", "alpha"].is_best


def test_they_are_of_all_clips_only(folder):
    with pytest.raises(DataError, match="without --subset correct"):
        choose(open_runs([folder]), Choice(metrics=("srg", "static_share"), subset="correct"))


def test_all_metrics_on_some_clips_are_those_of_clips(folder):
    assert choose(open_runs([folder]), Choice(metrics=("all",), subset="correct"))[1].metrics == tuple(METRICS)
    assert choose(open_runs([folder]), Choice(metrics=("all",)))[1].metrics == (*METRICS, *LABELS)


def test_a_logarithm_of_nothing_is_undefined_and_counts_its_clips():
    derived = pd.DataFrame(
        [["m", "log2_skill", "tube_mass", 7, 7, -math.inf, math.nan, math.nan]], columns=DERIVED_COLUMNS
    )
    row = quantities.rows_of(derived, 9).iloc[0]
    assert (row["clips"], row["defined"], row["undefined"]) == (0, 0, 9)
    assert math.isnan(row["mean"])
    assert "logarithm" in row["reason"]


def test_a_run_that_derives_nothing_has_none():
    assert quantities.rows_of(pd.DataFrame(columns=DERIVED_COLUMNS), 5).empty
    assert quantities.facts_of(pd.DataFrame(columns=DERIVED_COLUMNS)) == {}
