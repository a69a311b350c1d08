"""Networks of which some layers have lost what they learnt."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidattr_bench.metric import Case
from vidattr_bench.model import VideoModel
from vidattr_bench.randomness import derive


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of a network in the order in which they begin to run.

    A layer is a module with weights of its own, and with it the modules after it that have but scales or biases (one
    axis), norms above all.

    Attributes:
        names: the modules of each layer.
        norms: the batch norms that run from each layer on, its own included.
    """

    names: tuple[tuple[str, ...], ...]
    norms: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.names)


def layers_of(model: VideoModel, x: Tensor) -> Layers:
    """The layers of a model, found once a clip size by a forward of a clip x (1, C, T, H, W) that is not counted."""
    key = ("layers", tuple(x.shape[1:]))
    if key not in model.facts:
        order = _running_order(model.net, x)
        modules = dict(model.net.named_modules())
        if model.partial:  # a layer that the clip does not reach has nothing to do with its map
            names = model.reached(x)
            order = [name for name in order if name in names]
        layers = _grouped(modules, [name for name in order if list(modules[name].parameters(recurse=False))])
        norms = [(order.index(name), name) for name in order if _keeps_statistics(modules[name])]
        begins = [order.index(layer[0]) for layer in layers]
        model.facts[key] = Layers(layers, tuple(tuple(name for i, name in norms if i >= begin) for begin in begins))
    found: Layers = model.facts[key]
    return found


def _running_order(net: nn.Module, x: Tensor) -> list[str]:
    """Names of all modules in the order in which they begin to run; one that is not called itself, with its parent."""
    begun: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            begun.setdefault(name, len(begun))

        return hook

    handles = [module.register_forward_pre_hook(note(name)) for name, module in net.named_modules()]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for handle in handles:
            handle.remove()

    def begins(name: str) -> int:
        return begun[name] if name in begun or not name else begins(name.rpartition(".")[0])

    return sorted((name for name, _ in net.named_modules()), key=begins)


def _grouped(modules: dict[str, nn.Module], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Names of modules with parameters, one group a layer; what precedes the first layer goes with it."""
    groups: list[list[str]] = []
    for name in names:
        has_weights = any(parameter.ndim > 1 for parameter in modules[name].parameters(recurse=False))
        if not groups or (has_weights and _has_layer(modules, groups[-1])):
            groups.append([])
        groups[-1].append(name)
    return tuple(map(tuple, groups))


def _has_layer(modules: dict[str, nn.Module], names: Sequence[str]) -> bool:
    return any(parameter.ndim > 1 for name in names for parameter in modules[name].parameters(recurse=False))


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def randomised_map(case: Case, clip: int, first: int, last: int, draw: int = 0) -> Tensor:
    """The map (T, H, W) of a clip by the case's method where layers first, ..., last - 1 are random; kept by the case.

    Only one such network exists at a time. A stochastic method gets the seeds of the map itself.
    """

    def explain() -> Tensor:
        model = randomised(case, clip, first, last, draw)
        return case.explain(model, case.batch.frames, case.targets)[clip]

    found: Tensor = case.memo(("randomised", clip, first, last, draw), explain)
    return found


def randomised(case: Case, clip: int, first: int, last: int, draw: int) -> VideoModel:
    """The case's model with layers first, ..., last - 1 initialised again; the case's own is left as it is.

    Each module draws from the seed of (run's seed, clip, module, draw) on the CPU by its `reset_parameters`, or, where
    it has none, each of its parameters from a normal of that parameter's own mean and standard deviation. Batch norms
    from the first random layer on then take the statistics of this clip alone.
    """
    x = case.shared.x(clip)[None]
    layers = layers_of(case.model, x)
    with torch.inference_mode(False), torch.no_grad():
        net = copy.deepcopy(case.model.net).cpu()
        for name in (name for layer in layers.names[first:last] for name in layer):
            _reset(net.get_submodule(name), derive(case.seed, case.batch.ids[clip], f"randomisation {draw} {name}"))
        net = net.to(x.device)
        _estimate_statistics([net.get_submodule(name) for name in layers.norms[first]], net, x.clone())
    return case.model.with_net(net, {}, x)


def _reset(module: nn.Module, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()  # type: ignore[operator]
            return
        for parameter in module.parameters(recurse=False):
            parameter.normal_(float(parameter.mean()), float(parameter.std(correction=0)))


def _estimate_statistics(norms: Sequence[nn.Module], net: nn.Module, x: Tensor) -> None:
    """Give batch norms the mean and variance of what they get when `net` runs on x; a single value changes nothing."""

    def estimate(module: Any, args: tuple[Tensor, ...]) -> None:
        values = args[0].float().transpose(0, 1).flatten(1)
        if values.shape[1] > 1:
            module.running_mean.copy_(values.mean(1))
            module.running_var.copy_(values.var(1, correction=0))

    handles = [norm.register_forward_pre_hook(estimate) for norm in norms]
    try:
        if handles:
            net(x)
    finally:
        for handle in handles:
            handle.remove()
