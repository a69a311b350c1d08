"""What networks with a stream of pixels and one of optical flow share: their clips, their scores, their files."""

from __future__ import annotations

import dataclasses
import re
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidattr_bench.checkpoints import class_names, load_state
from vidattr_bench.errors import ModelError
from vidattr_bench.model import NO_MOTION, ClipInput
from vidattr_bench.models._matconvnet import is_matlab, read_dagnn
from vidattr_bench.models._published import PublishedEntry

PIXELS = 3
FIELDS = 10  # of optical flow, stacked for a frame
POOLED = 5  # frames under the temporal max-pooling
_STREAMS = ("spatial", "temporal")
_LINEAR = ("fc6", "fc7", "prediction")
# The authors' scripts name the layer before the loss, which is not always the classifier: a dropout may lie between.
_CLASSIFIER = re.compile(r"^(fc8|fc1000|layer\d+)_(spatial|temporal)$")


@dataclasses.dataclass(frozen=True)
class TwoStreamEntry(PublishedEntry):
    """A network on clips with pixels and stacked optical flow.

    Attributes:
        frames: number of frames, 5 or more, each with 10 fields of optical flow; by default the authors' number in
            training, or as many as `train` recorded.
        flow_checkpoint: the temporal stream's weights where `checkpoint` has those of the spatial stream alone, as the
            authors' base streams have; what joins them is untrained then, and `train` starts where the authors do.
    """

    head: ClassVar[str] = "spatial_head.prediction"
    input: ClassVar[ClipInput]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]] = (1 / 255,) * (PIXELS + 2 * FIELDS)

    frames: int | None = None
    flow_checkpoint: Path | None = None

    def __post_init__(self) -> None:
        frames = type(self).input.length if self.frames is None else self.frames
        if frames < POOLED:
            raise ModelError(f"{self.name}: frames={frames} must be {POOLED} or more, which are pooled together")
        if self.flow_checkpoint is not None and self.checkpoint is None:
            raise ModelError(
                f"{self.name}: flow_checkpoint={self.flow_checkpoint} has the temporal stream alone; give checkpoint=, "
                "the spatial stream's weights, too"
            )
        object.__setattr__(self, "input", dataclasses.replace(type(self).input, length=frames))

    def asked(self) -> dict[str, Any]:
        """The number of frames where `frames` gives it."""
        return {} if self.frames is None else {"length": self.frames}

    @abstractmethod
    def place(self, layer: str, stream: str) -> str:
        """Our name of what the authors call `layer` of the stream `spatial` or `temporal`."""

    @abstractmethod
    def joined(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of streams that were trained apart, with what joins them as the authors' training starts it."""

    def loaded(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights in a file, or in those of two streams, and the mean image where MatConvNet wrote one beside them."""
        if self.flow_checkpoint is not None:
            return self._of_two_files(path, self.flow_checkpoint)
        if not is_matlab(path):
            return load_state(path)
        state, image = read_dagnn(path)
        mean = image.roll(PIXELS) if len(image) == len(self.mean) else torch.empty(0)  # theirs begins with the flow
        return dict(self.adapted(state)), self._described(mean[:PIXELS], mean[PIXELS:])

    def _of_two_files(self, *paths: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        named, means, names = {}, [], []
        for stream, path in zip(_STREAMS, paths, strict=True):
            state, mean, extras = _of_one_stream(path)
            means.append(mean)
            names.append(class_names(extras, path))
            for name, tensor in state.items():
                layer, _, parameter = name.rpartition(".")
                named[f"{layer}_{stream}.{parameter}"] = tensor
        if all(names) and names[0] != names[1]:
            raise ModelError(f"{paths[0]} and {paths[1]} name other classes; give streams of one data set")
        told = next(filter(None, names), ())
        warnings.warn(
            f"{self.name}: what joins the two streams is untrained before `train` has trained it", stacklevel=2
        )
        classes = {"classes": list(told)} if told else {}
        return self.joined(self.adapted(named)), {**classes, **self._described(*means)}

    def _described(self, *means: Tensor) -> dict[str, Any]:
        """What a checkpoint of `train` says of its clips, given the mean of each stream in 0 to 255.

        Of a stream whose mean the file lacks it is the class's; {} where it lacks both.
        """
        usual = (self.mean[:PIXELS], self.mean[PIXELS:])
        known = [len(mean) == len(own) for mean, own in zip(means, usual, strict=True)]
        if not any(known):
            return {}
        parts = zip(means, usual, known, strict=True)
        mean = [value for one, own, there in parts for value in ((one / 255).tolist() if there else own)]
        return {"mean": mean, "std": list(self.std), "input": dataclasses.asdict(self.input)}

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The authors' layers, named `LAYER_spatial` and `LAYER_temporal`, as ours; kernels are those of our layers."""
        renamed = {self._renamed(name): tensor for name, tensor in state.items()}
        return {name: _reshaped(name, tensor) for name, tensor in renamed.items()}

    def _renamed(self, name: str) -> str:
        layer, _, parameter = name.rpartition(".")
        layer = _CLASSIFIER.sub(r"prediction_\2", layer)
        base, _, stream = layer.rpartition("_")
        if stream not in _STREAMS or not base:
            return name
        place = f"{stream}_head.{base}" if base in _LINEAR else self.place(base, stream)
        return f"{place}.{parameter}"


def _of_one_stream(path: Path) -> tuple[Mapping[str, Tensor], Tensor, Mapping[str, Any]]:
    """Weights of one stream by its authors' names, its mean image where there is one, and what else the file carries.

    What a Lightning module holds beside the network is left out with a warning.
    """
    if is_matlab(path):
        return *read_dagnn(path), {}
    state, extras = load_state(path)
    if beside := getattr(state, "beside", ()):
        warnings.warn(f"{path}: left out, beside the network: {', '.join(beside)}", stacklevel=2)
    return state, torch.empty(0), extras


def mean_of(rgb: tuple[float, float, float]) -> tuple[float, ...]:
    """The mean of a clip's channels in [0, 1], given that of its pixels in 0 to 255; that of flow is no motion."""
    return (*(value / 255 for value in rgb), *(NO_MOTION,) * (2 * FIELDS))


def streams(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, T, H, W) and flow (N, 20, T, H, W) of clips (N, 23, T, H, W)."""
    return x[:, :PIXELS], x[:, PIXELS:]


def average(spatial: Tensor, temporal: Tensor) -> Tensor:
    """Logits (N, K): the mean of both streams' scores (N, t, K), before any softmax, as the authors' tests take it."""
    return torch.cat([spatial, temporal], 1).mean(1)


def frame_wise(channels: int, out: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Conv3d:
    """A 2-D convolution of every frame, with zeros around it."""
    padding = kernel // 2
    return nn.Conv3d(channels, out, (1, kernel, kernel), (1, stride, stride), (0, padding, padding), bias=bias)


def _reshaped(name: str, tensor: Tensor) -> Tensor:
    """A 2-D kernel as one that is one frame deep, and that of a fully connected layer as a matrix."""
    if tensor.ndim != 4:
        return tensor
    return tensor.flatten(1) if "_head." in name else tensor.unsqueeze(2)
