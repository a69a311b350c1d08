"""Layer-wise relevance propagation."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor
from zennit.composites import EpsilonAlpha2Beta1, EpsilonPlus
from zennit.core import Composite
from zennit.rules import Norm

from vidattr_bench.method import SignedMethod
from vidattr_bench.model import VideoModel
from vidattr_bench.rewrite import Mean

from ._canonical import canonical
from ._gradients import target_score
from ._options import require_positive

_COMPOSITES = {"epsilon_plus": EpsilonPlus, "epsilon_alpha2_beta1": EpsilonAlpha2Beta1}


@dataclasses.dataclass(frozen=True)
class LRP(SignedMethod):
    """The target's logit, shared out layer by layer in proportion to what each unit contributed, down to the voxels.

    Rules are those of zennit's composites: linear layers have the epsilon rule, all convolutions, the first among them,
    the z+ or the alpha-beta rule; averages and the sums of shortcuts share by what each term adds, activations pass
    relevance on, max-pooling gives it to the maximum. Batch norm is folded into the convolution before it; one that
    stands elsewhere passes relevance on. What biases take is lost, the rest adds up to the logit.

    Attributes:
        composite: epsilon_plus, or epsilon_alpha2_beta1, which also follows what spoke against.
        epsilon: stabilises the denominators of the rules.

    Raises:
        ValueError: epsilon is not positive.
    """

    family = "relevance propagation"
    reference = (
        "Bach et al. 2015, doi:10.1371/journal.pone.0130140; rules as in Kohlbrenner et al. 2020, arXiv:1910.09840"
    )
    signed = True
    variants = ("", "composite=epsilon_alpha2_beta1")

    composite: Literal["epsilon_plus", "epsilon_alpha2_beta1"] = "epsilon_plus"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        require_positive(self, "epsilon")

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W), summed over the channels.

        Raises:
            NotApplicableError: torch.fx cannot follow the network, or there is no rule for some part of it.
        """
        network = canonical(model, frames)
        clips = zip(model.normalise(frames)[:, None], targets[:, None], strict=True)
        with self._rules().context(network.net):
            return torch.cat([_relevance(network, x, target) for x, target in clips])

    def _rules(self) -> Composite:
        return _COMPOSITES[self.composite](
            epsilon=self.epsilon, stabilizer=self.epsilon, layer_map=[(Mean, Norm(stabilizer=self.epsilon))]
        )


def _relevance(network: VideoModel, x: Tensor, target: Tensor) -> Tensor:
    x = x.requires_grad_()
    score = target_score(network.logits(x), target)
    (relevance,) = torch.autograd.grad(score, x, score.detach())
    return relevance.sum(1)
