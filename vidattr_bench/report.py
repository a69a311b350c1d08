"""What comes out of a run: the console table, summary files, plots and pictures, all from the run folder alone."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape

from vidattr_bench import pictures, plots, tables
from vidattr_bench.store import Store, write_atomically
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
        return tables.summarise(self.scores, self.store.costs(), self.facts)


def finish(store: Store, console: Console) -> None:
    """Write summary.*, plots/ and clips/, and print the table, what failed and where everything lies."""
    results = Results(store)
    write_tables(results)
    draw(results)
    print_table(results, console)
    console.print(f"[dim]rows, tables, plots and pictures: {escape(str(store.folder))}[/dim]", highlight=False)


def write_tables(results: Results) -> None:
    """Write summary.csv, summary.md and summary.tex."""
    table, facts = results.summary, results.facts
    write_atomically(results.folder / "summary.csv", tables.csv(table).encode())
    write_atomically(results.folder / "summary.md", tables.markdown(table, facts).encode())
    write_atomically(results.folder / "summary.tex", tables.latex(table, facts).encode())


def print_table(results: Results, console: Console) -> None:
    """Print the table, then each reason for which a cell failed, with its count."""
    console.print(tables.console(results.summary, results.facts))
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
    for clip in sorted(path.parent for path in (folder / "clips").glob("*/frames.npy")):
        drawn += _draw_clip(results.store, clip, list(facts.get("methods", {})))
    return drawn


def _draw_clip(store: Store, folder: Path, labels: list[str]) -> list[Path]:
    frames, tubes = (np.load(folder / name, allow_pickle=False) for name in ("frames.npy", "tubes.npy"))
    files = {label: store.folder / "maps" / folder.name / f"{slug(label)}.npy" for label in labels}
    maps = {label: np.load(path, allow_pickle=False) for label, path in files.items() if path.is_file()}
    return pictures.draw_clip(folder, frames, maps, tubes)
