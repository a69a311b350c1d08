"""Write docs/metrics.md: what the docstrings say, the presets, and what theory says that control maps get.

    python docs/metrics_page.py

Every value beside a claim is measured anew, on the clips of `vidattr_bench.theory`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vidattr_bench import plugins, theory
from vidattr_bench.listing import render
from vidattr_bench.metric import Measurement, Metric
from vidattr_bench.presets import presets
from vidattr_bench.text import markdown

PAGE = Path(__file__).with_name("metrics.md")
FINDINGS = Path(__file__).with_name("metrics_findings.md")
COPIES = 20
COPIES_EXPLAINED = 2
THEORY = "## What theory says of control maps"
_NOTE = (
    f"Every metric of `--metrics all` on {3 * COPIES} small clips on which a bright box moves over noise, with a "
    "linear model whose logits are the brightness in the tube of each class; those that explain again, on "
    f"{3 * COPIES_EXPLAINED} clips with a model that sees the brightness of the whole clip "
    "(`vidattr_bench/theory.py`). oracle: 1 in the tubes, 0 elsewhere; inverted oracle: 1 - oracle; random: uniform "
    "noise; constant: 1 everywhere. In every cell stands what theory says and, in brackets, the mean that was "
    "measured, for random with its standard error. Numbers hold to 1e-9 for each clip, those of random maps in "
    "expectation; a relation to another column holds for the means. G are the voxels in the tubes, N all voxels, F the "
    "tube frames, t all frames, H the sum of 1/i for i to N; chance is the level that the metric itself states; share "
    "is its option. `tests/test_metrics_conformance.py` holds the code to the table."
)


def table(specs: Sequence[str]) -> str:
    """The table of theory, the reasons for what is missing below it, numbered."""
    metrics = {spec: plugins.create("metrics", spec) for spec in specs}
    reasons = list(dict.fromkeys(str(m.theory["none"]) for m in metrics.values() if "none" in m.theory))
    cases = {False: theory.cases(COPIES), True: theory.indifferent_cases(COPIES_EXPLAINED)}
    head = ["| metric | oracle | inverted oracle | random | constant |", "|---|---|---|---|---|"]
    rows = []
    for spec, metric in metrics.items():
        found = theory.measure(metric, cases[bool(metric.explains)])
        name = markdown(spec) + (
            f" [{reasons.index(str(metric.theory['none'])) + 1}]" if "none" in metric.theory else ""
        )
        rows.append(f"| {name} | {' | '.join(_cells(metric, found))} |")
    notes = [f"{number}. {markdown(reason)}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*head, *rows, "", *notes])


def _cells(metric: Metric, found: Mapping[str, Measurement]) -> list[str]:
    return [cell(metric.theory.get(name), found[name], name) for name in theory.CONTROLS]


def cell(claim: str | float | None, measured: Measurement, control: str) -> str:
    """What theory says and, in brackets, what was measured; a reason that theory foretells stands once."""
    stated = "" if claim is None else markdown(str(claim))
    values = measured.values[~measured.values.isnan()]
    if not len(values):
        reasons = markdown(", ".join(sorted(set(measured.reasons))))
        return stated if stated.endswith(reasons) else f"{stated} ({reasons})".strip()
    error = float(values.std()) / math.sqrt(len(values)) if control == "random" and len(values) > 1 else 0.0
    shown = f"{float(values.mean()):.4g}" + (f" &plusmn; {error:.1g}" if error else "")
    return f"{stated} ({shown})".strip()


def compose(theory_table: str) -> str:
    """The whole page."""
    head, _, sections = render("metrics", "md").partition("\n\n## ")
    head = head.replace("`python -m vidattr_bench list metrics --format md`", "`python docs/metrics_page.py`")
    findings = [FINDINGS.read_text(encoding="utf-8").strip()] if FINDINGS.exists() else []
    return "\n\n".join([head, THEORY, _NOTE, theory_table, *findings, f"## {sections}"]) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(compose(table(presets()["all"])), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
