"""FullGrad."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel

from ._biases import bias_gradients
from ._gradients import target_score

_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class FullGrad(AttributionMethod):
    """The clip times its gradient and every layer's biases times theirs, each rescaled to [0, 1] and added up.

    A ReLU network's logit is the sum of its input and of all its biases, each times its gradient; biases of batch
    norms (beta - mu gamma / sigma) are among them. The absolute values of one layer are min-max scaled together, summed
    over the channels and enlarged to the clip. Layers without axes of space, such as a linear head, are in the sum that
    makes the logit, and not in the map.
    """

    family = "gradient"
    reference = "Srinivas and Fleuret 2019, arXiv:1905.00780"
    requires = ("piecewise_linear",)

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """One forward and one backward."""
        return (1, 1)

    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor:
        """Relevance (N, T, H, W), clip by clip.

        Raises:
            NotApplicableError: input and biases do not add up to the logit: the network has biases that are no layer's.
        """
        maps = []
        for x, target in zip(model.normalise(frames), targets, strict=True):
            logit, terms = full_gradient(model, x, target)
            _require_completeness(logit, terms)
            volumes = [volume for volume in map(_volume, terms) if volume is not None]
            size = x.shape[1:]
            maps.append(sum((_enlarged(_rescaled(volume).sum(0), size) for volume in volumes), torch.zeros_like(x[0])))
        return torch.stack(maps)


def full_gradient(model: VideoModel, x: Tensor, target: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The target's logit on a normalised clip x (C, T, H, W), (), and the terms that it is the sum of.

    The terms are the clip times its gradient, then every layer's bias times the gradient at what the layer puts out.
    """
    x = x.detach()[None].requires_grad_()
    with bias_gradients(model.net) as terms:
        logit = target_score(model.logits(x), target[None])[0]
        (gradient,) = torch.autograd.grad(logit, x)
    return logit.detach(), [x.detach() * gradient, *terms]


def _require_completeness(logit: Tensor, terms: list[Tensor]) -> None:
    totals = torch.stack([term.sum() for term in terms])
    if (totals.sum() - logit).abs() > _TOLERANCE * (totals.abs().sum() + logit.abs()):
        raise NotApplicableError(
            f"input and biases times their gradients add up to {float(totals.sum()):.4g}, not to the logit "
            f"{float(logit):.4g}: some bias belongs to no convolution, linear layer or batch norm"
        )


def _volume(term: Tensor) -> Tensor | None:
    """A term over channels, time and space, (C, t, h, w), from (1, C, t, h, w) or frames (t, C, h, w), else None."""
    if term.ndim == 5:
        return term[0]
    return term.transpose(0, 1) if term.ndim == 4 else None


def _rescaled(term: Tensor) -> Tensor:
    """Absolute values, min-max scaled to [0, 1]; 0 where they are all the same."""
    values = term.abs()
    low, high = values.aminmax()
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)


def _enlarged(volume: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(volume[None, None], tuple(size), mode="trilinear", align_corners=False)[0, 0]
