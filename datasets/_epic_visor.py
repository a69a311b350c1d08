"""VISOR's masks of active objects: its sparse annotations read, carried to the RGB frames, and filled in.

As its deposit (doi 10.5523/bris.2v6cgv1x04ol22qp9rm9x2j6a7) lies on disk: a JSON file a video with polygons, about two
pictures an action; frame_mapping.json, from the names of these pictures to those of the RGB frames, since the pictures
were extracted anew; and the noun classes of EPIC-100 with those that VISOR adds.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw
from torch import Tensor

from vidattr_bench.clip import Tube
from vidattr_bench.errors import DataError
from vidattr_bench.model import ClipInput
from vidattr_bench.transform import fit_masks

from ._epic_lists import VERSIONS, Lists, read_classes, read_words

Polygon = NDArray[np.int32]
"""(k, 2): x and y of its corners, in whole pixels of the canvas."""

CANVAS = (1080, 1920)
"""Height and width that the polygons of all videos are drawn in, whatever was recorded, as VISOR's tools take them."""
ANNOTATIONS = "GroundTruth-SparseAnnotations/annotations"
MAPPING = "frame_mapping.json"
NOUNS = "EPIC_100_noun_classes_v2.csv"
_FOLDERS = (".", "VISOR", "visor", "EPIC-KITCHENS-VISOR", "epic-kitchens-visor", "2v6cgv1x04ol22qp9rm9x2j6a7")
_PICTURE = re.compile(r"(?P<video>P\d+_\d+)_frame_\d+\.(jpg|png)")
_RGB_FRAME = re.compile(r"frame_(\d+)\.(jpg|png)")
_FARTHEST = 100_000
_REMEDY = "download the file again"


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """One object in one picture.

    Attributes:
        name: what it is, in open vocabulary; the same object has the same name in other pictures.
        noun: class of EPIC-100's nouns, or one that VISOR adds.
        polygons: its parts and holes.
    """

    name: str
    noun: int
    polygons: tuple[Polygon, ...]

    def mask(self) -> Tensor:
        """Bool, of the size of the canvas."""
        return torch.from_numpy(filled(self.polygons, CANVAS))


def filled(polygons: Sequence[Polygon], size: tuple[int, int]) -> NDArray[np.bool_]:
    """What polygons enclose, their outlines included, bool of height and width `size`; what lies outside is cut off.

    A pixel within an even number of polygons is outside: one within another is a hole. Thus OpenCV's fillPoly does, by
    which VISOR's own tools fill the polygons of an object.
    """
    canvas = Image.new("1", (size[1], size[0]))
    corners = [[(int(x), int(y)) for x, y in polygon] for polygon in polygons]
    for points in corners:
        one = Image.new("1", canvas.size)
        ImageDraw.Draw(one).polygon(points, fill=1)
        canvas = ImageChops.logical_xor(canvas, one)
    pen = ImageDraw.Draw(canvas)
    for points in corners:
        pen.polygon(points, outline=1)
    return np.array(canvas)


@dataclasses.dataclass(frozen=True)
class Visor:
    """VISOR on disk.

    Attributes:
        folder: what holds its folders and frame_mapping.json.
        files: the sparse annotations by video.
    """

    folder: Path
    files: Mapping[str, Path]

    def of(self, video: str, nouns: Collection[int]) -> dict[int, tuple[Outline, ...]]:
        """The objects of some classes in a video, by the number of the RGB frame; frames without one are left out.

        Raises:
            DataError: the annotations or the mapping of the frames are damaged, or the latter lacks a picture.
        """
        path = self.files.get(video)
        if path is None:
            return {}
        found: dict[int, tuple[Outline, ...]] = {}
        numbers = self._numbers(video)
        for picture, outlines in _pictures(path, path.stat().st_mtime_ns).items():
            chosen = tuple(outline for outline in outlines if outline.noun in nouns)
            if chosen and picture not in numbers:
                raise DataError(f"{self.folder / MAPPING}: {video} has no picture {picture}; {_REMEDY}")
            if chosen:
                frame = numbers[picture]
                found[frame] = found.get(frame, ()) + chosen
        return {frame: found[frame] for frame in sorted(found)}

    def _numbers(self, video: str) -> dict[str, int]:
        """The RGB frame of every picture of a video."""
        path = self.folder / MAPPING
        names = _mapping(path, path.stat().st_mtime_ns).get(video)
        if not isinstance(names, dict):
            raise DataError(f"{path}: has no video {video}; {_REMEDY}")
        found = {}
        for picture, name in names.items():
            match = _RGB_FRAME.fullmatch(name) if isinstance(name, str) else None
            if match is None:
                raise DataError(f"{path}: {video}.{picture} is {name!r}, not like frame_0000000001.jpg; {_REMEDY}")
            found[picture] = int(match[1])
        return found


def find_visor(root: Path, given: Path | None) -> Visor | None:
    """VISOR's deposit in the folder that is given, or where users keep it below root; None where it is not there.

    Raises:
        DataError: it is not in the folder that is given, or is there without frame_mapping.json.
    """
    for folder in [root / name for name in _FOLDERS] if given is None else [given, given / _FOLDERS[-1]]:
        lists = sorted((folder / ANNOTATIONS).glob("*/P*_*.json"))
        if lists and not (folder / MAPPING).is_file():
            raise DataError(
                f"{folder / MAPPING}: there is no such file; VISOR numbers its pictures apart from the RGB frames, and "
                "this file of its deposit tells which is which: download it, or give truth=boxes"
            )
        if lists:
            return Visor(folder, {path.stem: path for path in lists})
    if given is not None:
        raise DataError(f"{given}: has no {ANNOTATIONS}/train/P01_01.json; visor= takes the folder of VISOR's deposit")
    return None


def noun_list(visor: Visor, own: Lists) -> Path:
    """EPIC-100's noun classes, in the second edition, which lists those of VISOR too, where it is there.

    Args:
        visor: its deposit has the list.
        own: the lists of EPIC-100, where it may be as well.
    """
    inside = visor.folder / NOUNS
    found = inside if inside.is_file() else own.find(NOUNS)
    return own.path(VERSIONS[100].nouns) if found is None else found


def classes_of_nouns(visor: Visor, version: int, lists: Mapping[int, Lists]) -> dict[int, tuple[int, ...]]:
    """The classes of VISOR whose objects each noun class of a version takes.

    It is EPIC-100's class itself, or for EPIC-55 the one that has its name among its words, with the sides that VISOR
    tells apart: hand:left and hand:right are hands.

    Args:
        visor: its deposit.
        version: 55 or 100.
        lists: where the lists of both versions are.
    """
    path, names = noun_list(visor, lists[100]), VERSIONS[100]
    sides = with_sides(read_classes(path, names.id[1], names.key), names.nouns_used)
    if version == 100:
        return sides
    words = read_words(path, names.id[1], names.instances[1])
    older = VERSIONS[55]
    keys = read_classes(lists[55].path(older.nouns), older.id[1], older.key)
    return {noun: sides[words[key]] for noun, key in enumerate(keys) if key in words}


def with_sides(keys: Sequence[str], used: int | None) -> dict[int, tuple[int, ...]]:
    """Each class, and after it those past the first `used` that are a kind of it by name, as hand:left of hand."""
    added = range(len(keys) if used is None else min(used, len(keys)), len(keys))
    return {
        noun: (noun, *(other for other in added if other != noun and keys[other].rpartition(":")[0] == key))
        for noun, key in enumerate(keys)
    }


def outlined_tubes(
    found: Mapping[int, tuple[Outline, ...]], read: tuple[int, int], wanted: ClipInput, label: int
) -> tuple[Tube, ...]:
    """The matched objects as tubes of masks in pixels of the clip, one an object.

    Between frames with a mask a tube holds empty ones: those frames are unknown, and nothing is measured on them.

    Args:
        found: objects by index of the sampled frame.
        read: height and width of the frames that were read.
        wanted: the geometry of the clip.
        label: the class of the segment.
    """
    fitted: dict[Outline, Tensor] = {}  # neighbouring frames show one picture
    instances: dict[tuple[str, int], dict[int, Outline]] = {}
    for t in sorted(found):
        names = [outline.name for outline in found[t]]
        for i, outline in enumerate(found[t]):
            instances.setdefault((outline.name, names[:i].count(outline.name)), {})[t] = outline
            if outline not in fitted:
                fitted[outline] = fit_masks(outline.mask()[None], read, wanted)[0]
    tubes = []
    for frames in instances.values():
        first, last = min(frames), max(frames)
        masks = torch.zeros(last - first + 1, *wanted.size, dtype=torch.bool)
        for t, outline in frames.items():
            masks[t - first] = fitted[outline]
        tubes.append(Tube.outlined(label, first, masks))
    return tuple(tubes)


def share_of_canvas(outlines: Sequence[Outline]) -> float:
    """Share of the frame that the union of some objects covers."""
    return float(torch.stack([outline.mask() for outline in outlines]).any(0).double().mean())


@functools.lru_cache(maxsize=1)
def _mapping(path: Path, changed: int) -> dict[str, Any]:
    """frame_mapping.json; `changed` is when the file was, so that another one is read again."""
    return _object(_parsed(path), path, "")


@functools.lru_cache(maxsize=4)
def _pictures(path: Path, changed: int) -> dict[str, tuple[Outline, ...]]:
    """The objects with a pixel on the canvas, by picture; segments lie one after the other, so that few files do."""
    found: dict[str, tuple[Outline, ...]] = {}
    entries = _list(_object(_parsed(path), path, "").get("video_annotations"), path, "video_annotations")
    for i, entry in enumerate(entries):
        where = f"video_annotations[{i}]"
        image = _object(_object(entry, path, where).get("image"), path, f"{where}.image")
        match = _PICTURE.fullmatch(str(image.get("name")))
        if match is None or match["video"] != path.stem:
            raise DataError(
                f"{path}: {where}.image.name is {image.get('name')!r}, no picture of {path.stem}; {_REMEDY}"
            )
        objects = _list(entry.get("annotations"), path, f"{where}.annotations")
        outlines = (_outline(one, path, f"{where}.annotations[{k}]") for k, one in enumerate(objects))
        seen = [one for one in outlines if one is not None and one.polygons]
        # A picture may be listed twice, and then so may its objects.
        found[match[0]] = tuple({_key(one): one for one in (*found.get(match[0], ()), *seen)}.values())
    return found


def _key(outline: Outline) -> tuple[str, int, tuple[bytes, ...]]:
    """What two mentions of one object have in common."""
    return outline.name, outline.noun, tuple(polygon.tobytes() for polygon in outline.polygons)


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is damaged ({error}); {_REMEDY}") from error


def _object(value: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path}: {where or 'the file'} is no JSON object; {_REMEDY}")
    return value


def _list(value: Any, path: Path, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{path}: {where} is no JSON array; {_REMEDY}")
    return value


def _outline(value: Any, path: Path, where: str) -> Outline | None:
    """An object; None where it has no class."""
    told = _object(value, path, where)
    noun, name = told.get("class_id", "missing"), told.get("name")
    if not isinstance(name, str):
        raise DataError(f"{path}: {where}.name is {name!r}, no text; {_REMEDY}")
    if noun is not None and type(noun) is not int:
        raise DataError(f"{path}: {where}.class_id is {noun!r}, no whole number; {_REMEDY}")
    segments = _list(told.get("segments"), path, f"{where}.segments")
    polygons = (_polygon(one, path, f"{where}.segments[{k}]") for k, one in enumerate(segments))
    seen = tuple(one for one in polygons if len(one) > 2 and _is_on_canvas(one))
    return None if noun is None else Outline(name, noun, seen)


def _polygon(value: Any, path: Path, where: str) -> Polygon:
    """Corners cut to whole pixels, as VISOR's tools cut them; those without corners are in the files too."""
    corners = _list(value, path, where)
    wrong = [one for one in corners if not (isinstance(one, list) and len(one) == 2)]
    flat = [] if wrong else [number for one in corners for number in one]
    if not (wrong or ({int, float}.issuperset(map(type, flat)) and all(abs(number) < _FARTHEST for number in flat))):
        wrong = [one for one in corners if not all(map(_is_coordinate, one))]
    if wrong:
        raise DataError(f"{path}: {where} has the corner {wrong[0]!r}, not x and y in pixels; {_REMEDY}")
    return np.array(flat, dtype=np.float64).reshape(-1, 2).astype(np.int32)


def _is_coordinate(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _FARTHEST  # which not a number is not


def _is_on_canvas(polygon: Polygon) -> bool:
    return bool((polygon.max(0) >= 0).all() and (polygon.min(0) < (CANVAS[1], CANVAS[0])).all())
