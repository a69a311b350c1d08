"""Where a training starts: at untrained weights, or at a checkpoint's with the classifier drawn anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vidattr_bench.errors import ModelError
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel, normalisation_of_the_file
from vidattr_bench.plugins import label


@dataclasses.dataclass(frozen=True)
class Start:
    """A network to be trained, and how clips are made for it.

    Attributes:
        net: the network, its weights drawn or taken.
        mean: per-channel mean that is subtracted from pixels in [0, 1]; None: they go in as they are.
        std: per-channel divisor.
        input: the clip it wants.
        feature_layer: what CAM-type methods read; None: found by a probe.
        record: where its weights come from; empty where they are drawn.
        note: the same in words.
    """

    net: nn.Module
    mean: Sequence[float] | None
    std: Sequence[float] | None
    input: ClipInput
    feature_layer: str | None
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""


def fine_tunes(model: ModelEntry) -> bool:
    """Whether training this model starts from a checkpoint, since its spec names one."""
    return getattr(model, "checkpoint", None) is not None


def starting_point(model: ModelEntry, classes: Sequence[str]) -> Start:
    """The network of `model` for these classes: untrained, or fine-tuned from the checkpoint that its spec names.

    A classifier of other classes is drawn anew. Which layers it is made of shows in the shapes: they are those that
    change with the number of classes.

    Raises:
        ModelError: the checkpoint cannot be loaded, or the network does not depend on the number of classes.
    """
    if not fine_tunes(model):
        layer = getattr(model, "feature_layer", None)
        return Start(model.network(len(classes)), model.mean, model.std, model.input, layer)
    trained = model.build()
    net = model.network(len(classes))
    head = _head(model, net, trained, classes)
    state = trained.net.state_dict()
    net.load_state_dict({name: tensor for name, tensor in state.items() if name not in head}, strict=False)
    layers = sorted({name.rpartition(".")[0] or name for name in head})
    return Start(
        net,
        *_normalisation(trained),
        trained.input,
        trained.declared_feature_layer,
        {
            "model": label("models", model, places=False),
            "weights": trained.weights_hash(),
            **normalisation_of_the_file(model, trained),
            "drawn_anew": layers,
        },
        _note(model, len(state) - len(head), layers, len(classes)),
    )


def _normalisation(trained: VideoModel) -> tuple[list[float] | None, list[float] | None]:
    if not trained.declares_normalisation:
        return None, None
    return trained.mean.flatten().tolist(), trained.std.flatten().tolist()


def _head(model: ModelEntry, net: nn.Module, trained: VideoModel, classes: Sequence[str]) -> set[str]:
    """Names of the weights of the classifier where it has to be another one, else none."""
    own, given = net.state_dict(), trained.net.state_dict()
    if own.keys() != given.keys():
        raise ModelError(f"{label('models', model)}: not only sizes of its layers change with the number of classes")
    head = _reshaped(own, given)
    if not head and trained.classes and trained.classes != tuple(classes):
        head = _reshaped(own, model.network(len(classes) + 1).state_dict())
        if not head:
            raise ModelError(
                f"{label('models', model)} is a network of {len(trained.classes)} classes and cannot be made one of "
                f"{len(classes)} others; let its function take the number as `classes`"
            )
    return head


def _reshaped(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    return {name for name, tensor in state.items() if tensor.shape != other[name].shape}


def _note(model: ModelEntry, taken: int, layers: Sequence[str], classes: int) -> str:
    file = getattr(model, "checkpoint", None)
    if not layers:
        return f"fine-tuning {file}: all {taken} tensors are taken, the classifier too"
    return f"fine-tuning {file}: {taken} tensors are taken; {', '.join(layers)} drawn anew for {classes} classes"
