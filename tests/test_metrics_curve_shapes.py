"""Sufficiency, comprehensiveness, minimal mask, monotonicity: closed forms, literal loops, symmetries, one curve."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch
from vidattr_bench.errors import PluginError
from vidattr_bench.fixtures import SIZE, small_batch, small_model
from vidattr_bench.metric import Case
from vidattr_bench.model import VideoModel
from vidattr_bench.units import regular_units

T, H, W = SIZE
SHAPES = ("sufficiency", "comprehensiveness", "minimal_mask", "monotonicity")
AREAS = ("deletion", "insertion", "srg")
WORTH = torch.tensor([1.0, 32, 2, 16, 4, 8])


class FramesInLogits(nn.Module):
    """Logit 0 is the sum of each frame's worth times its brightness: linear in the clip."""

    def __init__(self, worth: Tensor) -> None:
        super().__init__()
        self.worth = worth

    def forward(self, x: Tensor) -> Tensor:
        score = x.double().mean((1, 3, 4)) @ self.worth.double()
        return torch.stack([score, 0 * score], 1)


def case_of(model: VideoModel, batch: Batch, relevance: Tensor) -> Case:
    return Case(model, batch, batch.labels, relevance)


def white(worth: Tensor, relevance: Tensor | None = None) -> Case:
    """Two white clips of the linear model, black being 0; relevance (T,), by default what each frame is worth."""
    frames = torch.ones(2, 3, T, H, W)
    batch = Batch(
        ids=["one", "two"],
        frames=frames,
        labels=torch.zeros(2, dtype=torch.long),
        tubes=torch.zeros(2, T, H, W, dtype=torch.bool),
        annotated=torch.ones(2, T, dtype=torch.bool),
    )
    maps = (worth if relevance is None else relevance)[:, None, None].expand(2, T, H, W).contiguous()
    return case_of(VideoModel(FramesInLogits(worth), ["yes", "no"]), batch, maps)


def measured(name: str, case: Case, *options: str) -> list[float]:
    return plugins.create("metrics", f"{name}:{','.join(filter(None, options))}".rstrip(":"))(case).tolist()


def frames(name: str, case: Case, *options: str) -> float:
    found = measured(name, case, "unit=frame", "substrate=black", "score=logit", f"steps={T}", *options)
    assert found[0] == found[1]
    return found[0]


def noise(seed: int = 0, n: int = 3) -> Tensor:
    return torch.randn(n, T, H, W, generator=torch.Generator().manual_seed(seed))


CLOSED_FORMS = {
    # Kept: 0, 32, 48, 56, 60, 62, 63 in the true order; 0, 1, 3, 7, 15, 31, 63 in the inverted one.
    ("deletion", "true"): (63 / 2 + 31 + 15 + 7 + 3 + 1) / 6,
    ("deletion", "inverted"): (63 / 2 + 62 + 60 + 56 + 48 + 32) / 6,
    ("insertion", "true"): (32 + 48 + 56 + 60 + 62 + 63 / 2) / 6,
    ("insertion", "inverted"): (1 + 3 + 7 + 15 + 31 + 63 / 2) / 6,
    ("sufficiency", "true"): (31 + 15 + 7) / 3,
    ("sufficiency", "inverted"): (62 + 60 + 56) / 3,
    ("comprehensiveness", "true"): (32 + 48 + 56) / 3,
    ("comprehensiveness", "inverted"): (1 + 3 + 7) / 3,
    ("minimal_mask", "true"): 4 / 6,
    ("minimal_mask", "inverted"): 1.0,
    ("monotonicity", "true"): 1.0,
    ("monotonicity", "inverted"): 1.0,
}


@pytest.mark.parametrize(("name", "order"), CLOSED_FORMS)
def test_a_linear_model_gives_the_sums_of_its_frames(name, order):
    case = white(WORTH, WORTH if order == "true" else -WORTH)
    assert frames(name, case) == pytest.approx(CLOSED_FORMS[name, order])


@pytest.mark.parametrize("name", [*SHAPES, *AREAS])
def test_range_normalisation_divides_a_linear_models_sums_by_their_total(name):
    """The gain of range-normalised curves is the area between them, ABPC."""
    case = white(WORTH, torch.tensor([3.0, 1, 5, 0, 2, 4]))
    scale = 1 if name in ("minimal_mask", "monotonicity") else 63
    assert frames(name, case, "normalise=range") == pytest.approx(frames(name, case) / scale)


def test_options_of_the_fractions_and_the_level_choose_the_cuts():
    case = white(WORTH)
    assert frames("comprehensiveness", case, "low=.4", "high=.7") == pytest.approx((56 + 60) / 2)
    assert frames("sufficiency", case, "low=0", "high=1") == pytest.approx((63 + 31 + 15 + 7 + 3 + 1 + 0) / 7)
    assert frames("minimal_mask", case, "level=.5") == pytest.approx(1 / 6)
    assert frames("minimal_mask", case, "level=1") == 1.0


@given(st.permutations([-8.0, -2, 0, 4, 16, 32]), st.permutations(range(T)))
@settings(max_examples=15, deadline=None)
def test_a_linear_model_is_as_monotone_as_its_frames_are_harmless_whatever_the_order(worth, order):
    case = white(torch.tensor(worth), torch.tensor(order).float())
    assert frames("monotonicity", case) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("minimal_mask", "score=logit,substrate=black,unit=frame", "small_score"),
        ("minimal_mask", "score=margin,substrate=black,unit=frame", "small_score"),
        ("sufficiency", "low=.01,high=.02", "no_cut"),
        ("comprehensiveness", "steps=2,high=.4", "no_cut"),
        ("monotonicity", "normalise=range,score=logit,substrate=black,unit=frame", "small_span"),
    ],
)
def test_an_undefined_value_has_its_reason(name, options, reason):
    found = plugins.create("metrics", f"{name}:{options}").measure(white(-WORTH))
    assert found.reasons == (reason,) * 2
    assert found.values.isnan().all()


@pytest.mark.parametrize("name", SHAPES)
def test_a_constant_map_is_undefined_and_its_neighbour_is_not(name):
    case = white(WORTH)
    case.relevance[1] = 0.25
    assert plugins.create("metrics", name).measure(case).reasons == ("", "constant_map")


@pytest.mark.parametrize("text", ["sufficiency:low=.6", "sufficiency:high=1.5", "minimal_mask:level=0"])
def test_an_impossible_option_is_refused(text):
    with pytest.raises(PluginError, match="share"):
        plugins.create("metrics", text)


def asked(case: Case, clip: int, removed: np.ndarray) -> float:
    """The target's probability without some voxels (T, H, W), the mean pixel in their place."""
    x = torch.where(torch.from_numpy(removed), torch.zeros(()), case.shared.x(clip))
    return float(case.model.logits(x[None])[0].double().softmax(0)[case.targets[clip]])


def eraser(case: Case, clip: int, keep: bool, fractions: list[int]) -> float:
    """ERASER's loop on tubelets: keep or drop the best k of them, and average what is lost."""
    labels = regular_units("tubelet", T, H, W).labels.numpy()
    importance = [case.relevance[clip].numpy().astype(np.float64)[labels == u].mean() for u in range(labels.max() + 1)]
    best = np.argsort(importance)[::-1]
    clean = asked(case, clip, np.zeros_like(labels, dtype=bool))
    lost = [clean - asked(case, clip, np.isin(labels, best[:k]) ^ keep) for k in fractions]
    return float(np.mean(lost))


@pytest.mark.parametrize(("name", "keep"), [("sufficiency", True), ("comprehensiveness", False)])
def test_they_agree_with_a_literal_loop_over_the_cuts(name, keep):
    case = case_of(small_model(), small_batch(2), noise(n=2))
    units = regular_units("tubelet", T, H, W)
    (spec,) = plugins.create("metrics", f"{name}:substrate=mean").curve_specs()
    for clip, curve in enumerate(case.curves(spec)):
        chosen = curve.fractions[(curve.fractions >= 0.05) & (curve.fractions <= 0.5)]
        means = units.means(case.relevance[clip])
        volumes = units.sizes[means.argsort(descending=True)].cumsum(0)
        counts = [int((volumes <= float(f) * T * H * W + 0.5).sum()) for f in chosen]
        expected = eraser(case, clip, keep, counts)
        assert measured(name, case, "substrate=mean")[clip] == pytest.approx(expected, abs=1e-5)


def test_monotonicity_is_one_exactly_where_aix360_says_true_and_counts_the_steps_elsewhere():
    """`monotonicity_metric` of AIX360: set features to the input's values in ascending order of relevance."""
    case = case_of(small_model(), small_batch(3), noise(5))
    found = measured("monotonicity", case, "unit=frame", "substrate=mean", f"steps={T}")
    for clip in range(3):
        order = case.relevance[clip].double().mean((1, 2)).argsort()
        removed, scores = np.ones((T, H, W), dtype=bool), []
        for frame in [None, *order.tolist()]:
            if frame is not None:
                removed[frame] = False
            scores.append(asked(case, clip, removed))
        assert found[clip] == pytest.approx(np.mean(np.diff(scores) >= 0))
        assert (found[clip] == 1) == bool(np.all(np.diff(scores) >= 0))


@pytest.mark.parametrize("name", SHAPES)
@given(st.sampled_from([lambda a: a**3, torch.exp, torch.sinh, lambda a: 4 * a - 32]), st.integers(0, 3))
@settings(max_examples=6, deadline=None)
def test_a_monotone_transform_of_the_map_changes_nothing(name, transform, seed):
    maps = noise(seed, n=1).double()
    values = [
        measured(name, case_of(small_model(), small_batch(1), maps), "unit=voxel", "steps=4")
        for maps in (maps, transform(maps))
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("options", ["", "substrate=mean,score=logit"])
def test_the_negative_map_keeps_what_the_map_drops(options):
    case = case_of(small_model(), small_batch(), noise(1))
    negative = case_of(case.model, case.batch, -case.relevance)
    kept = measured("sufficiency", negative, *options.split(","), "low=.5", "high=.95")
    assert measured("comprehensiveness", case, *options.split(",")) == pytest.approx(kept, abs=1e-5)


class Flipped(nn.Module):
    def __init__(self, net: nn.Module, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.axes = net, axes

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flip(self.axes))


@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("name", [*SHAPES, *AREAS])
def test_a_flip_of_clip_map_and_model_together_changes_nothing(name, axis):
    model, batch, maps = small_model(), small_batch(), noise(2)
    flipped_model = VideoModel(Flipped(model.net, (axis,)), list(model.classes), mean=[0.45, 0.43, 0.40], std=[0.2] * 3)
    straight = VideoModel(model.net, list(model.classes), mean=[0.45, 0.43, 0.40], std=[0.2] * 3)
    flipped_batch = Batch(batch.ids, batch.frames.flip(axis), batch.labels, batch.tubes, batch.annotated)
    expected = measured(name, case_of(straight, batch, maps))
    assert measured(name, case_of(flipped_model, flipped_batch, maps.flip(axis - 1))) == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("name", SHAPES)
def test_permuted_clips_keep_their_values(name):
    case, order = case_of(small_model(), small_batch(), noise(3)), [2, 0, 1]
    permuted = case_of(case.model, case.batch.select(order), case.relevance[order])
    expected = measured(name, case)
    assert measured(name, permuted) == pytest.approx([expected[i] for i in order], abs=1e-6)


def test_they_read_the_curve_that_is_there_and_forward_nothing():
    case = case_of(small_model(), small_batch(), noise(4))
    measured("srg", case)
    before = case.model.calls.forwards
    for name in (*SHAPES, *AREAS):
        measured(name, case)
    assert case.model.calls.forwards == before
