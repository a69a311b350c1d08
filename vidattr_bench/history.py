"""Accepted runs: the small part of a run that later ones are compared with, and a line of history for each."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vidattr_bench import comparable, report
from vidattr_bench.comparable import MUST_AGREE, NotComparableError, RunData
from vidattr_bench.compare import ANCHORS, Comparison, compare
from vidattr_bench.errors import RunError, did_you_mean
from vidattr_bench.store import Store, write_atomically
from vidattr_bench.summary import attribution_costs, per_clip
from vidattr_bench.text import slug

REFERENCES = Path("results/reference")
FILE = "history.jsonl"
_KEPT = ("provenance.json", "run.yaml", "summary.csv", "summary.md", "summary.tex")
NOT_COMPARED = ("first", "forced")  # verdicts of runs that there was nothing to compare with
_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """An accepted run.

    Attributes:
        folder: where it lies now.
        comparison: how it stood against the reference before it, None where there was none.
    """

    folder: Path
    comparison: Comparison | None


def accept(
    new: Path,
    *,
    name: str = "",
    note: str = "",
    date: str = "",
    force: bool = False,
    anchor: bool = False,
    references: Path = REFERENCES,
    margins: Path | None = None,
) -> Acceptance:
    """Make a run the reference, and write it into the history.

    Args:
        new: folder of the run.
        name: folder under `references`; by default data set and model.
        note: why, for those who read the history.
        date: ISO date of the entry; by default that of the run's commit, else today's.
        force: accept what regressed or cannot be compared; needs a note.
        anchor: also make it the run that drift is measured from.
        references: the folder of accepted runs.
        margins: the file of margins, where it does not lie beside the references or above.

    Raises:
        RunError: it regressed against the present reference or cannot be compared with it, and `force` is not given.
    """
    if force and not note.strip():
        raise RunError("--force needs --note TEXT: the history must say why a worse or another run was accepted")
    _check_date(date)
    run = comparable.load(new)
    target = references / (name or _name(run))
    if new.resolve() == target.resolve():
        raise RunError(f"{new} is the reference itself; accept another run")
    comparison = _stands(target, new, margins, force)
    entry = _entry(run, target.name, note, date, comparison, forced=force, anchor=anchor)
    _replace(target, run)
    if anchor:
        _replace(references / ANCHORS / target.name, run)
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*read(references), entry])
    write_atomically(references / FILE, lines.encode())
    return Acceptance(target, comparison)


def _name(run: RunData) -> str:
    names = (run.facts.get("dataset", "unknown"), run.facts.get("model", "unknown"), run.facts.get("stream"))
    return slug("-".join(str(name) for name in names if name))


def _check_date(date: str) -> None:
    try:
        datetime.date.fromisoformat(date or "2000-01-01")
    except ValueError as error:
        raise RunError(f"--date {date!r} is not a date such as 2026-11-20") from error


def _stands(target: Path, new: Path, margins: Path | None, force: bool) -> Comparison | None:
    """How the run stands against the reference it would replace; None where there is none to compare with."""
    if not (target / "provenance.json").is_file():
        return None
    try:
        found = compare(target, new, margins=margins)
    except NotComparableError as error:
        if force:
            return None
        raise RunError(f"{error}; --force --note TEXT accepts it all the same") from error
    if found.verdict == "regressed" and not force:
        worse = [f"{c.metric} of {c.method}" for c in found.cells if c.verdict in ("regressed", "missing")]
        named = ", ".join(worse[:5]) or "drift from the anchored run"
        more = f" and {len(worse) - 5} more" if len(worse) > 5 else ""
        raise RunError(f"{new} regressed: {named}{more}; mend it, or accept it with --force --note TEXT")
    return found


def _replace(target: Path, run: RunData) -> None:
    """Put the small part of a run in place of `target`: whole or not at all, the one before kept until then."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    before = target.with_name(f".{target.name}.before.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(run, beside)
        if target.exists():
            target.rename(before)
        try:
            beside.rename(target)
        except OSError:
            if before.exists():
                before.rename(target)
            raise
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror or error}; the reference is as it was") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def _copy(run: RunData, folder: Path) -> None:
    """Copy scores, costs and the small files; run.yaml without its output, so that running it spoils nothing."""
    for kind in ("scores", "costs"):
        (folder / kind).mkdir(parents=True)
        for part in Store(run.folder).parts(kind):
            shutil.copyfile(part.path, folder / kind / part.path.name)
    for name in _KEPT:
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
    copied = Store(folder)
    if copied.settings():
        copied.write_settings({**copied.settings(), "output": None})
    if not (folder / "summary.csv").is_file():
        report.write_tables(report.Results(copied))


def _entry(
    run: RunData, name: str, note: str, date: str, comparison: Comparison | None, *, forced: bool, anchor: bool
) -> dict[str, Any]:
    depends_on = run.facts.get("depends_on", {})
    question = {key: depends_on.get(key) for key in MUST_AGREE if key in depends_on or key != "stream"}
    return {
        "run": name,
        "date": date or _commit_date(str(run.facts.get("git_commit") or "")),
        "commit": run.facts.get("git_commit", ""),
        "versions": run.facts.get("versions", {}),
        "note": note,
        "verdict": comparison.verdict if comparison else NOT_COMPARED[forced],
        "forced": forced,
        "anchor": anchor,
        "settings": hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:12],
        "hash": _hash(run),
        "clips": int(run.scores["clip"].nunique()),
        "means": _means(run),
    }


def _commit_date(commit: str) -> str:
    """The day of a commit, where git knows it, else today; the name comes from a file and must not be an option."""
    command = ["git", "log", "-1", "--format=%cs", "--end-of-options", commit.rstrip("+")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        return datetime.date.fromisoformat(done.stdout.strip()).isoformat()
    except (OSError, subprocess.SubprocessError, ValueError):
        return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def _hash(run: RunData) -> str:
    """SHA-256 (16 hex digits) of the names of the score parts, which are hashes of their bytes."""
    names = sorted(part.path.name for part in Store(run.folder).parts("scores"))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _means(run: RunData) -> dict[str, dict[str, float]]:
    """Mean over clips by method and metric, costs included."""
    costs = attribution_costs(run.scores, run.costs, run.facts)
    rows = pd.concat([per_clip(run.scores)[["method", "metric", "value"]], costs[["method", "metric", "value"]]])
    means = rows.groupby(["method", "metric"], sort=False)["value"].mean().dropna()
    found: dict[str, dict[str, float]] = {}
    for row in means.reset_index().itertuples(index=False):
        found.setdefault(str(row.method), {})[str(row.metric)] = float(f"{row.value:.{_DIGITS}g}")
    return found


def read(references: Path = REFERENCES, name: str = "") -> list[dict[str, Any]]:
    """The entries of the history, oldest first; of one run where `name` is given.

    Raises:
        RunError: a line is damaged.
    """
    path = references / FILE
    if not path.is_file():
        return []
    entries = [_line(text, path, number) for number, text in enumerate(path.read_text("utf-8").splitlines(), 1) if text]
    return [entry for entry in entries if name in ("", entry["run"])]


def _line(text: str, path: Path, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path}, line {number} is not JSON: {error}; restore it from git") from error
    means = entry.get("means") if isinstance(entry, dict) else None
    if not isinstance(means, dict) or not all(isinstance(part, dict) for part in means.values()) or "run" not in entry:
        raise RunError(f"{path}, line {number} is no entry of the history; restore it from git")
    found: dict[str, Any] = entry
    return found


def means(entries: list[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a (entry, method, metric) with its mean; `entry` counts accepted runs from 0."""
    return pd.DataFrame(_rows(entries), columns=["entry", "method", "metric", "mean"])


def _rows(entries: list[Mapping[str, Any]]) -> Iterator[tuple[int, str, str, float]]:
    for at, entry in enumerate(entries):
        for method, metrics in entry["means"].items():
            for metric, value in metrics.items():
                yield at, method, metric, float(value)


def of_one_run(references: Path = REFERENCES, name: str = "") -> list[dict[str, Any]]:
    """The entries of a name, of the only one where none is given.

    Raises:
        RunError: there are none, or there are several names.
    """
    entries = read(references)
    names = sorted({entry["run"] for entry in entries})
    if not entries:
        raise RunError(f"{references / FILE} holds no accepted run yet; `accept RUN` writes the first")
    if name and name not in names:
        raise RunError(f"{references / FILE} holds no run {name!r}; {did_you_mean(name, names)}")
    if not name and len(names) > 1:
        raise RunError(f"{references / FILE} holds several runs; choose one with --run: {', '.join(names)}")
    return [entry for entry in entries if entry["run"] == (name or names[0])]
