"""Quantus on the same clips, maps and removed sets, where it measures the same quantity."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch
from vidattr_bench.metric import Case
from vidattr_bench.model import VideoModel

if not hasattr(np, "trapz"):  # Quantus 0.6 still asks for it by its old name
    setattr(np, "trapz", np.trapezoid)  # noqa: B010
quantus = pytest.importorskip("quantus")

C, T, H, W = 3, 4, 6, 10
N = 3


class Net(nn.Module):
    """A small network that looks at neighbours in time and space."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.convolution, self.head = nn.Conv3d(C, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(8 * self.convolution(x).relu().mean((2, 3, 4)))


class Folded(nn.Module):
    """The network for clips whose frames lie below one another, as the images that Quantus knows."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.unflatten(2, (T, H)))


def case_of(net: nn.Module) -> Case:
    draws = torch.Generator().manual_seed(1)
    batch = Batch(
        ids=[f"clip {i}" for i in range(N)],
        frames=torch.rand(N, C, T, H, W, generator=draws),
        labels=torch.arange(N),
        tubes=torch.zeros(N, T, H, W, dtype=torch.bool),
        annotated=torch.ones(N, T, dtype=torch.bool),
    )
    model = VideoModel(net, list("abcd"), mean=[0.4] * C, std=[0.2] * C)
    return Case(model, batch, batch.labels, torch.randn(N, T, H, W, generator=draws))


def inputs(case: Case, relevance: Tensor) -> dict[str, object]:
    """What Quantus takes: normalised clips and maps with the frames below one another."""
    x = torch.stack([case.shared.x(clip) for clip in range(N)])
    return {
        "model": Folded(case.model.net).eval(),
        "x_batch": x.flatten(2, 3).numpy(),
        "y_batch": case.targets.numpy(),
        "a_batch": relevance.flatten(-3, -2).numpy(),
        "softmax": False,
        "device": "cpu",
    }


def test_faithfulness_correlation_is_that_of_quantus_over_the_same_sets(monkeypatch):
    case = case_of(Net())
    metric = plugins.create(
        "metrics", "faithfulness_correlation:unit=voxel,score=logit,substrate=mean,share=.3,draws=40"
    )
    (spec,) = metric.removal_specs()
    removed = torch.stack([case.shared.removals(clip, spec).removed for clip in range(N)], 1).repeat(1, 1, C)
    drawn = iter(removed.flatten(0, 1))
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(drawn).nonzero().flatten().numpy())
    theirs = quantus.FaithfulnessCorrelation(
        nr_runs=40,
        subset_size=int(removed[0, 0].sum()),
        perturb_baseline=0.0,
        normalise=False,
        disable_warnings=True,
        return_aggregate=False,
    )
    assert metric(case).tolist() == pytest.approx(theirs(**inputs(case, case.relevance[:, None])), abs=1e-5)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(4, C, T, H, W, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(weight / 20, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.flatten(1).T


def test_infidelity_of_the_gradient_of_a_linear_model_is_zero_there_and_here():
    """Quantus adds up a * (x - x'), so that its map is the gradient, and ours gradient times input."""
    case = case_of(Linear())
    gradient = case.model.net.weight[case.targets]
    theirs = quantus.Infidelity(
        perturb_baseline=0.0,
        perturb_patch_sizes=[2],
        n_perturb_samples=1,
        normalise=False,
        disable_warnings=True,
        return_aggregate=False,
    )
    assert theirs(**inputs(case, gradient)) == pytest.approx([0.0] * N, abs=1e-5)
    x = torch.stack([case.shared.x(clip) for clip in range(N)])
    ours = Case(case.model, case.batch, case.targets, (gradient * x).sum(1))
    found = plugins.create("metrics", "infidelity:score=logit,substrate=mean")(ours)
    assert found.tolist() == pytest.approx([0.0] * N, abs=1e-5)
