"""Videos on disk: files of the containers that are read, and folders of numbered pictures."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from vidattr_bench.stills import CODECS

SUFFIXES = frozenset(
    (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".ogv", ".flv", ".wmv", ".gif")
)


def find_videos(root: Path) -> dict[str, Path]:
    """Every video below a folder by its name: the path from the folder, with forward slashes, in that order.

    A folder of numbered pictures that holds no video file is one video. Hidden files are left out; links are followed,
    each folder once.
    """
    found = {_text(path.relative_to(root)): path for path in _walk(root)}
    return dict(sorted(found.items()))


def _walk(root: Path) -> Iterator[Path]:
    """Of ways that lead to one folder the folder's own, wherever it lies below root, or else the first link."""
    seen: set[Path] = set()
    waiting = [root]
    while waiting:
        start = waiting.pop(0)
        if start.resolve() not in seen:
            links: list[Path] = []
            yield from _below(start, root, seen, links)
            waiting += links


def _below(start: Path, root: Path, seen: set[Path], links: list[Path]) -> Iterator[Path]:
    """What lies in a folder and in those below it that no link leads to; links to folders are gathered."""
    for folder, subfolders, names in os.walk(start):
        here = Path(folder)
        seen.add(here.resolve())
        inside = [here / name for name in sorted(subfolders) if not name.startswith(".")]
        links += [path for path in inside if path.is_symlink()]
        subfolders[:] = [path.name for path in inside if not path.is_symlink() and path.resolve() not in seen]
        videos = [here / name for name in names if is_video(name)]
        if not videos and here != root and any(_is_frame(name) for name in names):
            yield here
        yield from videos


def is_video(name: str) -> bool:
    """Whether a file of this name may be a video; its content is looked at when it is read."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _is_frame(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in CODECS and re.search(r"\d$", path.stem) is not None


def _text(path: Path) -> str:
    # A name that is no UTF-8 could not be written into the tables.
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def inside_name(text: str) -> str:
    """A path from the root as a data file gives it, as `find_videos` writes it.

    Raises:
        ValueError: it is absolute or leads out of the root.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{text!r} is no path inside the data set's folder")
    return str(path)


def footprint(root: Path, videos: Iterable[Path], lists: Iterable[Path | None]) -> str:
    """SHA-256 (16 hex digits) of lists by content, and of videos by place and size."""
    digest = hashlib.sha256()
    for path in lists:
        digest.update(b"no list" if path is None else path.read_bytes())
    for path in videos:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        digest.update(f"{_text(path.relative_to(root))} {[file.stat().st_size for file in files]}\n".encode())
    return digest.hexdigest()[:16]
