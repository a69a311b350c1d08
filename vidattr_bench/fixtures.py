"""Small networks and batches to test plug-ins on: they run in milliseconds, and no axis is as long as another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Case, Explain
from vidattr_bench.model import ClipInput, VideoModel
from vidattr_bench.randomness import derive
from vidattr_bench.small_networks import (
    CLASSES,
    MaxPoolNet,
    PlainNet,
    ResidualNet,
    SmallDividedTransformer,
    SmallLRCN,
    SmallVideoTransformer,
)

SIZE = (6, 20, 28)
Activation = Callable[[], Callable[[Tensor], Tensor]]


class SmallNet(nn.Module):
    """Convolution, batch norm, ReLU; a max-pooling; a residual sum; a linear head on the global average.

    Args:
        activation: makes the activations; modules, or functions that no hook can reach.
    """

    def __init__(self, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 8, 3, (1, 2, 2), 1)
        self.bn1 = nn.BatchNorm3d(8)
        self.activation1 = activation()
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.conv2 = nn.Conv3d(8, 8, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(8)
        self.activation2 = activation()
        self.average = nn.AdaptiveAvgPool3d(1)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5) of clips (N, 3, T, H, W)."""
        x = self.pool(self.activation1(self.bn1(self.conv1(x))))
        x = self.activation2(x + self.bn2(self.conv2(x)))
        logits: Tensor = self.head(self.average(x).flatten(1))
        return logits


class _PixelStatistics(nn.Sequential):
    """A network without any layer over time and space: it sees the mean colour alone."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, len(CLASSES)))


def small_model(activation: Activation = nn.ReLU, seed: int = 0) -> VideoModel:
    """A `SmallNet` with random weights and batch statistics, five classes and a normalisation.

    Args:
        activation: makes the activations.
        seed: of the weights.
    """
    return as_model(lambda: SmallNet(activation), seed)


def model_without(requirement: str) -> VideoModel:
    """A model that lacks what a method may require."""
    if requirement == "relu_modules":
        return small_model(nn.GELU)
    if requirement in ("piecewise_linear", "rescale_rules"):
        return small_model(lambda: nn.functional.gelu)
    return as_model(_PixelStatistics)


def as_model(build: Callable[[], nn.Module], seed: int = 0, **options: Any) -> VideoModel:
    """A `VideoModel` of the network that `build` makes, randomised; the global random state stays as it is.

    Args:
        build: makes a network for clips (N, 3, T, H, W) with five classes.
        seed: of its weights and of its batch norms' statistics.
        options: of `VideoModel`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build()
        for norm in [module for module in net.modules() if isinstance(module, nn.BatchNorm3d)]:
            for values in (norm.weight, norm.running_var):
                nn.init.uniform_(values, 0.5, 1.5)  # type: ignore[arg-type]
            for values in (norm.bias, norm.running_mean):
                nn.init.normal_(values, std=0.3)  # type: ignore[arg-type]
    t, h, w = SIZE
    wanted = ClipInput(length=t, size=(h, w))
    statistics = {"mean": [0.45, 0.43, 0.40], "std": [0.23, 0.22, 0.25]}
    return VideoModel(net, CLASSES, **{"input": wanted, **statistics, **options})


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "plain CNN": PlainNet,
    "residual CNN": ResidualNet,
    "max-pool CNN": MaxPoolNet,
    "recurrent CNN": SmallLRCN,
    "joint attention": SmallVideoTransformer,
    "divided attention": SmallDividedTransformer,
}
"""The kinds of network that every method is tried on: it gives a map, or the reason why it does not apply."""


def small_batch(n: int = 3, size: tuple[int, int, int] = SIZE, seed: int = 0) -> Batch:
    """N clips of smooth noise, each with one box on all but its first and last frame; one frame's truth is unknown.

    Args:
        n: number of clips.
        size: T, H, W.
        seed: of the pixels.
    """
    t, h, w = size
    noise = torch.rand(n, 3, max(t // 2, 1), h // 4, w // 4, generator=torch.Generator().manual_seed(seed))
    tubes = torch.zeros(n, t, h, w, dtype=torch.bool)
    for clip, mask in enumerate(tubes):
        mask[1 : t - 1, 2 + clip : h // 2, w // 3 : w - 3 - clip] = True
    annotated = torch.ones(n, t, dtype=torch.bool)
    annotated[:, t // 2] = False
    return Batch(
        ids=[f"clip-{i}" for i in range(n)],
        frames=nn.functional.interpolate(noise, size, mode="trilinear"),
        labels=torch.arange(n) % len(CLASSES),
        tubes=tubes,
        annotated=annotated,
    )


def explain(method: AttributionMethod, model: VideoModel, batch: Batch, seed: int = 0) -> Tensor:
    """The relevance of a batch for its labels, (N, T, H, W); a stochastic method draws from (seed, clip id)."""
    seeds = [derive(seed, id) for id in batch.ids] if method.stochastic else None
    return method(model, batch.frames, batch.labels, seeds, tubes=batch.tubes if method.needs_truth else None)


def explained_case(method: str | Explain, model: VideoModel, batch: Batch) -> Case:
    """A method's maps of a batch for its labels, as metrics see them: they may ask for more, with other seeds too.

    Args:
        method: the spec of a method, or a function that explains.
        model: what is explained.
        batch: N clips.
    """
    again = _explain_again(plugins.create("methods", method), batch) if isinstance(method, str) else method
    return Case(model, batch, batch.labels, again(model, batch.frames, batch.labels), explain=again)


def _explain_again(method: AttributionMethod, batch: Batch) -> Explain:
    def again(model: VideoModel, frames: Tensor, targets: Tensor, draw: int = 0) -> Tensor:
        seeds = [derive(draw, id) for id in batch.ids] if method.stochastic else None
        return method(model, frames, targets, seeds)

    return again
