"""Fields of optical flow kept on disk: computing one takes hundreds of times as long as reading it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vidattr_bench.errors import DataError


@dataclasses.dataclass(frozen=True)
class FlowCache:
    """A folder of PNG files, motion to the right above motion down, named by the hash of what the field depends on.

    Files appear whole or not at all, whoever else writes them at the same time. Each carries the hash of its name and
    its values, so that a damaged or misplaced file is found out and made again.

    Attributes:
        folder: where they are kept; made where it is missing.
    """

    folder: Path

    def get(self, key: str) -> NDArray[np.uint8] | None:
        """The field (H, W, 2) of a key; None where there is none, or only a damaged one."""
        try:
            with Image.open(self._path(key), formats=("PNG",)) as image:
                told, halves = image.info.get("sha256"), np.asarray(image, np.uint8)
        except Exception:  # Pillow raises whatever damaged bytes lead it to
            return None
        if halves.ndim != 2 or told != _check(key, halves):
            return None
        return np.stack(np.split(halves, 2), -1)

    def put(self, key: str, field: NDArray[np.uint8]) -> None:
        """Keep the field (H, W, 2) of a key; raises `DataError` where the folder cannot be written."""
        halves = np.concatenate([field[..., 0], field[..., 1]])
        facts = PngInfo()
        facts.add_text("sha256", _check(key, halves))
        path = self._path(key)
        unfinished = path.with_name(f".{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(halves).save(unfinished, format="PNG", pnginfo=facts)
            unfinished.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise DataError(
                f"{path}: flow cannot be kept there ({error}); give flow_cache=DIR, a folder with room"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.png"


def _check(key: str, halves: NDArray[np.uint8]) -> str:
    return hashlib.sha256(f"{key} {halves.shape} ".encode() + halves.tobytes()).hexdigest()
