"""The two-stream VGG-16 whose streams are fused after their last convolution, over time and space."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vidattr_bench.model import ClipInput
from vidattr_bench.models import _two_stream as two_stream
from vidattr_bench.models._two_stream import TwoStreamEntry

_CONVOLUTIONS = (2, 2, 3, 3, 3)
_WIDTHS = (64, 128, 256, 512, 512)
_UNITS = 4096
_PLACES = 7 * 7  # what 224 x 224 pixels leave
_KEPT = (0.25, 0.75)  # of the two streams' activations at the start of a training


class TwoStreamVGG16(TwoStreamEntry):
    """Two-stream VGG-16 fused after conv5, on 5 frames of 224 x 224: 283 514 762 parameters for 101 classes.

    Feichtenhofer et al. 2016, arXiv 1604.06573. A frame's 23 channels are RGB and ten fields of TV-L1 flow, from five
    frames before it to four after it, right and down by turns. A 3 x 3 x 3 convolution joins the streams' 512 x 5 x 14
    x 14 features `spatial.relu5_3` and `temporal.relu5_3` to as many in `relu3D5`; from there and from the temporal
    stream alone lead max-poolings over 5 frames and fully connected layers to two scores, whose mean the logits are, as
    in github.com/feichtenhofer/twostreamfusion. Its tests take ten such clips, their frames spread over the video, and
    mirror them. There is no linear head on a global average. Weights are what its cnn_ucf101_fusion.m saves (.mat, read
    with scipy; no code in it is run), or those of a port by its names of layers; its README links those of the streams
    before their fusion. The number of parameters is computed; the mean colour is that of VGG's authors.
    """

    name = "two_stream_vgg16"
    feature_layer = "relu3D5"
    feature_layers: ClassVar[Mapping[str, str]] = {"rgb": "spatial.relu5_3", "flow": "temporal.relu5_3"}
    input: ClassVar[ClipInput] = ClipInput(
        length=two_stream.POOLED, anchor="spread", size=(224, 224), resize=256, crop="centre", flow=two_stream.FIELDS
    )
    mean: ClassVar[tuple[float, ...]] = two_stream.mean_of((123.68, 116.779, 103.939))

    def network(self, classes: int) -> nn.Module:
        """The untrained network with `classes` logits, for clips (N, 23, T, 224, 224) of five frames and more."""
        return _Network(classes)

    def place(self, layer: str, stream: str) -> str:
        """Our name of what the authors call `layer` of the stream `spatial` or `temporal`."""
        return f"{stream}.{layer}"

    def joined(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of streams that were trained apart, with what joins them as the authors' training starts it."""
        channels = len(state.get("spatial.conv5_3.bias", ()))
        return {**state, "conv53D.weight": _smoothed_sum(channels), "conv53D.bias": torch.zeros(channels)}


class _Network(nn.Module):
    def __init__(
        self, classes: int, widths: Sequence[int] = _WIDTHS, units: int = _UNITS, places: int = _PLACES
    ) -> None:
        super().__init__()
        self.spatial = _stream(two_stream.PIXELS, widths)
        self.temporal = _stream(2 * two_stream.FIELDS, widths)
        self.conv53D = nn.Conv3d(2 * widths[-1], widths[-1], 3, padding=1)
        self.relu3D5 = nn.ReLU()
        self.spatial_head = _Head(places * widths[-1], units, classes)
        self.temporal_head = _Head(places * widths[-1], units, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        rgb, flow = two_stream.streams(x)
        appearance, motion = self.spatial(rgb), self.temporal(flow)
        fused = self.relu3D5(self.conv53D(torch.cat([appearance, motion], 1)))
        return two_stream.average(self.spatial_head(fused), self.temporal_head(motion))


def _stream(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """VGG-16 up to its last convolution, frame by frame, by the names of its authors' layers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (count, width) in enumerate(zip(_CONVOLUTIONS, widths, strict=True), start=1):
        for j in range(1, count + 1):
            layers[f"conv{i}_{j}"] = two_stream.frame_wise(channels, width, 3)
            layers[f"relu{i}_{j}"] = nn.ReLU()
            channels = width
        if i < len(_CONVOLUTIONS):
            layers[f"pool{i}"] = nn.MaxPool3d((1, 2, 2))
    return nn.Sequential(layers)


class _Head(nn.Module):
    """Max-pooling over five frames, every second time, and VGG's fully connected layers: scores (N, t, classes)."""

    def __init__(self, features: int, units: int, classes: int) -> None:
        super().__init__()
        self.pool3D5 = nn.MaxPool3d((two_stream.POOLED, 2, 2), 2)
        self.fc6, self.relu6 = nn.Linear(features, units), nn.ReLU()
        self.dropout6 = nn.Dropout(0.85)
        self.fc7, self.relu7 = nn.Linear(units, units), nn.ReLU()
        self.dropout7 = nn.Dropout(0.85)
        self.prediction = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool3D5(x).transpose(1, 2).flatten(2)
        x = self.dropout6(self.relu6(self.fc6(x)))
        scores: Tensor = self.prediction(self.dropout7(self.relu7(self.fc7(x))))
        return scores


def _initialise(net: _Network) -> None:
    """Weights for ReLUs (He et al. 2015, arXiv 1502.01852), and the authors' in the fusion."""
    for module in net.modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        net.conv53D.weight.copy_(_smoothed_sum(net.conv53D.out_channels))


def _smoothed_sum(channels: int) -> Tensor:
    """The kernel that the authors' fusion starts with: .25 of the pixels and .75 of the flow, under a Gaussian."""
    line = torch.exp(-torch.tensor([-1.0, 0.0, 1.0]).square() / 2)
    smooth = torch.einsum("i,j,k->ijk", *[line / line.sum()] * 3)
    joined = torch.cat([share * torch.eye(channels) for share in _KEPT], 1)
    return joined[:, :, None, None, None] * smooth
