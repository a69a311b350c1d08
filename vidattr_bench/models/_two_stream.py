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

from vidattr_bench.checkpoints import load_state
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
        frames: number of frames, 5 or more; each has 10 fields of optical flow.
        flow_checkpoint: the temporal stream's weights where `checkpoint` has those of the spatial stream alone, as the
            authors' base streams have; what joins them is untrained then, and `train` starts where the authors do.
    """

    head: ClassVar[str] = "spatial_head.prediction"
    input: ClassVar[ClipInput]
    std: ClassVar[tuple[float, ...]] = (1 / 255,) * (PIXELS + 2 * FIELDS)

    frames: int = POOLED
    flow_checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.frames < POOLED:
            raise ModelError(f"{self.name}: frames={self.frames} must be {POOLED} or more, which are pooled together")
        object.__setattr__(self, "input", dataclasses.replace(type(self).input, length=self.frames))

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
        return dict(self.adapted(state)), self._described(image.roll(PIXELS))  # theirs begins with the flow

    def _of_two_files(self, *paths: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        named, images = {}, []
        for stream, path in zip(_STREAMS, paths, strict=True):
            state, image = read_dagnn(path) if is_matlab(path) else (load_state(path)[0], torch.empty(0))
            images.append(image)
            for name, tensor in state.items():
                layer, _, parameter = name.rpartition(".")
                named[f"{layer}_{stream}.{parameter}"] = tensor
        warnings.warn(f"{self.name}: what joins the two streams is untrained; `train` the network first", stacklevel=2)
        return self.joined(self.adapted(named)), self._described(torch.cat(images))

    def _described(self, mean: Tensor) -> dict[str, Any]:
        """What a checkpoint of `train` says of its clips, given their mean in 0 to 255; {} where that lacks."""
        if len(mean) != len(self.std):
            return {}
        return {"mean": (mean / 255).tolist(), "std": list(self.std), "input": dataclasses.asdict(self.input)}

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
