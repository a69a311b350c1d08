"""What an expensive method adds to the forwards and backwards it cannot do without."""

import time
from collections.abc import Callable

import pytest
import torch
import torchvision

from vidattr_bench import plugins
from vidattr_bench.method import AttributionMethod
from vidattr_bench.model import VideoModel

C, T, H, W = 3, 16, 112, 112
OVERHEAD = 1.1
FORWARDS = 24  # in all rounds together, at least

# A method, with few masks or steps, and how many clips it sends through the network at once.
METHODS = [
    ("rise:masks=8", 8),
    ("score_cam:layer=stem", 8),
    ("extremal_perturbation:iterations=3", 4),
    ("step:core_start=1,iterations=3", 4),
]


@pytest.fixture(scope="module")
def model() -> VideoModel:
    """torchvision's r3d_18 with random weights."""
    torch.manual_seed(0)
    return VideoModel(torchvision.models.video.r3d_18(), [str(k) for k in range(400)], mean=[0.43] * 3, std=[0.22] * 3)


def bare(model: VideoModel, forwards: int, backwards: int, batch: int) -> None:
    """A loop of as many forwards, and backwards to the clip, in batches of `batch`."""
    x = torch.randn(batch, C, T, H, W)
    with torch.no_grad():
        for start in range(0, forwards - backwards, batch):
            model.net(x[: forwards - backwards - start])
    for start in range(0, backwards, batch):
        clips = x[: backwards - start].detach().requires_grad_()
        torch.autograd.grad(model.net(clips)[:, 0].sum(), clips)


def seconds(work: Callable[[], object]) -> float:
    """Of this process on the CPU, whatever else the machine does."""
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize(("text", "batch"), METHODS, ids=[text for text, _ in METHODS])
def test_a_method_costs_little_more_than_its_forwards_and_backwards(text, batch, model, benchmark):
    """The method and the bare loop in turn, each at its fastest."""
    if text.partition(":")[0] not in plugins.available("methods"):
        pytest.skip("the method is not installed")
    method: AttributionMethod = plugins.create("methods", text)
    frames, target = torch.rand(1, C, T, H, W), torch.tensor([7])
    seeds = [0] if method.stochastic else None
    forwards, backwards = method.cost(model, frames[0])
    loop, whole = [], []

    def explain() -> None:
        loop.append(seconds(lambda: bare(model, forwards, backwards, batch)))
        whole.append(seconds(lambda: method(model, frames, target, seeds)))

    benchmark.pedantic(explain, rounds=-(-FORWARDS // forwards))
    ratio = min(whole) / min(loop)
    benchmark.extra_info.update(forwards=forwards, backwards=backwards, ratio_to_bare=ratio)
    assert ratio <= OVERHEAD
