"""What the networks of torchvision share: input, normalisation and classes come from its own description of them."""

from __future__ import annotations

import dataclasses
import http.client
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights

from vidattr_bench.checkpoints import class_names, fit, load_state, preprocessing
from vidattr_bench.classes import read_classes
from vidattr_bench.errors import ModelError, did_you_mean
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel


@dataclasses.dataclass(frozen=True)
class TorchvisionEntry(ModelEntry):
    """A network of torchvision.

    Attributes:
        weights: torchvision's name of trained weights; they are downloaded when first used.
        checkpoint: a file of weights to use instead.
        classes_file: names of the checkpoint's classes, one a line, where it does not carry them.
        sampling: length of the clip, and video frames from one sampled frame to the next.
        feature_layer: what CAM-type methods read; by default the last layer with activations over time and space.
    """

    name: ClassVar[str]
    sampling: ClassVar[tuple[int, int]]
    head: ClassVar[str]
    feature_layer: ClassVar[str | None] = None

    weights: str = "DEFAULT"
    checkpoint: Path | None = None
    classes_file: Path | None = None

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "name"):
            transforms = _weights(cls.name, "DEFAULT").transforms()
            cls.input = _clip_input(transforms, *cls.sampling)
            cls.mean, cls.std = tuple(transforms.mean), tuple(transforms.std)

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits."""
        net: nn.Module = get_model(self.name, weights=None, num_classes=classes)
        return net

    def build(self) -> VideoModel:
        """The trained model; raises `ModelError` where weights cannot be had or do not fit."""
        weights = _weights(self.name, self.weights)
        path = self.checkpoint or _download(weights, self.name)
        state, extras = load_state(path)
        logits = len(state.get(f"{self.head}.bias", ())) or len(weights.meta["categories"])
        net = self.network(logits)
        fit(net, state, path)
        published = {"mean": self.mean, "std": self.std, "input": self.input}
        return VideoModel(
            net,
            self._classes(extras, path, logits),
            **{**published, **preprocessing(extras, path)},
            feature_layer=self.feature_layer,
            name=self.name,
        )

    def _classes(self, extras: dict[str, Any], path: Path, logits: int) -> tuple[str, ...]:
        """Names from the file the user gives, else the checkpoint's, else Kinetics' where there are as many."""
        if self.classes_file is not None:
            return read_classes(self.classes_file)
        categories = tuple(_weights(self.name, self.weights).meta["categories"])
        return class_names(extras, path) or (categories if logits == len(categories) else ())


def _weights(name: str, wanted: str) -> WeightsEnum:
    known = get_model_weights(name).__members__
    if wanted not in known:
        raise ModelError(f"{name} has no weights {wanted!r}; {did_you_mean(wanted, known)}")
    return known[wanted]


def _clip_input(transforms: Any, length: int, stride: int) -> ClipInput:
    """What torchvision's own transforms do to a frame, but for its resizing without antialiasing."""
    shorter, *rest = transforms.resize_size
    return ClipInput(
        length=length,
        stride=stride,
        size=tuple(transforms.crop_size),
        resize=(shorter, *rest) if rest else shorter,
        crop="centre",
        interpolation=transforms.interpolation.value,
    )


def _download(weights: WeightsEnum, name: str) -> Path:
    """The file of the weights in torch's cache, downloaded and verified by its hash where it is not there yet."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=sha256, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ModelError(
            f"cannot download the weights of {name} ({error}); fetch {weights.url} on a machine that can, "
            f"and put it at {path} or give {name}:checkpoint=FILE"
        ) from error
    return path
