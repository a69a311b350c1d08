"""A pytest plug-in: the fixture `vidattr_gate` holds a project's own method to an accepted run in its own test suite.

pytest loads it where vidattr_bench is installed; it imports nothing heavy before a test asks for the fixture.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vidattr_bench.compare import Comparison

_FROM_REFERENCE = ("dataset", "model", "stream", "target", "precision", "class_map", "sample")


@dataclasses.dataclass(frozen=True)
class Gate:
    """Runs methods on the clips of an accepted run, and fails the test where one got worse.

    Attributes:
        folder: where the runs go, a folder each.
    """

    folder: Path

    def __call__(
        self,
        methods: Sequence[str],
        reference: str | Path,
        *,
        metrics: Sequence[str] = (),
        limit: int | None = None,
        margins: str | Path | Mapping[str, Any] | None = None,
        strict: bool = True,
        **options: Any,
    ) -> Comparison:
        """Run, compare, and fail the test with the cells that got worse.

        Data set, model, target, precision and sample are those of the reference's run.yaml, which names code of your
        own where you gave such. A method that the reference does not hold fails: there is nothing to hold it to.

        Args:
            methods: specs, as for `run --methods`.
            reference: folder of the accepted run.
            metrics: specs or presets; by default all that the reference holds.
            limit: number of clips, evenly spaced; by default those of the reference.
            margins: a file, or what it holds; by default the margins.yaml beside the reference or above it.
            strict: whether an inconclusive cell fails the test; else it warns.
            options: others of `vidattr_bench.run`, such as batch_size or accelerator.

        Returns:
            The comparison, for further assertions.
        """
        __tracebackhide__ = True
        from vidattr_bench.compare import compare

        folder = self.folder / f"run-{sum(1 for _ in self.folder.iterdir())}"
        _run(Path(reference), folder, methods, metrics, limit, options)
        missing = ["methods", *["metrics"] * bool(metrics), *["clips"] * (limit is not None)]
        given = Path(margins) if isinstance(margins, str) else margins
        found = compare(Path(reference), folder, margins=given, allow_missing=missing)
        unknown = {cell.method for cell in found.cells} - {c.method for c in found.cells if c.verdict != "added"}
        if unknown:
            pytest.fail(f"{reference} holds no {', '.join(sorted(unknown))}; accept a run with it first", pytrace=False)
        if found.verdict == "regressed" or (found.verdict == "inconclusive" and strict):
            pytest.fail(_message(found), pytrace=False)
        if found.verdict == "inconclusive":
            warnings.warn(pytest.PytestWarning(_message(found)), stacklevel=2)
        return found


def _run(
    reference: Path,
    folder: Path,
    methods: Sequence[str],
    metrics: Sequence[str],
    limit: int | None,
    options: Mapping[str, Any],
) -> None:
    """Run with the settings of the reference."""
    import vidattr_bench
    from vidattr_bench.store import open_run

    accepted = open_run(reference).settings()
    settings = {key: accepted[key] for key in _FROM_REFERENCE if accepted.get(key) is not None}
    settings |= {"limit": accepted.get("limit") if limit is None else limit, "pictures": 0, "output": folder}
    settings |= {"methods": list(methods), "metrics": list(metrics or accepted.get("metrics", ["default"]))}
    done = vidattr_bench.run(**{**settings, **options})
    if done.failed:
        scores = done.scores()
        reasons = scores.loc[scores["status"] == "failed", "reason"].value_counts().head(3)
        pytest.fail(f"{done.failed} cells failed: {'; '.join(map(str, reasons.index))}", pytrace=False)


def _message(comparison: Comparison) -> str:
    """The verdict, and a line a cell that did not pass."""
    from vidattr_bench import verdicts

    compared = [comparison, *([comparison.drift] if comparison.drift else [])]
    worse = ("regressed", "missing", "inconclusive")
    lines = [verdicts.sentence(cell) for part in compared for cell in part.cells if cell.verdict in worse]
    notes = [f"note: {note}" for note in comparison.notes]
    return "\n  ".join([verdicts.headline(comparison), *lines, *notes])


@pytest.fixture
def vidattr_gate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Comparison]:
    """Call it with `methods` and the folder of a `reference` run: it runs, compares and fails the test on a loss."""
    return Gate(tmp_path_factory.mktemp("vidattr_gate"))
