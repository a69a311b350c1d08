"""Excitation backprop: autograd whose gradients are probabilities that a unit excited the target.

Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, equation 10: the units i above, with
probabilities p_i, give the unit j below p'_j = u_j sum_i w+_ij p_i / sum_k w+_ik u_k, where u are activations, negative
ones taken as 0, and w+ = max(w, 0); there is no bias. What no unit below excites (the denominator is 0) is lost, as in
the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rule = Callable[..., tuple[Tensor, ...]]


class _Excitation(torch.autograd.Function):
    """Has the value of `output`; probabilities that come to it go on to `inputs` by `rule`."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, rule: Rule, *inputs: Tensor) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(*inputs)
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *p: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.rule(*p, *ctx.saved_tensors)


def excited(output: Tensor, rule: Rule, *inputs: Tensor) -> Tensor:
    """`output`, whose probabilities p go on to `inputs` as `rule(p, *inputs)`."""
    return _Excitation.apply(output.detach(), rule, *inputs)  # type: ignore[no-any-return]


def share(p: Tensor, u: Tensor, excite: Callable[[Tensor], Tensor]) -> Tensor:
    """Probabilities of the units below: equation 10.

    Args:
        p: probabilities of the units above.
        u: activations of the units below.
        excite: u -> W+ u, linear, without bias and with weights that are not negative.
    """
    u = u.detach().clamp(min=0).requires_grad_()
    with torch.enable_grad():
        total = excite(u)
    (back,) = torch.autograd.grad(total, u, _ratio(p, total.detach()))
    return u.detach() * back


def _ratio(p: Tensor, total: Tensor) -> Tensor:
    excites = total > torch.finfo(total.dtype).tiny
    return torch.where(excites, p / total.where(excites, 1), 0)


def pass_on(p: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    """One unit below each unit above: a normalisation, a monotone function, a product with a constant."""
    return (p,)


def divide(p: Tensor, *summands: Tensor) -> tuple[Tensor, ...]:
    """A sum: every summand gets its part of the positive activations."""
    positive = [u.clamp(min=0) for u in summands]
    ratio = _ratio(p, torch.stack(positive).sum(0))
    return tuple(u * ratio for u in positive)


def weigh(
    layer: nn.Module, norm: nn.Module | None = None, average: nn.Module | None = None, dual: bool = False
) -> Rule:
    """The rule of a convolution or linear layer, with what follows it folded into its weights.

    Args:
        layer: the layer; its weights are read when probabilities come.
        norm: the batch norm that follows it: it can turn the sign of a filter, its size cancels.
        average: the mean over axes that follows it.
        dual: whether the probabilities under negated weights are subtracted, which is what contrasts a classifier's
            class with all others.
    """

    def rule(p: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        weight = _folded_weight(layer, norm)
        if average is not None:
            p = p.sum(average.dim, average.keepdim)  # type: ignore[call-overload]

        def shared(positive: Tensor) -> Tensor:
            return share(p, u, lambda units: _averaged(_product(layer, units, positive), average))

        own = shared(weight.clamp(min=0))
        return (own - shared((-weight).clamp(min=0)) if dual else own,)

    return rule


def _folded_weight(layer: Any, norm: Any) -> Tensor:
    weight: Tensor = layer.weight.detach()
    if norm is None or norm.weight is None:
        return weight
    signs: Tensor = norm.weight.detach().sign()
    return weight * signs.view(-1, *[1] * (weight.ndim - 1))


def _product(layer: Any, u: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = F.linear(u, weight) if isinstance(layer, nn.Linear) else layer._conv_forward(u, weight, None)
    return product


def _averaged(total: Tensor, average: nn.Module | None) -> Tensor:
    return total if average is None else average.forward(total)


def pool(layer: nn.Module) -> Rule:
    """The rule of an average pooling."""
    return lambda p, u: (share(p, u, layer.forward),)


def scale(norm: Any) -> Rule:
    """The rule of a batch norm that no layer can take in: a linear layer of one weight a channel."""

    def rule(p: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        positive = torch.ones(()) if norm.weight is None else norm.weight.detach().clamp(min=0)
        shape = (-1, *[1] * (u.ndim - 2))
        return (share(p, u, lambda u: u * positive.to(u).view(shape)),)

    return rule


def unrolled(lstm: nn.LSTM, x: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Any:
    """What an LSTM puts out, computed step by step, so that probabilities go back through time.

    The gates are constants. The output of a step, h_t = o tanh(c_t), passes what it gets on to its cell; the cell,
    c_t = f c_{t-1} + i g, divides it between the cell before and the candidate by the positive parts of the two terms;
    the candidate, g = tanh(W x_t + U h_{t-1} + b), gives it to x_t and h_{t-1} as a layer with weights [W U] does.
    Bargal et al. ("Excitation backprop for RNNs", CVPR 2018) use LSTMs with ReLU in the place of tanh, whose states
    are not negative; here negative states are taken as 0, as equation 10 wants it.

    Args:
        lstm: any number of layers, one direction.
        x: (N, T, features), or (T, N, features) as the LSTM has it.
        start: initial h and c, (layers, N, units); by default 0.
    """
    steps = x.transpose(0, 1) if lstm.batch_first else x
    if start is None:
        start = 2 * (x.new_zeros(lstm.num_layers, steps.shape[1], lstm.hidden_size),)
    ends = []
    for layer, (h, c) in enumerate(zip(*start, strict=True)):
        steps, end = _layer(_parameters(lstm, layer), steps, h, c)
        ends.append(end)
    h, c = (torch.stack(state) for state in zip(*ends, strict=True))
    return steps.transpose(0, 1) if lstm.batch_first else steps, (h, c)


def _parameters(lstm: nn.LSTM, layer: int) -> tuple[Tensor, Tensor]:
    """Weights (4 units, features + units) and biases (4 units) of one layer."""
    weight = torch.cat([getattr(lstm, f"weight_{kind}_l{layer}") for kind in ("ih", "hh")], 1)
    if not lstm.bias:
        return weight, weight.new_zeros(len(weight))
    return weight, getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")


def _layer(
    parameters: tuple[Tensor, Tensor], steps: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Outputs (T, N, units) of one layer, and its last h and c."""
    weight, bias = parameters
    candidate = weight.chunk(4)[2].clamp(min=0)
    outputs = []
    for x in steps:
        below = torch.cat([x, h], 1)
        i, f, g, o = F.linear(below, weight, bias).detach().chunk(4, 1)
        g = excited(g.tanh(), lambda p, u: (share(p, u, lambda u: F.linear(u, candidate)),), below)
        terms = excited(f.sigmoid() * c, pass_on, c), excited(i.sigmoid() * g, pass_on, g)
        c = excited(terms[0] + terms[1], divide, *terms)
        h = excited(o.sigmoid() * c.tanh(), pass_on, c)
        outputs.append(h)
    return torch.stack(outputs), (h, c)
