"""UCF101 on disk: official lists, clips by name, and the action tubes of UCF101-24."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidattr_bench.errors import DataError, InconsistentError

from ._clip_folders import clips_below

# The classes with action tubes, in the order of their labels there.
# fmt: off
TUBE_CLASSES = (
    "Basketball", "BasketballDunk", "Biking", "CliffDiving", "CricketBowling", "Diving",
    "Fencing", "FloorGymnastics", "GolfSwing", "HorseRiding", "IceDancing", "LongJump",
    "PoleVault", "RopeClimbing", "SalsaSpin", "SkateBoarding", "Skiing", "Skijet",
    "SoccerJuggling", "Surfing", "TennisSwing", "TrampolineJumping", "VolleyballSpiking", "WalkingWithDog",
)
# fmt: on
FRAME = (240, 320)  # height and width in which the boxes were drawn

_CLIP_FOLDERS = ("UCF-101", "UCF101", "videos", "rgb-images", "frames", "jpegs_256", ".")
_SPLIT_FOLDERS = (
    "splits",
    "ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    "UCF-101/ucfTrainTestlist",
    "annotations",
    ".",
)
_TUBE_FOLDERS = ("tubes", "corrected-UCF101-Annots", "UCF101_24Action_Detection_Annotations", "splitfiles", ".")
_TUBE_FILES = ("finalAnnots.mat", "pyannot.pkl")
_NAME = re.compile(r"v_\w+_(g\d+)_c\d+")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of an official list: name of the clip, name of its class."""

    clip: str
    label: str

    @property
    def group(self) -> str:
        """Class and group: clips of one source video."""
        match = _NAME.fullmatch(self.clip)
        assert match is not None
        return f"{self.label}_{match[1]}"


@dataclasses.dataclass(frozen=True)
class RawTube:
    """A tube as annotated: name of its class, first and last frame (1-based), boxes (n, 4) x, y, w, h (1-based)."""

    label: str
    first: int
    last: int
    boxes: NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Annotation:
    """The tubes of one clip and the number of frames they were drawn on."""

    frames: int
    tubes: tuple[RawTube, ...]


def find_splits(root: Path) -> Path:
    """The folder with the official lists; raises `DataError` that says where it was looked for."""
    for name in _SPLIT_FOLDERS:
        if (root / name / "classInd.txt").is_file():
            return root / name
    raise DataError(
        f"{root}: no classInd.txt with trainlist01.txt, testlist01.txt, ... in {', '.join(_SPLIT_FOLDERS)}; "
        "give splits=DIR"
    )


def find_tubes(root: Path) -> Path | None:
    """The file with the action tubes, if it lies where users have it."""
    candidates = (root / folder / name for name in _TUBE_FILES for folder in _TUBE_FOLDERS)
    return next((path for path in candidates if path.is_file()), None)


def read_tube_classes(splits: Path) -> tuple[str, ...]:
    """The classes with action tubes, as ucf24-classInd.txt numbers them, or by default the official ones."""
    name = "ucf24-classInd.txt"
    return read_classes(splits, name) if (splits / name).is_file() else TUBE_CLASSES


def read_classes(splits: Path, name: str = "classInd.txt") -> tuple[str, ...]:
    """The class names of classInd.txt, whose lines are a 1-based number and a name."""
    path = splits / name
    fields = [line.split() for line in _lines(path)]
    if not fields or [line[0] for line in fields] != [str(i + 1) for i in range(len(fields))]:
        raise DataError(f"{path}: lines must be 1 ApplyEyeMakeup, 2 ApplyLipstick, ...; restore the official file")
    return tuple(name for _, name in fields)


def read_list(path: Path, classes: tuple[str, ...]) -> list[Entry]:
    """The clips of a train or test list, lines `<Class>/<clip>.avi [label]`.

    Raises:
        DataError: the file is missing, or a line names something else, such as a path out of the data set.
    """
    by_name = {name.casefold(): name for name in classes}
    entries = []
    for number, line in enumerate(_lines(path), start=1):
        parts = line.split()[0].split("/")
        clip = parts[-1].rpartition(".")[0] or parts[-1]
        if len(parts) != 2 or parts[0].casefold() not in by_name or not _NAME.fullmatch(clip):
            raise DataError(
                f"{path}:{number}: {line!r} is not <Class>/v_<Class>_gNN_cNN.avi of a class in classInd.txt"
            )
        entries.append(Entry(clip, by_name[parts[0].casefold()]))
    return entries


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such list; download the official UCF101 train/test splits")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def find_clips(root: Path, classes: tuple[str, ...]) -> dict[str, Path]:
    """Every clip below the class folders of `root`, by name in lower case; a list never becomes a path."""
    return clips_below((root / name for name in _CLIP_FOLDERS), classes, lambda name: _NAME.fullmatch(name) is not None)


def read_tubes(path: Path, classes: tuple[str, ...] = TUBE_CLASSES) -> Mapping[str, Annotation]:
    """The action tubes of finalAnnots.mat or pyannot.pkl by name of the clip in lower case; kept in memory.

    Args:
        path: the annotation file.
        classes: what its labels number.

    Raises:
        DataError: the file is missing, damaged, of another layout, or a pickle that names anything but NumPy arrays.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; give tubes=FILE, finalAnnots.mat or pyannot.pkl")
    return _read_tubes(path, classes, path.stat().st_size, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_tubes(path: Path, classes: tuple[str, ...], _size: int, _mtime: int) -> Mapping[str, Annotation]:
    reader = _from_pickle if path.suffix.lower() in (".pkl", ".pickle") else _from_mat
    try:
        found = {name.rpartition("/")[2].casefold(): annotation for name, annotation in reader(path, classes)}
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # both parsers raise whatever damaged bytes lead them to
        raise DataError(f"{path}: cannot be read as action tubes ({error!r}); download the file again") from error
    if not found:
        raise DataError(f"{path}: holds no action tubes; download the file again")
    return found


def _from_mat(path: Path, classes: tuple[str, ...]) -> Iterator[tuple[str, Annotation]]:
    from scipy.io import loadmat

    for clip in np.atleast_1d(loadmat(path, squeeze_me=True, struct_as_record=False)["annot"]):
        tubes = tuple(
            RawTube(classes[int(getattr(tube, "class")) - 1], int(tube.sf), int(tube.ef), tube.boxes)
            for tube in np.atleast_1d(clip.tubes)
        )
        yield str(clip.name), Annotation(int(clip.num_imgs), tubes)


def _from_pickle(path: Path, classes: tuple[str, ...]) -> Iterator[tuple[str, Annotation]]:
    for name, clip in _ArraysOnly(io.BytesIO(path.read_bytes())).load().items():
        # Here frames count from 0, the last one is excluded, and labels count from 0.
        tubes = tuple(
            RawTube(classes[int(tube["label"])], int(tube["sf"]) + 1, int(tube["ef"]), tube["boxes"])
            for tube in clip["annotations"]
        )
        yield str(name), Annotation(int(clip["numf"]), tubes)


class _ArraysOnly(pickle.Unpickler):
    """Admits NumPy arrays and scalars by exact names; a pickle may otherwise run any code."""

    _ADMITTED: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        **{
            (module, name): made.__reduce__()[0]
            for module in ("numpy.core.multiarray", "numpy._core.multiarray")
            for name, made in (("_reconstruct", np.zeros(0)), ("scalar", np.uint8(0)))
        },
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise DataError(
                f"the pickle of action tubes asks for {module}.{name}; only NumPy arrays are admitted: do not trust "
                "this file, use finalAnnots.mat"
            )
        return self._ADMITTED[module, name]


def boxes_in(tube: RawTube, size: tuple[int, int], clip: str) -> Tensor:
    """Boxes (n, 4) x0, y0, x1, y1, half-open, float64, in frames of height and width `size`, cut at the frame's edge.

    Raises:
        DataError: a tube without a box for each of its frames, or a box outside the frame.
    """
    where = f"{clip}: the tube of frames {tube.first} to {tube.last}"
    # Most boxes are uint8: x + w would wrap at 256.
    raw = torch.from_numpy(np.asarray(tube.boxes).astype(np.float64)).reshape(-1, 4)
    if len(raw) != tube.last - tube.first + 1 or tube.first < 1:
        raise InconsistentError(f"{where} has {len(raw)} boxes; correct the annotation")
    corner = raw[:, :2] - 1
    height, width = FRAME
    limit = torch.tensor([width, height] * 2, dtype=torch.float64)
    boxes = torch.cat([corner, corner + raw[:, 2:]], 1).clamp(min=0 * limit, max=limit)
    empty = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    if empty.any():
        first = tube.first + int(empty.nonzero()[0])
        raise InconsistentError(
            f"{where} lies outside the {width}x{height} frame in frame {first} (x, y, w, h = "
            f"{raw[first - tube.first].tolist()}); correct the annotation"
        )
    return boxes * torch.tensor([size[1] / width, size[0] / height] * 2, dtype=torch.float64)
