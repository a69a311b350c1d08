"""CSV files with a header, written by users and by authors: every bad line is named, with what is wrong with it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from vidattr_bench.errors import DataError, did_you_mean

Parsed = TypeVar("Parsed")

_SHOWN = 20  # bad lines that one message quotes


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of a CSV file: its number, 1-based, and its cells by column, stripped; "" where a column is absent."""

    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def number(self, column: str) -> float:
        """A cell as a finite number; raises `ValueError` that names the column."""
        try:
            value = float(self[column])
        except ValueError:
            value = float("nan")
        if abs(value) < float("inf"):
            return value
        raise ValueError(f"{column}={self[column]!r} is no number")

    def count(self, column: str) -> int:
        """A cell as a whole number from 0; raises `ValueError` that names the column."""
        value = self.number(column)
        if value < 0 or value != int(value):
            raise ValueError(f"{column}={self[column]!r} is no whole number from 0")
        return int(value)


def read_rows(path: Path, required: Iterable[str], optional: Iterable[str] | None = None) -> list[Row]:
    """The lines of a CSV file below its header; empty ones are left out.

    Args:
        path: the file, UTF-8, its columns apart by commas.
        required: columns that must be there.
        optional: columns that may be there; None: any others, which are ignored.

    Raises:
        DataError: the file is missing or no such text, a column is missing, given twice or unknown, or a line has more
            or fewer cells than the header.
    """
    required = tuple(required)
    lines = _lines(path)
    header = [name.strip() for name in lines[0][1]] if lines else []
    known = None if optional is None else {*required, *optional}
    for name in required:
        if name not in header:
            raise DataError(f"{path}: its header is {','.join(header) or 'missing'}; it needs the column {name}")
    for name in header:
        if known is not None and name not in known:
            raise DataError(f"{path}: unknown column {name!r}; {did_you_mean(name, known)}")
        if header.count(name) > 1:
            raise DataError(f"{path}: the header names the column {name!r} twice; rename one of them")
    wrong = [
        (n, f"{len(cells)} cells, the header has {len(header)}") for n, cells in lines if len(cells) != len(header)
    ]
    refuse(path, wrong)
    return [Row(n, dict(zip(header, map(str.strip, cells), strict=True))) for n, cells in lines[1:]]


def parse_rows(path: Path, rows: Iterable[Row], parse: Callable[[Row], Parsed]) -> list[Parsed]:
    """What `parse` makes of each row; raises `DataError` that names every row for which it raised `ValueError`."""
    found: list[Parsed] = []
    wrong: list[tuple[int, str]] = []
    for row in rows:
        try:
            found.append(parse(row))
        except ValueError as error:
            wrong.append((row.line, str(error)))
    refuse(path, wrong)
    return found


def refuse(path: Path, wrong: list[tuple[int, str]]) -> None:
    """Raise `DataError` that quotes the bad lines, number and reason, if there are any."""
    if wrong:
        shown = "; ".join(f"line {n}: {reason}" for n, reason in wrong[:_SHOWN])
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(f"{path}: {shown}{more}; correct {'these lines' if len(wrong) > 1 else 'this line'}")


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that hold anything, with their numbers."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text; save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: is no CSV file ({error}); save it as CSV in UTF-8") from error
