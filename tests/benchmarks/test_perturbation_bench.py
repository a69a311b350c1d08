import statistics
import time

import pytest
import torch
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch
from vidattr_bench.metric import Case, Shared
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import CurveSpec
from vidattr_bench.substrates import SUBSTRATES

T, H, W = 16, 48, 64
OVERHEAD = 1.15


class Timed(nn.Module):
    """A network that adds up the seconds spent in it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seconds = net, 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        logits = self.net(x)
        self.seconds += time.perf_counter() - began
        return logits


@pytest.fixture
def shared() -> Shared:
    """tiny3d's architecture on one of its clips."""
    entry = plugins.create("models", "tiny3d")
    model = VideoModel(Timed(entry.network(8)), [str(k) for k in range(8)], mean=entry.mean, std=entry.std)
    tubes = torch.zeros(1, T, H, W, dtype=torch.bool)
    tubes[:, 3:12, 5:20, 30:50] = True
    frames, label = torch.rand(1, 3, T, H, W), torch.tensor([0])
    return Shared(model, Batch(["clip"], frames, label, tubes, torch.ones(1, T, dtype=torch.bool)), label)


def fresh(shared: Shared) -> Case:
    return Case(shared.model, shared.batch, shared.targets, torch.rand(1, T, H, W), shared=shared)


@pytest.mark.parametrize("substrate", SUBSTRATES)
def test_a_curve_costs_little_more_than_its_forwards(substrate, shared, benchmark):
    """All of a curve (map check, ranking, masks, blending) against the forwards within the same seconds."""
    ratios = []

    def curve() -> None:
        began, inside = time.perf_counter(), shared.model.net.seconds
        fresh(shared).curves(CurveSpec(substrate=substrate))
        ratios.append((time.perf_counter() - began) / (shared.model.net.seconds - inside))

    benchmark.pedantic(curve, rounds=5, warmup_rounds=1)
    benchmark.extra_info["ratio_to_forwards"] = statistics.median(ratios)
    assert statistics.median(ratios) <= OVERHEAD


def test_localising_a_map_costs_less_than_one_curve(shared, benchmark):
    names = ("pointing_game", "tube_mass", "rank_accuracy", "roc_auc", "tube_iou")
    metrics = [plugins.create("metrics", name) for name in names]

    def localise() -> float:
        case, began = fresh(shared), time.perf_counter()
        for metric in metrics:
            metric(case)
        return time.perf_counter() - began

    fresh(shared).curves(CurveSpec())
    shares = []
    for _ in range(3):
        began = time.perf_counter()
        fresh(shared).curves(CurveSpec())
        shares.append(localise() / (time.perf_counter() - began))
    benchmark.extra_info["share_of_a_curve"] = statistics.median(shares)
    benchmark.pedantic(localise, rounds=1)
    assert statistics.median(shares) < 1
