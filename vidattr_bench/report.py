"""What comes out of a run: the console table, summary files, plots and pictures, all from the run folder alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape

from vidattr_bench import pictures, plots, tables
from vidattr_bench.store import Store, write_atomically
from vidattr_bench.text import slug


def summary(store: Store) -> pd.DataFrame:
    """One row a (method, metric, subset) with mean, interval and chance."""
    return tables.summarise(store.scores(), store.costs(), facts_of(store))


def facts_of(store: Store) -> dict[str, Any]:
    """What provenance.json tells of methods, metrics and clips, and how many clips could not be read."""
    facts, scores = store.provenance(), store.scores()
    unread = scores["status"].eq("failed") & scores["prediction"].isna()
    facts.setdefault("clips", {})["unreadable"] = int(scores.loc[unread, "clip"].nunique())
    return facts


def finish(store: Store, console: Console) -> None:
    """Write summary.*, plots/ and clips/, and print the table, what failed and where everything lies."""
    table = write_tables(store)
    draw(store)
    print_table(store, table, console)
    console.print(f"[dim]rows, tables, plots and pictures: {escape(str(store.folder))}[/dim]", highlight=False)


def write_tables(store: Store) -> pd.DataFrame:
    """Write summary.csv, summary.md and summary.tex; returns the summary."""
    table, facts = summary(store), facts_of(store)
    write_atomically(store.folder / "summary.csv", tables.csv(table).encode())
    write_atomically(store.folder / "summary.md", tables.markdown(table, facts).encode())
    write_atomically(store.folder / "summary.tex", tables.latex(table, facts).encode())
    return table


def print_table(store: Store, table: pd.DataFrame, console: Console) -> None:
    """Print the table, then each reason for which a cell failed, with its count."""
    console.print(tables.console(table, facts_of(store)))
    scores = store.scores()
    failed = scores[scores["status"] == "failed"]
    reasons = Counter(zip(failed["method"], failed["reason"], strict=True))
    for (method, reason), count in reasons.most_common(10):
        console.print(f"failed: {count} cells of {method}: {reason}", style="red", markup=False, highlight=False)


def draw(store: Store) -> list[Path]:
    """Draw the curves, the overview and the kept clips; returns the files."""
    scores, facts = store.scores(), facts_of(store)
    drawn = plots.draw_curves(store.curves(), scores, facts, store.folder / "plots")
    drawn += plots.draw_overview(summary(store), facts, store.folder / "plots")
    for folder in sorted(path.parent for path in (store.folder / "clips").glob("*/frames.npy")):
        drawn += _draw_clip(store, folder, list(facts["methods"]))
    return drawn


def _draw_clip(store: Store, folder: Path, labels: list[str]) -> list[Path]:
    frames, tubes = (np.load(folder / name, allow_pickle=False) for name in ("frames.npy", "tubes.npy"))
    files = {label: store.folder / "maps" / folder.name / f"{slug(label)}.npy" for label in labels}
    maps = {
        label: np.load(path, allow_pickle=False).astype(np.float32) for label, path in files.items() if path.is_file()
    }
    return pictures.draw_clip(folder, frames, maps, tubes)
