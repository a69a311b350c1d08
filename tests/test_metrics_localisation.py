"""Localisation: closed forms, scikit-learn, symmetries, and truth that is missing, unknown or of another class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from vidattr_bench import plugins
from vidattr_bench.clip import Batch, Clip, Tube, collate
from vidattr_bench.errors import PluginError
from vidattr_bench.metric import Case, Measurement, Shared
from vidattr_bench.model import VideoModel

T, H, W = 5, 18, 32
RANKED_VOXELS = ("pointing_game", "pointing_game:scope=clip", "rank_accuracy", "roc_auc", "average_precision")
NAMES = (*RANKED_VOXELS, "tube_mass", "voxel_iou")
TUBES = ("tube_iou", "tube_iou:above=0.5")
RANKED = (*RANKED_VOXELS, "voxel_iou", *TUBES)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def clip_with(*boxes: tuple[int, list[tuple[float, float, float, float]]], name: str = "clip", **options) -> Clip:
    tubes = tuple(Tube(1, start, torch.tensor(rows)) for start, rows in boxes)
    facts = {"label": 1, "annotated": torch.ones(T, dtype=torch.bool), **options}
    return Clip(name, "group", torch.zeros(3, T, H, W), facts["label"], tubes, facts["annotated"])


# A moving box off the diagonal, in frames 1 to 3 of 5: with rows and columns exchanged nothing would be hit.
WALKER = (1, [(20.0, 2.0, 27.0, 9.0), (21.0, 2.0, 28.0, 9.0), (22.0, 3.0, 29.0, 10.0)])


def case_of(clips: list[Clip] | Clip, relevance: torch.Tensor | None = None, **options) -> Case:
    batch = collate(clips if isinstance(clips, list) else [clips])
    model = VideoModel(nn.Flatten(), ["a", "b"])
    maps = batch.tubes.float() if relevance is None else relevance
    maps = maps if maps.ndim == 4 else maps[None]
    targets = options.pop("targets", torch.ones(len(batch), dtype=torch.int64))
    return Case(model, batch, targets, maps, **options)


def measured(spec: str, case: Case) -> Measurement:
    return plugins.create("metrics", spec).measure(case)


def value(spec: str, case: Case) -> float:
    return float(measured(spec, case).values)


@pytest.mark.parametrize("name", [*NAMES, *TUBES])
def test_the_oracle_is_perfect_on_an_off_diagonal_box_in_a_wide_frame(name):
    assert value(name, case_of(clip_with(WALKER))) == pytest.approx(1.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0.1, 1.0, 7.3])
def test_a_constant_map_scores_chance(name, level):
    result = measured(name, case_of(clip_with(WALKER), torch.full((T, H, W), level)))
    assert float(result.values) == pytest.approx(float(result.chance))


def test_chance_is_the_share_of_the_voxels_that_count():
    clip = clip_with(WALKER)
    size, total = 3 * 7 * 7, T * H * W
    for name in ("tube_mass", "rank_accuracy", "average_precision"):
        assert float(measured(name, case_of(clip)).chance) == pytest.approx(size / total)
    assert float(measured("roc_auc", case_of(clip)).chance) == 0.5
    assert float(measured("pointing_game:tolerance=0", case_of(clip)).chance) == pytest.approx(49 / (H * W))
    assert float(measured("pointing_game:scope=clip,tolerance=0", case_of(clip)).chance) == pytest.approx(size / total)


def test_a_random_map_meets_the_chance_levels():
    clips = [clip_with(WALKER, name=str(i)) for i in range(60)]
    case = case_of(clips, random(60, T, H, W))
    for name in NAMES:
        result = measured(name, case)
        error = float(result.values.std()) / 60**0.5
        assert float(result.values.mean()) == pytest.approx(float(result.chance[0]), abs=4 * error + 0.002)


@pytest.mark.parametrize(
    ("name", "reference"), [("roc_auc", roc_auc_score), ("average_precision", average_precision_score)]
)
@pytest.mark.parametrize("distinct", [2, 7, 1000])
def test_ranks_agree_with_scikit_learn_ties_included(name, reference, distinct):
    relevance = (random(T, H, W, seed=distinct) * distinct).floor() - 3
    case = case_of(clip_with(WALKER), relevance)
    expected = reference(case.batch.tubes.flatten().numpy(), relevance.flatten().numpy())
    assert value(name, case) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_rank_accuracy_is_the_mean_over_random_orders_of_ties(distinct):
    relevance = (random(T, H, W, seed=distinct) * distinct).floor()
    case = case_of(clip_with(WALKER), relevance)
    inside, size = case.batch.tubes[0].flatten(), int(case.batch.tubes.sum())
    draws = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        shuffled = torch.from_numpy(draws.permutation(T * H * W))
        top = shuffled[relevance.flatten()[shuffled].sort(descending=True, stable=True).indices][:size]
        shares.append(float(inside[top].double().mean()))
    assert value("rank_accuracy", case) == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 20 + 1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from(["affine", "cube", "exp"]))
def test_a_monotone_transform_of_the_map_leaves_rank_metrics_alone(seed, distinct, transform):
    relevance = (random(T, H, W, seed=seed) * distinct).floor() - distinct // 2
    change = {"affine": lambda a: 3 * a + 5, "cube": lambda a: a**3, "exp": lambda a: (a / 8).exp()}[transform]
    clip = clip_with(WALKER)
    for name in RANKED:
        assert value(name, case_of(clip, relevance)) == value(name, case_of(clip, change(relevance)))


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([(0,), (1,), (2,), (0, 2)]))
def test_flips_of_map_and_tubes_together_change_nothing(seed, dims):
    clip = clip_with(WALKER, (0, [(3.0, 10.0, 9.0, 15.0)] * 2))
    relevance = random(T, H, W, seed=seed)
    plain = collate([clip])
    frames, tubes = plain.frames.flip([d + 2 for d in dims]), plain.tubes.flip([d + 1 for d in dims])
    instances = (plain.instances[0].flip([d + 1 for d in dims]),)
    flipped = Batch(["clip"], frames, plain.labels, tubes, plain.annotated, instances)
    model = VideoModel(nn.Flatten(), ["a", "b"])
    for name in (*NAMES, *TUBES):
        one = value(name, Case(model, plain, plain.labels, relevance[None]))
        other = value(name, Case(model, flipped, plain.labels, relevance.flip(dims)[None]))
        assert one == pytest.approx(other, abs=1e-12)


def test_values_do_not_depend_on_the_order_or_number_of_clips():
    clips = [clip_with(WALKER, name="a"), clip_with((0, [(1.0, 1.0, 5.0, 9.0)]), name="b"), clip_with(WALKER, name="c")]
    relevance = random(3, T, H, W)
    order = [2, 0, 1]
    for name in (*NAMES, *TUBES):
        together = measured(name, case_of(clips, relevance)).values
        permuted = measured(name, case_of([clips[i] for i in order], relevance[order])).values
        assert torch.equal(permuted, together[order])
        assert value(name, case_of(clips[1], relevance[1])) == float(together[1])


@pytest.mark.parametrize("name", [*NAMES, *TUBES])
def test_a_frame_whose_truth_is_unknown_is_left_out(name):
    known = torch.tensor([True, False, True, True, False])
    clip = clip_with(WALKER, annotated=known)
    oracle = case_of(clip).relevance[0]
    disturbed = torch.where(known[:, None, None], oracle, 100 * random(T, H, W))
    assert value(name, case_of(clip, disturbed)) == 1
    assert value(name, case_of(clip_with(WALKER), disturbed)) < 1


def test_an_empty_frame_counts_against_the_mass_and_an_unknown_one_does_not():
    relevance = torch.zeros(T, H, W)
    relevance[0], relevance[2, 4, 24] = 1 / (H * W), 1.0
    assert value("tube_mass", case_of(clip_with(WALKER), relevance)) == pytest.approx(0.5)
    unknown_first = torch.tensor([False, True, True, True, True])
    assert value("tube_mass", case_of(clip_with(WALKER, annotated=unknown_first), relevance)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [*NAMES, *TUBES])
def test_what_has_no_truth_is_undefined_with_its_reason_and_never_a_hit(name):
    everywhere = (0, [(0.0, 0.0, float(W), float(H))] * T)
    clips = [
        clip_with(name="no_tubes"),
        clip_with(everywhere, name="all_tube"),
        clip_with(WALKER, name="not_annotated", annotated=torch.zeros(T, dtype=torch.bool)),
        clip_with(WALKER, name="no_label", label=None),
        clip_with(WALKER, name="other_target"),
        clip_with(WALKER, name=""),
    ]
    targets = torch.tensor([1, 1, 1, 1, 0, 1])
    result = measured(name, case_of(clips, random(6, T, H, W), targets=targets))
    assert result.reasons == tuple(clip.id for clip in clips)
    assert result.values.isnan().tolist() == [True] * 5 + [False]


def test_labels_are_those_of_the_model_where_they_differ_from_the_data_sets():
    case = case_of(clip_with(WALKER))
    shared = Shared(case.model, case.batch, torch.tensor([0]), labels=torch.tensor([0]))
    mapped = Case(case.model, case.batch, torch.tensor([0]), case.relevance, shared=shared)
    assert value("roc_auc", mapped) == 1.0


def test_a_map_without_positive_relevance_has_no_mass():
    result = measured("tube_mass", case_of(clip_with(WALKER), -random(T, H, W)))
    assert result.reasons == ("no_positive_relevance",)


def test_tube_mass_counts_positive_relevance_only():
    relevance = torch.zeros(T, H, W)
    relevance[2, 4, 24], relevance[2, 15, 2], relevance[2, 5, 25], relevance[0, 0, 0] = 3.0, 1.0, -8.0, -5.0
    assert value("tube_mass", case_of(clip_with(WALKER), relevance)) == pytest.approx(0.75)


def spot(t: int, y: int, x: int) -> torch.Tensor:
    relevance = torch.zeros(T, H, W)
    relevance[:, 16, 1] = 0.5
    relevance[t, y, x] = 1.0
    return relevance


@pytest.mark.parametrize(("tolerance", "x", "hit"), [(2, 18, True), (2, 17, False), (0, 20, True), (0, 19, False)])
def test_pointing_tolerates_a_disc_around_the_tube(tolerance, x, hit):
    # The box of frame 1 begins at column 20.
    name = f"pointing_game:tolerance={tolerance / H}"
    assert value(name, case_of(clip_with(WALKER), spot(1, 5, x))) == (1 / 3 if hit else 0)
    assert value(f"{name},scope=clip", case_of(clip_with(WALKER), spot(1, 5, x))) == hit


def test_the_tolerance_is_a_disc_not_a_square():
    # Two rows above and two columns left of the corner (20, 2) of the box lie at a distance of 2.8.
    assert value(f"pointing_game:tolerance={2.5 / H}", case_of(clip_with(WALKER), spot(1, 0, 18))) == 0
    assert value(f"pointing_game:tolerance={2.9 / H}", case_of(clip_with(WALKER), spot(1, 0, 18))) == 1 / 3


def test_tied_maxima_share_the_hit():
    relevance = torch.zeros(T, H, W)
    relevance[1:4, 5, 24] = relevance[1:4, 16, 1] = relevance[1:4, 16, 5] = 1.0
    assert value("pointing_game", case_of(clip_with(WALKER), relevance)) == pytest.approx(1 / 3)


def test_pointing_at_an_empty_frame_misses_for_the_clip_and_does_not_count_by_frame():
    relevance = case_of(clip_with(WALKER)).relevance[0]
    relevance[0, 0, 0] = 2.0
    assert value("pointing_game:scope=clip", case_of(clip_with(WALKER), relevance)) == 0
    assert value("pointing_game", case_of(clip_with(WALKER), relevance)) == 1


def boxed(*boxes: tuple[int, int, int, int, int, int]) -> torch.Tensor:
    """1 within each (t0, t1, x0, y0, x1, y1)."""
    relevance = torch.zeros(T, H, W)
    for t0, t1, x0, y0, x1, y1 in boxes:
        relevance[t0:t1, y0:y1, x0:x1] = 1
    return relevance


STILL = (0, [(4.0, 2.0, 10.0, 8.0)] * 4)


def test_the_oracle_of_a_mask_in_two_parts_gets_the_larger_parts_share_of_the_box_around_them():
    """Parts of 4 x 6 and 4 x 10 voxels, 4 columns apart: their box is 4 x 20."""
    masks = torch.zeros(T, H, W, dtype=torch.bool)
    masks[:, 3:7, 2:8] = masks[:, 3:7, 12:22] = True
    clip = Clip("clip", "group", torch.zeros(3, T, H, W), 1, (Tube.outlined(1, 0, masks),), torch.ones(T).bool())
    assert value("tube_iou", case_of(clip)) == pytest.approx(10 / 20)


def test_tube_iou_is_temporal_times_mean_spatial_iou():
    # Frames 2..4 against 0..3: temporal 2 / 5. Boxes 6x6 shifted by 3 columns: spatial 18 / 54.
    case = case_of(clip_with(STILL), boxed((2, 5, 7, 2, 13, 8)))
    assert value("tube_iou:threshold=0.5", case) == pytest.approx(2 / 5 / 3)
    assert value("voxel_iou:threshold=0.5", case) == pytest.approx(2 * 18 / (4 * 36 + 3 * 36 - 2 * 18))


def test_an_actor_that_leaps_diagonally_is_one_tube():
    leaper = (0, [(4.0 + 4 * t, 1.0 + 3 * t, 8.0 + 4 * t, 4.0 + 3 * t) for t in range(T)])
    assert value("tube_iou", case_of(clip_with(leaper))) == 1


def test_each_tube_takes_its_best_component():
    clip = clip_with(STILL, (1, [(20.0, 9.0, 30.0, 16.0)] * 3))
    case = case_of(clip, boxed((0, 4, 4, 2, 10, 8), (1, 4, 20, 9, 25, 16), (0, 1, 30, 0, 32, 2)))
    assert value("tube_iou:threshold=0.5", case) == pytest.approx((1 + 0.5) / 2)
    assert value("tube_iou:threshold=0.5,above=0.5", case) == pytest.approx(0.5)
    assert value("tube_iou", case_of(clip)) == 1


def test_half_max_cuts_at_half_of_the_largest_known_relevance():
    relevance = 0.9 * boxed((0, 4, 4, 2, 10, 8)) + 0.44 * boxed((0, 4, 14, 2, 20, 8))
    assert value("tube_iou:threshold=half_max", case_of(clip_with(STILL), relevance)) == 1
    assert value("voxel_iou:threshold=half_max", case_of(clip_with(STILL), relevance)) == 1
    result = measured("tube_iou:threshold=half_max", case_of(clip_with(STILL), -random(T, H, W)))
    assert result.reasons == ("no_positive_relevance",)


def test_voxels_tied_at_the_area_enter_together_with_the_probability_that_matches_it():
    # 72 voxels are certain; 216 are tied for the other 72 places, so they enter with probability 1 / 3.
    relevance = 2 * boxed((0, 2, 4, 2, 10, 8)) + boxed((2, 5, 4, 2, 10, 8)) + boxed((2, 5, 15, 2, 21, 8))
    case = case_of(clip_with(STILL), relevance)
    assert value("tube_iou", case) == pytest.approx(1 / 3 * (4 / 5) + 2 / 3 * (2 / 4))
    constant = case_of(clip_with(STILL), torch.ones(T, H, W))
    share = 4 * 36 / (T * H * W)
    assert value("tube_iou", constant) == pytest.approx(share * (4 / 5) * 36 / (H * W))


def test_voxels_tied_at_the_area_count_for_the_voxel_iou_in_expectation_over_their_order():
    case = case_of(clip_with(STILL), (random(T, H, W, seed=3) * 3).floor())
    inside, size = case.batch.tubes.flatten(), int(case.batch.tubes.sum())
    ious = []
    for seed in range(300):
        shuffled = torch.randperm(T * H * W, generator=torch.Generator().manual_seed(seed))
        top = shuffled[case.relevance.flatten()[shuffled].sort(descending=True, stable=True).indices][:size]
        hits = int(inside[top].sum())
        ious.append(hits / (2 * size - hits))
    assert value("voxel_iou", case) == pytest.approx(np.mean(ious), abs=4 * np.std(ious) / 300**0.5)


@pytest.mark.parametrize("above", [-0.1, 1.0])
def test_an_iou_that_none_exceeds_or_all_do_is_refused(above):
    with pytest.raises(PluginError, match="must be an IoU that can be exceeded"):
        plugins.create("metrics", f"tube_iou:above={above}")


def test_chance_levels_stand_where_there_are_any():
    for name, has_chance in {"voxel_iou": True, "voxel_iou:threshold=half_max": False, "tube_iou": False}.items():
        assert (measured(name, case_of(clip_with(WALKER))).chance is not None) == has_chance


def test_a_map_above_no_threshold_finds_no_tube():
    case = case_of(clip_with(STILL), boxed((0, 4, 4, 2, 10, 8)))
    assert value("tube_iou:threshold=2.0", case) == 0
    assert value("voxel_iou:threshold=2.0", case) == 0


def test_boxes_beyond_255_pixels_do_not_wrap():
    wide = Clip(
        "wide",
        "g",
        torch.zeros(3, 2, 20, 330),
        1,
        (Tube(1, 0, torch.tensor([[200.0, 3, 320, 15]] * 2)),),
        torch.ones(2).bool(),
    )
    for name in (*NAMES, *TUBES):
        assert value(name, case_of(wide)) == pytest.approx(1.0)


def test_all_localisation_metrics_sort_a_map_once(monkeypatch):
    case, sorts = case_of(clip_with(WALKER), random(T, H, W)), []
    plain = torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", lambda *a, **k: sorts.append(1) or plain(*a, **k))
    for name in ("rank_accuracy", "roc_auc", "average_precision", "tube_iou", "voxel_iou"):
        value(name, case)
    assert len(sorts) == 1
