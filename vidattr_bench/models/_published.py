"""What networks with published checkpoints share: their authors' names of weights, classes, input and layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torchvision.models.video import R3D_18_Weights

from vidattr_bench.checkpoints import changed, class_names, fit, load_state, preprocessing
from vidattr_bench.classes import read_classes
from vidattr_bench.errors import ModelError
from vidattr_bench.model import ModelEntry, VideoModel

_FILES = ("checkpoint", "classes_file")


@dataclasses.dataclass(frozen=True)
class PublishedEntry(ModelEntry):
    """A network whose published weights load strictly, by the names that their authors gave them.

    Attributes:
        checkpoint: the authors' weights, or what `train` wrote.
        classes_file: names of the checkpoint's classes, one a line, where it does not carry them.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    feature_layer: ClassVar[str]

    checkpoint: Path | None = None
    classes_file: Path | None = None

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of a file that `train` did not write, made those of our network."""
        return state

    def loaded(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights in a file, and what else it carries; raises `ModelError` where it cannot be read."""
        return load_state(path)

    def asked(self) -> dict[str, Any]:
        """What options say of the clip and its normalisation, by the fields of `ClipInput`, `mean` and `std`.

        These are what differs from the class; an entry adds what an option says as the class does.
        """
        own, usual = ({**vars(one.input), "mean": one.mean, "std": one.std} for one in (self, type(self)))
        return {key: value for key, value in own.items() if value != usual[key]}

    def build(self) -> VideoModel:
        """The trained model; raises `ModelError` where files are missing, cannot be read or do not fit.

        It is fed as its authors or `train` fed it, and an option that contradicts what `train` recorded is refused.
        """
        if self.checkpoint is None:
            raise ModelError(f"{self.name} has no weights of its own; give {self.name}:checkpoint=FILE")
        state, extras = self.loaded(self.checkpoint)
        recorded = preprocessing(extras, self.checkpoint)
        self._refuse_others(recorded, self.checkpoint)
        weights = state if recorded else changed(state, self.adapted)
        logits = len(weights.get(f"{self.head}.weight", ())) or 1
        net = self.network(logits)
        fit(net, weights, self.checkpoint)
        described = {"mean": self.mean, "std": self.std, "input": self.input, **recorded}
        classes = self._classes(extras, self.checkpoint, logits)
        layers: dict[str, Any] = {"feature_layer": self.feature_layer, "feature_layers": self.feature_layers}
        return VideoModel(net, classes, **described, **layers, name=self.name)

    def _refuse_others(self, recorded: Mapping[str, Any], path: Path) -> None:
        """Raise `ModelError` where an option asks for what the network was not trained with."""
        if not recorded:
            return
        trained = {**vars(recorded["input"]), **{key: tuple(recorded[key] or ()) for key in ("mean", "std")}}
        others = {key: value for key, value in self.asked().items() if not _agree(value, trained[key])}
        if others:
            wanted = ", ".join(f"{key} {value}" for key, value in others.items())
            found = ", ".join(f"{key} {trained[key]}" for key in others)
            options = ", ".join(self._behind(others))
            raise ModelError(
                f"{self.name}: its options ({options}) ask for {wanted}, and {path} was trained with {found}; leave "
                "out the option that says so (the data set's spec can ask for another clip)"
            )

    def _behind(self, asked: Mapping[str, Any]) -> list[str]:
        """The options without any one of which something else would be asked for."""
        given: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self) if self._is_set(field)}
        without = {name: dataclasses.replace(self, **{name: usual}).asked() for name, usual in given.items()}
        return [name for name, other in without.items() if any(other.get(key) != asked[key] for key in asked)]

    def _is_set(self, field: dataclasses.Field[Any]) -> bool:
        return field.name not in _FILES and getattr(self, field.name) != field.default

    def _classes(self, extras: Mapping[str, Any], path: Path, logits: int) -> tuple[str, ...]:
        """Names from the file the user gives, else the checkpoint's, else Kinetics-400's where there are as many."""
        if self.classes_file is None:
            # DeepMind, Hara et al. and Chen et al. number Kinetics-400 as torchvision does, by the alphabet.
            kinetics = tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"])
            return class_names(extras, path) or (kinetics if logits == len(kinetics) else ())
        names = read_classes(self.classes_file)
        if len(names) != logits:
            raise ModelError(
                f"{self.classes_file} names {len(names)} classes, and the weights in {path} have {logits}; "
                "give the classes_file of this checkpoint"
            )
        return names


def _agree(asked: Any, trained: Any) -> bool:
    """Whether two values are equal, floats up to the rounding of a record that was taken from float32 tensors."""
    if isinstance(asked, tuple) and isinstance(trained, tuple) and len(asked) == len(trained):
        return all(_agree(one, other) for one, other in zip(asked, trained, strict=True))
    if isinstance(asked, float) and isinstance(trained, float):
        return math.isclose(asked, trained, rel_tol=1e-5, abs_tol=1e-7)
    return bool(asked == trained)
