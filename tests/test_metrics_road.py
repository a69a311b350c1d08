"""ROAD: pytorch-grad-cam's scores on images, a literal loop over shares on clips, symmetry and ties."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics import road
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch
from vidattr_bench.imputation import impute
from vidattr_bench.metric import Case
from vidattr_bench.model import VideoModel

N, C, H, W = 2, 3, 14, 20
EXACT = 'substrate="impute:noise=0,tolerance=1e-6"'


class Network(nn.Module):
    """Smooth, and far from sure of itself."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.convolution, self.head = nn.Conv3d(C, 6, (1, 5, 5)), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(8 * self.convolution(x).tanh().mean((2, 3, 4)))


def case_of(t: int, relevance: torch.Tensor | None = None) -> Case:
    draws = torch.Generator().manual_seed(1)
    frames = torch.rand(N, C, t, H, W, generator=draws)
    if relevance is None:
        relevance = torch.rand(N, t, H, W, generator=draws, dtype=torch.float64)
    tubes = torch.zeros(N, t, H, W, dtype=torch.bool)
    batch = Batch(["a", "b"], frames, torch.tensor([2, 0]), tubes, torch.ones(N, t, dtype=torch.bool))
    model = VideoModel(Network(), list("wxyz"), mean=[0.4] * C, std=[0.2] * C)
    return Case(model, batch, batch.labels, relevance)


def measure(name: str, case: Case, options: str = EXACT) -> torch.Tensor:
    return plugins.create("metrics", f"{name}:{options}")(case)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("road", "ROADCombined"),
        ("road_morf", "ROADMostRelevantFirstAverage"),
        ("road_lerf", "ROADLeastRelevantFirstAverage"),
    ],
)
def test_on_an_image_it_is_pytorch_grad_cams(name, theirs, monkeypatch):
    monkeypatch.setattr(road.NoisyLinearImputer.__init__, "__defaults__", (0, road.neighbors_weights))
    case = case_of(1)
    images = torch.stack([case.shared.x(clip) for clip in range(N)])[:, :, 0]
    targets = [lambda logits, k=k: logits.softmax(0)[k] for k in case.targets.tolist()]
    expected = getattr(road, theirs)()(
        images, case.relevance[:, 0].numpy(), targets, lambda x: case.model.net(x[:, :, None])
    )
    found = measure(name, case)
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_the_mean_over_shares_of_imputed_voxels(dims):
    case = case_of(3)
    found = measure("road", case, f'substrate="impute:dims={dims},noise=0,tolerance=1e-6"')
    for clip in range(N):
        x, order = case.shared.x(clip), case.relevance[clip].flatten().argsort(descending=True)
        gaps = []
        for k in range(1, 10):
            masks = torch.zeros(2, 3 * H * W)
            masks[0, order[: k * 3 * H * W // 10]] = 1
            masks[1, order[-k * 3 * H * W // 10 :]] = 1
            clips = impute(x, masks.view(2, 3, H, W), dims, 1e-6)
            morf, lerf = case.model.net(clips).softmax(1)[:, case.targets[clip]].tolist()
            gaps.append((lerf - morf) / 2)
        assert float(found[clip]) == pytest.approx(sum(gaps) / 9, abs=1e-6)


@pytest.mark.parametrize("options", ["unit=voxel", "unit=tubelet", 'unit=frame,substrate="impute:dims=3"'])
def test_the_parts_make_the_whole_and_all_turn_round_with_the_map(options):
    case = case_of(5)
    combined, morf, lerf = (measure(name, case, options) for name in ("road", "road_morf", "road_lerf"))
    assert torch.allclose(combined, (lerf - morf) / 2)
    turned = case_of(5, -case.relevance)
    assert torch.allclose(measure("road", turned, options), -combined, atol=1e-6)
    assert torch.allclose(measure("road_morf", turned, options), lerf, atol=1e-6)


def test_all_three_read_one_curve():
    case = case_of(2)
    for clip in range(N):
        case.shared.clean_logits(clip)
    before = case.model.calls.forwards
    for name in ("road", "road_morf", "road_lerf"):
        plugins.create("metrics", name)(case)
    assert case.model.calls.forwards - before == N * (4 + 20)  # an end and 18 cuts, in batches of 4


def test_a_sparse_map_loses_a_tenth_of_the_voxels_at_a_time_and_not_all_of_its_zeros():
    sparse = torch.zeros(N, 1, H, W)
    sparse[:, 0, 3:5, 4:9] = 1 + torch.rand(N, 2, 5, generator=torch.Generator().manual_seed(0))
    case = case_of(1, sparse)
    (spec,) = plugins.create("metrics", "road").curve_specs()
    curves = case.curves(spec)
    assert all(curve.fractions.tolist() == pytest.approx([k / 10 for k in range(11)]) for curve in curves)
    assert measure("road", case).isfinite().all()
    # Theirs removes all of the image at every percentile: the threshold is 0, and no pixel lies below it.
    kept = np.float32(sparse[0, 0].numpy() < np.percentile(sparse[0, 0].numpy(), 50))
    assert kept.sum() == 0


def test_undefined_where_all_is_tied_or_nothing_lies_between():
    case = case_of(2)
    case.relevance[1] = 0.5
    assert plugins.create("metrics", "road").measure(case).reasons == ("", "constant_map")
    measured = plugins.create("metrics", "road:steps=1").measure(case)
    assert measured.reasons == ("no_cut", "constant_map")
    assert plugins.create("metrics", "road").measure(case).chance.tolist() == [0, 0]
