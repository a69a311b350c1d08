"""Methods on supervoxels: closed forms on additive models, brute-force Shapley values, authors' code written out."""

import importlib
import itertools
import math

import captum.attr
import numpy as np
import pytest
import torch
from skimage.morphology import dilation, disk
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from torch import nn

from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import CLASSES, as_model, explain, small_batch, small_model
from vidattr_bench.model import VideoModel
from vidattr_bench.plugins import create
from vidattr_bench.supervoxels import supervoxels

T, H, W = 6, 20, 28
kernel_shap = importlib.import_module("vidattr_bench.methods.kernel_shap")
lime = importlib.import_module("vidattr_bench.methods.lime")
regions = importlib.import_module("vidattr_bench.methods._regions")


@pytest.fixture
def model() -> VideoModel:
    return small_model()


@pytest.fixture
def batch():
    return small_batch(2)


class LinearNet(nn.Module):
    """Logits = weight . x: supervoxels never interact."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(CLASSES), 3, T, H, W))

    def forward(self, x):
        return torch.einsum("ncthw,kcthw->nk", x, self.weight)


def per_part(relevance, labels):
    """The value (S,) of each supervoxel in a map that is constant in each."""
    values = torch.stack([relevance[labels == s][0] for s in range(int(labels.max()) + 1)])
    assert torch.equal(values[labels], relevance)
    return values


def score_without(model, frames, target, labels, removed, filling=0.0):
    """The logit when the parts in `removed` are replaced by `filling`, one clip at a time."""
    x = model.normalise(frames[None])[0].clone()
    for part in removed:
        mask = (labels == part).expand_as(x)
        x[mask] = filling if isinstance(filling, float) else filling[mask]
    return float(model.logits(x[None])[0, target])


@pytest.mark.parametrize("text", ["leave_one_out", "lime:ridge=0.0,samples=200", "kernel_shap:samples=200"])
def test_contributions_to_an_additive_model_are_found_exactly(text, batch):
    model = as_model(LinearNet)
    found = explain(create("methods", f"{text}{',' if ':' in text else ':'}segments=20"), model, batch)
    voxels = (model.normalise(batch.frames) * model.net.weight[batch.labels]).sum(1)
    for clip, relevance, share in zip(batch.frames, found, voxels, strict=True):
        labels = supervoxels(clip, 20)
        expected = torch.bincount(labels.flatten(), share.flatten().double()).float()
        torch.testing.assert_close(per_part(relevance, labels), expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize("substrate", ["mean", "blur"])
def test_leave_one_out_is_the_drop_by_one_absence(substrate, model, batch):
    from vidattr_bench.perturbation import remove_all

    found = explain(create("methods", f"leave_one_out:segments=12,substrate={substrate}"), model, batch)
    for clip, target, relevance in zip(batch.frames, batch.labels, found, strict=True):
        labels = supervoxels(clip, 12)
        filling = remove_all(model.normalise(clip[None])[0], substrate, model, 0, "").expand_as(clip)
        clean = score_without(model, clip, target, labels, [])
        parts = range(int(labels.max()) + 1)
        expected = [clean - score_without(model, clip, target, labels, [part], filling) for part in parts]
        assert min(expected) < 0 < max(expected)
        torch.testing.assert_close(per_part(relevance, labels), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_lime_is_the_authors_code_for_images_written_out(model, batch):
    found = create("methods", "lime:samples=60,segments=12")(model, batch.frames, batch.labels, [3, 4])
    for clip, target, relevance, seed in zip(batch.frames, batch.labels, found, (3, 4), strict=True):
        labels = supervoxels(clip, 12)
        parts = int(labels.max()) + 1
        data = lime.halves(60, parts, torch.Generator().manual_seed(seed)).numpy().astype(int)
        scores = [score_without(model, clip, target, labels, np.flatnonzero(row == 0)) for row in data]
        distances = pairwise_distances(data, data[:1], metric="cosine").ravel()
        weights = np.sqrt(np.exp(-(distances**2) / 0.25**2))
        expected = Ridge(alpha=1, fit_intercept=True).fit(data, scores, sample_weight=weights).coef_
        assert np.abs(expected).min() > 0
        np.testing.assert_allclose(per_part(relevance, labels), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_lime_keeps_half_of_the_supervoxels_of_every_clip_but_the_first():
    kept = lime.halves(4001, 30, torch.Generator().manual_seed(0))
    assert kept[0].all()
    np.testing.assert_allclose(kept[1:].float().mean(0), 0.5, atol=5 * 0.5 / math.sqrt(4000))


def game(players, seed=0):
    """Scores of all coalitions, by their binary number: noise with interactions of every order."""
    return torch.randn(2**players, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number(kept):
    return (kept.long() << torch.arange(kept.shape[1])).sum(1)


def shapley(players, score):
    """Shapley values by their definition: every player's gain, averaged over all orders."""
    values = torch.zeros(players, dtype=torch.float64)
    for player in range(players):
        others = [other for other in range(players) if other != player]
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for group in itertools.combinations(others, size):
                values[player] += weight * (score((*group, player)) - score(group))
    return values


def fitted(players, samples, scores, seed=0):
    kept, weights = kernel_shap.coalitions(players, samples, torch.Generator().manual_seed(seed))
    gains = scores[number(kept)] - scores[0]
    return kernel_shap.constrained_fit(kept.double(), weights, gains, scores[-1] - scores[0])


@pytest.mark.parametrize("players", [1, 2, 3, 5, 8])
def test_with_all_coalitions_kernel_shap_gives_the_shapley_values(players):
    scores = game(players)
    expected = shapley(players, lambda group: scores[sum(1 << member for member in group)])
    torch.testing.assert_close(fitted(players, None, scores), expected)


def test_kernel_shap_of_a_clip_is_captums_shapley_values(model, batch):
    found = explain(create("methods", "kernel_shap:segments=8"), model, batch)
    for clip, target, relevance in zip(batch.frames, batch.labels, found, strict=True):
        labels = supervoxels(clip, 8)
        assert 3 <= int(labels.max()) + 1 <= 6
        captums = captum.attr.ShapleyValues(model.logits).attribute(
            model.normalise(clip[None]), 0, int(target), feature_mask=labels[None, None], perturbations_per_eval=64
        )
        expected = per_part(captums[0, 0].detach(), labels)
        torch.testing.assert_close(per_part(relevance, labels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [10, 60, 400])
def test_sampled_values_add_up_to_the_score_of_the_clip_minus_that_of_nothing(samples, model, batch):
    method = create("methods", f"kernel_shap:samples={samples},segments=30")
    for clip, target, relevance in zip(batch.frames, batch.labels, explain(method, model, batch), strict=True):
        labels = supervoxels(clip, 30)
        parts = range(int(labels.max()) + 1)
        ends = [score_without(model, clip, target, labels, removed) for removed in ([], parts)]
        assert float(per_part(relevance, labels).sum()) == pytest.approx(ends[0] - ends[1], rel=1e-4, abs=1e-5)


def test_coalitions_come_with_their_complements_in_sizes_of_the_shapley_kernel():
    players, samples = 14, 12000
    kept, weights = kernel_shap.coalitions(players, samples, torch.Generator().manual_seed(0))
    half = samples // 2
    assert torch.equal(kept[:half], ~kept[half:])
    assert torch.equal(weights, torch.ones_like(weights))
    sizes = torch.arange(1, players)
    expected = 1 / (sizes * (players - sizes))
    found = torch.bincount(kept[:half].sum(1), minlength=players)[1:] / half
    np.testing.assert_allclose(found, expected / expected.sum(), atol=5 * 0.5 / math.sqrt(half))
    np.testing.assert_allclose(
        kept[:half].double().mean(0), kept[:half].double().mean(), atol=5 * 0.5 / math.sqrt(half)
    )


def test_more_coalitions_come_nearer_to_the_shapley_values():
    players = 12
    scores = game(players, seed=1)
    exact = fitted(players, 2**players - 2, scores)
    assert torch.equal(exact, fitted(players, 2**players, scores, seed=5))
    errors = [
        torch.stack([(fitted(players, samples, scores, seed) - exact).square().mean() for seed in range(20)]).mean()
        for samples in (100, 400, 1600)
    ]
    assert errors[0] > 2.5 * errors[1] > 2.5 * 2.5 * errors[2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kernel_shap:samples=0", "must be an even number"),
        ("kernel_shap:samples=7", "must be an even number"),
        ("lime:samples=1", "at least 2"),
        ("lime:width=0.0", "positive"),
        ("xrai_3d:smallest=0", "positive"),
        ('xrai_3d:segments="[]"', "name a size"),
    ],
)
def test_senseless_options_are_refused(text, reason):
    with pytest.raises(PluginError, match=reason):
        create("methods", text)


def test_a_clip_in_one_piece_gets_all_of_the_difference(model, batch):
    found = create("methods", "kernel_shap:segments=1")(model, batch.frames, batch.labels, [0, 0])
    for clip, target, relevance in zip(batch.frames, batch.labels, found, strict=True):
        labels = supervoxels(clip, 1)
        assert int(labels.max()) == 0
        ends = [score_without(model, clip, target, labels, removed) for removed in ([], [0])]
        torch.testing.assert_close(relevance, torch.full((T, H, W), ends[0] - ends[1]))


def test_no_more_than_a_few_clips_go_through_the_network_at_once(model, batch):
    sizes = []
    model.net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    explain(create("methods", "lime:samples=100"), model, batch)
    assert max(sizes) == 8
    assert sum(sizes) == 200


def test_swag_is_the_mean_gradient_of_each_supervoxel(model, batch):
    for gradient, voxelwise in (("plain", "gradient"), ("guided", "guided_backprop")):
        found = explain(create("methods", f"swag_v:gradient={gradient},segments=15"), model, batch)
        maps = explain(create("methods", voxelwise), model, batch)
        for clip, relevance, values in zip(batch.frames, found, maps, strict=True):
            labels = supervoxels(clip, 15)
            expected = torch.stack([values[labels == s].mean() for s in range(int(labels.max()) + 1)])
            torch.testing.assert_close(per_part(relevance, labels), expected)


def test_guided_swag_reaches_functional_relus_and_refuses_what_has_no_rule(batch):
    guided = create("methods", "swag_v:gradient=guided")
    modules, functional = small_model(), small_model(lambda: torch.relu)
    torch.testing.assert_close(explain(guided, functional, batch), explain(guided, modules, batch))
    assert not torch.allclose(explain(guided, functional, batch), explain(create("methods", "swag_v"), modules, batch))
    explain(create("methods", "swag_v"), small_model(nn.GELU), batch)
    with pytest.raises(NotApplicableError, match="GELU"):
        explain(guided, small_model(nn.GELU), batch)


def authors_full(attr, masks, smallest):
    """XRAI as in the authors' library: every mask's gain again at every step."""
    output, current = np.full(attr.shape, -np.inf), np.zeros(attr.shape, dtype=bool)
    remaining = dict(enumerate(masks))
    while True:
        best_gain, best_key, useless = -np.inf, None, []
        for key, mask in remaining.items():
            difference = mask & ~current
            if difference.sum() < smallest:
                useless.append(key)
                continue
            gain = attr[difference].mean()
            if gain > best_gain:
                best_gain, best_key = gain, key
        for key in useless:
            del remaining[key]
        if not remaining:
            break
        output[remaining[best_key] & ~current] = best_gain
        current |= remaining.pop(best_key)
    uncomputed = output == -np.inf
    output[uncomputed] = attr[uncomputed].mean() if uncomputed.any() else 0
    return output


def authors_fast(attr, masks, smallest):
    """Fast XRAI as in the authors' library: masks sorted once, by their own density."""
    output, current = np.full(attr.shape, -np.inf), np.zeros(attr.shape, dtype=bool)
    for mask in sorted(masks, key=lambda mask: -attr[mask].mean()):
        difference = mask & ~current
        if difference.sum() < smallest:
            continue
        output[difference] = attr[difference].mean()
        current |= mask
    uncomputed = output == -np.inf
    output[uncomputed] = attr[uncomputed].mean() if uncomputed.any() else 0
    return output


def masks_of(clip, segments, radius):
    """The authors' masks: every segment of every scale, dilated by a disk."""
    parts = [supervoxels(clip, number) for number in segments]
    masks = [(labels == s).numpy() for labels in parts for s in range(int(labels.max()) + 1)]
    return [np.stack([dilation(frame, disk(radius)) for frame in mask]) for mask in masks]


@pytest.mark.parametrize(("algorithm", "authors"), [("full", authors_full), ("fast", authors_fast)])
@pytest.mark.parametrize("pool", ["max", "sum"])
def test_xrai_of_one_frame_is_the_authors(algorithm, authors, pool):
    model, batch = small_model(), small_batch(2, (1, 40, 56))
    text = f'xrai_3d:segments="[60,20,6]",steps=8,smallest=12,algorithm={algorithm},pool={pool},dilation=0.05'
    found = explain(create("methods", text), model, batch)
    x = model.normalise(batch.frames)
    paths = [
        captum.attr.IntegratedGradients(model.logits).attribute(
            x, model.normalise(torch.full_like(batch.frames, level)), batch.labels, n_steps=8
        )
        for level in (0.0, 1.0)
    ]
    shares = torch.stack(paths).mean(0).detach().double()
    attribution = shares.amax(1) if pool == "max" else shares.sum(1)
    for clip, attr, relevance in zip(batch.frames, attribution.numpy(), found, strict=True):
        expected = authors(attr, masks_of(clip, (60, 20, 6), radius=2), smallest=12)
        assert len(np.unique(expected)) > 10
        np.testing.assert_allclose(relevance, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_regions_are_segments_dilated_in_each_frame(radius):
    clip = small_batch(1).frames[0]
    parts = [supervoxels(clip, number) for number in (30, 8)]
    found = regions.regions(parts, radius).toarray().reshape(-1, T, H, W)
    assert np.array_equal(found, masks_of(clip, (30, 8), radius))


@pytest.mark.parametrize("overlaps", [True, False])
@pytest.mark.parametrize("smallest", [1, 40])
def test_covering_a_clip_keeps_its_total(overlaps, smallest):
    clip = small_batch(1).frames[0]
    masks = regions.regions([supervoxels(clip, number) for number in (60, 20, 6)], 1)
    attribution = torch.randn(T * H * W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    relevance = regions.cover(masks, attribution, smallest, overlaps=overlaps)
    torch.testing.assert_close(relevance.sum(), attribution.sum())
    authors = authors_full if overlaps else authors_fast
    expected = authors(attribution.numpy(), list(masks.toarray()), smallest)
    np.testing.assert_allclose(relevance, expected, rtol=1e-8, atol=1e-10)
