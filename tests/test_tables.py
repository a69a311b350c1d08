import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from vidattr_bench import tables, text
from vidattr_bench.cells import significant, split_substrate
from vidattr_bench.errors import DataError
from vidattr_bench.grid import layout as layout_runs
from vidattr_bench.selection import Choice, RunSummary
from vidattr_bench.statistics import cluster_interval, paired_difference

EVIL = "evil_\\input{x}<script>[bold]"
METHODS = {"grad_cam": True, "rise": True, "random": False, "centre": False}
METRICS = {
    "srg": ("faithfulness", True),
    "deletion:substrate=freeze": ("faithfulness", False),
    "roc_auc": ("localisation", True),
}


def facts_of(methods=METHODS, metrics=METRICS):
    return {
        "methods": {
            label: {"informed": informed, "is_chance": label == "random", "draws": 2 if label == "random" else 1}
            for label, informed in methods.items()
        },
        "metrics": {
            label: {"family": family, "higher_is_better": higher, "units": "probability"}
            for label, (family, higher) in metrics.items()
        },
        "dataset": "planted_actions",
        "model": "tiny3d",
        "split": "test",
        "target": "label",
        "seed": 0,
        "clips": {"planned": 12, "missing": 0, "unreadable": 0},
    }


def score_row(
    clip, method, metric, value, *, group="g0", seed=0, status="ok", reason="", correct=True, chance=math.nan
):
    return {
        "dataset": "planted_actions",
        "split": "test",
        "clip": clip,
        "group": group,
        "label": "walk",
        "prediction": "walk",
        "target": "walk",
        "correct": correct,
        "model": "tiny3d",
        "weights": "ab",
        "method": method,
        "metric": metric,
        "seed": seed,
        "value": value,
        "chance": chance,
        "status": status,
        "reason": reason,
    }


def cost_row(clip, method, seconds, forwards, step="attribution"):
    return {
        "clip": clip,
        "method": method,
        "step": step,
        "seconds": seconds,
        "forwards": forwards,
        "backwards": 0.0,
        "memory": math.nan,
    }


NO_COSTS = pd.DataFrame(columns=["clip", "method", "step", "seconds", "forwards", "backwards", "memory"])
NO_SCORES = pd.DataFrame([score_row("c", "m", "srg", 0.0)]).iloc[:0]


def benchmark(methods=METHODS, clips=12, groups=6):
    """Scores and costs of every method and metric; the value depends on the method's rank, so rise is best."""
    generator = np.random.default_rng(0)
    scores, costs = [], []
    for rank, method in enumerate(methods):
        for clip in range(clips):
            common = {"group": f"g{clip % groups}", "correct": clip % 4 > 0}
            for metric, sign in (("srg", 1), ("deletion:substrate=freeze", -1), ("roc_auc", 1)):
                chance = 0.5 if metric == "roc_auc" else math.nan
                for seed in range(2 if method == "random" else 1):
                    effect = {"grad_cam": 0.3, "rise": 0.4}.get(method, 0.1 * rank) if methods[method] else 0.0
                    value = 0.5 + sign * effect + 0.01 * generator.normal()
                    scores.append(score_row(f"c{clip:02d}", method, metric, value, seed=seed, chance=chance, **common))
            costs.append(cost_row(f"c{clip:02d}", method, 0.1 * (rank + 1), 10.0 * rank))
    return pd.DataFrame(scores), pd.DataFrame(costs)


def one(summary, facts):
    return [RunSummary("run", summary, facts)]


def layout(summary, facts, width=110):
    return layout_runs(one(summary, facts), width=width)


def rendered(style, choice=None):
    return lambda summary, facts: tables.render(one(summary, facts), style, choice or Choice())


markdown, html, latex_of = rendered("markdown"), rendered("html"), rendered("latex")


def cell(summary, method, metric, subset="all"):
    found = summary[(summary["method"] == method) & (summary["metric"] == metric) & (summary["subset"] == subset)]
    assert len(found) == 1
    return found.iloc[0]


def test_summary_of_a_known_frame():
    scores = pd.DataFrame(
        [
            score_row("a", "grad_cam", "srg", 0.6, group="g1"),
            score_row("b", "grad_cam", "srg", 0.2, group="g1", correct=False),
            score_row("c", "grad_cam", "srg", 0.4, group="g2"),
            score_row("d", "grad_cam", "srg", math.nan, group="g3", status="undefined", reason="constant_map"),
            score_row("a", "random", "srg", 0.1, group="g1"),
            score_row("a", "random", "srg", 0.3, group="g1", seed=1),
            score_row("b", "random", "srg", 0.0, group="g1", correct=False),
            score_row(
                "b", "random", "srg", math.nan, group="g1", seed=1, status="failed", reason="boom", correct=False
            ),
            score_row("c", "random", "srg", math.nan, group="g2", status="failed", reason="boom"),
            score_row("d", "random", "srg", 0.8, group="g3"),
        ]
    )
    summary = tables.summarise(scores, NO_COSTS, facts_of())
    row = cell(summary, "grad_cam", "srg")
    assert row["mean"] == pytest.approx((0.6 + 0.2 + 0.4) / 3)
    assert (row["clips"], row["groups"], row["defined"], row["undefined"], row["failed"]) == (3, 2, 3, 1, 0)
    assert row["reason"] == "constant_map"
    expected = cluster_interval([0.6, 0.2, 0.4], ["g1", "g1", "g2"])
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert row["difference"] == pytest.approx(((0.6 - 0.2) + (0.2 - 0.0)) / 2)

    chance = cell(summary, "random", "srg")
    assert chance["mean"] == pytest.approx((0.2 + 0.0 + 0.8) / 3)
    assert (chance["clips"], chance["failed"], chance["reason"]) == (3, 1, "boom")
    assert math.isnan(chance["difference"])

    correct = cell(summary, "grad_cam", "srg", "correct")
    assert (correct["mean"], correct["clips"], correct["undefined"]) == (pytest.approx(0.5), 2, 1)
    shared = cell(summary, "grad_cam", "srg", "shared")
    assert (shared["mean"], shared["clips"], shared["defined"]) == (pytest.approx(0.4), 2, 3)
    assert cell(summary, "random", "srg", "shared")["mean"] == pytest.approx(0.1)


def test_difference_is_paired_within_clips():
    scores, costs = benchmark()
    summary = tables.summarise(scores, costs, facts_of())
    wide = scores[scores["metric"] == "roc_auc"].pivot_table("value", "clip", "method")
    groups = scores.groupby("clip")["group"].first()
    expected = paired_difference(wide["rise"], wide["random"], groups)
    row = cell(summary, "rise", "roc_auc")
    found = row[["difference", "difference_low", "difference_high"]].tolist()
    assert found == pytest.approx([expected.mean, expected.low, expected.high])


def test_what_never_applies_does_not_shrink_the_shared_clips():
    scores, costs = benchmark()
    scores.loc[scores["method"] == "rise", ["value", "status", "reason"]] = [math.nan, "not_applicable", "GELU"]
    summary = tables.summarise(scores, costs, facts_of())
    assert cell(summary, "grad_cam", "srg", "shared")["clips"] == 12
    row = cell(summary, "rise", "srg")
    assert (row["clips"], row["not_applicable"], row["reason"]) == (0, 12, "GELU")
    assert math.isnan(row["mean"])
    assert "rise" not in set(summary.loc[summary["metric"] == "seconds", "method"])


def test_unknown_prediction_is_not_correct():
    scores = pd.DataFrame([score_row(c, "rise", "srg", 1.0, correct=k) for c, k in (("a", True), ("b", None))])
    assert cell(tables.summarise(scores, NO_COSTS, facts_of()), "rise", "srg", "correct")["clips"] == 1


def test_costs_are_those_of_one_attribution():
    scores, costs = benchmark()
    noise = pd.DataFrame([cost_row("c00", "", 99.0, 99.0, "clean"), cost_row("c00", "rise", 99.0, 99.0, "roc_auc")])
    summary = tables.summarise(scores, pd.concat([costs, noise]), facts_of())
    assert cell(summary, "rise", "seconds")["mean"] == pytest.approx(0.2)
    assert cell(summary, "rise", "forwards")["mean"] == 10.0
    assert cell(summary, "random", "forwards")["mean"] == 20.0 / 2  # two draws
    assert "peak_memory" not in set(summary["metric"])


def test_costs_without_scores():
    summary = tables.summarise(NO_SCORES, pd.DataFrame([cost_row("a", "rise", 2.0, 3.0)]), facts_of())
    assert cell(summary, "rise", "forwards")["mean"] == 3.0


def test_nothing_gives_an_empty_summary_that_still_prints():
    summary = tables.summarise(NO_SCORES, NO_COSTS, facts_of())
    assert summary.empty
    for render in (markdown, html):
        assert "0 clips" in render(summary, facts_of())
    assert "tabular" not in latex_of(summary, facts_of())
    assert "0 clips" in printed(summary, facts_of())


def test_two_runs_are_refused():
    scores = pd.concat([benchmark()[0], benchmark()[0].assign(model="r3d_18")])
    with pytest.raises(DataError, match=r"2 values of model \(r3d_18, tiny3d\)"):
        tables.summarise(scores, NO_COSTS, facts_of())


def test_order_of_rows_and_of_seeds_does_not_matter():
    scores, costs = benchmark()
    mixed = scores.sample(frac=1, random_state=1)
    assert tables.csv(tables.summarise(mixed, costs, facts_of())) == tables.csv(
        tables.summarise(scores, costs, facts_of())
    )


def test_csv_reads_back():
    scores, costs = benchmark()
    summary = tables.summarise(scores, costs, facts_of())
    pd.testing.assert_frame_equal(
        pd.read_csv(StringIO(tables.csv(summary)), keep_default_na=False, na_values=[""]).drop(columns="reason"),
        summary.drop(columns="reason"),
        check_dtype=False,
        rtol=1e-9,
    )


def test_layout_sorts_by_the_primary_endpoint_and_splits_by_substrate():
    scores, costs = benchmark()
    grid = layout(tables.summarise(scores, costs, facts_of()), facts_of())
    assert [line.label for line in grid.blocks[0].lines[:2]] == ["rise", "grad_cam"]
    assert {line.kind for line in grid.blocks[0].lines[2:]} == {"control"}
    titles = [block.title for block in grid.blocks]
    assert titles == ["Faithfulness", "Faithfulness, substrate freeze", "Localisation", "Cost"]
    assert [(h.title, h.detail, h.direction) for h in grid.blocks[1].headers] == [("deletion", "all, n=12", -1)]
    assert [h.detail for h in grid.blocks[2].headers] == ["all, n=12", "correct, n=9"]
    assert grid.blocks[2].lines[-1].kind == "chance"
    assert grid.blocks[2].lines[-1].cells[0].mean == "0.500"


def test_best_and_marks_follow_the_direction_of_the_metric():
    scores, costs = benchmark()
    grid = layout(tables.summarise(scores, costs, facts_of()), facts_of())
    for block in grid.blocks[:3]:
        cells = {line.label: line.cells[0] for line in block.lines}
        assert cells["rise"].is_best
        assert not cells["grad_cam"].is_best
        assert cells["rise"].beats_chance
        assert cells["grad_cam"].beats_chance
        assert not cells["random"].beats_chance
        assert not cells["centre"].is_best


def test_a_narrow_page_gets_more_blocks_with_the_same_cells():
    scores, costs = benchmark()
    summary = tables.summarise(scores, costs, facts_of())
    wide, narrow = layout(summary, facts_of(), 200), layout(summary, facts_of(), 40)
    assert len(narrow.blocks) > len(wide.blocks)

    def cells(grid):
        lines = [[line.cells for line in block.lines if line.kind != "chance"] for block in grid.blocks]
        return [column for block in lines for column in zip(*block, strict=True)]

    assert cells(wide) == cells(narrow)


def test_unequal_cells_get_notes_and_a_block_of_shared_clips():
    scores, costs = benchmark()
    gone = (scores["method"] == "rise") & (scores["metric"] == "srg") & (scores["clip"] < "c03")
    scores.loc[gone, ["value", "status", "reason"]] = [math.nan, "failed", "out of memory"]
    never = scores["method"] == "centre"
    scores.loc[never, ["value", "status", "reason"]] = [math.nan, "not_applicable", "no ReLU"]
    grid = layout(tables.summarise(scores, costs, facts_of()), facts_of())
    assert grid.notes == (("a", "n=9; failed on 3: out of memory"), ("b", "not applicable: no ReLU"))
    assert grid.blocks[1].title == "Faithfulness, shared clips"
    assert grid.blocks[1].headers[0].detail == "shared, n=9"
    assert {line.label: line.cells[0].mean for line in grid.blocks[0].lines}["centre"] == "n/a"
    assert any("failed on 3" in line for line in printed_lines(scores, costs))


def printed(summary, facts, width=110):
    console = Console(width=width, file=StringIO(), color_system=None)
    console.print(tables.console(one(summary, facts)))
    return console.file.getvalue()


def printed_lines(scores, costs):
    return printed(tables.summarise(scores, costs, facts_of()), facts_of()).splitlines()


@pytest.mark.parametrize(("groups", "warns"), [(6, True), (40, False)])
def test_few_groups_carry_a_warning_everywhere(groups, warns):
    scores, costs = benchmark({"rise": True}, clips=40, groups=groups)
    summary = tables.summarise(scores, costs, facts_of())
    outputs = [render(summary, facts_of()) for render in (printed, markdown, latex_of, html)]
    assert [("fewer than 40" in re.sub(r"\s+", " ", output)) for output in outputs] == [warns] * 4


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_console_fits_its_width_and_cuts_nothing(width):
    long = "selective_relevance:of=(integrated_gradients:baseline=blur,steps=64),sigma=2.5"
    methods = {**METHODS, long: True}
    scores, costs = benchmark(methods)
    scores.loc[(scores["method"] == long) & (scores["clip"] < "c02"), ["value", "status"]] = [math.nan, "failed"]
    summary = tables.summarise(scores, costs, facts_of(methods))
    output = printed(summary, facts_of(methods), width)
    assert max(map(len, output.splitlines())) <= width
    assert "…" not in output
    for block in layout(summary, facts_of(methods), width).blocks:
        for cell in block.lines[0].cells:
            assert cell.interval in output


def evil_tables():
    methods = {**METHODS, EVIL: True}
    scores, costs = benchmark(methods)
    scores.loc[(scores["method"] == EVIL) & (scores["clip"] < "c02"), ["value", "status", "reason"]] = [
        math.nan,
        "failed",
        "\\write18{rm} <img src=x> [/bold] | $x$ \x1b[31m",
    ]
    facts = facts_of(methods)
    facts["dataset"] = "a & b % c # d ~ e ^ f <b>"
    return tables.summarise(scores, costs, facts), facts


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.data = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.data.append(data)


def test_html_of_an_evil_name_holds_only_our_tags():
    page = Tags(html(*evil_tables()))
    assert page.tags <= {
        *("html", "head", "meta", "title", "style", "body", "p", "sup", "b", "small", "span", "br"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    }
    assert EVIL in page.data


def test_markdown_of_an_evil_name_keeps_its_columns():
    output = markdown(*evil_tables())
    assert "<script" not in output
    assert "<img" not in output
    assert r"evil\_\\input{x}&lt;script&gt;\[bold\]" in output
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 4, 5, 6}
    assert r"\| \$x\$" in output


def test_console_shows_an_evil_name_as_it_is():
    output = printed(*evil_tables())
    assert EVIL in output
    assert "[/bold] | $x$ ?[31m" in output
    assert "\x1b" not in output


def structure(latex):
    """LaTeX without comments and escaped characters."""
    return re.sub(r"\\[\\{}$&#_%]", " ", re.sub(r"(?<!\\)%.*", "", latex))


def test_latex_is_booktabs_balanced_and_inert():
    latex = latex_of(*evil_tables())
    assert r"\input" not in latex
    assert r"\write" not in latex
    assert r"\texttt{evil\_\textbackslash{}input\{x\}\textless{}script\textgreater{}{[}bold{]}}" in latex
    bare = structure(latex)
    depth = np.cumsum([{"{": 1, "}": -1}.get(char, 0) for char in bare])
    assert depth.min() == 0
    assert depth[-1] == 0
    assert bare.count("$") % 2 == 0
    assert not set("#~^_") & set(bare.replace("}~", "}").replace("Table~", "").replace("\\textsuperscript", ""))
    for rule in ("toprule", "midrule", "bottomrule"):
        assert latex.count(f"\\{rule}") >= latex.count(r"\begin{tabular}")
    for environment in ("table", "tabular"):
        assert latex.count(rf"\begin{{{environment}}}") == latex.count(rf"\end{{{environment}}}")


def test_latex_rows_fill_the_columns_of_their_tabular():
    for body in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", latex_of(*evil_tables()), re.DOTALL):
        spec, *rows = body.splitlines()
        columns = spec.count("l") + spec.count("r@")
        for row in rows:
            if row.endswith(r"\\"):
                spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
                assert len(re.findall(r"(?<!\\)&", row)) + spans + 1 == columns


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    document = (
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,siunitx,longtable}\begin{document}"
        + latex_of(*evil_tables())
        + r"\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_slug_is_a_safe_and_distinct_file_name():
    labels = ["grad_cam", "grad_cam:pool=frame", "grad_cam-pool=frame", EVIL, "../../etc/passwd", "", ".", "ü" * 300]
    names = [text.slug(label) for label in labels]
    assert names[0] == "grad_cam"
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,79}", name)


def test_text_stays_on_one_line_without_control_characters():
    assert text.printable("a\nb\x1b[31m\u202ec") == "a?b?[31m?c"
    assert text.html('"<&>') == "&quot;&lt;&amp;&gt;"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0"), (4000.0, "4,000"), (0.012345, "0.0123"), (1.5, "1.50"), (12.34, "12.3"), (math.nan, "nan")],
)
def test_costs_have_three_digits(value, expected):
    assert significant(value) == expected


def test_substrate_comes_from_the_label_or_is_declared():
    assert split_substrate("srg:substrate=freeze,unit=frame", {}) == ("srg:unit=frame", "freeze")
    assert split_substrate("srg", {"substrate": "blur3d"}) == ("srg", "blur3d")
    assert split_substrate("<not a spec>", {}) == ("<not a spec>", "")
