"""The gate on run folders without a model behind them: what is compared, refused, rendered, accepted and remembered."""

import copy
import json
import math
import re
import shlex
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from rich.console import Console

from vidattr_bench import history, margins, plugins, timeline, verdicts
from vidattr_bench.cli import _build, main
from vidattr_bench.comparable import MAY_DIFFER, MUST_AGREE, NotComparableError
from vidattr_bench.compare import Comparison, compare
from vidattr_bench.errors import RunError
from vidattr_bench.pairing import CellVerdict
from vidattr_bench.store import Store

ROOT = Path(__file__).resolve().parents[1]
METRICS = {
    "srg": {"family": "faithfulness", "higher_is_better": True, "units": "share", "version": "1"},
    "deletion": {"family": "faithfulness", "higher_is_better": False, "units": "share", "version": "1"},
    "tie_fraction": {"family": "complexity", "higher_is_better": None, "units": "share", "version": "1"},
}
METHODS = {
    "grad_cam": {"informed": True, "draws": 1, "version": "1"},
    "random": {"informed": False, "is_chance": True, "draws": 2, "version": "1"},
}
DEPENDS_ON = {
    "dataset": "planted_actions:clips=40,scenes=0",
    "dataset_code": "d1",
    "data": "scenes=0",
    "split": "test",
    "input": "16 frames",
    "model": "tiny3d:seed=0",
    "model_code": "m1",
    "weights": "w1",
    "classes": [0, 1],
    "target": "label",
    "seed": 0,
    "limit": None,
    "batch_size": 4,
    "precision": "32-true",
    "version of torch": "2.15.0",
    "engine": "e1",
    "device": "cpu",
}
MARGINS = """
metrics:
  srg: {margin: 0.02, reason: a test}
  forwards: {margin: 0, rule: exact, reason: a count}
  backwards: {margin: 0, rule: exact, reason: a count}
  seconds: {rule: report, reason: noise}
  peak_memory: {rule: report, reason: noise}
families:
  faithfulness: {margin: 0.03, reason: a test}
"""


def value(method, metric, clip, draw):
    """A score that is the same in every run."""
    generator = np.random.default_rng([sum(map(ord, method + metric)), clip, draw])
    return float(generator.uniform(0.3, 0.7))


class Runs:
    """Writes runs under a folder that holds a margins.yaml."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "margins.yaml").write_text(MARGINS)

    def write(
        self,
        name,
        change=lambda row: row,
        *,
        clips=40,
        groups=40,
        methods=METHODS,
        metrics=METRICS,
        forwards=3.0,
        summary=True,
        dataset="planted_actions",
        **facts,
    ):
        """A run; `change` may alter a score row, or drop it by returning None."""
        store = Store(self.folder / name)
        store.create()
        scores, costs = [], []
        for clip in range(clips):
            for method, fact in methods.items():
                costs.append(self._cost(clip, method, fact["draws"], forwards))
                for metric in metrics:
                    for draw in range(fact["draws"]):
                        row = change(self._score(clip, groups, method, metric, draw))
                        scores += [] if row is None else [row]
        store.write(0, {"scores": scores, "costs": costs, "curves": []})
        depends_on = {**DEPENDS_ON, **facts.pop("depends_on", {})}
        store.write_provenance(
            {
                "depends_on": depends_on,
                "dataset": dataset,
                "split": "test",
                "model": "tiny3d",
                "git_commit": "",
                "versions": {"vidattr_bench": "0.1.0"},
                "clips": {"planned": clips, "missing": 0},
                "methods": copy.deepcopy(dict(methods)),
                "metrics": copy.deepcopy(dict(metrics)),
                **facts,
            }
        )
        store.write_settings({"dataset": "planted_actions", "output": str(store.folder)})
        if summary:
            (store.folder / "summary.csv").write_text("made elsewhere")
        return store.folder

    def _score(self, clip, groups, method, metric, draw):
        return {
            "dataset": "planted_actions",
            "split": "test",
            "clip": f"test-{clip:03d}",
            "group": f"g{clip % groups}",
            "label": "left",
            "prediction": "left",
            "target": "left",
            "correct": True,
            "model": "tiny3d",
            "weights": "w1",
            "method": method,
            "metric": metric,
            "seed": draw,
            "value": value(method, metric, clip, draw),
            "chance": None,
            "status": "ok",
            "reason": "",
        }

    def _cost(self, clip, method, draws, forwards):
        spent = {"seconds": 0.1 * draws, "forwards": forwards * draws, "backwards": 1.0 * draws, "memory": 1e6}
        return {"clip": f"test-{clip:03d}", "method": method, "step": "attribution", **spent}


def shifted(by, method="grad_cam", metric="srg", noise=0.0):
    """A change of one cell's values: by that much, with noise a clip."""
    generator = np.random.default_rng(3)

    def change(row):
        if (row["method"], row["metric"]) == (method, metric):
            row["value"] += by + noise * float(generator.standard_normal())
        return row

    return change


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


@pytest.fixture
def accepted(runs):
    return runs.write("accepted")


def verdict_of(comparison, method="grad_cam", metric="srg"):
    (cell,) = [cell for cell in comparison.cells if (cell.method, cell.metric) == (method, metric)]
    return cell


# What is compared


def test_an_equal_run_passes_and_says_what_is_not_gated(runs, accepted):
    found = compare(accepted, runs.write("new"))
    assert (found.verdict, found.exit_status, found.notes) == ("pass", 0, ())
    gated = {cell.metric for cell in found.cells if cell.verdict == "pass"}
    assert gated == {"srg", "deletion", "forwards", "backwards"}
    assert {cell.metric for cell in found.cells if cell.verdict == "reported"} == {
        "tie_fraction",
        "seconds",
        "peak_memory",
    }
    assert [cell.metric for cell in found.cells[:3]] == ["srg", "deletion", "tie_fraction"]


@pytest.mark.parametrize(
    ("by", "noise", "verdict", "status"),
    [(-0.06, 0.03, "regressed", 1), (0.06, 0.03, "improved", 3), (0.0, 0.3, "inconclusive", 4), (0.0, 0.01, "pass", 0)],
)
def test_a_change_of_one_cell_decides_verdict_and_exit_status(runs, accepted, by, noise, verdict, status):
    found = compare(accepted, runs.write("new", shifted(by, noise=noise)))
    assert (found.verdict, found.exit_status) == (verdict, status)
    assert verdict_of(found).verdict == verdict
    assert found.counts.get("pass", 0) >= 7


def test_where_lower_is_better_a_rise_is_a_loss(runs, accepted):
    worse = compare(accepted, runs.write("new", shifted(0.1, metric="deletion", noise=0.01)))
    cell = verdict_of(worse, metric="deletion")
    assert cell.verdict == "regressed"
    assert cell.difference == pytest.approx(cell.reference - cell.new)
    better = compare(accepted, runs.write("better", shifted(-0.1, metric="deletion", noise=0.01)))
    assert better.verdict == "improved"


def test_draws_of_a_stochastic_method_are_averaged_within_a_clip_first(runs, accepted):
    def swapped(row):
        if row["method"] == "random":
            row["value"] = value("random", row["metric"], int(row["clip"][-3:]), 1 - row["seed"])
        return row

    cell = verdict_of(compare(accepted, runs.write("new", swapped)), "random")
    assert (cell.difference, cell.verdict, cell.clips) == (0.0, "pass", 40)


def test_any_further_forward_is_a_regression_and_a_saved_one_an_improvement(runs, accepted):
    assert verdict_of(compare(accepted, runs.write("more", forwards=4.0)), metric="forwards").verdict == "regressed"
    assert compare(accepted, runs.write("less", forwards=2.0)).verdict == "improved"


def test_clips_of_a_group_count_together(runs):
    def by_group(row):
        row["value"] += 0.01 * (int(row["clip"][-3:]) % 4) if row["metric"] == "srg" else 0.0
        return row

    apart = verdict_of(compare(runs.write("a"), runs.write("b", by_group)))
    together = verdict_of(compare(runs.write("c", groups=4), runs.write("d", by_group, groups=4)))
    assert (apart.groups, together.groups) == (40, 4)
    assert together.error > 3 * apart.error


def test_clips_of_one_group_ask_for_other_groups(runs):
    found = compare(runs.write("a", groups=1), runs.write("b", shifted(0.0, noise=0.01), groups=1))
    assert verdict_of(found).verdict == "inconclusive"
    assert "only clips of other groups decide it (there are 40 in 1 group)" in verdicts.sentence(verdict_of(found))


@pytest.mark.parametrize("status", ["failed", "not_applicable"])
def test_one_clip_that_fails_is_a_regression_whatever_the_mean(runs, accepted, status):
    def fails(row):
        if row["method"] == "grad_cam" and row["clip"] == "test-007":
            row |= {"status": status, "value": math.nan, "reason": "no layer"}
        return row

    cell = verdict_of(compare(accepted, runs.write("new", fails)))
    assert cell.verdict == "regressed"
    assert f"1 clips are now {status.replace('_', ' ')}: no layer" in cell.note
    assert cell.clips == 39


def test_undefined_clips_are_forgiven_up_to_the_share_of_the_file(runs, accepted):
    def undefined(row):
        if row["metric"] == "srg" and row["clip"] in ("test-001", "test-002"):
            row |= {"status": "undefined", "value": math.nan, "reason": "constant_map"}
        return row

    new = runs.write("new", undefined)
    assert verdict_of(compare(accepted, new)).verdict == "regressed"
    file = runs.folder / "lenient.yaml"
    file.write_text(MARGINS.replace("srg: {margin: 0.02,", "srg: {margin: 0.02, lost: 0.05,"))
    assert verdict_of(compare(accepted, new, margins=file)).verdict == "pass"


def test_a_method_or_metric_that_vanished_fails_unless_that_is_allowed(runs, accepted):
    few = {"grad_cam": METHODS["grad_cam"]}
    new = runs.write("new", methods=few, metrics={"srg": METRICS["srg"]})
    found = compare(accepted, new)
    assert found.verdict == "regressed"
    assert found.counts["missing"] == 5  # deletion twice; of random srg, forwards and backwards
    assert {cell.metric for cell in found.cells if cell.verdict == "reported"} == {
        *("tie_fraction", "seconds", "peak_memory")
    }
    assert compare(accepted, new, allow_missing=["methods"]).verdict == "regressed"
    found = compare(accepted, new, allow_missing=["methods", "metrics"])
    assert found.verdict == "pass"
    assert "9 cells of the reference are not in the new run" in found.notes[-1]


def test_a_cell_of_which_no_clip_is_left_is_missing_though_clips_may_be(runs, accepted):
    def without(row):
        return None if (row["method"], row["metric"]) == ("grad_cam", "srg") else row

    found = compare(accepted, runs.write("new", without), allow_missing=["clips"])
    assert (found.verdict, found.counts["missing"]) == ("regressed", 1)
    assert verdict_of(found).note == "the new run has no row of it"


def test_what_is_never_gated_may_vanish(runs, accepted):
    store = Store(runs.write("cuda"))
    costs = store.costs().assign(memory=math.nan).to_dict("records")
    scores = store.scores().to_dict("records")
    cpu = runs.write("cpu")
    for part in (*cpu.glob("scores/*"), *cpu.glob("costs/*")):
        part.unlink()
    Store(cpu).write(0, {"scores": scores, "costs": costs, "curves": []})
    found = compare(accepted, cpu)
    assert verdict_of(found, metric="peak_memory").verdict == "reported"
    assert verdict_of(found, metric="peak_memory").note == "the new run has no such metric"
    assert found.verdict == "pass"


def test_runs_that_share_no_gated_cell_do_not_pass(runs, accepted):
    renamed = runs.write("new", methods={"grad_cam:back=1": METHODS["grad_cam"]})
    with pytest.raises(
        NotComparableError, match=r"share no score that is gated \(new: grad_cam:back=1; deletion, srg,"
    ):
        compare(accepted, renamed, allow_missing=["methods"])
    other = runs.write("other", metrics={"srg:steps=8": METRICS["srg"]})
    with pytest.raises(NotComparableError, match=r"\(new: grad_cam, random; srg:steps=8\); run methods and metrics"):
        compare(accepted, other, allow_missing=["metrics"])


def test_a_new_method_is_listed_and_not_compared(runs, accepted):
    found = compare(accepted, runs.write("new", methods={**METHODS, "lrp": METHODS["grad_cam"]}))
    assert (found.verdict, verdict_of(found, "lrp").verdict) == ("pass", "added")


# What is refused


@pytest.mark.parametrize("field", sorted(MUST_AGREE))
def test_runs_that_ask_another_question_are_refused_and_the_field_is_named(runs, accepted, field):
    with pytest.raises(NotComparableError, match=f"- {field}: .* in the reference"):
        compare(accepted, runs.write("new", depends_on={field: "other"}))


@pytest.mark.parametrize("field", [*sorted(MAY_DIFFER), "version of torch"])
def test_code_versions_and_machines_may_differ_and_are_noted(runs, accepted, field):
    found = compare(accepted, runs.write("new", depends_on={field: "other"}))
    assert found.verdict == "pass"
    assert any(note.startswith(f"{field}: ") for note in found.notes)


def test_every_field_of_a_real_run_is_in_one_of_the_two_lists():
    known = Store(history.REFERENCES / "planted_actions-tiny3d").provenance()["depends_on"]
    unknown = {key for key in known if not key.startswith("version of ")} - set(MUST_AGREE) - set(MAY_DIFFER)
    assert not unknown
    assert not set(MUST_AGREE) & set(MAY_DIFFER)


def test_a_field_that_no_list_knows_must_agree(runs, accepted):
    with pytest.raises(NotComparableError, match="shutter: None in the reference, 180 in the new run"):
        compare(accepted, runs.write("new", depends_on={"shutter": 180}))


def test_of_two_specs_only_the_option_that_differs_is_shown(runs, accepted):
    with pytest.raises(NotComparableError, match=r"dataset: scenes=0 in the reference, scenes=1 in the new run \("):
        compare(accepted, runs.write("new", depends_on={"dataset": "planted_actions:clips=40,scenes=1"}))


def test_an_option_that_a_plug_in_got_since_may_be_new_at_its_default(runs, accepted):
    full = {"dataset": "planted_actions:clips=40,fog=0,scenes=0"}
    assert compare(accepted, runs.write("new", depends_on=full)).verdict == "pass"
    with pytest.raises(NotComparableError, match="dataset: fog=None in the reference, fog=1 in the new run"):
        compare(
            accepted,
            runs.write(
                "fog",
                depends_on={"dataset": full["dataset"].replace("fog=0", "fog=1")},
                dataset="planted_actions:fog=1",
            ),
        )


def test_other_clips_are_named(runs, accepted):
    with pytest.raises(NotComparableError, match="only the reference holds: test-038, test-039"):
        compare(accepted, runs.write("new", clips=38))
    with pytest.raises(NotComparableError, match=r"only the new run holds: .*test-044 and 2 more"):
        compare(accepted, runs.write("more", clips=47))
    found = compare(accepted, runs.write("fewer", clips=30), allow_missing=["clips"])
    assert (found.verdict, verdict_of(found).clips) == ("pass", 30)


@pytest.mark.parametrize("column", ["target", "label", "group", "prediction"])
def test_clips_with_another_target_label_group_or_prediction_are_named(runs, accepted, column):
    def other(row):
        return {**row, column: "other"} if row["clip"] == "test-003" else row

    with pytest.raises(NotComparableError, match=f"another {column}.*: test-003"):
        compare(accepted, runs.write("new", other))


def test_one_prediction_in_a_hundred_may_tip(runs):
    def tips(row):
        return {**row, "prediction": "right"} if row["clip"] == "test-003" else row

    found = compare(runs.write("old", clips=100), runs.write("new", tips, clips=100))
    assert "the prediction of these clips differs, as rounding can make it: test-003" in found.notes


def test_a_run_that_was_stopped_is_not_compared(runs, accepted):
    def stopped(row):
        return None if row["method"] == "random" and row["clip"] == "test-009" else row

    with pytest.raises(NotComparableError, match=r"lacks 3 rows .*first random, .*clip test-009"):
        compare(accepted, runs.write("new", stopped))


def test_a_metric_that_turned_round_is_refused(runs, accepted):
    turned = {**METRICS, "srg": {**METRICS["srg"], "higher_is_better": False}}
    with pytest.raises(NotComparableError, match="higher_is_better of srg: True in the reference, False now"):
        compare(accepted, runs.write("new", metrics=turned))


def test_a_folder_without_run_and_a_damaged_part_are_refused(runs, accepted):
    with pytest.raises(RunError, match="holds no run"):
        compare(accepted, runs.folder)
    new = runs.write("new")
    (part,) = (new / "scores").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(RunError, match="is damaged"):
        compare(accepted, new)


# Margins


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics: [srg]", "metrics must be a mapping"),
        ("metric: {}", "must hold the mappings metrics and families"),
        ("metrics: {sgr: {margin: 0.1, reason: x}}", "metrics.sgr: unknown metric; did you mean srg"),
        ("metrics: {'sgr*': {margin: 0.1, reason: x}}", r"metrics.sgr\*: unknown metric"),
        ("families: {faith: {margin: 0.1, reason: x}}", "families.faith: unknown family; did you mean faithfulness"),
        ("metrics: {srg: 0.02}", "metrics.srg must be a mapping such as"),
        ("metrics: {srg: {margin: 0.02}}", "metrics.srg.reason is missing"),
        ("metrics: {srg: {margn: 0.02, reason: x}}", "unknown field 'margn'; did you mean margin"),
        ("metrics: {srg: {margin: 0, reason: x}}", "metrics.srg.margin must be above 0"),
        ("metrics: {srg: {margin: -1, rule: exact, reason: x}}", "cannot be negative"),
        ("metrics: {srg: {margin: a, reason: x}}", "metrics.srg.margin must be a number, not 'a'"),
        ("metrics: {srg: {margin: .nan, reason: x}}", "metrics.srg.margin must be a number"),
        ("metrics: {srg: {reason: x}}", "metrics.srg.margin must be a number, not None"),
        ("metrics: {srg: {margin: 1, rule: tset, reason: x}}", "did you mean test"),
        ("metrics: {srg: {margin: 1, lost: 2, reason: x}}", "metrics.srg.lost is a share"),
        ("metrics: {srg: {margin: 1, reason: x}", "cannot read .* as YAML"),
        ("metrics: {srg: {margin: 0.1, reason: x}}", "no margin for the metric deletion"),
    ],
)
def test_a_bad_file_of_margins_names_file_field_and_remedy(runs, accepted, text, message):
    file = runs.folder / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RunError, match=message) as error:
        compare(accepted, accepted, margins=file)
    assert "mine.yaml" in str(error.value)


def test_the_most_specific_margin_wins():
    def entry(margin):
        return {"margin": margin, "reason": "x"}

    named = {"srg:substrate=freeze": entry(1), "srg": entry(2), "del*": entry(3)}
    found = margins.parse({"metrics": named, "families": {"faithfulness": entry(4)}}, "here")
    fact = {"family": "faithfulness", "higher_is_better": True}
    labels = ["srg:substrate=freeze", "srg", "srg:steps=8", "deletion:steps=8", "insertion"]
    assert [found.of(label, fact).margin for label in labels] == [1, 2, 2, 3, 4]
    assert found.of("srg", {"higher_is_better": None}).rule == "report"


def test_an_entry_whose_options_are_those_of_no_metric_is_noted(runs, accepted):
    (runs.folder / "margins.yaml").write_text(
        f"{MARGINS}\n".replace("  srg:", "  srg:substrat=freeze:\n   {margin: 1, reason: x}\n  srg:")
    )
    (note,) = compare(accepted, accepted).notes
    assert note.endswith(
        "margins.yaml: metrics.srg:substrat=freeze is the label of no metric of these runs and holds for none"
    )


def test_without_a_file_the_remedy_is_named(runs, accepted):
    (runs.folder / "margins.yaml").unlink()
    with pytest.raises(RunError, match=r"no margins.yaml beside .*--margins FILE"):
        compare(accepted, accepted)


def test_the_margins_of_this_project_are_read():
    found = margins.read(history.REFERENCES.parent / "margins.yaml")
    assert all(len(margin.reason) > 10 for margin in (*found.metrics.values(), *found.families.values()))


# What is shown


@pytest.fixture
def mixed(runs):
    """A comparison with every verdict, and labels that want to be markup."""
    hostile = "<b>|[red]\x1b]0;x\x07&\"'*_`$"
    names = {"a": METHODS["grad_cam"], "b": METHODS["grad_cam"], "c": METHODS["grad_cam"], hostile: METHODS["grad_cam"]}

    def change(row):
        by = {"a": -0.1, "b": 0.1, hostile: -0.2}.get(row["method"], 0.0)
        noise = 0.01 if row["method"] != "c" else 0.4
        row["value"] += (by + noise * math.sin(hash_of(row["clip"]))) if row["metric"] == "srg" else 0.0
        return row

    def hash_of(clip):
        return 7.7 * int(clip[-3:])

    old = runs.write("old", methods={**names, "gone": METHODS["grad_cam"]})
    return compare(old, runs.write("new", change, methods={**names, "come": METHODS["grad_cam"]}))


def test_the_mixed_comparison_holds_every_verdict(mixed):
    assert set(mixed.counts) == {"regressed", "improved", "inconclusive", "pass", "missing", "added", "reported"}
    assert mixed.exit_status == 1


def test_the_console_shows_what_did_not_pass_and_no_control_characters(mixed):
    out = StringIO()
    Console(file=out, width=160).print(verdicts.console(mixed))
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert "more clips decide it" in shown
    assert "regressed: 2 regressed, 4 missing" in shown
    assert "gone" in shown
    assert " pass " not in shown.split("regressed: 2")[0]


def test_markdown_is_inert_and_a_table_stays_a_table(mixed):
    page = verdicts.markdown(mixed)
    assert "<b>" not in page
    assert page.startswith("### Attribution quality: regressed: ")
    unescaped = [line.replace("\\|", "") for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in unescaped} == {10}
    assert "<details>" in page


def test_markdown_of_many_cells_fits_into_a_comment():
    cells = [CellVerdict(f"method_{at}", "srg", verdict) for verdict in ("regressed", "pass") for at in range(1000)]
    page = verdicts.markdown(Comparison("old", "new", tuple(cells), drift=Comparison("old", "new", tuple(cells))))
    shown, more = page.count("| method"), map(int, re.findall(r"(\d+) more rows are in the JSON", page))
    assert len(page) < 65_536
    assert shown - 4 + sum(more) == 4000
    assert page.index("method\\_0 ") < page.index("method\\_1 ")


def test_junit_is_what_ci_servers_read(mixed):
    root = ElementTree.fromstring(verdicts.junit(mixed).partition("?>")[2])
    (suite,) = root.findall("testsuite")
    cases = suite.findall("testcase")
    assert len(cases) == len(mixed.cells) == int(suite.get("tests"))
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == 6
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    assert {"errors", "name", "time"} <= set(suite.keys())
    for case in cases:
        assert set(case.keys()) == {"classname", "name", "time"}
        assert {child.tag for child in case} <= {"failure", "skipped", "system-out"}
        assert len(case) == 1
    assert all(failure.get("message") and failure.get("type") for failure in suite.iter("failure"))


def test_json_is_strict_and_complete(mixed):
    def refuse(word):
        raise AssertionError(word)

    found = json.loads(verdicts.as_json(mixed), parse_constant=refuse)
    assert (found["format"], found["verdict"], found["exit_status"]) == (1, "regressed", 1)
    assert len(found["cells"]) == len(mixed.cells)
    assert found["cells"][0]["method"] == "a"
    assert found["drift"] is None


def test_the_command_writes_every_format_and_ends_with_the_verdict(runs, accepted, capsys):
    new, out = runs.write("new", shifted(-0.1, noise=0.01)), runs.folder / "out" / "gate"
    files = {name: out.with_suffix(f".{name}") for name in ("markdown", "junit", "json")}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["compare", str(accepted), str(new), *words]) == 1
    assert all(path.read_text() for path in files.values())
    assert "adjusted p = " in capsys.readouterr().out
    assert main(["compare", str(accepted), str(runs.write("few", clips=4))]) == 2
    assert "only the reference holds" in capsys.readouterr().err
    assert main(["compare", str(accepted), str(runs.folder / "few"), "--allow-missing", "clips"]) == 0


# What is accepted and remembered


@pytest.fixture
def place(runs):
    return runs.folder / "reference"


def accept(place, new, **options):
    return history.accept(new, references=place, date="2026-11-20", **options)


def test_the_first_run_is_accepted_and_equals_what_was_run(runs, place):
    accepted = runs.write("accepted", summary=False)
    done = accept(place, accepted, note="first")
    assert done.folder == place / "planted_actions-tiny3d"
    assert compare(done.folder, accepted).verdict == "pass"
    assert {path.name for path in done.folder.iterdir()} == {
        *("scores", "costs", "provenance.json", "run.yaml", "summary.csv", "summary.md", "summary.tex")
    }
    assert Store(done.folder).settings()["output"] is None
    (entry,) = history.read(place)
    assert (entry["date"], entry["note"], entry["verdict"], entry["clips"]) == ("2026-11-20", "first", "first", 40)
    assert entry["means"]["grad_cam"]["srg"] == pytest.approx(
        np.mean([value("grad_cam", "srg", clip, 0) for clip in range(40)]), rel=1e-5
    )
    assert entry["means"]["random"]["forwards"] == 3.0


def test_a_worse_run_needs_force_and_a_note(runs, accepted, place):
    accept(place, accepted)
    before = sorted(path.name for path in (place / "planted_actions-tiny3d" / "scores").iterdir())
    worse = runs.write("worse", shifted(-0.1, noise=0.01))
    with pytest.raises(RunError, match="regressed: srg of grad_cam; mend it"):
        accept(place, worse)
    with pytest.raises(RunError, match="--force needs --note"):
        accept(place, worse, force=True)
    assert sorted(path.name for path in (place / "planted_actions-tiny3d" / "scores").iterdir()) == before
    accept(place, worse, force=True, note="the old one was wrong")
    assert [entry["verdict"] for entry in history.read(place)] == ["first", "regressed"]
    assert compare(place / "planted_actions-tiny3d", worse).verdict == "pass"


def test_an_improved_run_is_accepted(runs, accepted, place):
    accept(place, accepted)
    accept(place, runs.write("better", shifted(0.1, noise=0.01)))
    assert [entry["verdict"] for entry in history.read(place)] == ["first", "improved"]


def test_another_question_is_accepted_by_force_only(runs, accepted, place):
    accept(place, accepted)
    other = runs.write("other", depends_on={"weights": "w2"})
    with pytest.raises(RunError, match="--force --note TEXT accepts it all the same"):
        accept(place, other)
    accept(place, other, force=True, note="new network")
    accept(place, runs.write("mine"), name="mine")
    assert {entry["run"] for entry in history.read(place)} == {"planted_actions-tiny3d", "mine"}


def test_many_small_losses_are_seen_against_the_anchor(runs, accepted, place):
    accept(place, accepted, anchor=True)
    reference = place / "planted_actions-tiny3d"
    for step, by in enumerate((-0.015, -0.03, -0.045), start=1):
        new = runs.write(f"step{step}", shifted(by, noise=0.002 * step))
        found = compare(reference, new)
        assert found.cells
        assert verdict_of(found).verdict in ("pass", "inconclusive")
        if found.verdict == "regressed":
            break
        accept(place, new, note="a little")
    assert verdict_of(found.drift).verdict == "regressed"
    assert (found.verdict, found.exit_status, step) == ("regressed", 1, 2)
    with pytest.raises(RunError, match="drift from the anchored run"):
        accept(place, new)
    suites = ElementTree.fromstring(verdicts.junit(found).partition("?>")[2]).findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["compare", "drift"]
    assert "Drift from the anchored run: regressed" in verdicts.markdown(found)
    assert verdicts.headline(found).startswith("regressed by drift: ")


def test_an_anchor_of_another_question_is_said_and_not_compared(runs, accepted, place):
    accept(place, accepted, anchor=True)
    other = runs.write("other", depends_on={"weights": "w2"})
    accept(place, other, force=True, note="new network")
    found = compare(place / "planted_actions-tiny3d", other)
    assert found.drift is None
    assert "drift is not known" in found.notes[-1]


def test_a_reference_survives_an_accept_that_cannot_be_written(runs, accepted, place, monkeypatch):
    accept(place, accepted)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history.shutil, "copyfile", full)
    with pytest.raises(RunError, match="No space left on device; the reference is as it was"):
        accept(place, runs.write("new"))
    assert compare(place / "planted_actions-tiny3d", accepted).verdict == "pass"
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []
    assert len(history.read(place)) == 1


def test_history_shows_what_moved_and_draws_it(runs, accepted, place, capsys):
    assert main(["history", "--references", str(place)]) == 2
    assert "holds no accepted run yet" in capsys.readouterr().err
    accept(place, accepted, anchor=True)
    accept(place, runs.write("new", shifted(0.1, noise=0.01)), note="better [bold]\x1b")
    plot = runs.folder / "plots" / "history.png"
    assert main(["history", "--references", str(place), "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    assert "+0.1" in shown
    assert "13 means have not moved" in shown
    assert "\x1b" not in shown
    assert plot.stat().st_size > 10_000
    assert main(["history", "--references", str(place), "--methods", "grad_cm"]) == 2
    assert "did you mean grad_cam" in capsys.readouterr().err
    assert main(["history", "--references", str(place), "--plot", "x.docx"]) == 2


def test_a_damaged_line_of_the_history_is_named(place):
    place.mkdir()
    (place / "history.jsonl").write_text('{"run": "a", "means": {}}\n{"run"\n')
    with pytest.raises(RunError, match=r"history.jsonl, line 2 is not JSON"):
        history.read(place)


def test_drift_is_measured_from_the_last_anchor_that_can_be_compared():
    assert timeline.origin([{"anchor": True}, {}, {"anchor": True}, {}]) == 2
    assert timeline.origin([{}, {}]) == 0
    another = {"verdict": "forced"}
    assert timeline.origin([{"anchor": True}, another, {}]) == 1
    assert timeline.origin([{"anchor": True}, another, {"anchor": True}, {}]) == 2


def test_the_lines_of_the_plot_end_where_runs_cannot_be_compared():
    entries = [{"run": "r", "means": {"m": {"srg": 0.1 * at}}} for at in range(5)]
    entries[3]["verdict"] = "forced"
    (panel,) = timeline._figure(entries, timeline.chosen(entries)).axes
    assert [line.get_xdata().tolist() for line in panel.lines[:2]] == [[0, 1, 2], [3, 4]]


def test_a_commit_that_a_run_names_is_no_option_of_git(runs, place):
    spoilt = runs.folder / "spoilt"
    history.accept(runs.write("new", git_commit=f"--output={spoilt}"), references=place)
    assert not spoilt.exists()


def test_commands_refuse_bad_dates_and_the_reference_itself(runs, accepted, place, capsys):
    assert main(["accept", str(accepted), "--references", str(place), "--date", "yesterday"]) == 2
    assert "is not a date" in capsys.readouterr().err
    assert main(["accept", str(accepted), "--references", str(place), "--as", "x"]) == 0
    assert main(["accept", str(place / "x"), "--references", str(place), "--as", "x"]) == 2


# What the page says


def blocks():
    """The YAML blocks of docs/regression_tracking.md: margins, then the workflow."""
    page = (ROOT / "docs" / "regression_tracking.md").read_text()
    return re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)


def test_the_margins_of_the_page_are_read():
    facts = {"metrics": {"srg:substrate=freeze": {"family": "faithfulness"}}}
    found = margins.parse(yaml.safe_load(blocks()[0]), "page", [facts])
    assert found.metrics["forwards"].rule == "exact"


def test_the_workflow_of_the_page_runs_commands_that_there_are():
    workflow = yaml.safe_load(blocks()[1])
    steps = [step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step]
    ours = [shlex.split(step)[3:] for step in steps if "-m vidattr_bench" in step]
    assert [words[0] for words in ours] == ["run", "compare"]
    parser, _ = _build()
    for words in ours:
        known, unknown = parser.parse_known_args(words)
        assert not unknown
        for spec in getattr(known, "methods", []):
            plugins.create("methods", spec)
    assert known.markdown.name == "gate.md"
    assert not re.search(r"https?://|index-url", blocks()[1])


def test_tox_gates_this_project():
    tox = (ROOT / "tox.ini").read_text()
    lines = [line.partition("vidattr_bench ")[2] for line in tox.splitlines() if line.strip().startswith("gate:")]
    parser, _ = _build()
    assert [parser.parse_known_args(shlex.split(line))[0].command for line in lines] == ["run", "compare"]
    assert "tox -e gate" in (ROOT / ".ci" / "run").read_text()
