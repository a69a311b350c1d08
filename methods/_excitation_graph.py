"""Which rule of excitation backprop belongs to which module of a network, as its graph tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, fx, nn

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.rewrite import Add, Mean

from ._excitation import Rule, divide, excited, pass_on, pool, scale, unrolled, weigh
from ._graph import AVERAGES, IDENTITIES, NORMS, REARRANGING, WEIGHTED, described, rearranges, sizes

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]
# Their gradient hands on what comes.
PLAIN = (nn.ReLU, *IDENTITIES, *REARRANGING)


@contextmanager
def excitation(net: fx.GraphModule, layer: nn.Module, contrastive: bool) -> Iterator[None]:
    """Inside, gradients of `net` at what `layer` puts out are the probabilities of excitation backprop.

    Args:
        net: a rewritten network.
        layer: the module of it down to which they go.
        contrastive: whether the classifier's rule contrasts the target with all other classes. What is linear stays so
            below it: subtracting there or at any layer beneath gives the same.

    Raises:
        NotApplicableError: something between the layer and the logits has no rule.
    """
    graph = _Graph(net)
    classifier = graph.classifier() if contrastive else None
    with ExitStack() as stack:
        for node in graph.after(layer):
            hook = graph.hook(node, dual=node is classifier)
            if hook is not None:
                stack.enter_context(graph.module(node).register_forward_hook(hook, with_kwargs=True))
        yield


class _Graph:
    """The graph of a rewritten network, and what can be folded in it: the batch norm or mean after a weighted layer."""

    def __init__(self, net: fx.GraphModule) -> None:
        self.nodes = list(net.graph.nodes)
        self.sizes = sizes(net.graph)
        self.modules: dict[str, nn.Module] = dict(net.named_modules())
        self.followers = {node: self._follower(node) for node in self.nodes if isinstance(self.module(node), WEIGHTED)}
        self.folded = set(self.followers.values()) - {None}

    def module(self, node: fx.Node | None) -> nn.Module:
        """The module that a node calls; an empty one where it calls none."""
        return nn.Module() if node is None or node.op != "call_module" else self.modules[str(node.target)]

    def _follower(self, node: fx.Node) -> fx.Node | None:
        """The batch norm or mean that alone takes what a node puts out."""
        if len(node.users) != 1:
            return None
        (user,) = node.users
        if isinstance(self.module(user), IDENTITIES):
            return self._follower(user)
        return user if isinstance(self.module(user), (*NORMS, Mean)) else None

    def after(self, layer: nn.Module) -> list[fx.Node]:
        """The nodes whose tensors depend on what `layer` puts out, without the sizes of tensors."""
        found: dict[fx.Node, None] = {}
        for node in self.nodes:
            depends = any(source in found or self.module(source) is layer for source in node.all_input_nodes)
            if depends and node.op != "output" and node not in self.sizes:
                found[node] = None
        return list(found)

    def classifier(self) -> fx.Node:
        """The convolution or linear layer that puts out the logits; raises `NotApplicableError` where none does."""
        node: fx.Node = self.nodes[-1]
        while not isinstance(self.module(node), WEIGHTED):
            through = isinstance(self.module(node), (*IDENTITIES, nn.Flatten)) or node in self.folded
            if not (through or node.op == "output" or rearranges(node)) or len(node.all_input_nodes) != 1:
                raise NotApplicableError("the contrast needs a linear layer or convolution that puts out the logits")
            (node,) = node.all_input_nodes
        return node

    def hook(self, node: fx.Node, dual: bool) -> Hook | None:
        """The hook of a node's rule; None where the plain gradient follows it.

        Raises:
            NotApplicableError: there is no rule.
        """
        module = self.module(node)
        if isinstance(module, nn.LSTM):
            return _unrolling(module)
        if rearranges(node):
            return None
        if isinstance(module, PLAIN) or (isinstance(module, Mean) and node in self.folded):
            return None
        return _handing_on(self._rule(node, module, dual))

    def _rule(self, node: fx.Node, module: nn.Module, dual: bool) -> Rule:
        if isinstance(module, WEIGHTED):
            follower = self.module(self.followers[node])
            norm, average = (follower if isinstance(follower, kind) else None for kind in (NORMS, Mean))
            return weigh(module, norm, average, dual)
        if isinstance(module, NORMS):
            return pass_on if node in self.folded else scale(module)
        if isinstance(module, (nn.LocalResponseNorm, nn.CrossMapLRN2d)):
            return pass_on
        if isinstance(module, AVERAGES):
            return pool(module)
        if isinstance(module, Add):
            return divide
        raise NotApplicableError(f"excitation backprop has no rule for {described(node, module)}")


def _handing_on(rule: Rule) -> Hook:
    def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        inputs = (*args, *kwargs.values())
        if any(u.shape != inputs[0].shape for u in inputs):
            raise NotApplicableError("excitation backprop has no rule for a sum of tensors of different shapes")
        return excited(output, rule, *inputs)

    return hook


def _unrolling(lstm: nn.LSTM) -> Hook:
    if lstm.bidirectional or lstm.proj_size:
        kind = "in two directions" if lstm.bidirectional else "with projections"
        raise NotApplicableError(f"excitation backprop has no rule for an LSTM {kind}")

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return unrolled(lstm, *args, *kwargs.values())

    return hook
