"""Weights on disk: safetensors files with metadata are written; those and PyTorch files are read, and never run."""

from __future__ import annotations

import argparse
import difflib
import json
import pickle
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vidattr_bench.errors import ModelError
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel

_KEY = "vidattr_bench"
_STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model")
# What DataParallel, torch.compile and Lightning modules put in front of every name.
_WRAPPERS = ("module.", "_orig_mod.", "net.", "model.")
# Where a Lightning module keeps its network, beside a loss and metrics that may have weights too.
_NETWORKS = ("net.", "model.")
# Options that training scripts store beside the weights, and that do nothing when they are made.
_HARMLESS = (argparse.Namespace, type(Path()))
_Value = TypeVar("_Value")
# Run by a user who trusts the file: the weights of a state dict, of what holds one, or of a whole network.
_TAKE_OUT = (
    'import sys, torch; file = torch.load(sys.argv[1], "cpu", weights_only=False); '
    f"keys = [key for key in {json.dumps(_STATE_KEYS)} if isinstance(file, dict) and key in file]; "
    "found = file[keys[0]] if keys else file; "
    "torch.save(found.state_dict() if isinstance(found, torch.nn.Module) else found, sys.argv[2])"
)


class _Inner(dict[str, Tensor]):
    """The weights of a Lightning module's network, by the network's names.

    Attributes:
        whole: the weights of the module, by its own names.
        beside: the names of those that are not the network's.
    """

    def __init__(self, inner: Mapping[str, Tensor], whole: Mapping[str, Tensor], beside: Sequence[str]) -> None:
        super().__init__(inner)
        self.whole, self.beside = whole, beside


def save_checkpoint(path: Path, net: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write the weights of `net` and `metadata`, anything that JSON can hold, as safetensors.

    The file appears whole or not at all, and equal weights and metadata give equal bytes.
    """
    # Cloned, since safetensors refuses names that share one tensor, as tied weights do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
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
        with safe_open(existing(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is no readable safetensors file: {error}; copy or download it again") from error
    if not isinstance(metadata, dict):
        raise ModelError(f"{path}: the metadata under {_KEY!r} must be a JSON object")
    return metadata


def load_checkpoint(path: Path, net: nn.Module) -> dict[str, Any]:
    """Put the weights of a file into `net` and return what else the file carries.

    Raises:
        ModelError: as `load_state` and `fit`.
    """
    state, extras = load_state(path)
    fit(net, state, path)
    return extras


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in a checkpoint, and what else it carries: class names, epoch, hyper-parameters.

    Reads safetensors files, and PyTorch files with a state dict, bare or under `state_dict` (Lightning),
    `model_state_dict`, `model_state` (PyTorchVideo) or `model`; prefixes of DataParallel, torch.compile and Lightning
    are taken off. Where a Lightning module holds more, a loss or metrics, the weights are those of its `net` or
    `model`. No code in the file is run.

    Raises:
        ModelError: the file is missing, empty, a folder, damaged, would run code, or holds no weights.
    """
    if _is_safetensors(existing(path)):
        return unwrap(_load_safetensors(path)), read_metadata(path)
    content = _unpickle(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not weights; save net.state_dict()")
    key = next((key for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), None)
    state = content if key is None else content[key]
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ModelError(f"{path} holds no state dict but {_some(map(str, content))}; save net.state_dict()")
    extras = {} if key is None else {str(name): value for name, value in content.items() if name != key}
    inner = _inner(unwrap(state)) if "pytorch-lightning_version" in content else None
    return inner or unwrap(state), extras


def _inner(whole: Mapping[str, Tensor]) -> _Inner | None:
    """The network inside a Lightning module that holds more; None where no name says which part it is."""
    prefix = next((prefix for prefix in _NETWORKS if any(name.startswith(prefix) for name in whole)), None)
    if prefix is None:
        return None
    inner = {name: tensor for name, tensor in whole.items() if name.startswith(prefix)}
    return _Inner(unwrap(inner), whole, [name for name in whole if name not in inner])


def changed(
    state: Mapping[str, Tensor], change: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """`change(state)`, of which `fit` still knows what lay beside the network in a Lightning module."""
    if isinstance(state, _Inner):
        return _Inner(change(state), change(state.whole), state.beside)
    return change(state)


def fit(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put `state`, read from `path`, into `net`: every name and every shape must agree.

    Only `num_batches_tracked`, which eval mode never reads and old files lack, may be missing. What a Lightning module
    holds beside its network is left out with a warning that says so.

    Raises:
        ModelError: says which names are missing, and what is near them in the file, or left over, which shapes differ,
            which weights are not finite.
    """
    own = net.state_dict()
    names = dict(zip(unwrap(own), own, strict=True))
    beside = state.beside if isinstance(state, _Inner) else []
    if isinstance(state, _Inner) and names.keys() <= state.whole.keys():
        state, beside = state.whole, []
    missing = [name for name in names if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in names]
    reshaped = [
        f"{name} {tuple(tensor.shape)} for {tuple(own[names[name]].shape)}"
        for name, tensor in state.items()
        if name in names and tensor.shape != own[names[name]].shape
    ]
    infinite = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    found = {
        "missing": _with_nearest(missing, [*left_over, *beside]),
        "left over": left_over,
        "of another shape": reshaped,
        "not finite": infinite,
        "beside the network": beside if missing else [],
    }
    problems = [f"{len(which)} {what}: {_some(which)}" for what, which in found.items() if which]
    if problems:
        raise ModelError(
            f"{path} does not hold the weights of this {type(net).__name__}: {'; '.join(problems)}. "
            "Give a checkpoint of this architecture and number of classes"
        )
    if beside:
        warnings.warn(f"{path}: left out, beside the network: {_some(beside)}", stacklevel=2)
    net.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=False)


def class_names(extras: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The class names that a checkpoint carries, in the order of its logits; () where it carries none.

    Read from `class_names`, `classes` or `categories` (lists), or `class_to_idx` (a mapping).

    Raises:
        ModelError: `class_to_idx` is no numbering 0, 1, 2, ...
    """
    for key in ("class_names", "classes", "categories"):
        if isinstance(extras.get(key), (list, tuple)):
            return tuple(map(str, extras[key]))
    indices = extras.get("class_to_idx")
    if not isinstance(indices, Mapping):
        return ()
    by_index = {index: str(name) for name, index in indices.items()}
    if set(by_index) != set(range(len(indices))):
        raise ModelError(f"{path}: class_to_idx must number its {len(indices)} classes from 0; give classes_file=FILE")
    return tuple(by_index[index] for index in range(len(indices)))


def unwrap(state: Mapping[str, _Value]) -> dict[str, _Value]:
    """The same entries, in order, without the wrapper prefixes that all their names share."""
    plain = dict(state)
    while prefix := next((w for w in _WRAPPERS if plain and all(name.startswith(w) for name in plain)), None):
        plain = {name.removeprefix(prefix): value for name, value in plain.items()}
    return plain


def _unpickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _looks_like_torch(path):
            raise ModelError(f"{path} is no checkpoint: neither a PyTorch nor a safetensors file") from error
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        raise ModelError(
            f"{path} was refused: it holds more than weights, and loading that could run code ({reason}); "
            "save net.state_dict() alone, or, if you trust whoever made the file, take the weights out of it:\n"
            f"    python -c '{_TAKE_OUT}' {shlex.quote(str(path))} weights.pth"
        ) from error
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        first_line = str(error).split("\n")[0]
        raise ModelError(
            f"{path} cannot be read as a PyTorch file ({first_line}); copy or download it again"
        ) from error


def _looks_like_torch(path: Path) -> bool:
    """Whether the file begins as a zip archive or a pickle."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with the length of a JSON header and that header."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} is no readable safetensors file: {error}; copy or download it again") from error
    return tensors


def trained_model(entry: ModelEntry, path: Path, name: str, feature_layer: str | None = None) -> VideoModel:
    """The model that the `train` command wrote: its classes, normalisation and clip input are those in the file.

    Raises:
        ModelError: the file is missing, was not written by `train`, or holds another architecture.
    """
    record = read_metadata(path)
    lacking = [key for key in ("classes", "mean", "std", "input") if key not in record]
    if lacking:
        raise ModelError(f"{path} does not say its {', '.join(lacking)}; use a file that the train command wrote")
    net = entry.network(len(record["classes"]))
    load_checkpoint(path, net)
    return VideoModel(net, record["classes"], **preprocessing(record, path), feature_layer=feature_layer, name=name)


def recorded_feature_layer(extras: Mapping[str, Any]) -> str | None:
    """The layer that the `train` command recorded for CAM-type methods; None where the file names none."""
    layer = extras.get("feature_layer")
    return layer if isinstance(layer, str) else None


def preprocessing(extras: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The `mean`, `std` and `input` of a `VideoModel` as the `train` command recorded them; {} in another's file.

    Raises:
        ModelError: the record does not describe a clip.
    """
    if not {"mean", "std", "input"} <= extras.keys():
        return {}
    try:
        wanted: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in extras["input"].items()
        }
        mean, std = (extras[key] and [float(value) for value in extras[key]] for key in ("mean", "std"))
        return {"mean": mean, "std": std, "input": ClipInput(**wanted)}
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{path} describes its normalisation or clip input wrongly: {error}") from error


def existing(path: Path) -> Path:
    """The path itself; raises `ModelError` where there is no file with something in it."""
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the checkpoint file inside it")
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}; correct the path, or write one with the train command")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty; copy or download it again")
    return path


def _some(names: Iterable[str], most: int = 4) -> str:
    """The first few names, and how many more."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _with_nearest(names: Sequence[str], others: Sequence[str], most: int = 4) -> list[str]:
    """The names, the first few with the one of `others` that is spelt most like it."""
    near = (difflib.get_close_matches(name, others, n=1, cutoff=0.5) for name in names[:most])
    shown = [f"{name} (near: {found[0]})" if found else name for name, found in zip(names, near, strict=False)]
    return [*shown, *names[most:]]
