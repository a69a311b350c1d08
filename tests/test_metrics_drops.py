"""Average drop, increase and gain: closed form on a linear model, a literal loop, pytorch-grad-cam, shared forwards."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from torch import Tensor, nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch
from vidattr_bench.errors import PluginError
from vidattr_bench.fixtures import CLASSES, SIZE, as_model, small_batch, small_model
from vidattr_bench.metric import Case
from vidattr_bench.model import VideoModel

T, H, W = SIZE
NAMES = ("average_drop", "average_increase", "average_gain")
STATISTICS = {"mean": [0.45, 0.43, 0.40], "std": [0.23, 0.22, 0.25]}


class Linear(nn.Module):
    def __init__(self, scale: float = 0.03) -> None:
        super().__init__()
        weight = torch.randn(len(CLASSES), 3 * T * H * W, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(scale * weight.double())

    def forward(self, x: Tensor) -> Tensor:
        return x.double().flatten(1) @ self.weight.T


def noise(seed: int = 0, n: int = 3) -> Tensor:
    return torch.rand(n, T, H, W, generator=torch.Generator().manual_seed(seed))


def case_of(model: VideoModel, relevance: Tensor, batch: Batch | None = None) -> Case:
    batch = batch or small_batch(len(relevance))
    return Case(model, batch, batch.labels, relevance)


def measured(name: str, case: Case, options: str = "substrate=mean") -> list[float]:
    return plugins.create("metrics", f"{name}:{options}")(case).tolist()


def formula(name: str, p: float, blended: float) -> float:
    if name == "average_increase":
        return float(blended > p)
    return max(0.0, p - blended) / p if name == "average_drop" else max(0.0, blended - p) / (1 - p)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_a_linear_models_logits_are_its_shares_weighted_by_the_map(name, seed):
    case = case_of(as_model(Linear), 7 * noise(seed) - 3)
    found, weight = measured(name, case), case.model.net.weight.unflatten(1, (3, T, H, W))
    for clip, target in enumerate(case.targets.tolist()):
        a = case.relevance[clip].double()
        kept = (a - a.min()) / (a.max() - a.min())
        shares = torch.einsum("kcthw,cthw->kthw", weight, case.shared.x(clip).double())
        clean, dimmed = shares.sum((1, 2, 3)), (shares * kept).sum((1, 2, 3))
        p, blended = (logits.softmax(0)[target].item() for logits in (clean, dimmed))
        assert found[clip] == pytest.approx(formula(name, p, blended), abs=1e-5)


@pytest.mark.parametrize("substrate", ["mean", "black", "blur", "blur3d"])
@pytest.mark.parametrize("name", NAMES)
def test_they_agree_with_a_literal_loop(name, substrate):
    case = case_of(small_model(), noise(3) - 0.5)
    found = measured(name, case, f"substrate={substrate}")
    for clip, target in enumerate(case.targets.tolist()):
        x, a = case.shared.x(clip), case.relevance[clip].numpy().astype(np.float64)
        empty = case.shared.substrate(clip, substrate)(torch.ones(1, T, H, W), torch.empty(1, 3, T, H, W))[0]
        kept = torch.from_numpy((a - a.min()) / (a.max() - a.min())).float()
        probabilities = [
            case.model.logits(one[None]).double().softmax(1)[0, target].item() for one in (x, blend(x, empty, kept))
        ]
        assert found[clip] == pytest.approx(formula(name, *probabilities), abs=1e-5)


def blend(x: Tensor, empty: Tensor, kept: Tensor) -> Tensor:
    return kept * x + (1 - kept) * empty


def test_pytorch_grad_cam_has_the_drop_before_it_is_divided_and_the_same_increase():
    """Its DropInConfidence is max(0, p - p'), which `average_drop` divides by p."""
    case = case_of(small_model(), noise(4))
    kept = [(a - a.min()) / (a.max() - a.min()) for a in case.relevance]
    x = torch.stack([case.shared.x(clip) for clip in range(3)])
    targets = [lambda logits, k=k: logits.double().softmax(0)[k] for k in case.targets.tolist()]
    arguments = (x, [a.numpy() for a in kept], targets, case.model.net)
    p = [target(logits).item() for target, logits in zip(targets, case.model.logits(x), strict=True)]
    drop = [value * p for value, p in zip(measured("average_drop", case), p, strict=True)]
    assert drop == pytest.approx(DropInConfidence()(*arguments).tolist(), abs=1e-5)
    assert measured("average_increase", case) == IncreaseInConfidence()(*arguments).tolist()


class Certain(nn.Module):
    """Logits (g, 0) with a gap g = `gap` times the mean of x."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.gap = gap

    def forward(self, x: Tensor) -> Tensor:
        score = self.gap * x.double().mean((1, 2, 3, 4))
        return torch.stack([score, 0 * score], 1)


@pytest.mark.parametrize("gap", [1.0, 60.0, 700.0, -700.0])
def test_they_stay_exact_where_the_model_is_nearly_certain(gap):
    """White clips against black: the gap shrinks to `gap` times the mean of the map."""
    frames, maps = torch.ones(1, 3, T, H, W), noise(5, n=1)
    maps = (maps - maps.min()) / (maps.max() - maps.min())
    batch = Batch(["white"], frames, torch.tensor([0]), maps > 2, torch.ones(1, T, dtype=torch.bool))
    case = case_of(VideoModel(Certain(gap), ["yes", "no"]), maps, batch)
    gaps = torch.tensor([gap, gap * float(maps.double().mean())], dtype=torch.float64)
    lost = [-torch.expm1(nn.functional.logsigmoid(g).diff().clamp(max=0)).item() for g in (gaps, -gaps)]
    assert measured("average_drop", case, "substrate=black") == pytest.approx(lost[:1], rel=1e-4, abs=1e-12)
    assert measured("average_gain", case, "substrate=black") == pytest.approx(lost[1:], rel=1e-4, abs=1e-12)
    assert measured("average_increase", case, "substrate=black") == [float(gap < 0)]


@given(st.floats(0.1, 50), st.floats(-20, 20), st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_scale_and_offset_of_the_map_do_not_matter(scale, offset, seed):
    maps = noise(seed, n=2).double()
    for name in NAMES:
        expected = measured(name, case_of(small_model(), maps))
        assert measured(name, case_of(small_model(), scale * maps + offset)) == pytest.approx(expected, abs=1e-5)


def test_the_map_of_one_clip_is_normalised_apart_from_its_neighbours():
    maps = noise(6)
    expected = [measured(name, case_of(small_model(), maps)) for name in NAMES]
    louder = maps * torch.tensor([1.0, 100, 0.01])[:, None, None, None]
    assert [measured(name, case_of(small_model(), louder)) for name in NAMES] == [
        pytest.approx(values, abs=1e-5) for values in expected
    ]


def test_nothing_drops_where_the_map_is_high_nearly_everywhere():
    maps = torch.ones(2, T, H, W)
    maps[:, 0, 0, 0] = 0
    assert measured("average_drop", case_of(small_model(), maps)) == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_map_is_undefined_and_its_neighbour_is_not(name):
    maps = noise(7)
    expected = measured(name, case_of(small_model(), maps))
    maps[1] = 0.1
    found = plugins.create("metrics", f"{name}:substrate=mean").measure(case_of(small_model(), maps))
    assert found.reasons == ("", "constant_map", "")
    assert found.values[[0, 2]].tolist() == pytest.approx([expected[0], expected[2]], abs=1e-6)


def test_the_three_share_one_forward_a_map_and_substrate():
    case = case_of(small_model(), noise(8))
    for clip in range(3):
        case.shared.clean_logits(clip)
    before = case.model.calls.forwards
    for name in NAMES:
        for substrate in ("mean", "blur3d"):
            metric = plugins.create("metrics", f"{name}:substrate={substrate}")
            metric(case)
            assert metric.own_forwards(case.model, case.batch.frames[0]) == 1
    assert case.model.calls.forwards - before == 2 * len(case)


@pytest.mark.parametrize("name", NAMES)
def test_a_substrate_without_shades_is_refused(name):
    with pytest.raises(PluginError, match=r"nothing between; use mean, black, blur"):
        plugins.create("metrics", f"{name}:substrate=freeze")


class Flipped(nn.Module):
    def __init__(self, net: nn.Module, axis: int) -> None:
        super().__init__()
        self.net, self.axis = net, axis

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flip(self.axis))


@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_flip_of_clip_map_and_model_and_another_order_of_clips_change_nothing(name, axis):
    model, batch, maps, order = small_model(), small_batch(), noise(9), [2, 0, 1]
    expected = measured(name, case_of(model, maps, batch), "substrate=blur3d")
    other = VideoModel(Flipped(model.net, axis), list(model.classes), **STATISTICS)
    turned = Batch(batch.ids, batch.frames.flip(axis), batch.labels, batch.tubes, batch.annotated).select(order)
    found = measured(name, case_of(other, maps.flip(axis - 1)[order], turned), "substrate=blur3d")
    assert found == pytest.approx([expected[i] for i in order], abs=1e-5)
