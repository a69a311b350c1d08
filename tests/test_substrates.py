import pytest
import scipy.ndimage
import torch
from torch import nn

from vidattr_bench import substrates
from vidattr_bench.errors import PluginError
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import remove_all

C, T, H, W = 3, 9, 15, 20
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def model(normalised: bool = True) -> VideoModel:
    net = nn.Sequential(nn.Flatten(), nn.Linear(C * T * H * W, 2))
    return VideoModel(net, ["a", "b"], mean=MEAN if normalised else None, std=STD if normalised else None)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(C, T, H, W, generator=torch.Generator().manual_seed(0)) + 0.7


def replaced(text: str, x: torch.Tensor, removed: torch.Tensor, normalised: bool = True) -> torch.Tensor:
    """M perturbed clips for M removed sets."""
    replace = substrates.bind(text, x, model(normalised), 0, "clip")
    return replace(removed.to(x), torch.empty(len(removed), *x.shape))


@pytest.fixture
def removed() -> torch.Tensor:
    return torch.rand(5, T, H, W, generator=torch.Generator().manual_seed(1)) < torch.tensor(
        [0.0, 0.1, 0.5, 0.95, 1.0]
    ).view(-1, 1, 1, 1)


@pytest.mark.parametrize("name", substrates.SUBSTRATES)
def test_kept_voxels_stay_exactly_and_all_channels_of_a_voxel_go_together(name, x, removed):
    out = replaced(name, x, removed)
    changed = out != x
    assert not changed[~removed[:, None].expand_as(out)].any()
    if name != "freeze":
        assert (changed.any(1) == removed).all()


@pytest.mark.parametrize("name", substrates.SUBSTRATES)
def test_the_clip_and_the_removed_set_are_left_alone(name, x, removed):
    before, mask = x.clone(), removed.clone()
    replaced(name, x, removed)
    assert torch.equal(x, before)
    assert torch.equal(removed, mask)


@pytest.mark.parametrize("name", ["mean", "black", "blur", "blur3d"])
def test_a_fill_is_one_clip_whatever_is_removed(name, x, removed):
    filling = remove_all(x, name, model(), 0, "clip")
    expected = torch.where(removed[:, None], filling, x)
    assert torch.equal(replaced(name, x, removed), expected)


def test_mean_is_zero_where_the_model_declares_it_and_the_clean_channel_mean_else(x, removed):
    assert torch.equal(remove_all(x, "mean", model(), 0, "clip"), torch.zeros_like(x))
    out = replaced("mean", x, removed, normalised=False)
    for m in range(len(removed)):
        for c in range(C):
            hidden = out[m, c][removed[m]]
            assert torch.allclose(hidden, x[c].mean().expand_as(hidden))


def test_black_is_a_black_pixel_in_the_normalised_space(x):
    expected = -torch.tensor(MEAN) / torch.tensor(STD)
    assert torch.allclose(remove_all(x, "black", model(), 0, "clip"), expected.view(C, 1, 1, 1).expand_as(x))


@pytest.mark.parametrize(("name", "along_time"), [("blur", 0.0), ("blur3d", 0.1)])
def test_blur_is_scipys_reflected_gaussian_truncated_at_three_sigma(name, along_time, x):
    sigma = (0, along_time * T, 0.1 * H, 0.1 * H)
    expected = scipy.ndimage.gaussian_filter(x.double().numpy(), sigma, mode="reflect", truncate=3)
    assert torch.allclose(remove_all(x, name, model(), 0, "clip").double(), torch.from_numpy(expected), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 4.0])
def test_blur_folds_back_however_wide_it_is(sigma, x):
    expected = scipy.ndimage.gaussian_filter(x.double().numpy(), (0, *[sigma * n for n in (T, H, H)]), truncate=3)
    found = remove_all(x, f"blur3d:sigma={sigma}", model(), 0, "clip")
    assert torch.allclose(found.double(), torch.from_numpy(expected), atol=1e-5)


@pytest.mark.parametrize("name", substrates.SUBSTRATES)
def test_a_substrate_is_exact_even_where_the_model_runs_in_half_precision(name, x):
    expected = remove_all(x, name, model(), 0, "clip")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(remove_all(x, name, model(), 0, "clip"), expected)


def frozen(x: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    """Literal: the previous kept value, else the next kept one, else frame 0, voxel by voxel."""
    out = x.clone()
    for t, h, w in removed.nonzero().tolist():
        kept = (~removed[:, h, w]).nonzero().flatten().tolist()
        before, after = [k for k in kept if k < t], [k for k in kept if k > t]
        out[:, t, h, w] = x[:, before[-1] if before else after[0] if after else 0, h, w]
    return out


def test_freeze_holds_the_previous_kept_value_then_the_next_then_frame_zero(x, removed):
    assert torch.equal(replaced("freeze", x, removed), torch.stack([frozen(x, mask) for mask in removed]))


def test_freezing_everything_is_a_still_of_frame_zero(x):
    assert torch.equal(remove_all(x, "freeze", model(), 0, "clip"), x[:, :1].expand_as(x))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blurr", "did you mean blur"),
        ("blur:sgma=1", "did you mean sigma"),
        ("blur:sigma=wide", "sigma must be a positive number"),
        ("blur:sigma=0", "sigma must be a positive number"),
    ],
)
def test_a_wrong_substrate_is_refused_with_the_remedy(text, message):
    with pytest.raises(PluginError, match=message):
        substrates.create(text)
