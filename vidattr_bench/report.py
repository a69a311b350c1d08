"""What comes out of a run: the console table, summary files, plots and pictures, all from the run folder alone."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape

from vidattr_bench import pictures, plots, quantities, tables
from vidattr_bench.comparisons import DERIVED_COLUMNS, derived
from vidattr_bench.errors import DataError, RunError
from vidattr_bench.selection import Choice, RunSummary, pick, presets_of, run_names
from vidattr_bench.store import Store, open_run, write_atomically
from vidattr_bench.summary import COST_COLUMNS, metric_facts
from vidattr_bench.text import printable, slug


class Results:
    """What a run folder holds, each part read once."""

    def __init__(self, store: Store) -> None:
        self.store, self.folder = store, store.folder

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row a (clip, method, metric, seed)."""
        return self.store.scores()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What provenance.json tells of methods, metrics and clips, and how many clips could not be read."""
        facts = self.store.provenance()
        unread = self.scores["status"].eq("failed") & self.scores["prediction"].isna()
        facts.setdefault("clips", {})["unreadable"] = int(self.scores.loc[unread, "clip"].nunique())
        return facts

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a (method, metric, subset) with mean, interval and chance."""
        return tables.summarise(self.scores, self.costs, self.facts)

    @cached_property
    def derived(self) -> pd.DataFrame:
        """Quantities of the whole run, one row a (method, quantity, metric)."""
        return derived(self.scores, self.facts)

    @cached_property
    def quantities(self) -> dict[str, dict[str, Any]]:
        """What tables need to know of these quantities, by label."""
        return quantities.facts_of(self.derived)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One row a (clip, method, step)."""
        return self.store.costs()

    def labels(self, kind: str) -> list[str]:
        """The labels of the methods or metrics that it holds, in the order of provenance, costs last."""
        measured = set(self.scores["method" if kind == "methods" else "metric"])
        known = metric_facts(self.facts) if kind == "metrics" else self.facts.get("methods", {})
        if kind == "metrics":
            own = self.costs[self.costs["step"] == "attribution"]
            measured |= {metric for metric, column in COST_COLUMNS.items() if own[column].notna().any()}
        return [*(label for label in known if label in measured), *sorted(measured - set(known))]

    def chosen(self, name: str, choice: Choice) -> RunSummary:
        """The summary of the chosen methods on the chosen metrics, which alone are compared with each other.

        Below it stand the chosen quantities of the whole run.
        """
        rows, made = self._rows(choice), quantities.rows_of(self.derived, self.scores["clip"].nunique())
        for column, labels in (("metric", choice.metrics), ("method", choice.methods)):
            made = made[made[column].isin(labels)] if labels else made
        if made.empty:
            return RunSummary(name, rows, self.facts)
        metrics = {**self.facts.get("metrics", {}), **self.quantities}
        return RunSummary(name, pd.concat([rows, made] if len(rows) else [made]), {**self.facts, "metrics": metrics})

    def _rows(self, choice: Choice) -> pd.DataFrame:
        if not choice.metrics and not choice.methods and choice.mean == "clip":
            return self.summary
        chance = {label for label, fact in self.facts.get("methods", {}).items() if fact.get("is_chance")}
        methods = {*(choice.methods or self.labels("methods")), *chance}
        metrics = choice.metrics or self.labels("metrics")
        scores, costs = (rows[rows["method"].isin(methods)] for rows in (self.scores, self.costs))
        tested = choice.metrics or None
        return tables.summarise(scores, costs, self.facts, mean=choice.mean, metrics=metrics, tested=tested)


def open_runs(folders: Sequence[Path]) -> list[Results]:
    """The results in run folders; raises `RunError` where one holds no run or is named twice."""
    twice = [folder for at, folder in enumerate(folders) if folder.resolve() in [f.resolve() for f in folders[:at]]]
    if twice:
        raise RunError(f"{twice[0]} is named twice; a run stands in a table once")
    return [Results(open_run(folder)) for folder in folders]


def format_of(path: Path | None) -> str:
    """The format that the end of a file's name tells; the console's where it tells none."""
    endings = {".tex": "latex", ".md": "markdown", ".csv": "csv", ".html": "html", ".htm": "html"}
    return endings.get(path.suffix.lower() if path else "", "console")


def choose(runs: Sequence[Results], choice: Choice) -> tuple[list[RunSummary], Choice]:
    """The summaries of runs of what is chosen, and the choice with the labels that its names stand for.

    Raises:
        DataError: a metric or method is chosen that no run holds.
    """
    names = run_names([run.facts for run in runs], [run.folder.name for run in runs])
    choice = resolved(runs, choice, with_quantities=True)
    shown = [run.chosen(name, choice) for name, run in zip(names, runs, strict=True)]
    metrics, methods = ({label for run in shown for label in run.rows[column]} for column in ("metric", "method"))
    left = dataclasses.replace(
        choice,
        metrics=tuple(label for label in choice.metrics if label in metrics),
        methods=tuple(label for label in choice.methods if label in methods),
    )
    if bool(left.metrics) < bool(choice.metrics) or bool(left.methods) < bool(choice.methods):
        raise DataError("no run here holds a row of the chosen methods on the chosen metrics")
    return shown, left


def resolved(runs: Sequence[Results], choice: Choice, *, with_quantities: bool = False) -> Choice:
    """The choice with the labels that its names stand for, of metrics also those of quantities of the whole run.

    Raises:
        DataError: a name stands for nothing, or a quantity is chosen on some of the clips.
    """
    part = choice.subset not in (None, "all")
    whole = [name for name in choice.metrics if name.partition(":")[0] in (quantities.FAMILY, *quantities.FACTS)]
    if with_quantities and part and whole:
        raise DataError(f"{', '.join(whole)}: of all clips only; ask for it without --subset {choice.subset}")
    shown = runs if with_quantities and not part else []
    made = {label: fact for run in shown for label, fact in run.quantities.items()}
    metrics, methods = _resolved(choice.metrics, runs, "metrics", made), _resolved(choice.methods, runs, "methods", {})
    return dataclasses.replace(choice, metrics=metrics, methods=methods)


def _resolved(
    given: Sequence[str], runs: Sequence[Results], kind: str, more: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    declared: dict[str, Any] = {}
    for run in runs:
        facts = metric_facts(run.facts) if kind == "metrics" else run.facts.get(kind, {})
        declared = {**{label: facts.get(label, {}) for label in run.labels(kind)}, **declared}
    declared |= more
    presets = presets_of(run.facts for run in runs) if kind == "metrics" else {}
    return tuple(pick(given, declared, kind.removesuffix("s"), presets)) if given else ()


def write_choice(runs: Sequence[Results], choice: Choice, style: str, path: Path | None, console: Console) -> None:
    """Print a table of what is chosen of the runs, in one of `tables.FORMATS`, or write it into a file."""
    shown, choice = choose(runs, choice)
    if style == "console" and path is None:
        console.print(tables.console(shown, choice))
    elif path is None:
        sys.stdout.write(tables.render(shown, style, choice))
    else:
        write_atomically(path, tables.render(shown, style, choice, path.stem).encode())


def finish(store: Store, console: Console) -> None:
    """Write summary.*, plots/ and clips/, and print the table, what failed and where everything lies."""
    results = Results(store)
    write_tables(results)
    draw(results)
    print_table(results, console)
    console.print(f"[dim]rows, tables, plots and pictures: {escape(str(store.folder))}[/dim]", highlight=False)


def write_tables(results: Results) -> None:
    """Write summary.csv, summary.md, summary.tex, and derived.csv where metrics derive anything from the whole run."""
    runs, _ = choose([results], Choice())
    write_atomically(results.folder / "summary.csv", tables.csv(results.summary).encode())
    if not results.derived.empty:
        write_atomically(results.folder / "derived.csv", tables.csv(results.derived, DERIVED_COLUMNS).encode())
    write_atomically(results.folder / "summary.md", tables.render(runs, "markdown", Choice()).encode())
    write_atomically(results.folder / "summary.tex", tables.render(runs, "latex", Choice(), "summary").encode())


def print_table(results: Results, console: Console) -> None:
    """Print the table, then each reason for which a cell failed, with its count."""
    console.print(tables.console(choose([results], Choice())[0]))
    print_failures(results, console)


def print_failures(results: Results, console: Console) -> None:
    """Print each reason for which a cell failed, with its count."""
    failed = results.scores[results.scores["status"] == "failed"]
    reasons = Counter(zip(failed["method"], failed["reason"], strict=True))
    for (method, reason), count in reasons.most_common(10):
        line = printable(f"failed: {count} cells of {method}: {reason}")
        console.print(line, style="red", markup=False, highlight=False)


def draw(results: Results) -> list[Path]:
    """Draw the curves, the overview and the kept clips; returns the files."""
    folder, facts = results.folder, results.facts
    drawn = plots.draw_curves(results.store.curves(), results.scores, facts, folder / "plots")
    drawn += plots.draw_overview(results.summary, facts, folder / "plots")
    return drawn + draw_clips(results)


def draw_clips(results: Results, methods: Collection[str] = (), folder: Path | None = None) -> list[Path]:
    """Draw the kept clips with the maps of `methods`, by default all, into a subfolder of `folder` each.

    By default that is `clips/` of the run. Returns the files.
    """
    clips = sorted(path.parent for path in (results.folder / "clips").glob("*/frames.npy"))
    labels = [label for label in results.facts.get("methods", {}) if not methods or label in methods]
    target = folder or results.folder / "clips"
    return [path for clip in clips for path in _draw_clip(results.store, clip, labels, target / clip.name)]


def _draw_clip(store: Store, clip: Path, labels: Sequence[str], folder: Path) -> list[Path]:
    frames, tubes = (np.load(clip / name, allow_pickle=False) for name in ("frames.npy", "tubes.npy"))
    files = {label: store.folder / "maps" / clip.name / f"{slug(label)}.npy" for label in labels}
    maps = {label: np.load(path, allow_pickle=False) for label, path in files.items() if path.is_file()}
    return pictures.draw_clip(folder, frames, maps, tubes)
