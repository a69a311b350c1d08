"""Excitation backprop, over time too."""

from __future__ import annotations

import dataclasses

from torch import Tensor, fx

from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.rewrite import modular

from ._activations import activations_and_gradients
from ._excitation_graph import excitation


@dataclasses.dataclass(frozen=True)
class ExcitationBackprop(AttributionMethod):
    """The probability that each cell of the feature layer excited the target, summed over the channels.

    The target starts with probability 1, and every layer hands it down by positive weights times activations, so that
    the map adds up to 1 over all frames, but for what no unit excites; it is 0 where nothing excites the target. An
    LSTM hands it on from the last frame to those before, with its gates as constants.

    Attributes:
        layer: the layer down to which it goes; by default the model's feature layer.
        contrastive: whether the probability under negated weights of the classifier, what speaks for the other classes,
            is subtracted; what is negative then is cut off.
    """

    family = "relevance propagation"
    reference = "Zhang et al. 2016, arXiv:1608.00507; for recurrent networks Bargal et al. 2018, arXiv:1711.06778"
    requires = ("feature_layer",)
    variants = ("", "contrastive=true")

    layer: str | None = None
    contrastive: bool = False

    def __post_init__(self) -> None:
        if self.layer is not None:
            object.__setattr__(self, "requires", ())

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w) at the resolution of the layer."""
        rewritten = modular(model, frames)
        x = rewritten.normalise(frames)
        layer = self.layer or rewritten.feature_layer(x)
        model.output_shape(layer, x)
        assert isinstance(rewritten.net, fx.GraphModule)
        with excitation(rewritten.net, rewritten.module(layer), self.contrastive):
            _, p = activations_and_gradients(rewritten, x, targets, layer)
        return p.sum(1).clamp(min=0)
