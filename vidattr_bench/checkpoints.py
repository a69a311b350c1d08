"""Weights on disk: safetensors files that carry their classes, normalisation, clip input and training record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vidattr_bench.errors import ModelError

_KEY = "vidattr_bench"


def save_checkpoint(path: Path, net: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write the weights of `net` and `metadata`, anything that JSON can hold, as safetensors.

    The file appears whole or not at all, and equal weights and metadata give equal bytes.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    # One key: safetensors writes several in no fixed order.
    content = save(tensors, {_KEY: json.dumps(metadata, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that `save_checkpoint` wrote; {} where another program wrote the file.

    Raises:
        ModelError: the file is missing or is no safetensors file.
    """
    try:
        with safe_open(_existing(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY, "{}")
    except SafetensorError as error:
        raise ModelError(f"{path} is no readable safetensors file: {error}") from error
    metadata: dict[str, Any] = json.loads(text)
    return metadata


def load_checkpoint(path: Path, net: nn.Module) -> None:
    """Put the weights of a safetensors file into `net`.

    Raises:
        ModelError: the file is missing, is no safetensors file, or holds the weights of another architecture.
    """
    try:
        tensors: dict[str, Tensor] = load_file(_existing(path))
    except SafetensorError as error:
        raise ModelError(f"{path} is no readable safetensors file: {error}") from error
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{path} does not hold the weights of this architecture: {error}") from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}; write one with the train command")
    return path
