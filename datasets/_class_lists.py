"""Official lists of HMDB51 and JHMDB: a file a class, `<class>_test_split1.txt`, with lines `<clip>.avi 1`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError, did_you_mean
from vidattr_bench.videomodule import VideoDataModule

from ._clip_folders import clips_below

_LIST = re.compile(r"(?P<label>\w+)_test_split(?P<split>[123])\.txt")
# What HMDB51 appends to the source: body part, camera, people, viewpoint, quality, and the number of the cut.
_CUT = re.compile(r"_[fhlu]_[cn]m_np\d+_(ba|fr|le|ri)_(bad|goo|med)_\d+")
_PARTS = {"train": ("1",), "test": ("2",), "all": ("1", "2")}
_SPLITS = ("1", "2", "3")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a list: name of the clip, name of its class, and part: 1 train, 2 test, 0 neither."""

    clip: str
    label: str
    part: str

    @property
    def group(self) -> str:
        """The video that the clip was cut from: its name without the class and what describes the cut."""
        return _CUT.sub("", self.clip).removesuffix(f"_{self.label}")


def find_lists(root: Path, folders: Iterable[str]) -> Path:
    """The folder with the official lists; raises `DataError` that says where it was looked for."""
    names = tuple(folders)
    for folder in (root / name for name in names):
        if folder.is_dir() and any(_LIST.fullmatch(path.name) for path in folder.iterdir()):
            return folder
    raise DataError(
        f"{root}: no <class>_test_split1.txt in {', '.join(names)}; download the official splits, or give splits=DIR"
    )


def read_lists(folder: Path, split: str) -> list[Entry]:
    """The clips of a split, class by class in the alphabetical order of the classes' names.

    Raises:
        DataError: the split has no list, or a line is no `<clip>.avi` with 0, 1 or 2.
    """
    lists = ((path, _LIST.fullmatch(path.name)) for path in folder.iterdir())
    found = [(match["label"], path) for path, match in lists if match is not None and match["split"] == split]
    if not found:
        raise DataError(f"{folder}: no <class>_test_split{split}.txt; download the official splits")
    # By name, not by file: climb_stairs_test_split1.txt comes before climb_test_split1.txt.
    return [entry for label, path in sorted(found) for entry in _read_list(path, label)]


def _read_list(path: Path, label: str) -> list[Entry]:
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
        if line.strip():
            name, _, part = line.strip().rpartition(" ")
            clip = name.strip().removesuffix(".avi")
            if part not in ("0", "1", "2") or clip in ("", ".", "..") or {"/", "\\"} & set(clip):
                raise DataError(f"{path}:{number}: {line!r} is not <clip>.avi and 0, 1 (train) or 2 (test)")
            entries.append(Entry(clip, label, part))
    return entries


@dataclasses.dataclass(eq=False, kw_only=True)
class ClassLists(VideoDataModule):
    """Clips in class folders, listed by a file a class.

    Attributes:
        root: folder with the clips and the lists.
        split: official split 1, 2 or 3.
        splits: folder with <class>_test_split1.txt, ...; by default found below root.
    """

    clip_folders: ClassVar[Sequence[str]]
    list_folders: ClassVar[Sequence[str]]

    split: str = "1"
    splits: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.split = str(self.split)
        for field, known in (("split", _SPLITS), ("part", tuple(_PARTS))):
            if (value := getattr(self, field)) not in known:
                raise DataError(f"{field}={value!r} is unknown; {did_you_mean(value, known)}")

    @property
    def split_name(self) -> str:
        """Split and part, such as 1/test."""
        return f"{self.split}/{self.part}"

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that have a list, in alphabetical order."""
        return tuple(dict.fromkeys(entry.label for entry in self._every_entry))

    def refs(self) -> list[ClipRef]:
        """The listed clips that are on disk, in the order of the lists."""
        labels = {name: i for i, name in enumerate(self.classes)}
        present = [entry for entry in self.entries if entry.clip.casefold() in self.clips]
        if not present:
            raise DataError(
                f"{self.root}: none of the {len(self.entries)} clips of {self.split_name} is there; below root there "
                f"must be <folder>/<class>/<clip> with one of the folders {', '.join(self.clip_folders)}"
            )
        return [ClipRef(entry.clip, entry.group, labels[entry.label]) for entry in present]

    def missing(self) -> list[str]:
        """Listed clips that are not on disk."""
        return [entry.clip for entry in self.entries if entry.clip.casefold() not in self.clips]

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) of the lists by content, and of clips and truth by place and size."""
        digest = hashlib.sha256(repr(self.entries).encode(errors="surrogateescape"))
        for ref in self.refs():
            for path in (self.video(ref), *self.truth_files(ref.id)):
                files = sorted(path.iterdir()) if path.is_dir() else [path]
                sizes = [file.stat().st_size for file in files]
                digest.update(f"{path.parent.name}/{path.name} {sizes}\n".encode(errors="surrogateescape"))
        return self.with_flow(digest.hexdigest()[:16])

    def video(self, ref: ClipRef) -> Path:
        """The file of a clip, or its folder of pictures."""
        return self.clips[ref.id.casefold()]

    def truth_files(self, clip: str) -> list[Path]:
        """The files that tell where the action is, of those that are there."""
        return []

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """What the lists name for this part."""
        return [entry for entry in self._every_entry if entry.part in _PARTS[self.part]]

    @functools.cached_property
    def clips(self) -> Mapping[str, Path]:
        """The clips on disk by name in lower case."""
        return clips_below((self.root / name for name in self.clip_folders), self.classes)

    @functools.cached_property
    def _every_entry(self) -> list[Entry]:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder; give root=DIR, the folder that holds the clips")
        return read_lists(find_lists(self.root, self.list_folders) if self.splits is None else self.splits, self.split)
