"""Sensitivity-n, faithfulness correlation, infidelity: closed forms, literal loops, Captum, symmetries, shared sets."""

import numpy as np
import pytest
import scipy.stats
import torch
from captum.metrics import infidelity
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vidattr_bench import plugins
from vidattr_bench.errors import PluginError
from vidattr_bench.fixtures import CLASSES, SIZE, as_model, small_batch, small_model
from vidattr_bench.metric import Case
from vidattr_bench.model import VideoModel
from vidattr_bench.shared import Shared

CORRELATIONS = ("sensitivity_n", "faithfulness_correlation")
NAMES = (*CORRELATIONS, "infidelity")
EVEN = (8, 14, 21)
FEW = {"sensitivity_n": 'shares="[.2,.6]",draws=6', "faithfulness_correlation": "draws=9", "infidelity": "draws=9"}


class Linear(nn.Module):
    """Logits linear in a clip of any size: every voxel's weight is a wave over its place."""

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x[0].numel(), dtype=torch.float64, device=x.device)
        weight = torch.sin(place * torch.arange(1, len(CLASSES) + 1)[:, None] / 7) / 20
        return x.double().flatten(1) @ weight.T

    def shares(self, x: Tensor, target: int) -> Tensor:
        """What each voxel (T, H, W) of x (C, T, H, W) adds to a logit."""
        place = torch.arange(x.numel(), dtype=torch.float64)
        return (x.double() * (torch.sin(place * (target + 1) / 7) / 20).view_as(x)).sum(0)


def noise(seed: int = 0, n: int = 3, size: tuple[int, int, int] = SIZE) -> Tensor:
    return torch.randn(n, *size, generator=torch.Generator().manual_seed(seed))


def case_of(model: VideoModel, relevance: Tensor, **options) -> Case:
    batch = small_batch(len(relevance), tuple(relevance.shape[1:]))
    return Case(model, batch, batch.labels, relevance, **options)


def true_shares(size: tuple[int, int, int] = SIZE, substrate: str = "mean", scale: float = 1.0) -> Case:
    """A linear model with what each voxel adds to the target's logit, the substrate counting 0."""
    case = case_of(as_model(Linear), torch.zeros(3, *size, dtype=torch.float64))
    for clip, target in enumerate(case.targets.tolist()):
        x = case.shared.x(clip)
        empty = case.shared.substrate(clip, substrate)(torch.ones(1, *size), torch.empty_like(x)[None])[0]
        case.relevance[clip] = scale * case.model.net.shares(x.double() - empty.double(), target)
    return case


def measured(name: str, case: Case, options: str = "") -> list[float]:
    return plugins.create("metrics", f"{name}:{options}".rstrip(":"))(case).tolist()


@pytest.mark.parametrize("substrate", ["mean", "black", "blur3d"])
@pytest.mark.parametrize("unit", ["tubelet", "supervoxel", "frame", "voxel"])
def test_what_adds_up_to_a_linear_models_logit_is_perfect_and_its_negative_the_opposite(unit, substrate):
    """Units differ in size: only sums add up, means do not."""
    options = f"score=logit,substrate={substrate},unit={unit}"
    for scale, correlation, distance in ((3.0, 1, 0), (-0.2, -1, 1)):
        case = true_shares(substrate=substrate, scale=scale)
        for name in NAMES:
            expected = distance if name == "infidelity" else correlation
            assert measured(name, case, f"{options},{FEW[name]}") == pytest.approx([expected] * 3, abs=1e-6)


def test_the_units_of_the_tests_differ_in_size():
    case = true_shares()
    for unit in ("tubelet", "supervoxel"):
        assert len(set(case.shared.units(0, unit).sizes.tolist())) > 1


def literal(name: str, case: Case, clip: int, score: str) -> float:
    """Remove every set with a loop, add up relevance voxel by voxel, and put both into the paper's formula."""
    metric = plugins.create("metrics", name)
    (spec,) = metric.removal_specs()
    removals, target = case.shared.removals(clip, spec), int(case.targets[clip])
    x, a = case.shared.x(clip), case.relevance[clip].double().numpy()
    replace = case.shared.substrate(clip, spec.substrate)

    def ask(one: Tensor) -> float:
        logits = case.model.logits(one[None])[0].double()
        return float(logits.softmax(0)[target] if score == "prob" else logits[target])

    q, d = [], []
    for removed in removals.removed:
        voxels = torch.from_numpy(np.isin(removals.units.labels.numpy(), np.flatnonzero(removed.numpy())))
        q.append(a[voxels.numpy()].sum())
        d.append(ask(x) - ask(replace(voxels[None].to(x), torch.empty_like(x)[None])[0]))
    q, d = np.array(q), np.array(d)
    if name.startswith("infidelity"):
        beta = max(0.0, np.mean(q * d) / np.mean(q**2))
        return float(np.mean((beta * q - d) ** 2) / np.mean(d**2))
    parts = zip(np.split(q, len(spec.shares)), np.split(d, len(spec.shares)), strict=True)
    return float(np.mean([scipy.stats.pearsonr(*part)[0] for part in parts]))


@pytest.mark.parametrize("substrate", ["blur3d", "freeze"])
@pytest.mark.parametrize("score", ["prob", "logit"])
@pytest.mark.parametrize("name", NAMES)
def test_they_agree_with_a_literal_loop(name, score, substrate):
    case = case_of(small_model(), noise(1, n=2))
    text = f"{name}:{FEW[name]},score={score},substrate={substrate}"
    found = plugins.create("metrics", text)(case).tolist()
    assert found == pytest.approx([literal(text, case, clip, score) for clip in range(2)], abs=1e-5)


def captums(case: Case, clip: int, normalize: bool) -> float:
    """Captum's infidelity over our removed sets: 1 where a voxel is removed, its relevance on the first channel."""
    (spec,) = plugins.create("metrics", "infidelity").removal_specs()
    removals, x = case.shared.removals(clip, spec), case.shared.x(clip)
    voxels = removals.removed[:, removals.units.labels].to(x)
    removed = case.shared.substrate(clip, spec.substrate)(voxels, torch.empty(len(voxels), *x.shape))
    attributions = torch.zeros_like(x)
    attributions[0] = case.relevance[clip]
    value = infidelity(
        lambda clips: case.model.logits(clips).double().softmax(1),
        lambda inputs: (voxels[:, None].expand_as(inputs), removed),
        x[None],
        attributions[None],
        target=int(case.targets[clip]),
        n_perturb_samples=len(voxels),
        normalize=normalize,
    )
    return float(value)


def mean_square(case: Case, clip: int) -> float:
    """E[d^2]: the paper's infidelity of a map of zeros."""
    return captums(case_of(case.model, torch.zeros_like(case.relevance)), clip, normalize=False)


def test_captums_infidelity_is_ours_before_it_is_divided_and_without_the_clamp():
    """Captum: E[(beta q - d)^2], beta = E[q d] / E[q^2]; ours is that / E[d^2] where beta > 0, and 1 elsewhere."""
    cases = [case_of(small_model(), sign * noise(3)) for sign in (1, -1)]
    found = torch.tensor([measured("infidelity", case) for case in cases])
    captum = torch.tensor(
        [[captums(case, clip, True) / mean_square(case, clip) for clip in range(3)] for case in cases]
    )
    assert torch.allclose(captum[0], captum[1], atol=1e-5)
    assert torch.allclose(found.amin(0), captum[0], atol=1e-5)
    assert found.amax(0).tolist() == [1.0] * 3


def test_the_papers_infidelity_is_captums_without_normalisation():
    case = case_of(small_model(), noise(4, n=2) / 1000)
    (spec,) = plugins.create("metrics", "infidelity").removal_specs()
    for clip, target in enumerate(case.targets.tolist()):
        removals = case.shared.removals(clip, spec)
        d = case.shared.clean_logits(clip).double().softmax(0)[target] - removals.logits.softmax(1)[:, target]
        q = removals.sums(case.relevance[clip])
        assert float((q - d).square().mean()) == pytest.approx(captums(case, clip, normalize=False), abs=1e-5)


@given(st.integers(0, 5), st.floats(0.01, 100))
@settings(max_examples=8, deadline=None)
def test_scale_changes_nothing_and_sign_turns_correlations_round(seed, scale):
    maps, model = noise(seed, n=2).double(), small_model()
    for name in NAMES:
        found, scaled, negative = (measured(name, case_of(model, a), FEW[name]) for a in (maps, scale * maps, -maps))
        assert scaled == pytest.approx(found, abs=1e-6)
        if name == "infidelity":
            assert all(min(pair) < 1 and max(pair) == 1 for pair in zip(found, negative, strict=True))
        else:
            assert negative == pytest.approx([-value for value in found], abs=1e-6)


@given(st.integers(0, 5), st.floats(-30, 30))
@settings(max_examples=6, deadline=None)
def test_an_offset_is_not_seen_by_correlations_on_units_of_one_size(seed, offset):
    maps, model = noise(seed, n=1, size=EVEN).double(), small_model()
    for name in CORRELATIONS:
        found, shifted = (measured(name, case_of(model, a), FEW[name]) for a in (maps, maps + offset))
        assert shifted == pytest.approx(found, abs=1e-6)


def test_a_constant_map_has_the_infidelity_that_its_falls_leave():
    case = case_of(small_model(), torch.full((2, *EVEN), 0.1))
    (spec,) = plugins.create("metrics", "infidelity").removal_specs()
    for clip, found in enumerate(measured("infidelity", case)):
        target = int(case.targets[clip])
        scores = case.shared.removals(clip, spec).logits.softmax(1)[:, target]
        d = case.shared.clean_logits(clip).double().softmax(0)[target] - scores
        assert found == pytest.approx(1 - max(0, float(d.mean())) ** 2 / float(d.square().mean()), abs=1e-6)


class Deaf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linspace(-2, 3, len(CLASSES)).repeat(len(x), 1)


def within_units(size: tuple[int, int, int]) -> Tensor:
    """A map that sums to 0 in every unit of two equal halves, and varies within."""
    case = case_of(small_model(), torch.zeros(1, *size))
    labels = case.shared.units(0, "tubelet").labels
    a = noise(6, n=1, size=size)[0].double()
    means = torch.bincount(labels.flatten(), a.flatten()) / torch.bincount(labels.flatten())
    return (a - means[labels])[None]


@pytest.mark.parametrize(
    ("name", "model", "maps", "reason"),
    [
        *((name, small_model, torch.full((1, *SIZE), 0.1), "constant_map") for name in CORRELATIONS),
        *((name, small_model, torch.zeros(1, *SIZE), "constant_map") for name in CORRELATIONS),
        *((name, small_model, within_units(EVEN) + 0.3, "constant_relevance") for name in CORRELATIONS),
        *((name, lambda: as_model(Deaf), noise(n=1), "constant_score") for name in CORRELATIONS),
        ("infidelity", small_model, torch.zeros(1, *SIZE), "zero_map"),
        ("infidelity", small_model, within_units(SIZE), "zero_map"),
        ("infidelity", lambda: as_model(Deaf), noise(n=1), "no_fall"),
    ],
)
def test_what_is_constant_is_undefined_with_its_reason_and_never_zero(name, model, maps, reason):
    for score in ("prob", "logit", "margin"):
        found = plugins.create("metrics", f"{name}:score={score}").measure(case_of(model(), maps))
        assert found.reasons == (reason,)
        assert found.values.isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_of_one_unit_has_no_sets_to_compare(name):
    case = case_of(small_model(), noise(n=2, size=(1, 20, 28)).abs())
    assert plugins.create("metrics", f"{name}:unit=frame").measure(case).reasons == ("one_unit",) * 2


@pytest.mark.parametrize("name", CORRELATIONS)
def test_random_signed_maps_do_not_correlate_with_a_linear_model_on_average(name):
    values = torch.tensor(measured(name, case_of(as_model(Linear), noise(7, n=40)), "score=logit,substrate=mean"))
    assert abs(float(values.mean())) < 3 * float(values.std()) / 40**0.5


def test_all_three_scores_and_methods_share_two_hundred_forwards_a_clip():
    model, batch = small_model(), small_batch(2)
    shared = Shared(model, batch, batch.labels, forward_batch=4)
    specs = set()
    for seed in range(2):
        case = Case(model, batch, batch.labels, noise(seed, n=2), shared=shared)
        for name in NAMES:
            for score in ("prob", "logit", "margin"):
                metric = plugins.create("metrics", f"{name}:score={score}")
                metric(case)
                specs |= set(metric.removal_specs())
    assert sum(spec.sets for spec in specs) == 200
    clean = 4  # one clip, padded to the forward batch
    assert model.calls.forwards == 2 * (clean + 200)


@pytest.mark.parametrize("name", NAMES)
def test_permuted_clips_keep_their_values(name):
    case, order = case_of(small_model(), noise(8)), [2, 0, 1]
    permuted = Case(case.model, case.batch.select(order), case.targets[order], case.relevance[order])
    expected = measured(name, case, FEW[name])
    assert measured(name, permuted, FEW[name]) == pytest.approx([expected[i] for i in order], abs=1e-5)


class Flipped(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return Linear()(x.flip(self.axis))


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_flip_of_clip_map_and_model_together_keeps_a_perfect_map_perfect(axis):
    straight = true_shares()
    batch = straight.batch
    batch.frames[:] = batch.frames.flip(axis)
    case = Case(as_model(lambda: Flipped(axis)), batch, straight.targets, straight.relevance.flip(axis - 1))
    for name in NAMES:
        expected = [0.0 if name == "infidelity" else 1.0] * 3
        assert measured(name, case, f"score=logit,substrate=mean,{FEW[name]}") == pytest.approx(expected, abs=1e-6)
        unflipped = Case(case.model, batch, straight.targets, straight.relevance)
        assert measured(name, unflipped, f"score=logit,substrate=mean,{FEW[name]}") != pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sensitivity_n:shares="[.1,1]"', "must lie in"),
        ("infidelity:draws=0", "at least 1"),
        ("faithfulness_correlation:unit=tublet", "did you mean tubelet"),
    ],
)
def test_an_impossible_option_is_refused(text, message):
    with pytest.raises(PluginError, match=message):
        plugins.create("metrics", text)
