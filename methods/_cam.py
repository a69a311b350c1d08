"""What class activation maps share: the layer they read, the ReLU over their sum, weights that gradients give."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

from torch import Tensor

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.rewrite import hookable

from ._activations import activations, activations_and_gradients
from ._gradients import Score, check_targets

VOLUME = (2, 3, 4)  # t, h, w of (N, C, t, h, w)


def class_weights_and_activations(model: VideoModel, frames: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The linear head's weights for each clip's target, (N, C), and the activations it pools, (N, C, t, h, w).

    They are read from the rewritten network, where each use of a ReLU that serves all layers is one of its own.

    Raises:
        NotApplicableError: the model has no such head.
        ValueError: a target is no class.
    """
    model = hookable(model, frames)
    x = model.normalise(frames)
    head = model.linear_head(x)
    check_targets(targets, len(head.weight))
    return head.weight[targets], activations(model, x, head.layer)


@dataclasses.dataclass(frozen=True)
class ClassActivationMap(SignedMethod):
    """Base of methods that add up a layer's channels: signed only where no ReLU cuts off what is negative.

    Attributes:
        sign: signed or absolute, where `relu=false` leaves a sign.
        relu: whether negative evidence is cut off.

    Raises:
        ValueError: `sign=absolute` where nothing is negative.
    """

    relu: bool = True

    def __post_init__(self) -> None:
        if self.relu and self.sign == "absolute":
            raise ValueError("sign=absolute belongs to relu=false; a map behind a ReLU has no sign")
        object.__setattr__(self, "signed", not self.relu)

    def rectified(self, cam: Tensor) -> Tensor:
        """The map itself, or its ReLU."""
        return cam.relu() if self.relu else cam


@dataclasses.dataclass(frozen=True)
class LayerMap(ClassActivationMap):
    """Base of those that read any layer: where it is named, the model needs no feature layer.

    Attributes:
        layer: the layer read; by default the model's feature layer.
        back: layers to go back from there: 1 reads the one that ends last before its convolutions begin.

    Raises:
        ValueError: `back` is negative.
    """

    requires = ("feature_layer",)

    layer: str | None = None
    back: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.back < 0:
            raise ValueError(f"back={self.back} must not be negative")
        if self.layer is not None:
            object.__setattr__(self, "requires", ())

    def layer_read(self, model: VideoModel, x: Tensor) -> str:
        """The name of the layer read on clips like x."""
        layer = self.layer or model.feature_layer(x)
        for _ in range(self.back):
            layer = model.layer_before(layer, x)
        return layer


@dataclasses.dataclass(frozen=True)
class GradientMap(LayerMap):
    """Base of those whose weights are a function of the activations A and of the score's gradient g at them.

    Attributes:
        score: the target's logit or probability.
    """

    score: Score = "logit"

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    @abstractmethod
    def weights(self, A: Tensor, g: Tensor) -> Tensor:
        """What A is multiplied by before its channels are added up; from and to (N, C, t, h, w), or broadcast to it."""

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, t, h, w) at the resolution of the layer."""
        x = model.normalise(frames)
        A, g = activations_and_gradients(model, x, targets, self.layer_read(model, x), self.score)
        return self.rectified((self.weights(A, g) * A).sum(1))
