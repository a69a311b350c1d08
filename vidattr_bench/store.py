"""A run on disk: settings, provenance, and Parquet parts of scores, costs and curves that survive any death.

A finished batch of the plan is three parts, `costs`, `curves` and last `scores`, which commits it. A part is named
`<batch>-<generation>-<SHA-256 of its bytes>.parquet`, appears by an atomic rename, and counts only if its bytes still
have that hash. A later generation of a batch holds rows added or tried again; it wins.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from vidattr_bench.errors import RunError

_TEXT, _REAL, _INT = pa.string(), pa.float64(), pa.int64()
SCHEMAS = {
    "scores": pa.schema(
        [(name, _TEXT) for name in ("dataset", "split", "clip", "group", "label", "prediction", "target")]
        + [("correct", pa.bool_())]
        + [(name, _TEXT) for name in ("model", "weights", "method", "metric")]
        + [("seed", _INT), ("value", _REAL), ("chance", _REAL), ("status", _TEXT), ("reason", _TEXT)]
    ),
    "costs": pa.schema(
        [(name, _TEXT) for name in ("clip", "method", "step")]
        + [(name, _REAL) for name in ("seconds", "forwards", "backwards", "memory")]
    ),
    "curves": pa.schema(
        [(name, _TEXT) for name in ("clip", "method", "unit", "substrate", "order")]
        + [("seed", _INT), ("fraction", _REAL), ("score", _REAL), ("steps", _INT)]
    ),
}
_KEYS = {
    "scores": ["clip", "method", "metric", "seed"],
    "costs": ["clip", "method", "step"],
    "curves": ["clip", "method", "unit", "substrate", "steps", "order", "seed", "fraction"],
}
_RESTORE = "restore it, or choose another folder with --output"
_PART = re.compile(r"(\d{6})-(\d{3})-([0-9a-f]{64})\.parquet")


class Cell(NamedTuple):
    """What one score row is about, within a run."""

    clip: str
    method: str
    metric: str
    seed: int


MAP = ""
"""What stands for the metric in a cell that is about the map itself."""


class Part(NamedTuple):
    """One committed part and where it stands."""

    number: int
    generation: int
    path: Path


class Store:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self) -> None:
        """Make the folders; raises `RunError` where that is not possible."""
        try:
            for kind in SCHEMAS:
                (self.folder / kind).mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"cannot write to the run folder {self.folder}: {error.strerror or error}; "
                "make it writable or choose another with --output"
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against a second process; the lock dies with its holder."""
        with (self.folder / ".lock").open("a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, no worker inherits it
            except OSError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RunError(
                    f"another process (pid {holder}) is running in {self.folder}; wait for it, or choose --output"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def write(self, number: int, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Commit the rows of batch `number`: costs and curves first, scores last."""
        generation = 1 + max((p.generation for p in self.parts("scores") if p.number == number), default=-1)
        for kind in ("costs", "curves", "scores"):
            self._write_part(kind, number, generation, rows[kind])

    def _write_part(self, kind: str, number: int, generation: int, rows: Sequence[Mapping[str, Any]]) -> None:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMAS[kind])
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        content = sink.getvalue().to_pybytes()
        stem = f"{number:06d}-{generation:03d}-"
        path = self.folder / kind / f"{stem}{hashlib.sha256(content).hexdigest()}.parquet"
        write_atomically(path, content)
        for stale in path.parent.glob(f"{stem}*.parquet"):
            if stale != path:
                stale.unlink()

    def parts(self, kind: str) -> list[Part]:
        """Parts of a kind in order of batch and generation, their bytes not yet looked at."""
        found = []
        for path in sorted((self.folder / kind).glob("*.parquet")):
            match = _PART.fullmatch(path.name)
            if match:
                found.append(Part(int(match[1]), int(match[2]), path))
        return found

    def set_aside_corrupt(self) -> list[Path]:
        """Hide every batch generation of which a part does not have its hash any more, so that it is computed anew."""
        bad = self._damaged()
        hidden = [p.path for kind in SCHEMAS for p in self.parts(kind) if (p.number, p.generation) in bad]
        for path in hidden:
            path.rename(path.with_name(f".corrupt-{path.name}"))
        return hidden

    def _damaged(self) -> set[tuple[int, int]]:
        """(Number, generation) of batches of which a part has lost its hash, or of which costs or curves are gone."""
        bad = {(p.number, p.generation) for kind in SCHEMAS for p in self.parts(kind) if not _intact(p.path)}
        costs, curves = ({(p.number, p.generation) for p in self.parts(kind)} for kind in ("costs", "curves"))
        return bad | ({(p.number, p.generation) for p in self.parts("scores")} - (costs & curves))

    def read(self, kind: str) -> pd.DataFrame:
        """All committed rows of a kind, the latest generation of each, hashes checked.

        Raises:
            RunError: a part's bytes do not have the hash in its name.
        """
        parts = self._committed(kind)
        for part in parts:
            if not _intact(part.path):
                raise RunError(
                    f"{part.path} is damaged: its bytes do not have the hash in its name; "
                    f"`run --config {self.folder / 'run.yaml'}` computes those rows again"
                )
        return _load(kind, parts)

    def _committed(self, kind: str) -> list[Part]:
        committed = {(p.number, p.generation) for p in self.parts("scores")}
        return [p for p in self.parts(kind) if (p.number, p.generation) in committed]

    def finished(self) -> set[Cell]:
        """Cells that need no more work: all but the failed ones."""
        return self.cells("ok", "undefined", "not_applicable")

    def cells(self, *statuses: str) -> set[Cell]:
        """Cells whose row is committed and intact and has one of these statuses."""
        damaged = self._damaged()
        scores = _load("scores", [p for p in self._committed("scores") if (p.number, p.generation) not in damaged])
        done = scores[scores["status"].isin(statuses)]
        columns = [done[key].tolist() for key in _KEYS["scores"]]
        return {Cell(*row) for row in zip(*columns, strict=True)}

    def scores(self) -> pd.DataFrame:
        """One row a (clip, method, metric, seed)."""
        return self.read("scores")

    def costs(self) -> pd.DataFrame:
        """One row a (clip, method, step); the method is empty where all methods share the step."""
        return self.read("costs")

    def curves(self) -> pd.DataFrame:
        """One row a point of a perturbation curve; `steps` is NaN in folders that an older version wrote without it."""
        return self.read("curves")

    def write_array(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Write an array under the run folder as .npy."""
        path = self.folder / name
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {path.parent}: {error.strerror or error}") from error
        write_atomically(path, buffer.getvalue())

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write run.yaml, which `run --config` reads."""
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        write_atomically(self.folder / "run.yaml", text.encode())

    def settings(self) -> dict[str, Any]:
        """The content of run.yaml, or nothing where there is none."""
        return read_yaml(self.folder / "run.yaml") if (self.folder / "run.yaml").is_file() else {}

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Write provenance.json."""
        text = json.dumps(provenance, indent=2, ensure_ascii=False, default=str)
        write_atomically(self.folder / "provenance.json", text.encode())

    def provenance(self) -> dict[str, Any]:
        """The content of provenance.json, or nothing where there is none; raises `RunError` where it is damaged."""
        path = self.folder / "provenance.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise RunError(f"{path} is not JSON: {error}; {_RESTORE}") from error
        if not _is_provenance(content):
            raise RunError(f"{path} does not hold what a run writes; {_RESTORE}")
        found: dict[str, Any] = content
        return found


def open_run(folder: Path) -> Store:
    """The store of a run that exists; raises `RunError` where the folder holds none."""
    if not (folder / "provenance.json").is_file():
        raise RunError(f"{folder} holds no run: there is no provenance.json in it")
    return Store(folder)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file; raises `RunError` naming the file where it is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"cannot read {path} as YAML: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} must hold a mapping of options, as run.yaml of a run does")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside under a hidden name, fsync, rename, fsync the folder: the file is there whole, or not at all."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with hidden.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}; nothing finished before is lost") from error


def _is_provenance(content: Any) -> bool:
    """Whether those who read it find mappings where they expect them: it may be another person's file."""
    if not isinstance(content, dict):
        return False
    plugins = [content.get(kind, {}) for kind in ("methods", "metrics")]
    if not all(isinstance(part, dict) for part in (*plugins, content.get("depends_on", {}), content.get("clips", {}))):
        return False
    return all(isinstance(facts, dict) for part in plugins for facts in part.values())


def _load(kind: str, parts: Sequence[Part]) -> pd.DataFrame:
    tables = [pq.read_table(part.path, schema=SCHEMAS[kind]) for part in parts]
    frame: pd.DataFrame = pa.concat_tables(tables or [SCHEMAS[kind].empty_table()]).to_pandas()
    if not any(part.generation for part in parts):  # the first rows of a batch repeat nothing
        return frame
    return frame.drop_duplicates(_KEYS[kind], keep="last", ignore_index=True)


def _intact(path: Path) -> bool:
    match = _PART.fullmatch(path.name)
    return match is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == match[3]
