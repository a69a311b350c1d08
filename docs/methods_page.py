"""Write docs/methods.md: what the docstrings say, which method applies to which network, what each scored and why.

    python docs/methods_page.py

The networks with real weights are read from the folder `shared/data` beside the project; without it their columns stay
as they are on the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from vidattr_bench import plugins
from vidattr_bench.applicability import applicability
from vidattr_bench.clip import Batch
from vidattr_bench.fixtures import NETWORKS, as_model, small_batch
from vidattr_bench.listing import render
from vidattr_bench.method_checks import every_spec, quickly
from vidattr_bench.model import VideoModel
from vidattr_bench.text import markdown

PAGE = Path(__file__).with_name("methods.md")
FINDINGS = Path(__file__).with_name("methods_findings.md")
REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "planted_actions-tiny3d"
MODELS = Path(__file__).resolve().parents[2] / "shared" / "data" / "models"
APPLIES = "map"
Subject = Callable[[], tuple[VideoModel, Batch]]


def small(build: Callable[[], torch.nn.Module]) -> tuple[VideoModel, Batch]:
    """A small network with random weights, and two clips."""
    return as_model(build), small_batch(2)


def real(spec: str, size: tuple[int, int, int]) -> tuple[VideoModel, Batch]:
    """A network of the zoo with its trained weights, and two clips of this size."""
    model: VideoModel = plugins.create("models", spec).build()
    return model, small_batch(2, size)


SMALL: Mapping[str, Subject] = {name: partial(small, build) for name, build in NETWORKS.items()}
REAL: Mapping[str, Subject] = {
    "R(2+1)D-Light": partial(
        real, f"r2plus1d_light:checkpoint={MODELS / 'ucf101_r2plus1d_light_112.pth'}", (10, 48, 56)
    ),
    "LRCN": partial(
        real,
        f"lrcn:checkpoint={MODELS / 'ucf50_lrcn_64x20.h5'},classes_file={MODELS / 'ucf50_labels.txt'}",
        (20, 64, 64),
    ),
}


def outcomes(subjects: Mapping[str, Subject], specs: Sequence[str]) -> pd.DataFrame:
    """The word map, or the reason why there is none: a row a spec, a column a network."""
    columns = {}
    for name, make in subjects.items():
        model, batch = make()
        columns[name] = [applicability(quickly(spec), model, batch) or APPLIES for spec in specs]
    return pd.DataFrame(columns, index=list(specs))


def matrix(found: pd.DataFrame) -> str:
    """The outcomes as a table whose reasons stand below it, numbered."""
    reasons = list(dict.fromkeys(reason for reason in found.to_numpy().ravel() if reason != APPLIES))
    shown = found.map(lambda cell: cell if cell == APPLIES else f"[{reasons.index(cell) + 1}]")
    rows = [
        f"| {markdown(spec)} | {' | '.join(row)} |" for spec, row in zip(shown.index, shown.to_numpy(), strict=True)
    ]
    table = [f"| method | {' | '.join(map(markdown, found.columns))} |", "|---" * (1 + len(found.columns)) + "|", *rows]
    notes = [f"{number}. {markdown(reason)}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*table, "", *notes])


def read_matrix(page: str) -> pd.DataFrame:
    """The outcomes that a written page shows."""
    lines = [line for line in _section(page, MATRIX).splitlines() if line]
    unescaped = [html.unescape(re.sub(r"\\(.)", r"\1", line)) for line in lines]
    reasons = [line.partition(". ")[2] for line in unescaped if re.match(r"\d+\. ", line)]
    head, _, *rows = [line.strip("| ").split(" | ") for line in unescaped if line.startswith("|")]
    cells = [[cell if cell == APPLIES else reasons[int(cell.strip("[]")) - 1] for cell in row[1:]] for row in rows]
    return pd.DataFrame(cells, index=[row[0] for row in rows], columns=head[1:])


def scores(summary: pd.DataFrame) -> str:
    """What every method scored in the reference run, with 95 % intervals; SRG as the paired difference to random."""
    rows = summary[(summary["subset"] == "all") & ~summary["metric"].isin(["seconds", "forwards", "backwards"])]
    cells = {(row.method, row.metric): row for row in rows.itertuples()}
    metrics = [name for name in ("roc_auc", "srg", "srg:substrate=freeze") if any(m == name for _, m in cells)]
    lines = [f"| method | {' | '.join(metrics)} |", "|---" * (1 + len(metrics)) + "|"]
    for method in dict.fromkeys(rows["method"]):
        shown = [_figure(cells.get((method, metric)), metric) for metric in metrics]
        lines.append(f"| {markdown(method)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _figure(row: object, metric: str) -> str:
    names = ("mean", "low", "high") if metric == "roc_auc" else ("difference", "difference_low", "difference_high")
    mean, low, high = (getattr(row, name, float("nan")) for name in names)
    if mean != mean:
        return "-"
    chance = 0.5 if metric == "roc_auc" else 0.0
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]{'' if low > chance else ' (!)'}"


MATRIX = "## Which method applies to which network"
SCORES = "## What each method scored on planted_actions"
_MATRIX_NOTE = (
    "Every method in every variant, with the settings that make it cheap to check, on two clips. `map`: a finite map "
    "of the clips' size that is not constant, at the declared cost, the same for a clip alone, with nothing left "
    "behind. A number: the method does not apply, for the reason below. R(2+1)D-Light and LRCN carry trained weights, "
    "the others random ones."
)
_SCORES_NOTE = (
    "The accepted run in `results/reference/planted_actions-tiny3d`: means over its clips with 95 % intervals; SRG as "
    "the paired difference to random. (!): the interval does not lie above chance; why, stands below the table."
)


def _section(page: str, title: str) -> str:
    return page.partition(f"{title}\n")[2].partition("\n## ")[0]


def compose(found: pd.DataFrame, summary: pd.DataFrame) -> str:
    """The whole page."""
    head, _, sections = render("methods", "md").partition("\n\n## ")
    head = head.replace("`python -m vidattr_bench list methods --format md`", "`python docs/methods_page.py`")
    scored = [SCORES, _SCORES_NOTE, scores(summary), FINDINGS.read_text(encoding="utf-8").strip()]
    parts = [head, MATRIX, _MATRIX_NOTE, matrix(found), *scored, f"## {sections}"]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page."""
    specs = every_spec()
    found = outcomes(SMALL, specs)
    for name, make in REAL.items():
        known = MODELS.is_dir()
        column = outcomes({name: make}, specs)[name] if known else read_matrix(PAGE.read_text())[name].reindex(specs)
        found[name] = column
    PAGE.write_text(compose(found, pd.read_csv(REFERENCE / "summary.csv")), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
