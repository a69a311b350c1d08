"""Back-steps from a class down a network: which kernels feed the kernels that feed it.

Stergiou et al., "Class Feature Pyramids for Video Explanation", 2019, section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, fx, nn

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.model import VideoModel
from vidattr_bench.rewrite import Add

Kernel = tuple[str, int]  # the name of a convolution and which of its kernels
HEAD = ""  # who reads the activations that the linear head pools

_CHANNEL_BY_CHANNEL = (
    *(nn.BatchNorm3d, nn.InstanceNorm3d, nn.GroupNorm, nn.LocalResponseNorm, nn.Identity, nn.Dropout, nn.Dropout3d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d),
)


class Wiring:
    """Which kernels' activations the head and each convolution of a rewritten network read.

    Args:
        model: a model as `vidattr_bench.rewrite.modular` gives it.
        layer: the layer that its linear head pools.
    """

    def __init__(self, model: VideoModel, layer: str) -> None:
        self.net = model.net
        self.layer = model.module(layer)
        calls = [node for node in self._graph.nodes if node.op == "call_module"]
        self._heights = self._convolutions_below()
        self._reads = {str(node.target): node.all_input_nodes[0] for node in calls if self._is_convolution(node)}
        self._reads[HEAD] = next(node for node in calls if self.net.get_submodule(str(node.target)) is self.layer)

    @property
    def _graph(self) -> fx.Graph:
        graph = self.net.graph
        assert isinstance(graph, fx.Graph)
        return graph

    def weight(self, convolution: str) -> Tensor:
        """Its kernels, (C', C / groups, t, h, w)."""
        weight = self.net.get_submodule(convolution).weight
        assert isinstance(weight, Tensor)
        return weight

    def read_by(self, reader: str) -> tuple[Kernel, ...]:
        """The kernel behind each channel that a convolution, or the head, reads; none where they are not known.

        Where a sum or a concatenation stands between, the kernels are those of the branches; a shortcut is left out
        of a sum, since it has fewer convolutions below it.
        """
        return self._behind(self._reads[reader])

    def _behind(self, node: fx.Node) -> tuple[Kernel, ...]:
        if node.op == "call_module":
            module, inputs = self.net.get_submodule(str(node.target)), node.all_input_nodes
            if isinstance(module, nn.Conv3d):
                return tuple((str(node.target), kernel) for kernel in range(module.out_channels))
            if isinstance(module, (Add, *_CHANNEL_BY_CHANNEL)):
                return self._behind(max(inputs, key=self._heights.__getitem__))
        if node.target is torch.cat and 1 in (*node.args[1:], *node.kwargs.values()) and isinstance(node.args[0], list):
            branches = [self._behind(branch) for branch in node.args[0] if isinstance(branch, fx.Node)]
            return sum(branches, ()) if all(branches) else ()
        return ()

    def _is_convolution(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.net.get_submodule(str(node.target)), nn.Conv3d)

    def _convolutions_below(self) -> dict[fx.Node, int]:
        """The most convolutions on a way from the clip to each node."""
        heights: dict[fx.Node, int] = {}
        for node in self._graph.nodes:
            below = max((heights[source] for source in node.all_input_nodes), default=0)
            heights[node] = below + self._is_convolution(node)
        return heights

    def readers(self, depth: int) -> list[str]:
        """The head and the convolutions whose input `depth` layers of a pyramid need.

        Raises:
            NotApplicableError: what the head pools is not made of the channels of convolutions.
        """
        found = [HEAD]
        if not self.read_by(HEAD):
            raise NotApplicableError("the channels that the linear head pools cannot be traced to 3-D convolutions")
        level = found
        for _ in range(depth - 1):
            level = list(dict.fromkeys(name for reader in level for name, _ in self.read_by(reader)))
            found = list(dict.fromkeys([*found, *level]))
        return found


def activations_read(model: VideoModel, wiring: Wiring, x: Tensor, readers: Sequence[str]) -> dict[str, Tensor]:
    """What each reader reads, (N, C, t, h, w); one forward of normalised clips x."""
    seen: dict[str, Tensor] = {}

    def keep(reader: str, activations: Tensor) -> None:
        # A ReLU further on may work in place.
        seen[reader] = activations.clone()

    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(wiring.layer.register_forward_hook(lambda module, args, output: keep(HEAD, output)))
        for name in readers[1:]:
            hook = wiring.net.get_submodule(name).register_forward_pre_hook
            stack.enter_context(hook(lambda module, args, name=name: keep(name, args[0])))
        model.logits(x)
    return seen


@dataclasses.dataclass(frozen=True)
class Edge:
    """That a kernel of the layer above, or the class (None), depends on a kernel, by a weight in [0, 1]."""

    above: Kernel | None
    below: Kernel
    weight: float


@dataclasses.dataclass(frozen=True)
class Pyramid:
    """What was kept for one clip and target.

    Attributes:
        layers: from the top down, each kept kernel with its activations (t, h, w).
        edges: what depends on what.
    """

    layers: tuple[Mapping[Kernel, Tensor], ...]
    edges: tuple[Edge, ...]

    def volumes(self) -> Iterator[tuple[Tensor, int]]:
        """For each shape (t, h, w) of activations, their sum over all kept kernels, and the number of these."""
        kept = [volume for layer in self.layers for volume in layer.values()]
        for shape in dict.fromkeys(volume.shape for volume in kept):
            volumes = [volume for volume in kept if volume.shape == shape]
            yield torch.stack(volumes).sum(0), len(volumes)


def scaled(values: Tensor) -> Tensor:
    """Values between the least (0) and the largest (1) of the last axis; NaN where all are equal."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return (values - low) / (high - low)


def build(
    wiring: Wiring, activations: Mapping[str, Tensor], class_weights: Tensor, theta: float, depth: int
) -> Pyramid:
    """The pyramid of one clip.

    Args:
        wiring: of the network.
        activations: what each reader reads, (C, t, h, w).
        class_weights: the target's weights between 0 and 1, (C,).
        theta: what a weight must reach.
        depth: number of layers.
    """
    means = {reader: volume.mean((1, 2, 3)) for reader, volume in activations.items()}
    kernels, volumes = wiring.read_by(HEAD), activations[HEAD]
    top = class_weights.ge(theta).nonzero().flatten().tolist()
    edges = [Edge(None, kernels[j], float(class_weights[j])) for j in top]
    layers = [{kernels[j]: volumes[j] for j in top}]
    for _ in range(depth - 1):
        below: dict[Kernel, Tensor] = {}
        for kernel in layers[-1]:
            reader, index = kernel
            sources = wiring.read_by(reader)
            for channel, weight in _back_step(wiring.weight(reader), index, means[reader], theta) if sources else ():
                edges.append(Edge(kernel, sources[channel], weight))
                below[sources[channel]] = activations[reader][channel]
        known = {kernel for layer in layers for kernel in layer}
        layers.append({kernel: volume for kernel, volume in below.items() if kernel not in known})
    return Pyramid(tuple(layers), tuple(edges))


def _back_step(weight: Tensor, kernel: int, means: Tensor, theta: float) -> list[tuple[int, float]]:
    """The channels that one kernel depends on, with their weights: its mean times the channels' means, as shares.

    A kernel of a grouped convolution reads the channels of its group.
    """
    read = weight.shape[1]
    first = kernel // (len(weight) * read // len(means)) * read
    products = weight[kernel].mean((1, 2, 3)) * means[first : first + read]
    weights = scaled(products / products.sum())
    return [(first + j, float(weights[j])) for j in weights.ge(theta).nonzero().flatten().tolist()]
