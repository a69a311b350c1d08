"""One stream of clips that have several, pixels and optical flow: the model as a function of it, the others staying."""

from __future__ import annotations

import copy
import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import flow_to_image

from vidattr_bench.errors import ModelError, did_you_mean
from vidattr_bench.model import NO_MOTION, ClipInput, VideoModel


def channels_of(model: VideoModel, stream: str) -> slice:
    """The channels of a clip of `model` that make up a stream; raises `ModelError` where it has no such stream."""
    streams = model.input.streams
    if stream not in streams:
        raise ModelError(f"the model has no stream {stream!r}; {did_you_mean(stream, streams)}")
    names = list(streams)
    first = sum(streams[name] for name in names[: names.index(stream)])
    return slice(first, first + streams[stream])


def of_stream(model: VideoModel, stream: str, frames: Tensor) -> VideoModel:
    """The model as a function of one stream of one clip, the other streams being as they are in that clip.

    What explains it explains the stream given the others, and what is removed is removed from the stream alone. Calls
    are counted together with those of `model`; layers keep their names.

    Args:
        model: the model of whole clips.
        stream: rgb or flow; see `ClipInput.streams`.
        frames: (1, C, T, H, W) in [0, 1], the whole clip.

    Returns:
        A model of clips (N, c, T, H, W) that hold the channels of the stream.

    Raises:
        ModelError: there is no such stream, or `frames` are not one clip of all streams.
    """
    own, channels = channels_of(model, stream), model.input.shape[0]
    if frames.ndim != 5 or frames.shape[:2] != (1, channels):
        found = tuple(frames.shape)
        raise ModelError(f"a stream is explained in one clip of all of them, (1, {channels}, T, H, W), not {found}")
    rest = model.normalise(frames.detach()).clone()
    rest[:, own] = 0
    other = copy.copy(model)
    other._modules = {"net": _OneStream(model.net, own, rest).eval()}
    other._buffers = {name: _share(buffer, own) for name, buffer in model._buffers.items()}
    other._renamed = {name: f"net.{model._renamed.get(name, name)}" for name, _ in model.net.named_modules() if name}
    other._declared_feature_layer = model.feature_layers.get(stream, model.declared_feature_layer)
    other.input = dataclasses.replace(model.input, pixels=stream == "rgb", flow=model.input.flow * (stream == "flow"))
    other.partial = True
    # What is found out about this network holds for this clip alone, which is part of it.
    other.facts = {}
    return other


def picture_of(frames: Tensor, wanted: ClipInput) -> Tensor:
    """What of clips (..., C, T, H, W) is a picture: their pixels, where they have optical flow too."""
    return frames[..., : wanted.streams["rgb"], :, :, :] if wanted.flow and wanted.pixels else frames


def shown(frames: Tensor, wanted: ClipInput, stream: str = "") -> Tensor:
    """What there is to see of a clip (C, T, H, W) in [0, 1]: uint8 (T, H, W, 3).

    Its pixels; where it has none, or `stream` is flow, the middle field of flow of every frame on the colour wheel,
    the longest vector of the clip in full colour (Baker et al. 2011, doi:10.1007/s11263-010-0390-2).
    """
    names = list(wanted.streams)
    if "flow" in names and (stream == "flow" or names == ["flow"]):
        first = wanted.streams.get("rgb", 0) + 2 * (wanted.flow // 2)
        field = (frames[first : first + 2].transpose(0, 1) - NO_MOTION).float()
        wheel: Tensor = flow_to_image(field.cpu())
        return wheel.permute(0, 2, 3, 1)
    return (frames[: wanted.streams.get("rgb", len(frames))].permute(1, 2, 3, 0) * 255).round().byte().cpu()


def _share(buffer: Tensor | None, own: slice) -> Tensor | None:
    """A value for all channels, or those of the stream's (1, C, 1, 1, 1)."""
    return buffer if buffer is None or buffer.shape[1] == 1 else buffer[:, own]


class _OneStream(nn.Module):
    """A network on clips of which only some channels are put in, the other ones being those of `rest`.

    Args:
        net: the network on whole clips.
        own: the channels that are put in.
        rest: (1, C, T, H, W), 0 in these channels.
    """

    rest: Tensor

    def __init__(self, net: nn.Module, own: slice, rest: Tensor) -> None:
        super().__init__()
        self.net = net
        self.padding = (0, 0, 0, 0, 0, 0, own.start, rest.shape[1] - own.stop)
        self.register_buffer("rest", rest, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Adding 0 changes no bit, and unlike concatenation with copies it needs no batch size, which torch.fx lacks.
        logits: Tensor = self.net(F.pad(x, self.padding) + self.rest)
        return logits
