"""`table` for papers: nothing is dropped, runs are never mixed, and what is printed is the mean of the data."""

import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidattr_bench import gallery, tables
from vidattr_bench.cells import fixed
from vidattr_bench.cli import main
from vidattr_bench.errors import DataError
from vidattr_bench.grid import layout
from vidattr_bench.report import choose, open_runs
from vidattr_bench.selection import Choice, RunSummary, differences, pick, run_names
from vidattr_bench.store import Store
from vidattr_bench.text import tex

FAMILIES = {"alpha": "gradient", "beta": "CAM", "gamma": "perturbation", "random": "control"}
METRICS = {
    "srg": ("faithfulness", True, "blur3d"),
    "srg:substrate=freeze,unit=frame": ("faithfulness", True, "freeze"),
    "roc_auc": ("localisation", True, ""),
}
FORMATS = ("latex", "markdown", "html", "csv")


def facts_of(methods=("alpha", "beta", "gamma", "random"), **changes):
    declared = {
        m: {"family": FAMILIES.get(m, "other"), "informed": m != "random", "is_chance": m == "random", "version": "1"}
        for m in methods
    }
    metrics = {
        m: {
            "family": family,
            "higher_is_better": higher,
            "substrate": substrate,
            "version": "1",
            "units": f"units of {family}",
            "spec": f"{m.partition(':')[0]}:steps=32,unit=tubelet",
            "primary": m != "roc_auc",
        }
        for m, (family, higher, substrate) in METRICS.items()
    }
    facts = {"methods": declared, "metrics": metrics, "dataset": "planted_actions", "model": "tiny3d", "split": "test"}
    facts |= {"target": "label", "seed": 0, "clips": {"planned": 12}}
    return {**facts, "depends_on": {"weights": "f" * 64, "precision": "32-true"}, **changes}


def score_rows(methods=("alpha", "beta", "gamma", "random"), clips=12, levels=None, seed=0, classes=3):
    generator = np.random.default_rng(seed)
    levels = levels or {"alpha": 0.5, "beta": 0.5, "gamma": 0.1, "random": 0.0}
    common = {"dataset": "planted_actions", "split": "test", "model": "tiny3d", "weights": "f" * 64, "seed": 0}
    return [
        {
            **common,
            "clip": f"c{clip:02d}",
            "group": f"g{clip:02d}",
            "label": f"class {min(clip, classes - 1)}",
            "prediction": "walk",
            "target": "walk",
            "correct": True,
            "method": method,
            "metric": metric,
            "value": levels.get(method, 0.3) + 0.05 * generator.normal(),
            "chance": None,
            "status": "ok",
            "reason": "",
        }
        for method in methods
        for metric in METRICS
        for clip in range(clips)
    ]


def write_run(folder, rows, facts):
    store = Store(folder)
    store.create()
    costs = [
        {"clip": row["clip"], "method": row["method"], "step": "attribution", "seconds": 0.5, "forwards": 1.0}
        for row in rows
        if row["metric"] == "srg"
    ]
    costs = [{**row, "backwards": 1.0, "memory": math.nan} for row in costs]
    store.write(0, {"scores": rows, "costs": costs, "curves": []})
    store.write_provenance(facts)
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "one", score_rows(), facts_of())


@pytest.fixture
def two_runs(tmp_path, run):
    fewer = [row | {"model": "r3d_18", "weights": "e" * 64} for row in score_rows(("alpha", "delta"), seed=1)]
    facts = facts_of(("alpha", "delta"), model="r3d_18", depends_on={"weights": "e" * 64, "precision": "bf16-mixed"})
    return [run, write_run(tmp_path / "two", fewer, facts)]


def grid_of(folders, choice=None, **options):
    return layout(*choose(open_runs(folders), choice or Choice(**options)), 200)


def cells_by_label(grid):
    return {line.label: line.cells for block in grid.blocks for line in block.lines}


class Cells(HTMLParser):
    """The text of every row of a page."""

    def __init__(self, page):
        super().__init__()
        self.rows = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data):
        if self.rows:
            self.rows[-1] += data


def test_a_missing_method_is_a_dash_and_methods_align_across_runs(two_runs):
    grid = grid_of(two_runs, metrics=("srg",))
    (block,) = grid.blocks
    assert [header.run for header in block.headers] == ["planted_actions, tiny3d", "planted_actions, r3d_18"]
    found = cells_by_label(grid)
    assert set(found) == {"alpha", "beta", "gamma", "delta", "random"}
    assert [found["beta"][1].mean, found["delta"][0].mean] == ["\N{EN DASH}"] * 2
    assert all(cell.interval for cell in found["alpha"])
    assert "\N{EN DASH} not measured." in grid.legend


def test_runs_are_never_averaged(two_runs):
    found = cells_by_label(grid_of(two_runs, metrics=("srg",)))["alpha"]
    for folder, cell in zip(two_runs, found, strict=True):
        scores = Store(folder).scores()
        own = scores[(scores["method"] == "alpha") & (scores["metric"] == "srg")]["value"]
        assert cell.mean == f"{own.mean():.3f}"


def test_the_columns_of_a_run_stay_together_where_they_fit(two_runs):
    runs, choice = choose(open_runs(two_runs), Choice(metrics=("srg", "roc_auc")))
    assert [block.runs() for block in layout(runs, choice, 100).blocks] == [
        [("planted_actions, tiny3d", 2)],
        [("planted_actions, r3d_18", 2)],
    ]
    assert len(layout(runs, choice, 200).blocks) == 1


def test_what_makes_runs_incomparable_is_said(two_runs):
    text = " ".join(grid_of(two_runs, metrics=("srg",)).warnings)
    assert "precision (32-true or bf16-mixed)" in text
    assert "weights" not in text
    changed = facts_of()
    changed["metrics"]["srg"]["version"] = "2"
    assert list(differences([facts_of(), changed])) == ["the code of srg"]
    assert list(differences([facts_of(), changed], {"roc_auc"})) == []
    assert list(differences([facts_of(), facts_of()])) == []


def test_names_tell_runs_apart_by_what_differs():
    assert run_names([facts_of(), facts_of(seed=1)], ["a", "b"]) == [
        "planted_actions, tiny3d, seed 0",
        "planted_actions, tiny3d, seed 1",
    ]
    assert run_names([facts_of(), facts_of()], ["a", "b"]) == [
        "planted_actions, tiny3d, a",
        "planted_actions, tiny3d, b",
    ]
    fewer = facts_of(clips={"planned": 8})
    assert run_names([facts_of(), fewer], ["a", "b"])[1] == "planted_actions, tiny3d, 8 clips"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], list(METRICS)),
        (["roc_auc", "srg"], ["roc_auc", "srg"]),
        (["srg:unit=frame,substrate=freeze"], ["srg:substrate=freeze,unit=frame"]),
        (["faithfulness"], ["srg", "srg:substrate=freeze,unit=frame"]),
        (["localisation", "all"], ["roc_auc", "srg", "srg:substrate=freeze,unit=frame"]),
    ],
)
def test_names_stand_for_labels(given, expected):
    assert pick(given, facts_of()["metrics"], "metric") == expected


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"no run here holds the metric 'roc_auk'; did you mean roc_auc"):
        pick(["roc_auk"], facts_of()["metrics"], "metric")


def test_families_head_their_rows_and_controls_stand_below(run):
    (block, *_) = grid_of([run]).blocks
    assert [(family, [line.label for line in lines]) for family, lines in block.parts()][-1][0] == ""
    assert [family for family, _ in block.parts()] == ["Gradient", "CAM", "Perturbation", ""]
    assert block.lines[-1].kind == "control"
    chosen = grid_of([run], methods=("gamma", "random", "alpha")).blocks[0]
    assert [line.label for line in chosen.lines] == ["gamma", "alpha", "random"]
    assert {line.family for line in chosen.lines} == {""}


def test_ties_are_marked_among_the_chosen_methods(run):
    cells = {label: found[0] for label, found in cells_by_label(grid_of([run], metrics=("srg",))).items()}
    best = next(label for label, cell in cells.items() if cell.is_best)
    assert {best} < {"alpha", "beta"} | {best}
    assert {label for label, cell in cells.items() if cell.is_tied} == {"alpha", "beta"} - {best}
    alone = cells_by_label(grid_of([run], metrics=("srg",), methods=("gamma", "random")))
    assert alone["gamma"][0].is_best
    assert not alone["random"][0].is_tied
    for style, mark in (("latex", r"\textdagger"), ("markdown", "†"), ("html", "†")):
        assert mark in tables.render(*_args([run], style, metrics=("srg",)))


def _args(folders, style, **options):
    shown, choice = choose(open_runs(folders), Choice(**options))
    return shown, style, choice


def test_uncertainty_and_decimals(run):
    plus = cells_by_label(grid_of([run], metrics=("srg",), uncertainty="plusminus", decimals=2))["alpha"][0]
    summary = choose(open_runs([run]), Choice(metrics=("srg",)))[0][0].rows
    row = summary[(summary["method"] == "alpha") & (summary["subset"] == "all")].iloc[0]
    assert plus.mean == f"{row['mean']:.2f}"
    assert plus.interval == f"± {(row['high'] - row['low']) / 2:.2f}"
    assert cells_by_label(grid_of([run], metrics=("srg",), uncertainty="none"))["alpha"][0].interval == ""


def test_half_a_width_has_the_decimals_of_the_mean_beside_it(tmp_path):
    rows = score_rows(("alpha", "random"))
    run = write_run(tmp_path / "run", rows, facts_of(("alpha", "random")))
    costs = Store(run).costs()
    seconds = 0.0004 + 1e-5 * np.random.default_rng(5).normal(size=len(costs))
    results = open_runs([run])
    results[0].costs = costs.assign(seconds=seconds)
    shown, choice = choose(results, Choice(metrics=("seconds",), uncertainty="plusminus"))
    cell = cells_by_label(layout(shown, choice, 200))["alpha"][0]
    assert re.fullmatch(r"0\.000\d{3}", cell.mean)
    assert re.fullmatch(r"± 0\.00000\d|± 0\.00001\d", cell.interval)


def test_marks_and_intervals_stand_in_columns_of_their_own(run):
    latex = tables.render(*_args([run], "latex", metrics=("srg", "roc_auc"), methods=("alpha", "gamma", "random")))
    body = latex.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    rows = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if " & " in line]
    assert {len(row) for row in rows} == {7}
    assert all(part.startswith(r"{\scriptsize {[}") for row in rows for part in row[3::3])
    assert all(not part or part.startswith(r"\textsuperscript") for row in rows for part in row[2::3])
    page = tables.render(*_args([run], "html", metrics=("srg",)))
    assert len(set(re.findall(r'class="interval" style="width:([\d.]+)ch"', page))) == 1
    assert page.count('class="interval"') == page.count('class="marks"') == 4


def test_means_over_classes(tmp_path):
    rows = [row | {"value": row["value"] + (row["label"] == "class 0")} for row in score_rows()]
    run = write_run(tmp_path / "run", rows, facts_of())
    scores = Store(run).scores()
    own = scores[(scores["method"] == "alpha") & (scores["metric"] == "srg")]
    expected = own.groupby("label")["value"].mean().mean()
    assert abs(expected - own["value"].mean()) > 1e-3
    grid = grid_of([run], metrics=("srg",), mean="class", decimals=6)
    assert cells_by_label(grid)["alpha"][0].mean == f"{expected:.6f}"
    assert "Mean over classes" in grid.legend[0]


def test_the_caption_says_what_matters(run):
    grid = grid_of([run], metrics=("srg", "roc_auc"))
    text = " ".join([grid.caption, *grid.blocks[0].details, *grid.legend, *grid.warnings])
    for said in ("split test", "weights ffffffff", "target label", "seed 0", "12 clips in 12 groups", "steps 32"):
        assert said in text
    for said in ("unit tubelet", "units of localisation", "10,000 resamples", "alpha 0.05", "fewer than 40"):
        assert said in text
    assert "blur3d" in grid.blocks[0].headers[0].detail


def test_the_caption_names_the_preset_that_the_metrics_are(tmp_path):
    presets = {"faithful": ["srg", "srg:substrate=freeze,unit=frame"], "every": [*METRICS, "seconds"]}
    run = write_run(tmp_path / "run", score_rows(), facts_of(presets=presets))
    said = {name: f"Metrics: the preset {name}." for name in presets}
    assert grid_of([run]).caption.endswith(said["every"])
    chosen = grid_of([run], metrics=("faithful",))
    assert [header.metric for header in chosen.blocks[0].headers] == presets["faithful"]
    assert chosen.caption.endswith(said["faithful"])
    assert "preset" not in grid_of([run], metrics=("srg",)).caption


def test_an_unknown_name_is_answered_with_presets_and_families(tmp_path):
    run = write_run(tmp_path / "run", score_rows(), facts_of(presets={"rise": ["srg"]}))
    for name, near in (("ris", "rise"), ("localization", "localisation")):
        with pytest.raises(DataError, match=f"did you mean {near}"):
            grid_of([run], metrics=(name,))


def test_tables_of_two_files_have_labels_of_their_own(tmp_path, run):
    for name in ("first", "second_one"):
        assert main(["table", str(run), "--output", str(tmp_path / f"{name}.tex")]) == 0
        page = (tmp_path / f"{name}.tex").read_text()
        assert set(re.findall(r"\\label\{(.*?)\}", page)) == {f"tab:{name}-{at}" for at in range(1, 5)}
        assert set(re.findall(r"\\ref\{(.*?)\}", page)) == {f"tab:{name}-1"}


def test_a_sampled_metric_says_how_few_clips_it_is_over(tmp_path):
    rows = [row for row in score_rows(clips=40) if row["metric"] != "roc_auc" or row["clip"] < "c08"]
    grid = grid_of([write_run(tmp_path / "run", rows, facts_of())])
    assert "all, n=8" in {header.detail for block in grid.blocks for header in block.headers}
    assert any("over 8 groups" in line for line in grid.warnings)


@pytest.mark.parametrize("style", FORMATS)
def test_no_row_and_no_number_is_dropped(two_runs, style):
    runs, choice = choose(open_runs(two_runs), Choice(metrics=("all",)))
    output = tables.render(runs, style, choice)
    grid = layout(runs, choice)
    labels = {line.label for block in grid.blocks for line in block.lines}
    shown = {"latex": tex, "markdown": str, "html": str, "csv": str}[style]
    plain = output.replace(r"\_", "_") if style == "markdown" else output
    for label in labels:
        assert shown(label) in plain
    numbers = [
        cell.mean for block in grid.blocks for line in block.lines for cell in line.cells if cell.mean[:1].isdigit()
    ]
    if style == "csv":
        rows = pd.read_csv(StringIO(output))
        assert len(rows) == sum(len(run.rows) for run in runs)
        assert set(rows["run"]) == {run.name for run in runs}
        assert {"weights", "units", "method_family", "tied", "class_mean"} <= set(rows)
    else:
        assert all(plain.count(number) >= numbers.count(number) for number in numbers)


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(-1e4, 1e4, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-12),
    decimals=st.integers(0, 6),
)
def test_a_printed_number_is_the_value_to_its_decimals(value, decimals):
    text = fixed(value, decimals)
    assert abs(float(text) - value) <= 0.5 * 10**-decimals * (1 + 1e-9)
    assert float(text) != 0 or not text.startswith("-")


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.floats(-1, 1, allow_nan=False, width=32), min_size=6, max_size=12), decimals=st.integers(1, 5)
)
def test_every_format_prints_the_mean_of_the_data(values, decimals):
    rows = [
        row | {"value": value} for row, value in zip(score_rows(("alpha",), clips=len(values)), values, strict=False)
    ]
    summary = tables.summarise(
        pd.DataFrame(rows),
        pd.DataFrame(columns=["clip", "method", "step", "seconds", "forwards", "backwards", "memory"]),
        facts_of(),
        metrics=["srg"],
    )
    choice = Choice(metrics=("srg",), decimals=decimals, uncertainty="none")
    expected = fixed(float(np.mean(values)), decimals)
    runs = [RunSummary("run", summary, facts_of())]
    row = next(line for line in tables.render(runs, "markdown", choice).splitlines() if line.startswith("| alpha"))
    printed = float(re.search(r"-?\d+\.\d+", row)[0])
    assert printed == pytest.approx(float(expected), abs=1.01 * 10**-decimals if printed != float(expected) else 0)
    line = next(line for line in tables.render(runs, "latex", choice).splitlines() if "alpha}" in line)
    assert str(re.search(r"-?\d+\.\d+", line)[0]) == str(re.search(r"-?\d+\.\d+", row)[0])
    html = next(text for text in Cells(tables.render(runs, "html", choice)).rows if text.strip().startswith("alpha"))
    assert str(re.search(r"-?\d+\.\d+", html)[0]) == str(re.search(r"-?\d+\.\d+", row)[0])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("count", [3, 60])
def test_latex_of_many_methods_and_runs_compiles(tmp_path, count):
    long = "relevance:of=(other:baseline=blur,steps=64),path=\\input{x},sign=absolute"
    methods = ("alpha", long, *(f"method_{at}" for at in range(count)), "random")
    one = write_run(tmp_path / "one", score_rows(methods, clips=6), facts_of(methods))
    other = facts_of(methods, model="evil_\\write18{x}$^&%#~<>")
    two = write_run(tmp_path / "two", score_rows(("alpha", "random"), clips=6), other)
    shown, _, choice = _args([one, two], "latex", metrics=("srg", "roc_auc", "seconds"))
    (tmp_path / "table.tex").write_text(tables.render(shown, "latex", choice))
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,siunitx,longtable}\begin{document}"
    (tmp_path / "paper.tex").write_text(head + r"\input{table}\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (r"\begin{longtable}" in (tmp_path / "table.tex").read_text()) == (count > 40)


@pytest.mark.parametrize(
    ("ending", "begins"), [("tex", "% \\use"), ("md", "planted"), ("csv", "run,"), ("html", "<!DOC")]
)
def test_the_name_of_the_file_tells_the_format(capsys, tmp_path, run, ending, begins):
    path = tmp_path / f"table.{ending}"
    assert main(["table", str(run), "--metrics", "srg", "--output", str(path)]) == 0
    assert path.read_text(encoding="utf-8").startswith(begins)
    assert not (run / "summary.csv").exists()


def test_bad_choices_end_with_status_2(capsys, run):
    assert main(["table", str(run), "--metrics", "sgr"]) == 2
    assert main(["table", str(run), str(run)]) == 2
    assert main(["plot", str(run), "--kind", "forrest"]) == 2
    assert main(["plot", str(run), "--kind", "curves"]) == 2
    assert main(["table", str(run), "--decimals", "-1"]) == 2
    errors = capsys.readouterr().err
    for said in ("did you mean srg", "named twice", "did you mean forest", "nothing to draw for curves", "decimals=-1"):
        assert said in errors


def test_the_help_names_the_kinds_of_plots(capsys):
    with pytest.raises(SystemExit):
        main(["plot", "--help"])
    assert f"{', '.join(gallery.KINDS)} (default" in " ".join(capsys.readouterr().out.split())


def test_plots_of_two_runs_lie_apart(capsys, tmp_path, two_runs):
    command = [
        "plot",
        *map(str, two_runs),
        "--kind",
        "overview",
        "--metrics",
        "srg",
        "--output",
        str(tmp_path / "plots"),
    ]
    assert main(command) == 0
    assert len(list((tmp_path / "plots").glob("*/overview.png"))) == 2


@pytest.mark.parametrize("elsewhere", [False, True])
def test_kept_clips_are_drawn_with_the_chosen_methods_where_figures_go(run, tmp_path, elsewhere):
    clip = run / "clips" / "c1"
    (run / "maps" / "c1").mkdir(parents=True)
    clip.mkdir(parents=True)
    np.save(clip / "frames.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save(clip / "tubes.npy", np.zeros((2, 8, 8), bool))
    for label in ("alpha", "beta"):
        np.save(run / "maps" / "c1" / f"{label}.npy", np.ones((2, 8, 8), np.float32))
    options = ["--output", str(tmp_path / "figures")] if elsewhere else []
    assert main(["plot", str(run), "--kind", "clips", "--methods", "beta", *options]) == 0
    folder = tmp_path / "figures" / "clips" / "c1" if elsewhere else clip
    assert {path.name for path in folder.iterdir()} - {"frames.npy", "tubes.npy"} == {
        "heat.png",
        "focus.png",
        "film-beta.mp4",
    }
    assert (clip / "heat.png").exists() != elsewhere


def test_a_terminal_shows_the_first_of_every_family_where_metrics_are_many():
    metrics = {
        f"m{at}": {
            "family": "faithfulness" if at < 12 else "localisation",
            "higher_is_better": True,
            "substrate": f"s{at}",
        }
        for at in range(24)
    }
    metrics["m5"]["primary"] = True
    facts = {**facts_of(), "metrics": metrics}
    rows = [{**row, "metric": metric} for row in score_rows(clips=4) if row["metric"] == "srg" for metric in metrics]
    no_costs = pd.DataFrame(columns=["clip", "method", "step", "seconds", "forwards", "backwards", "memory"])
    run = RunSummary("run", tables.summarise(pd.DataFrame(rows), no_costs, facts, tested=()), facts)
    page = tables.render([run], "console", Choice())
    shown = {metric for metric in metrics if re.search(rf"\b{metric}\b ", page)}
    assert shown == {"m0", "m5", "m12"}
    assert "Not shown" in page
    everything = tables.render([run], "console", Choice(metrics=tuple(metrics)))
    assert all(re.search(rf"\b{metric}\b ", everything) for metric in metrics)
    assert all(f"| {metric}" in page for page in [tables.render([run], "markdown", Choice())] for metric in metrics)
