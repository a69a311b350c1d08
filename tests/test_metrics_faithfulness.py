import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch
from vidattr_bench.errors import DataError, NotApplicableError, PluginError
from vidattr_bench.metric import Case, Cost, Shared
from vidattr_bench.metrics._curves import target_score
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import planned_forwards
from vidattr_bench.presets import presets, resolve
from vidattr_bench.units import regular_units

N, C, T, H, W = 3, 3, 6, 15, 20


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.convolution, self.head = nn.Conv3d(C, 4, 3, stride=(1, 2, 2)), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(60 * self.convolution(x).tanh().mean((2, 3, 4)))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(4, C, T, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.weight = nn.Parameter(weight / 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double().flatten(1) @ self.weight.flatten(1).T


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(frames: torch.Tensor) -> Batch:
    n, _, t, h, w = frames.shape
    return Batch(
        ids=[f"clip{i}" for i in range(n)],
        frames=frames,
        labels=torch.arange(n) % 4,
        tubes=torch.zeros(n, t, h, w, dtype=torch.bool),
        annotated=torch.ones(n, t, dtype=torch.bool),
    )


def case_of(net: nn.Module, relevance: torch.Tensor, normalised: bool = True, **options) -> Case:
    model = VideoModel(net, list("abcd"), mean=[0.4] * C if normalised else None, std=[0.2] * C if normalised else None)
    batch = batch_of(random(len(relevance), C, T, H, W, seed=1))
    return Case(model, batch, batch.labels, relevance, **options)


def measure(spec: str, case: Case) -> torch.Tensor:
    return plugins.create("metrics", spec)(case)


@pytest.fixture
def relevance() -> torch.Tensor:
    return random(N, T, H, W, seed=2) - 0.5


def test_srg_of_a_linear_model_weighs_each_frame_by_its_rank(relevance):
    case = case_of(Linear(), relevance)
    found = measure(f"srg:unit=frame,substrate=mean,score=logit,steps={T}", case)
    for clip, target in enumerate(case.targets.tolist()):
        share = torch.einsum("cthw,cthw->t", case.model.net.weight[target], case.shared.x(clip).double())
        ranked = share[relevance[clip].double().mean((1, 2)).argsort(descending=True)]
        weights = 1 - (2 * torch.arange(T, dtype=torch.float64) + 1) / T
        assert float(found[clip]) == pytest.approx(float(ranked @ weights))


def literal_areas(case: Case, clip: int, substrate: str) -> tuple[float, float]:
    """Deletion and insertion as Petsiuk's loop has them: remove or insert one tubelet after another, ask, integrate."""
    x = case.shared.x(clip).numpy()
    base = np.zeros_like(x)
    if substrate == "blur":
        base = scipy.ndimage.gaussian_filter(x, (0, 0, 0.1 * H, 0.1 * H), mode="reflect", truncate=3)
    labels = regular_units("tubelet", T, H, W).labels.numpy()
    importance = [case.relevance[clip].numpy().astype(np.float64)[labels == u].mean() for u in range(labels.max() + 1)]
    deleted, inserted, share, deletion, insertion = x.copy(), base.copy(), [0.0], [], []

    def ask(clip_now: np.ndarray) -> float:
        logits = case.model.net(torch.from_numpy(clip_now)[None].float())[0].double()
        return float(logits.softmax(0)[case.targets[clip]])

    for unit in [*np.argsort(importance)[::-1], None]:
        deletion.append(ask(deleted))
        insertion.append(ask(inserted))
        if unit is not None:
            deleted[:, labels == unit] = base[:, labels == unit]
            inserted[:, labels == unit] = x[:, labels == unit]
            share.append(share[-1] + (labels == unit).mean())
    return float(np.trapezoid(deletion, share)), float(np.trapezoid(insertion, share))


@pytest.mark.parametrize("substrate", ["mean", "blur"])
def test_deletion_and_insertion_agree_with_a_literal_loop_over_all_tubelets(substrate, relevance):
    case = case_of(Convolutional(), relevance[:1])
    steps = len(regular_units("tubelet", T, H, W).sizes) * 20
    expected = literal_areas(case, 0, substrate)
    found = [float(measure(f"{name}:substrate={substrate},steps={steps}", case)) for name in ("deletion", "insertion")]
    assert found == pytest.approx(expected, abs=1e-5)
    coarse = [float(measure(f"{name}:substrate={substrate}", case)) for name in ("deletion", "insertion")]
    assert coarse == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("options", ["", "substrate=freeze", "unit=frame,score=logit", "score=margin,substrate=black"])
def test_srg_is_insertion_minus_deletion_and_turns_round_with_the_map(options, relevance):
    case = case_of(Convolutional(), relevance)
    spec = f":{options}" if options else ""
    found = measure(f"srg{spec}", case)
    assert torch.allclose(found, measure(f"insertion{spec}", case) - measure(f"deletion{spec}", case))
    assert torch.allclose(measure(f"srg{spec}", case_of(Convolutional(), -relevance)), -found, atol=1e-5)


def test_chance_of_srg_is_zero_and_a_random_order_meets_it():
    case = case_of(Linear(), random(40, T, H, W, seed=3))
    measured = plugins.create("metrics", "srg:substrate=mean,score=logit").measure(case)
    assert measured.chance.tolist() == [0.0] * 40
    values = measured.values
    assert abs(float(values.mean())) < 3 * float(values.std()) / 40**0.5


def test_range_normalisation_maps_the_ends_to_one_and_zero():
    case = case_of(Linear(), random(8, T, H, W, seed=2))
    found = measure("deletion:substrate=black,score=logit,normalise=range", case)
    raw = measure("deletion:substrate=black,score=logit", case)
    (spec,) = plugins.create("metrics", "deletion:substrate=black").curve_specs()
    curves, targets = case.curves(spec), case.targets.tolist()
    clean, empty = (torch.stack([c.morf[end, t] for c, t in zip(curves, targets, strict=True)]) for end in (0, -1))
    defined = found.isfinite()
    assert defined.any()
    assert torch.allclose(found[defined], ((raw - empty) / (clean - empty))[defined])


class Scaled(nn.Module):
    """Logits (s m, 0, 0, -s / 2): their range and the target's span grow together with s."""

    def __init__(self, scale: float, span: float) -> None:
        super().__init__()
        self.scale, self.span = scale, span

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        target = 1 - self.span * (x.double() == 0).double().mean((1, 2, 3, 4))
        return self.scale * torch.stack([target, 0 * target, 0 * target, 0 * target - 0.5], 1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("span", "reason"), [(0.06, "small_span"), (0.09, ""), (-0.5, "small_span")])
def test_a_span_is_small_beside_the_range_of_the_clean_logits(scale, span, reason, relevance):
    # The clean logits range over 1.5, so the limit for the span is .075.
    case = case_of(Scaled(scale, span), relevance[:1])
    assert plugins.create("metrics", "srg:substrate=mean,score=logit,normalise=range").measure(case).reasons == (
        reason,
    )


class Deaf(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_tensor([[0.0, 1.0, 2.0, 3.0]]).repeat(len(x), 1) + 0.01 * x.mean((1, 2, 3, 4))[:, None]


@pytest.mark.parametrize("score", ["prob", "logit", "margin"])
def test_a_small_span_is_undefined_with_its_reason(score, relevance):
    measured = plugins.create("metrics", f"srg:normalise=range,score={score}").measure(case_of(Deaf(), relevance))
    assert measured.values.isnan().all()
    assert measured.reasons == ("small_span",) * N


@pytest.mark.parametrize("name", ["deletion", "insertion", "srg"])
def test_a_constant_map_is_undefined_with_its_reason_and_the_others_are_not(name, relevance):
    relevance[1] = 0.25
    measured = plugins.create("metrics", name).measure(case_of(Convolutional(), relevance))
    assert measured.values.isnan().tolist() == [False, True, False]
    assert measured.reasons == ("", "constant_map", "")


def test_scores_are_probability_logit_and_margin_of_the_target(relevance):
    case = case_of(Convolutional(), relevance[:1])
    (curve,) = case.curves(plugins.create("metrics", "srg").curve_specs()[0])
    logits = curve.morf
    expected = {
        "prob": logits.exp()[:, 0] / logits.exp().sum(1),
        "logit": logits[:, 0],
        "margin": logits[:, 0] - logits[:, 1:].max(1).values,
    }
    for score, scores in expected.items():
        area = float(((scores[1:] + scores[:-1]) / 2 * curve.fractions.diff()).sum())
        assert float(measure(f"deletion:score={score}", case)) == pytest.approx(area)


def test_a_margin_needs_another_class():
    for score in ("prob", "logit"):
        assert target_score(torch.tensor([[2.0], [3.0]]), 0, score).shape == (2,)
    with pytest.raises(NotApplicableError, match="the model has one class"):
        target_score(torch.tensor([[2.0], [3.0]]), 0, "margin")


def test_all_metrics_of_one_curve_share_its_forwards_and_all_methods_its_ends(relevance):
    case = case_of(Convolutional(), relevance)
    shared = Shared(case.model, case.batch, case.targets, forward_batch=1)
    metrics = resolve(["default"])
    for seed in range(2):
        maps = relevance if seed == 0 else random(N, T, H, W, seed=9)
        one = Case(case.model, case.batch, case.targets, maps, shared=shared)
        for metric in metrics:
            metric(one)
    specs = {spec for metric in metrics for spec in metric.curve_specs()}
    curves = sum(planned_forwards(spec, regular_units(spec.unit, T, H, W)) for spec in specs)
    assert {spec.substrate for spec in specs} == {"blur3d", "freeze"}
    assert case.model.calls.forwards == N * (1 + 2 + 2 * curves)


@pytest.mark.parametrize("name", ["deletion", "insertion:substrate=freeze", "srg:substrate=mean"])
@pytest.mark.parametrize("normalised", [True, False])
def test_a_clips_value_does_not_depend_on_its_neighbours_or_their_order(name, normalised, relevance):
    case = case_of(Convolutional(), relevance, normalised)
    together = measure(name, case)
    order = [2, 0, 1]
    permuted = Case(case.model, case.batch.select(order), case.targets[order], relevance[order])
    assert torch.allclose(measure(name, permuted), together[order], atol=1e-5)
    for clip in range(N):
        alone = Case(case.model, case.batch.select([clip]), case.targets[[clip]], relevance[[clip]])
        assert torch.allclose(measure(name, alone), together[[clip]], atol=1e-5)


def test_a_rescaled_map_has_the_same_value(relevance):
    case, scaled = (case_of(Convolutional(), maps) for maps in (relevance, 4 * relevance + 16))
    assert torch.allclose(measure("srg", case), measure("srg", scaled), atol=1e-5)


def test_the_tie_fraction_is_that_of_the_units_and_asks_no_model(relevance):
    relevance[0] = 1.0
    relevance[1, :3] = 5.0
    case = case_of(Convolutional(), relevance)
    assert measure("tie_fraction:unit=frame", case).tolist() == [1.0, 0.5, 0.0]
    assert case.model.calls.forwards == 0


def test_cost_metrics_read_the_case_and_are_undefined_without_a_measurement(relevance):
    cost = Cost(seconds=0.25, forwards=7, backwards=2, memory=1024)
    case = case_of(Convolutional(), relevance, cost=cost)
    for name, value in (("seconds", 0.25), ("forwards", 7), ("backwards", 2), ("peak_memory", 1024)):
        assert measure(name, case).tolist() == [value] * N
        unmeasured = plugins.create("metrics", name).measure(case_of(Convolutional(), relevance))
        assert unmeasured.reasons == ("not_measured",) * N


def test_a_map_that_does_not_fit_or_is_not_finite_is_refused_by_name(relevance):
    with pytest.raises(DataError, match="relevance has shape"):
        case_of(Convolutional(), relevance[:, 1:])
    relevance[1, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="clip1"):
        case_of(Convolutional(), relevance)


def test_presets_name_what_the_design_says():
    found = presets()
    curves = {f"{name}{options}" for name in ("srg", "deletion", "insertion") for options in ("", ":substrate=freeze")}
    assert curves <= set(found["default"])
    assert {"pointing_game", "tube_mass", "rank_accuracy", "roc_auc", "tube_iou", "seconds"} <= set(found["default"])
    assert set(found["rise"]) == {"deletion:substrate=mean", "insertion:substrate=blur"}
    assert set(found["all"]) >= {spec for specs in found.values() for spec in specs}


def test_resolve_expands_presets_and_specs_without_repetition():
    labels = [plugins.label("metrics", metric) for metric in resolve(["srg:steps=32", "rise", "default", "srg"])]
    assert labels[:3] == ["srg", "deletion:substrate=mean", "insertion:substrate=blur"]
    assert len(labels) == len(set(labels)) == len(presets()["default"]) + 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("defualt", "did you mean default"),
        ("sgr:steps=3", "did you mean srg"),
        ("srg:unit=frmae", "did you mean frame"),
    ],
)
def test_an_unknown_metric_or_preset_is_refused_with_the_nearest(name, message):
    with pytest.raises(PluginError, match=message):
        resolve([name])
