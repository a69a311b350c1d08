"""A network of the user's own, made by a function that is imported by name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from torch import nn

from vidattr_bench.checkpoints import class_names, fit, load_state, preprocessing, recorded_feature_layer
from vidattr_bench.classes import read_classes
from vidattr_bench.errors import ModelError, did_you_mean
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factory(ModelEntry):
    """The network that a function of your own returns: `pkg.mod:function`, or `factory:callable=pkg.mod.function`.

    The function takes no argument, or the number of classes as `classes` or `num_classes`. It returns a module that
    maps clips (N, C, T, H, W) to logits (N, K), or a `VideoModel`, which describes itself and takes no option but
    `checkpoint`.

    Options go before what a checkpoint of `train` records, since nothing else describes a network of your own; networks
    of this project, whose options choose among published weights, refuse an option that contradicts the record.

    Attributes:
        callable: dotted name of the function.
        checkpoint: weights to load, strictly; the class names, normalisation and clip input they carry are used.
        classes_file: names of the classes, one a line, in the order of the logits.
        mean, std: per-channel normalisation of pixels in [0, 1], as [0.45,0.45,0.45].
        feature_layer: what CAM-type methods read; by default the last layer with activations over time and space.
        length, stride, anchor, size, resize, crop, interpolation, pixels, flow: the clip the network wants; see
            `ClipInput`.
    """

    name: ClassVar[str] = "factory"

    callable: str
    checkpoint: Path | None = None
    classes_file: Path | None = None
    mean: tuple[float, ...] | None = None  # type: ignore[misc]
    std: tuple[float, ...] | None = None  # type: ignore[misc]
    feature_layer: str | None = None  # type: ignore[misc]
    length: int | None = None
    stride: int | None = None
    anchor: str | None = None
    size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    crop: str | None = None
    interpolation: str | None = None
    pixels: bool | None = None
    flow: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", self._override(ClipInput()))

    def network(self, classes: int) -> nn.Module:
        """What the function returns, told the number of classes if it asks.

        Raises:
            ModelError: the function fails, or returns a `VideoModel`, whose weights are frozen.
        """
        made = self._make(classes)
        if isinstance(made, VideoModel):
            raise ModelError(
                f"{self.callable} returns a VideoModel, which only explains; to train it, let the function return the "
                "network itself, a torch.nn.Module, and give mean=, std= and the clip input as options"
            )
        return made

    def build(self) -> VideoModel:
        """The model with its weights; raises `ModelError` where function, weights or options do not fit together."""
        state, extras = load_state(self.checkpoint) if self.checkpoint else ({}, {})
        classes = self._classes(extras)
        made = self._make(len(classes) or None)
        net = made.net if isinstance(made, VideoModel) else made
        if self.checkpoint:
            fit(net, state, self.checkpoint)
        return self._complete(made) if isinstance(made, VideoModel) else self._describe(made, classes, extras)

    def _classes(self, extras: dict[str, Any]) -> tuple[str, ...]:
        if self.classes_file is not None:
            return read_classes(self.classes_file)
        return class_names(extras, self.checkpoint) if self.checkpoint else ()

    def _make(self, classes: int | None) -> nn.Module:
        function = _import(self.callable)
        asked = [key for key in ("classes", "num_classes") if key in _parameters(function)]
        try:
            made = function(**{key: classes for key in asked[:1] if classes is not None})
        except Exception as error:
            unknown = f"; it asks for {asked[0]}: give classes_file=, their names" if asked and classes is None else ""
            raise ModelError(f"{self.callable} failed: {error!r}{unknown}") from error
        if not isinstance(made, nn.Module):
            raise ModelError(f"{self.callable} returned {type(made).__name__}, not a torch.nn.Module")
        return made

    def _describe(self, net: nn.Module, classes: tuple[str, ...], extras: dict[str, Any]) -> VideoModel:
        """The model of a plain module: options go before what the checkpoint records."""
        recorded = preprocessing(extras, self.checkpoint) if self.checkpoint else {}
        given = {key: getattr(self, key) for key in ("mean", "std") if getattr(self, key) is not None}
        described = {**recorded, **given, "input": self._override(recorded.get("input", ClipInput()))}
        layer = recorded_feature_layer(extras) if self.feature_layer is None else self.feature_layer
        return VideoModel(net, classes, **described, feature_layer=layer, name=self.callable)

    def _override(self, wanted: ClipInput) -> ClipInput:
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(ClipInput)}
        return dataclasses.replace(wanted, **{key: value for key, value in own.items() if value is not None})

    def _complete(self, model: VideoModel) -> VideoModel:
        """A `VideoModel` as the function made it; raises `ModelError` where options would describe it again."""
        for field in dataclasses.fields(self):
            if field.name not in ("callable", "checkpoint") and getattr(self, field.name) is not None:
                raise ModelError(
                    f"{self.callable} returns a VideoModel, which describes itself: leave out {field.name}=, or return "
                    "a plain torch.nn.Module"
                )
        return model


def _import(dotted: str) -> Any:
    """The object called `pkg.mod.name`: the longest prefix that is a module, then its attributes."""
    top, *rest = dotted.split(".")
    found = _module(top)
    if found is None:
        raise ModelError(
            f"cannot import {dotted}: there is no module {top!r}; start python -m vidattr_bench in the folder that "
            "holds it, or install it"
        )
    path = top
    for name in rest:
        inner = None if hasattr(found, name) else _module(f"{path}.{name}")
        if inner is None and not hasattr(found, name):
            raise ModelError(f"{path} has no {name!r}; {did_you_mean(name, _public(found))}")
        found, path = inner or getattr(found, name), f"{path}.{name}"
    if not callable(found):
        raise ModelError(f"{dotted} is a {type(found).__name__}; name a function of it that returns the network")
    return found


def _module(path: str) -> ModuleType | None:
    """The module called `path`, or None where there is none; raises `ModelError` where it fails to import."""
    try:
        return importlib.import_module(path)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None and path.startswith(error.name):
            return None
        raise ModelError(f"{path} does not import: {error!r}") from error


def _public(found: Any) -> list[str]:
    """The names that could follow `found.`: its public attributes and its submodules."""
    submodules = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]
    return sorted({name for name in [*dir(found), *submodules] if not name.startswith("_")})


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []
