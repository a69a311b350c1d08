"""LRCN: a 2-D CNN on every frame and an LSTM over the frames."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidattr_bench.checkpoints import class_names, existing, fit, load_state, preprocessing
from vidattr_bench.classes import read_classes
from vidattr_bench.errors import ModelError
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel

_FILTERS = (3, 16, 32, 64, 64)
_POOLS = (4, 4, 2, 2)
_UNITS = 32


@dataclasses.dataclass(frozen=True)
class LRCN(ModelEntry):
    """A CNN of four convolutions on each of 20 frames of 64 x 64 pixels, an LSTM of 32 units, and a linear head.

    Frames are spread over the video and stretched. After Donahue et al. 2015, arXiv 1411.4389.

    Attributes:
        checkpoint: trained weights: a HDF5 file of Keras, read with h5py (no code in it is run), or what `train` wrote.
        classes_file: names of the checkpoint's classes, one a line, where it does not carry them.
    """

    name: ClassVar[str] = "lrcn"
    input: ClassVar[ClipInput] = ClipInput(length=20, anchor="spread", size=(64, 64), crop="none")
    feature_layer: ClassVar[str] = "cnn.relu3"

    checkpoint: Path | None = None
    classes_file: Path | None = None

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits; RGB clips (N, 3, T, 64, 64) -> logits (N, classes)."""
        return _LRCN(classes)

    def build(self) -> VideoModel:
        """The trained model; raises `ModelError` where files are missing, cannot be read or do not fit."""
        if self.checkpoint is None:
            raise ModelError(
                f"{self.name} has no weights of its own; give {self.name}:checkpoint=FILE,classes_file=FILE"
            )
        state, extras = _load(self.checkpoint)
        classes = read_classes(self.classes_file) if self.classes_file else class_names(extras, self.checkpoint)
        net = self.network(len(state.get("head.bias", ())))
        fit(net, state, self.checkpoint)
        if classes and len(classes) != len(state["head.bias"]):
            raise ModelError(
                f"{self.classes_file or self.checkpoint} names {len(classes)} classes, and the weights have "
                f"{len(state['head.bias'])}; give the classes_file of this checkpoint"
            )
        described = {"input": self.input, **preprocessing(extras, self.checkpoint)}
        return VideoModel(net, classes, **described, feature_layer=self.feature_layer, name=self.name)


class _LRCN(nn.Module):
    """The CNN is written in 3-D layers that are one frame deep, so that its activations are volumes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, pool in enumerate(_POOLS, start=1):
            layers[f"conv{i}"] = nn.Conv3d(_FILTERS[i - 1], _FILTERS[i], (1, 3, 3), padding=(0, 1, 1))
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool3d((1, pool, pool))
            if i < len(_POOLS):
                layers[f"dropout{i}"] = nn.Dropout(0.25)
        self.cnn = nn.Sequential(layers)
        self.lstm = nn.LSTM(_FILTERS[-1], _UNITS, batch_first=True)
        self.head = nn.Linear(_UNITS, classes)

    def forward(self, x: Tensor) -> Tensor:
        bgr = x.flip(1)
        sequence = self.cnn(bgr).transpose(1, 2).flatten(2)
        states, _ = self.lstm(sequence)
        logits: Tensor = self.head(states[:, -1])
        return logits


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names, and what else the file carries, which in Keras' files is no class name."""
    if path.suffix not in (".h5", ".hdf5"):
        return load_state(path)
    return _from_keras(_read_keras(path), path), {}


def _read_keras(path: Path) -> list[Tensor]:
    """The arrays of a Keras HDF5 file in the order of its layers; the optimiser's are left out."""
    try:
        import h5py
    except ImportError as error:
        raise ModelError(f"reading {path} needs the package h5py; pip install h5py") from error
    try:
        with h5py.File(existing(path)) as file:
            group = file.get("model_weights", file)
            layers = [group[_text(name)] for name in group.attrs["layer_names"]]
            arrays = [layer[_text(name)][()] for layer in layers for name in layer.attrs["weight_names"]]
            return [torch.from_numpy(array) for array in arrays]
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} holds no weights that Keras wrote as HDF5 ({error}); copy or download it again"
        ) from error


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _from_keras(arrays: Sequence[Tensor], path: Path) -> dict[str, Tensor]:
    """Keras' arrays as our parameters: kernels are (h, w, in, out) and (in, out) there, and an LSTM has one bias.

    The gates are in the same order, i, f, c, o.
    """
    names = [f"cnn.conv{i}.{kind}" for i in range(1, len(_POOLS) + 1) for kind in ("weight", "bias")]
    names += ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "head.weight", "head.bias"]
    if len(arrays) != len(names):
        raise ModelError(f"{path} holds {len(arrays)} arrays of weights, an LRCN has {len(names)}; give a file of one")
    state = {name: _kernel(array) for name, array in zip(names, arrays, strict=True)}
    return {**state, "lstm.bias_hh_l0": torch.zeros_like(state["lstm.bias_ih_l0"])}


def _kernel(array: Tensor) -> Tensor:
    if array.ndim == 4:
        return array.permute(3, 2, 0, 1).unsqueeze(2)
    return array.T if array.ndim == 2 else array
