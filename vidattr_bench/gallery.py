"""`plot`: every kind of figure of one or many runs, of chosen methods and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from vidattr_bench import agreement, charts, plots, report
from vidattr_bench.errors import DataError, did_you_mean
from vidattr_bench.report import Results
from vidattr_bench.selection import Choice, run_names
from vidattr_bench.summary import COST_FACTS, Facts, summarise
from vidattr_bench.text import slug


def draw(runs: Sequence[Results], choice: Choice, kinds: Sequence[str], folder: Path | None) -> list[Path]:
    """Draw figures of every run into `folder`, a subfolder a run where there are several; returns the files.

    Args:
        runs: what to read.
        choice: methods and metrics; by default all methods, and of the metrics what the kind of figure asks for.
        kinds: some of `KINDS`; all that apply where none is named.
        folder: where the files go, by default `plots/` of each run.

    Raises:
        DataError: a kind, method or metric that there is not, or nothing to draw.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise DataError(f"there is no plot of kind {kind!r}; {did_you_mean(kind, KINDS)}")
    choice = report.resolved(runs, choice)
    names = run_names([run.facts for run in runs], [run.folder.name for run in runs])
    files: list[Path] = []
    for name, run in zip(names, runs, strict=True):
        target = run.folder / "plots" if folder is None else folder / slug(name) if len(runs) > 1 else folder
        files += _draw_run(_Exhibit(run, choice, target), name, kinds)
    return files


def _draw_run(exhibit: _Exhibit, name: str, kinds: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for kind in kinds or KINDS:
        drawn = KINDS[kind][0](exhibit)
        if kinds and not drawn:
            raise DataError(f"{name}: nothing to draw for {kind}, which takes {KINDS[kind][1]}")
        files += drawn
    if not files:
        raise DataError(f"{name}: nothing to draw, no method has a value on a metric")
    return files


class _Exhibit:
    """The rows of a run that a choice leaves, and where its figures go."""

    def __init__(self, results: Results, choice: Choice, folder: Path) -> None:
        self.results, self.choice, self.folder = results, choice, folder

    @cached_property
    def facts(self) -> Facts:
        """Facts of the run."""
        return self.results.facts

    @cached_property
    def methods(self) -> set[str]:
        """The chosen methods."""
        return set(self.choice.methods or self.results.labels("methods"))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores of the chosen methods."""
        return self._of_methods(self.results.scores)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means of the chosen methods on the endpoints, and their costs."""
        costs = self._of_methods(self.results.costs)
        return summarise(self.scores, costs, self.facts, metrics={*self.endpoints, *COST_FACTS}, tested=())

    @cached_property
    def endpoints(self) -> list[str]:
        """The chosen metrics, or the primary ones, or the first of each family and substrate; none of cost."""
        if self.choice.metrics:
            return [metric for metric in self.choice.metrics if metric not in COST_FACTS]
        present = [metric for metric in self.results.labels("metrics") if metric not in COST_FACTS]
        primary = [m for m in present if self.facts.get("metrics", {}).get(m, {}).get("primary")]
        return primary or plots.first_of_each(present, self.facts)

    @cached_property
    def metrics(self) -> list[str]:
        """The chosen metrics, or all that the run has, but those of cost."""
        chosen = self.choice.metrics or self.results.labels("metrics")
        return [metric for metric in chosen if metric not in COST_FACTS]

    def curves(self) -> list[Path]:
        """Deletion and insertion curves."""
        curves = self._of_methods(self.results.store.curves())
        return plots.draw_curves(curves, self.scores, self.facts, self.folder)

    def overview(self) -> list[Path]:
        """Means and intervals on the endpoints."""
        return plots.draw_overview(self.summary, self.facts, self.folder, metrics=self.endpoints)

    def forest(self) -> list[Path]:
        """Differences to chance."""
        chance = {label for label, fact in self.facts.get("methods", {}).items() if fact.get("is_chance")}
        scores = self.results.scores
        scores = scores[scores["method"].isin(self.methods | chance)]
        return self._each(lambda metric: charts.draw_forest(scores, metric, self.facts, self.folder))

    def ranks(self) -> list[Path]:
        """Ranks with intervals."""
        return self._each(lambda metric: charts.draw_ranks(self.scores, metric, self.facts, self.folder))

    def cost(self) -> list[Path]:
        """Quality against cost."""
        return self._each(lambda metric: charts.draw_cost(self.summary, metric, self.facts, self.folder))

    def correlation(self) -> list[Path]:
        """Agreement of metrics."""
        return agreement.draw_correlation(self.scores, self.metrics, self.facts, self.folder)

    def reliability(self) -> list[Path]:
        """Agreement of clips."""
        return agreement.draw_reliability(self.scores, self.metrics, self.facts, self.folder)

    def clips(self) -> list[Path]:
        """Pictures of the kept clips, in `clips/` of the run where its figures lie in `plots/`."""
        is_own = self.folder == self.results.folder / "plots"
        return report.draw_clips(self.results, self.methods, None if is_own else self.folder / "clips")

    def _of_methods(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["method"].isin(self.methods)]

    def _each(self, draw_one: Callable[[str], list[Path]]) -> list[Path]:
        declared = self.facts.get("metrics", {})
        found = set(self.scores["metric"])
        directed = [m for m in self.endpoints if m in found and declared.get(m, {}).get("higher_is_better") is not None]
        return [path for metric in directed for path in draw_one(metric)]


KINDS: dict[str, tuple[Callable[[_Exhibit], list[Path]], str]] = {
    "curves": (_Exhibit.curves, "perturbation curves, which metrics of faithfulness leave"),
    "overview": (_Exhibit.overview, "a metric with values"),
    "forest": (_Exhibit.forest, "the chance control and another method with values on the same clips"),
    "ranks": (_Exhibit.ranks, "two informed methods with values on a metric that has a direction"),
    "correlation": (_Exhibit.correlation, "three informed methods with values on two metrics that have a direction"),
    "cost": (_Exhibit.cost, "methods that call the network, with values and costs"),
    "reliability": (_Exhibit.reliability, "three informed methods on a metric that has a direction, in two groups"),
    "clips": (_Exhibit.clips, "clips that the run kept (--pictures)"),
}
"""What `--kind` names: how it is drawn, and what it takes."""
