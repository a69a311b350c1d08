"""VideoModel: pixels in [0, 1] -> logits, and what methods may ask of a network.

`ModelEntry` is what files in models/ implement; `ClipInput` is what a network wants to be fed.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidattr_bench.errors import ModelError, NotApplicableError, did_you_mean
from vidattr_bench.probe import Probe, mixes_channels, probed, reached

NO_MOTION = 128 / 255
"""What optical flow of 0 pixels a frame is in a clip, where flow is kept as bytes."""


@dataclasses.dataclass(frozen=True)
class ClipInput:
    """The clip a network was made for; a data set uses it for every field that its own spec leaves open.

    Attributes:
        length: number of frames T.
        stride: video frames from one sampled frame to the next.
        anchor: where the sampled span lies in the video: start, middle or end; `spread` ignores the stride and spreads
            the frames over the whole video.
        size: height and width (H, W) given to the network.
        resize: length in pixels of the shorter side before the crop (None: as `size` needs); (H, W) stretches instead.
        crop: `centre` or `none` (then `size` is reached by stretching).
        interpolation: area, bilinear (antialiased) or nearest.
        pixels: the clip has the stream `rgb`, three channels of colour.
        flow: fields of optical flow stacked for each sampled frame; above 0 the clip has the stream `flow`, two
            channels a field, to the right and down by turns, behind the pixels: -20 to 20 pixels a frame as 0 to 1.
    """

    length: int = 16
    stride: int = 1
    anchor: str = "middle"
    size: tuple[int, int] = (112, 112)
    resize: int | tuple[int, int] | None = None
    crop: str = "centre"
    interpolation: str = "bilinear"
    pixels: bool = True
    flow: int = 0

    def __post_init__(self) -> None:
        if self.flow < 0 or not (self.pixels or self.flow):
            raise ModelError(f"a clip needs pixels or flow; pixels={self.pixels} and flow={self.flow} give neither")

    def __str__(self) -> str:
        """As the data class shows itself; of clips of pixels alone without saying so, as runs always recorded them."""
        streams = f", pixels={self.pixels}, flow={self.flow}"
        return repr(self) if self.flow else repr(self).replace(streams, "")

    @property
    def streams(self) -> Mapping[str, int]:
        """Number of channels of each stream, in their order."""
        return {**({"rgb": 3} if self.pixels else {}), **({"flow": 2 * self.flow} if self.flow else {})}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the clip."""
        return sum(self.streams.values()), self.length, *self.size

    @property
    def blank(self) -> tuple[float, ...]:
        """The C values of a pixel that shows nothing: black, which does not move."""
        return (0.0,) * self.streams.get("rgb", 0) + (NO_MOTION,) * self.streams.get("flow", 0)


@dataclasses.dataclass
class Calls:
    """Clips sent forward and backward through a model, counted exactly, and the precision they are sent in.

    Attributes:
        forwards: clips sent forward.
        backwards: clips sent backward.
        autocast: type that the network alone computes in while all around it is in full precision; None: the caller's.
    """

    forwards: int = 0
    backwards: int = 0
    autocast: torch.dtype | None = None


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """A linear classifier on the mean of a layer's activations: logits = weight @ mean(A) + bias.

    Attributes:
        layer: name of the module whose output A (N, C, t, h, w) is pooled channel by channel.
        weight: (classes, C).
    """

    layer: str
    weight: Tensor


class VideoModel(nn.Module):
    """A frozen network in eval mode with classes and normalisation: frames (N, C, T, H, W) in [0, 1] -> logits (N, K).

    Args:
        net: any module that maps normalised clips (N, C, T, H, W) to logits (N, K). It is put in eval mode, frozen, and
            owned by this model from here on.
        classes: K names, in the order of the logits; empty where only the data set knows them.
        mean: per-channel mean subtracted from the pixels; None where the network takes pixels as they are.
        std: per-channel divisor.
        feature_layer: the module that CAM-type methods read; by default the last one whose output has t, h and w
            above 1; "" says that no module has activations over time and space.
        input: what the network wants to be fed.
        name: how tables call it.
        feature_layers: by stream, the `feature_layer` where that stream alone is explained.

    Attributes:
        calls: clips sent forward and backward so far.
        partial: whether some of the network does not depend on the clips, as where one stream alone is explained.
        facts: what was found out about the network, by clip size; never depends on the pixels.

    Raises:
        ModelError: `feature_layer` names no module, or only one of mean and std is given.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        classes: Sequence[str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        feature_layer: str | None = None,
        input: ClipInput | None = None,
        name: str = "model",
        feature_layers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ModelError("VideoModel needs both mean and std, or neither")
        self.net = net.eval().requires_grad_(False)
        self.classes = tuple(classes)
        self.input = input or ClipInput()
        self.name = name
        self.calls = Calls()
        self.partial = False
        self.declares_normalisation = mean is not None
        self.register_buffer("mean", torch.tensor(mean or [0.0]).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or [1.0]).view(1, -1, 1, 1, 1), persistent=False)
        for layer in (feature_layer, *(feature_layers or {}).values()):
            if layer is not None and layer not in dict(net.named_modules()):
                modules = [key for key, _ in net.named_modules() if key]
                raise ModelError(f"feature_layer={layer!r} names no module; {did_you_mean(layer, modules)}")
        self._declared_feature_layer = feature_layer
        self.feature_layers = dict(feature_layers or {})
        self._renamed: Mapping[str, str] = {}
        self.facts: dict[Any, Any] = {}
        self.eval()

    def train(self, mode: bool = True) -> VideoModel:
        """Stay in eval mode: explanations of a training-mode network are never wanted."""
        return super().train(False)

    @property
    def declared_feature_layer(self) -> str | None:
        """The `feature_layer` that this model was made with."""
        return self._declared_feature_layer

    def normalise(self, frames: Tensor) -> Tensor:
        """X = (frames - mean) / std: the space in which gradients, noise and substrates live.

        Raises:
            ModelError: clips have another number of channels than mean and std.
        """
        wanted, found = self.mean.shape[1], frames.shape[1]
        if wanted not in (1, found):
            streams = " and ".join(self.input.streams)
            raise ModelError(
                f"{self.name} takes clips of {wanted} channels, and these have {found}; "
                f"take a data set whose clips have the streams it was made for ({streams})"
            )
        return (frames - self.mean) / self.std

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) of normalised clips (N, C, T, H, W); N forwards are counted, and N backwards per backward pass.

        Raises:
            ModelError: the network gives something else.
        """
        self.calls.forwards += len(x)
        with self._precision(x), _differentiable_recurrence(self.net, x):
            logits: Tensor = self.net(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"the network must give logits (N, K) for {len(x)} clips; it gave {found}")
        if logits.requires_grad:
            logits.register_hook(lambda _: self._count_backward(len(x)))  # type: ignore[no-untyped-call]
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits

    @contextmanager
    def full_precision(self, device: torch.device) -> Iterator[None]:
        """Inside, all but the network itself computes in full precision, whatever autocast the caller is in."""
        before = self.calls.autocast
        if torch.is_autocast_enabled(device.type):
            self.calls.autocast = torch.get_autocast_dtype(device.type)
        try:
            with torch.autocast(device.type, enabled=False):
                yield
        finally:
            self.calls.autocast = before

    def _precision(self, x: Tensor) -> AbstractContextManager[Any]:
        dtype = self.calls.autocast
        return nullcontext() if dtype is None else torch.autocast(x.device.type, dtype)

    def blank(self) -> Tensor:
        """A normalised pixel that shows nothing, (1, C, 1, 1, 1): black, and of optical flow no motion."""
        values = self.input.blank if self.input.flow else (0.0,) * self.mean.shape[1]
        return self.normalise(self.mean.new_tensor(values).view(1, -1, 1, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (N, K) of frames (N, C, T, H, W) in [0, 1]."""
        return self.logits(self.normalise(frames))

    def _count_backward(self, n: int) -> None:
        self.calls.backwards += n

    def with_net(self, net: nn.Module, renamed: Mapping[str, str], x: Tensor) -> VideoModel:
        """This model around another network that computes the same; calls are counted together.

        Args:
            net: the other network.
            renamed: names of its modules by the names of the layers of this one that they stand for.
            x: normalised clips (N, C, T, H, W), on which the feature layer is looked up.
        """
        other = copy.copy(self)
        other._modules = {"net": net}
        # What has been renamed before is still found by its first name.
        other._renamed = {**renamed, **{first: renamed.get(name, name) for first, name in self._renamed.items()}}
        other.facts = {}
        try:
            other._declared_feature_layer = self.feature_layer(x)
        except NotApplicableError:
            other._declared_feature_layer = ""
        return other

    def every_module(self) -> Iterator[nn.Module]:
        """The modules of the network and of what it has been rewritten to."""
        yield from self.modules()
        for fact in list(self.facts.values()):
            if isinstance(fact, VideoModel):
                yield from fact.every_module()

    def _path(self, layer: str) -> str:
        """Where in the network the module lies that is called `layer`."""
        return self._renamed.get(layer, layer)

    def module(self, layer: str) -> nn.Module:
        """The module called `layer`; raises `ModelError` with the nearest names."""
        layer = self._path(layer)
        modules: dict[str, nn.Module] = dict(self.net.named_modules())
        if layer not in modules:
            raise ModelError(f"the network has no layer {layer!r}; {did_you_mean(layer, [k for k in modules if k])}")
        return modules[layer]

    def output_shape(self, layer: str, x: Tensor) -> tuple[int, int, int, int]:
        """(C, t, h, w) of what `layer` puts out on clips like x; found by a probe that is not counted.

        Raises:
            ModelError: the network has no such layer.
            NotApplicableError: the layer does not put out (N, C, t, h, w), or does not run exactly once.
        """
        self.module(layer)
        return self._probe(x).output_shape(self._path(layer), layer)

    def feature_layer(self, x: Tensor) -> str:
        """The declared one, else the last module that runs once and puts out (N, C, t, h, w) with t, h and w above 1.

        Where one ReLU module serves the whole network, that is the convolution or norm before its last use.

        Raises:
            NotApplicableError: no module has such an output.
        """
        if self._declared_feature_layer:
            return self._declared_feature_layer
        if self._declared_feature_layer == "":
            raise NotApplicableError("the network declares that no layer has activations over time and space")
        return self._probe(x).last_volume()

    def layer_before(self, layer: str, x: Tensor) -> str:
        """The layer that ends last before the convolution that makes what `layer` puts out.

        A block begins with its first convolution; an activation, norm, dropout or pooling is made by the convolution
        before it. Of blocks that end together it is the outermost one.

        Raises:
            ModelError: the network has no such layer.
            NotApplicableError: `layer` or what runs before it puts out no (N, C, t, h, w), or runs more than once.
        """
        self.output_shape(layer, x)
        before = self._probe(x).layer_before(self._path(layer))
        return before if mixes_channels(self.module(layer)) else self.layer_before(before, x)

    def linear_head(self, x: Tensor) -> LinearHead:
        """The linear head and the layer it pools, found by a probe and verified on it numerically.

        Raises:
            NotApplicableError: the logits are not a linear map of the mean of some layer's activations.
        """
        layer, linear = self._probe(x).linear_head()
        return LinearHead(layer, self.module(linear).weight)  # type: ignore[arg-type]

    def _probe(self, x: Tensor) -> Probe:
        """What the modules put out on a clip as large as those of x, found out once per size."""
        key = ("probe", tuple(x.shape[1:]), x.device)
        if key not in self.facts:
            self.facts[key] = probed(self.net, x, only_reached=self.partial)
        found: Probe = self.facts[key]
        return found

    def reached(self, x: Tensor) -> frozenset[str]:
        """Names of the modules whose output depends on the clip, found on x (1, C, T, H, W) and noise."""
        return reached(self.net, x)

    def weights_hash(self) -> str:
        """SHA-256 (16 hex digits) of every parameter and buffer, names included."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _differentiable_recurrence(net: nn.Module, x: Tensor) -> AbstractContextManager[Any]:
    """Without cuDNN where gradients of a recurrent layer are wanted: cuDNN has them in training mode only."""
    recurrent = x.is_cuda and torch.is_grad_enabled() and any(isinstance(m, nn.RNNBase) for m in net.modules())
    if not recurrent:
        return nullcontext()
    allow_tf32 = torch.backends.cudnn.allow_tf32
    return torch.backends.cudnn.flags(enabled=False, allow_tf32=allow_tf32)


@dataclasses.dataclass(frozen=True)
class ModelEntry(ABC):
    """What a class in models/ implements: an architecture with its options as fields.

    Attributes:
        input: the clip the architecture was made for.
        mean: per-channel mean that `train` subtracts from the pixels, as `build` does; None: pixels go in as they are.
        std: per-channel divisor.
        feature_layer: what CAM-type methods read, which `train` records; None: the model finds it.
        feature_layers: what they read of a network of several streams where one of them alone is explained.
    """

    input: ClassVar[ClipInput] = ClipInput()
    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None
    feature_layer: ClassVar[str | None] = None
    feature_layers: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits: what `train` starts from."""

    @abstractmethod
    def build(self) -> VideoModel:
        """The trained model; raises `ModelError` where weights are missing or do not fit."""


def normalisation_of_the_file(entry: ModelEntry, model: VideoModel) -> dict[str, Any]:
    """The `normalisation` [mean, std] of a model that its checkpoint brought; {} where it is that of the entry."""
    wanted = [torch.tensor(entry.mean or [0.0]).tolist(), torch.tensor(entry.std or [1.0]).tolist()]
    found = [model.mean.flatten().tolist(), model.std.flatten().tolist()]
    return {} if found == wanted else {"normalisation": found}
