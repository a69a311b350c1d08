"""A rewritten network computes what the original does, through modules that are each used once."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import video

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.fixtures import as_model, explain, small_batch, small_model
from vidattr_bench.plugins import create
from vidattr_bench.rewrite import Add, Mean, modular


class Functional(nn.Module):
    """Everything written as a function, one convolution and one block used twice."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 8, 3, (1, 2, 2), 1)
        self.block = nn.Sequential(nn.Conv3d(8, 8, 3, 1, 1), nn.ReLU(inplace=True))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.max_pool3d(self.relu(self.conv1(x)), (1, 2, 2), stride=(1, 1, 2), padding=(0, 1, 0))
        x = F.relu(x + self.block(x), inplace=True)
        x = x.add(self.block(x).relu())
        x = F.dropout(F.avg_pool3d(self.relu(x), (1, 3, 2)), 0.5, self.training)
        x = F.adaptive_avg_pool3d(F.local_response_norm(x, 3), (2, 2, 2))
        return self.head(torch.flatten(x.mean((2, 3), keepdim=True), 2).mean(-1))


def used(model):
    """How often each leaf of the rewritten network is used, by type."""
    return Counter(node.target for node in model.net.graph.nodes if node.op == "call_module")


@pytest.mark.parametrize("size", [(6, 20, 28), (9, 28, 20)])
def test_logits_and_gradients_are_those_of_the_network(size):
    model, batch = as_model(Functional), small_batch(2, size)
    rewritten = modular(model, batch.frames)
    results = []
    for one in (model, rewritten):
        x = one.normalise(batch.frames).requires_grad_()
        logits = one.logits(x)
        results.append((logits.detach(), torch.autograd.grad(logits[:, 2].sum(), x)[0]))
    torch.testing.assert_close(*results)
    assert model.calls.forwards == 4
    assert rewritten.calls is model.calls


def test_every_operation_is_a_module_used_once():
    model = as_model(Functional)
    rewritten = modular(model, small_batch(1).frames)
    assert set(used(rewritten).values()) == {1}
    kinds = Counter(type(rewritten.net.get_submodule(name)).__name__ for name in used(rewritten))
    assert kinds["ReLU"] == 6
    assert kinds["Add"] == 2
    assert kinds["Mean"] == 2
    assert kinds["Conv3d"] == 3
    assert {"MaxPool3d", "AvgPool3d", "AdaptiveAvgPool3d", "LocalResponseNorm", "Flatten"} <= set(kinds)
    functions = [node for node in rewritten.net.graph.nodes if node.op in ("call_function", "call_method")]
    assert not functions


def test_copies_share_their_parameters():
    model = as_model(Functional)
    rewritten = modular(model, small_batch(1).frames)
    x = rewritten.normalise(small_batch(1).frames)
    with torch.no_grad():
        model.block_before = model.net.block[0].weight.clone()
        model.net.block[0].weight.mul_(-3)
        torch.testing.assert_close(rewritten.net(x), model.net(x))


def test_blocks_are_found_by_their_names():
    model = as_model(lambda: video.r3d_18(num_classes=5))
    frames = small_batch(1).frames
    rewritten = modular(model, frames)
    seen = {}
    for name, one in (("original", model), ("rewritten", rewritten)):
        with (
            torch.no_grad(),
            one.module("layer2").register_forward_hook(
                lambda module, args, output, name=name: seen.setdefault(name, output)
            ),
        ):
            one(frames)
    torch.testing.assert_close(seen["original"], seen["rewritten"])
    x = model.normalise(frames)
    assert rewritten.feature_layer(x) == model.feature_layer(x)
    assert rewritten.output_shape("layer2", x) == model.output_shape("layer2", x)
    assert sum(isinstance(module, Add) for module in rewritten.net.modules()) == 8


def test_a_layer_used_twice_has_no_output_of_its_own():
    model = as_model(Functional)
    frames = small_batch(1).frames
    hits = []
    rewritten = modular(model, frames)
    with torch.no_grad(), rewritten.module("relu").register_forward_hook(lambda *_: hits.append(1)):
        rewritten(frames)
    assert not hits


def test_a_block_called_twice_has_no_output_of_its_own_either():
    model = as_model(Functional)
    frames = small_batch(1).frames
    hits = []
    rewritten = modular(model, frames)
    with torch.no_grad(), rewritten.module("block").register_forward_hook(lambda *_: hits.append(1)):
        rewritten(frames)
    assert not hits
    with pytest.raises(NotApplicableError, match="'block' runs 2 times"):
        explain(create("methods", "excitation_backprop:layer=block"), model, small_batch(1))


def test_a_copy_of_the_model_has_a_rewritten_network_of_its_own():
    model = small_model()
    frames = small_batch(1).frames
    modular(model, frames)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.net.head.bias.add_(1)
    torch.testing.assert_close(modular(other, frames)(frames), other(frames))
    torch.testing.assert_close(modular(model, frames)(frames) + 1, other(frames))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        pooled = x.mean((2, 3, 4))
        return self.head(pooled) if pooled.sum() > 0 else self.head(-pooled)


def test_a_network_that_branches_on_its_data_is_refused():
    with pytest.raises(NotApplicableError, match="cannot follow"):
        modular(as_model(Branching), small_batch(1).frames)


def test_mean_is_the_mean():
    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(Mean((2, 3), True)(x), x.mean((2, 3), keepdim=True))


def test_a_subclass_of_a_layer_stays_a_module():
    rewritten = modular(as_model(lambda: video.r3d_18(num_classes=5)), small_batch(1).frames)
    assert not [node for node in rewritten.net.graph.nodes if node.op in ("call_function", "get_attr")]
    kinds = Counter(type(rewritten.net.get_submodule(name)).__name__ for name in used(rewritten))
    assert (kinds["Conv3d"], kinds["Conv3DSimple"]) == (4, 16)


def test_a_lack_of_memory_is_not_remembered_as_a_network_that_cannot_be_followed():
    model, frames = as_model(Functional), small_batch(1).frames

    def fail(module, args):
        raise torch.OutOfMemoryError("out of memory")

    with model.net.conv1.register_forward_pre_hook(fail), pytest.raises(torch.OutOfMemoryError):
        modular(model, frames)
    torch.testing.assert_close(modular(model, frames)(frames), model(frames))
