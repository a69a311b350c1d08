import pytest
import scipy.ndimage
import scipy.stats
import torch
from torch import nn

from vidattr_bench import imputation, substrates
from vidattr_bench.errors import DataError, NotApplicableError, PluginError
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


def donor() -> torch.Tensor:
    return torch.randn(C, T, H, W, generator=torch.Generator().manual_seed(9)) - 0.2


def replaced(
    text: str, x: torch.Tensor, removed: torch.Tensor, normalised: bool = True, seed: int = 0, clip: str = "clip"
) -> torch.Tensor:
    """M perturbed clips for M removed sets."""
    replace = substrates.bind(text, x, model(normalised), seed, clip, donor)
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


@pytest.mark.parametrize("name", ["mean", "black", "blur", "blur3d", "noise", "other_clip"])
def test_a_fill_is_one_clip_whatever_is_removed(name, x, removed):
    filling = replaced(name, x, torch.ones(1, T, H, W))[0]
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
def test_a_substrate_is_exact_even_where_the_model_runs_in_half_precision(name, x, removed):
    expected = replaced(name, x, removed)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(replaced(name, x, removed), expected)


@pytest.mark.parametrize("name", [*substrates.SUBSTRATES, "impute:dims=3"])
def test_a_removed_set_is_replaced_alike_alone_and_beside_others(name, x, removed):
    together = replaced(name, x, removed)
    assert torch.equal(replaced(name, x, removed.flip(0)).flip(0), together)
    assert torch.equal(torch.cat([replaced(name, x, mask[None]) for mask in removed]), together)


@pytest.mark.parametrize("name", substrates.SUBSTRATES)
def test_what_is_shown_comes_from_the_clean_clip_however_much_is_removed(name, x, removed):
    """A statistic of the perturbed clip would change with the removed set, which fills may not; ours never see it."""
    replace = substrates.bind(name, x, model(normalised=False), 0, "clip", donor)
    few, many = removed[1], removed[1] | removed[3]
    once = replace(few[None].to(x), torch.empty(1, *x.shape))
    twice = replace(many[None].to(x), torch.empty(1, *x.shape))
    again = replace(few[None].to(x), torch.empty(1, *x.shape))
    assert torch.equal(once, again)
    if name not in ("freeze", "impute"):
        assert torch.equal(once[0][:, few], twice[0][:, few])


@pytest.mark.parametrize("text", ["noise", "noise:scale=0.5"])
def test_noise_has_mean_and_spread_of_each_channel_of_the_clean_clip(text, x):
    x = x * torch.tensor([0.5, 1.0, 2.0]).view(C, 1, 1, 1)
    shown = replaced(text, x, torch.ones(1, T, H, W))[0].flatten(1)
    scale = substrates.create(text).scale
    spread = scale * x.flatten(1).std(1)
    assert ((shown.mean(1) - x.flatten(1).mean(1)).abs() < 4 * spread / (T * H * W) ** 0.5).all()
    assert torch.allclose(shown.std(1), spread, rtol=4 / (2 * T * H * W) ** 0.5)
    standard = ((shown - x.flatten(1).mean(1, keepdim=True)) / spread[:, None]).flatten().double().numpy()
    assert scipy.stats.kstest(standard, "norm").pvalue > 1e-3
    assert (torch.corrcoef(shown) - torch.eye(C)).abs().max() < 4 / (T * H * W) ** 0.5


@pytest.mark.parametrize("name", ["noise", "impute"])
def test_noise_is_a_function_of_seed_clip_and_configured_substrate(name, x, removed):
    def drawn(text: str = name, **key: object) -> torch.Tensor:
        return replaced(text, x, removed, **key)

    assert torch.equal(drawn(), drawn())
    option = {"noise": "scale=1.0", "impute": "noise=1e-2,dims=2"}[name]
    assert torch.equal(drawn(f"{name}:{option}"), drawn())
    assert not torch.equal(drawn(seed=1), drawn())
    assert not torch.equal(drawn(clip="other"), drawn())


def test_other_clip_shows_the_donor_where_voxels_are_removed(x, removed):
    assert torch.equal(replaced("other_clip", x, removed), torch.where(removed[:, None], donor(), x))


def test_other_clip_needs_one_of_the_same_size(x):
    with pytest.raises(NotApplicableError, match="other_clip needs a data set"):
        substrates.bind("other_clip", x, model(), 0, "clip")
    with pytest.raises(DataError, match=r"other_clip: \(3, 4, 15, 20\) cannot stand in for \(3, 9, 15, 20\)"):
        substrates.bind("other_clip", x, model(), 0, "clip", lambda: donor()[:, :4])


@pytest.mark.parametrize("dims", [2, 3])
def test_impute_is_the_imputation_and_seeded_noise_on_what_is_removed(dims, x, removed):
    plain = replaced(f"impute:dims={dims},noise=0", x, removed)
    assert torch.equal(plain, imputation.impute(x, removed.to(x), dims, 1e-3))
    noise = (replaced(f"impute:dims={dims},noise=0.25", x, removed) - plain).movedim(1, -1)
    assert (noise[~removed] == 0).all()
    standard = noise[3][removed[3]].flatten().double() / 0.25
    assert scipy.stats.kstest(standard.numpy(), "norm").pvalue > 1e-3
    shared = removed[2] & removed[3]
    assert torch.allclose(noise[2][shared], noise[3][shared], atol=1e-5), "one field of noise for all removed sets"


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
        ("noise:scale=-1", "scale must be a positive number"),
        ("noise:scale=nan", "scale must be a positive number"),
        ("impute:dims=4", "dims must be 2 or 3"),
        ("impute:dims=2.5", "dims must be a whole number"),
        ("impute:noise=-0.1", "noise must be 0 or a positive number"),
        ("impute:tolerance=0", "tolerance must be a positive number"),
        ("other_clip:which=1", "no option 'which'"),
    ],
)
def test_a_wrong_substrate_is_refused_with_the_remedy(text, message):
    with pytest.raises(PluginError, match=message):
        substrates.create(text)
