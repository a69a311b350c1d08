from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vidattr_bench import perturbation, randomness
from vidattr_bench.errors import PluginError
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import Curve, CurveSpec, curve, forward, planned_forwards, remove_all
from vidattr_bench.substrates import SUBSTRATES
from vidattr_bench.units import Units, cut_boundaries, regular_units, removal_order, tie_fraction

C, T, H, W = 3, 6, 15, 20
OF_THE_CLIP = [name for name in SUBSTRATES if name != "other_clip"]


class Linear(nn.Module):
    """Logits linear in x, in double precision: every curve has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(4, C, T, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double().flatten(1) @ self.weight.flatten(1).T + 0.3


class Convolutional(nn.Module):
    """A small smooth network that notes the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.convolution, self.head = nn.Conv3d(C, 4, 3, stride=(1, 2, 2)), nn.Linear(4, 4)
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return self.head(30 * self.convolution(x).tanh().mean((2, 3, 4)))


def video_model(net: nn.Module) -> VideoModel:
    return VideoModel(net, list("abcd"), mean=[0.4] * C, std=[0.2] * C)


@pytest.fixture
def linear() -> VideoModel:
    return video_model(Linear())


@pytest.fixture
def convolutional() -> VideoModel:
    return video_model(Convolutional())


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(C, T, H, W, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def relevance() -> torch.Tensor:
    return torch.randn(T, H, W, generator=torch.Generator().manual_seed(2))


def run(model: VideoModel, x: torch.Tensor, relevance: torch.Tensor, spec: CurveSpec, **options) -> Curve:
    options = {"seed": 0, "clip_id": "clip", "forward_batch": 4, **options}
    empty = remove_all(x, spec.substrate, model, options["seed"], options["clip_id"])
    ends = tuple(forward(model, end[None], options["forward_batch"])[0] for end in (x, empty))
    return curve(model, x, relevance, spec, ends, **options)


@pytest.mark.parametrize("unit", ["tubelet", "frame", "voxel"])
def test_the_curves_of_a_linear_model_are_the_sums_of_what_is_kept(unit, linear, x, relevance):
    found = run(linear, x, relevance, CurveSpec(unit, "mean"))
    units = regular_units(unit, T, H, W)
    order = removal_order(units.means(relevance), 0, "clip", unit)
    voxels = torch.einsum("kcthw,cthw->kthw", linear.net.weight, x.double()).flatten(1)
    contributions = torch.zeros(4, len(order), dtype=torch.float64).index_add_(1, units.labels.flatten(), voxels)
    ends = torch.cat([torch.zeros(1), units.sizes[order].cumsum(0)])
    for fraction, morf, lerf in zip(found.fractions, found.morf, found.lerf.flip(0), strict=True):
        cut = int((ends - fraction * ends[-1]).abs().argmin())
        assert torch.allclose(morf, contributions[:, order[cut:]].sum(1) + 0.3, atol=1e-9)
        assert torch.allclose(lerf, contributions[:, order[:cut]].sum(1) + 0.3, atol=1e-9)


@pytest.mark.parametrize("substrate", OF_THE_CLIP)
def test_curves_begin_at_the_clean_clip_and_end_where_all_is_removed(substrate, convolutional, x, relevance):
    found = run(convolutional, x, relevance, CurveSpec(substrate=substrate))
    clean, empty = convolutional.net(torch.stack([x, remove_all(x, substrate, convolutional, 0, "clip")])).double()
    assert found.fractions[[0, -1]].tolist() == [0, 1]
    for logits in (found.morf, found.lerf):
        assert torch.allclose(logits[0], clean, atol=1e-5)
        assert torch.allclose(logits[-1], empty, atol=1e-5)


@pytest.mark.parametrize("substrate", OF_THE_CLIP)
@pytest.mark.parametrize("unit", ["tubelet", "frame"])
def test_the_negative_of_a_map_without_ties_swaps_the_two_orders(unit, substrate, convolutional, x, relevance):
    spec = CurveSpec(unit, substrate)
    one, other = run(convolutional, x, relevance, spec), run(convolutional, x, -relevance, spec)
    assert one.ties == 0
    assert torch.allclose(other.fractions, 1 - one.fractions.flip(0))
    assert torch.allclose(one.morf, other.lerf, atol=1e-5)
    assert torch.allclose(one.lerf, other.morf, atol=1e-5)


@pytest.mark.parametrize("substrate", OF_THE_CLIP)
def test_insertion_from_the_substrate_is_lerf_read_backwards(substrate, convolutional, x, relevance):
    found = run(convolutional, x, relevance, CurveSpec("frame", substrate))
    order = relevance.double().mean((1, 2)).argsort(descending=True)
    for k, logits in enumerate(found.lerf.flip(0)):
        removed = torch.ones(T, dtype=torch.bool)
        removed[order[:k]] = False
        kept = [t for t in range(T) if not removed[t]]
        inserted = remove_all(x, substrate, convolutional, 0, "clip")
        for t in range(T):
            source = [s for s in kept if s <= t][-1:] or kept[:1] or [0]
            inserted[:, t] = x[:, source[0]] if substrate == "freeze" or not removed[t] else inserted[:, t]
        assert torch.allclose(logits, convolutional.net(inserted[None])[0].double(), atol=1e-5)


@pytest.mark.parametrize(("unit", "steps"), [("tubelet", 32), ("tubelet", 7), ("frame", 32), ("voxel", 9)])
def test_a_curve_sends_exactly_the_planned_clips(unit, steps, convolutional, x, relevance):
    spec = CurveSpec(unit, "blur3d", steps)
    ends = convolutional.net(torch.stack([x, x])).unbind()
    for forward_batch in (1, 4, 5):
        before = convolutional.calls.forwards
        found = curve(convolutional, x, relevance, spec, ends, seed=0, clip_id="clip", forward_batch=forward_batch)
        sent = convolutional.calls.forwards - before
        needed = 2 * (len(found.fractions) - 2)
        assert sent == -(-needed // forward_batch) * forward_batch
        assert sent == planned_forwards(spec, regular_units(spec.unit, T, H, W), forward_batch)
        assert set(convolutional.net.batches[-sent // forward_batch :]) == {forward_batch}


def test_the_default_curve_costs_two_times_thirty_one_clips():
    assert planned_forwards(CurveSpec(), regular_units("tubelet", 16, 64, 64)) == 62
    assert planned_forwards(CurveSpec(), regular_units("tubelet", 16, 112, 112), forward_batch=8) == 64


def test_the_plan_leaves_out_a_middle_tie_only_where_it_is_certain():
    # 5 x 7 x 7 tubelets, an odd number: of one size they always tie in the middle, of several sizes hardly ever.
    assert planned_forwards(CurveSpec(), regular_units("tubelet", 5, 14, 21)) == 60
    assert planned_forwards(CurveSpec(), regular_units("tubelet", 5, 15, 20)) == 62


def test_forward_pads_the_tail_and_hides_the_padding(convolutional):
    clips = torch.randn(7, C, T, H, W)
    logits = forward(convolutional, clips, 3)
    assert convolutional.net.batches == [3, 3, 3]
    assert convolutional.calls.forwards == 9
    assert torch.allclose(logits, convolutional.net(clips), atol=1e-5)


@pytest.mark.parametrize("forward_batch", [1, 2, 5, 62, 100])
def test_values_do_not_depend_on_the_forward_batch(forward_batch, convolutional, x, relevance):
    one = run(convolutional, x, relevance, CurveSpec(), forward_batch=4)
    other = run(convolutional, x, relevance, CurveSpec(), forward_batch=forward_batch)
    assert torch.equal(one.fractions, other.fractions)
    assert torch.allclose(one.morf, other.morf, atol=1e-5)
    assert torch.allclose(one.lerf, other.lerf, atol=1e-5)


def test_all_units_tied_gives_no_curve_and_costs_nothing(convolutional, x):
    ends = convolutional.net(torch.stack([x, x])).unbind()
    for value in (0.0, 0.1, -3.7):
        flat = torch.full((T, H, W), value)
        found = curve(convolutional, x, flat, CurveSpec(), ends, seed=0, clip_id="clip", forward_batch=4)
        assert found.reason == "constant_map"
        assert (found.ties, len(found.fractions)) == (1, 0)
    assert convolutional.calls.forwards == 0


def test_ties_are_broken_by_seed_clip_and_unit_and_by_nothing_else():
    means = torch.zeros(40, dtype=torch.float64)
    means[7] = 1.0
    orders = [removal_order(means, *key) for key in [(0, "a", "frame"), (1, "a", "frame"), (0, "b", "frame")]]
    assert all(order[0] == 7 and order.sort().values.equal(torch.arange(40)) for order in orders)
    assert not orders[0].equal(orders[1])
    assert not orders[0].equal(orders[2])
    assert orders[0].equal(removal_order(means * 5 + 2, 0, "a", "frame"))


def test_gains_of_a_tied_map_and_its_negative_are_opposite_in_expectation_over_seeds(linear, x):
    tied = torch.zeros(T, H, W)
    tied[:2] = 1
    spec = CurveSpec("frame", "mean", T)

    def gain(relevance: torch.Tensor) -> float:
        found = [run(linear, x, relevance, spec, seed=seed, forward_batch=10) for seed in range(200)]
        gains = [torch.trapezoid(c.lerf.flip(0)[:, 0] - c.morf[:, 0], c.fractions) for c in found]
        return float(torch.stack(gains).mean())

    contributions = torch.einsum("cthw,cthw->t", linear.net.weight[0], x.double())
    # The mean gain puts every tied frame at the mean weight 1 - (2 r + 1) / T of its group's ranks r.
    expected = float((contributions[:2].mean() * 2 * (1 - 2 / T)) + contributions[2:].mean() * (T - 2) * (-2 / T))
    spread = float(contributions.abs().max())
    assert gain(tied) == pytest.approx(expected, abs=0.15 * spread)
    assert gain(-tied) == pytest.approx(-expected, abs=0.15 * spread)


def test_tie_fraction_counts_units_that_share_their_value():
    assert tie_fraction(torch.tensor([1.0, 2.0, 2.0, 3.0, -0.0, 0.0])) == pytest.approx(4 / 6)


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=60)


@given(sizes, st.integers(1, 40))
def test_every_cut_is_the_nearest_boundary_and_mirrors(sizes, steps):
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    expected = set()
    for k in range(steps + 1):
        wanted = Fraction(k * ends[-1], steps)
        nearest = min(abs(end - wanted) for end in ends)
        candidates = [i for i, end in enumerate(ends) if abs(end - wanted) == nearest]
        if 2 * k != steps or len(candidates) == 1:
            expected.add(min(candidates) if 2 * k < steps else max(candidates))
    cuts = cut_boundaries(torch.tensor(sizes), steps)
    assert cuts.tolist() == sorted(expected)
    mirrored = cut_boundaries(torch.tensor(sizes[::-1]), steps)
    assert (len(sizes) - mirrored.flip(0)).equal(cuts)


@given(sizes, st.integers(1, 40), st.randoms())
def test_no_order_of_the_units_needs_more_than_the_plan_and_of_equal_ones_every_order_needs_it(sizes, steps, random):
    units = Units(torch.zeros(0), torch.tensor(sizes))
    planned = planned_forwards(CurveSpec("supervoxel", "mean", steps), units)
    random.shuffle(sizes)
    needed = 2 * (len(cut_boundaries(torch.tensor(sizes), steps)) - 2)
    assert needed == planned if len(set(sizes)) == 1 else needed <= planned


def test_cuts_inside_a_large_unit_save_more_than_the_middle_tie():
    units = Units(torch.zeros(0), torch.tensor([90, *[1] * 10]))
    assert planned_forwards(CurveSpec("supervoxel", "mean", 10), units) == 2 * 9
    assert cut_boundaries(units.sizes, 10).tolist() == [0, 1, 11]


@settings(max_examples=30)
@given(st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(1, 40)))
def test_tubelets_are_a_grid_of_8_7_7_cells_as_even_as_voxels_allow(shape):
    units = regular_units("tubelet", *shape)
    counts = [min(n, cells) for n, cells in zip(shape, (8, 7, 7), strict=True)]
    assert len(units.sizes) == counts[0] * counts[1] * counts[2]
    assert units.sizes.sum() == shape[0] * shape[1] * shape[2]
    for axis, cells in enumerate(counts):
        along = units.labels.movedim(axis, 0)[:, 0, 0]
        lengths = torch.unique(along, return_counts=True)[1]
        assert len(lengths) == cells
        assert lengths.max() - lengths.min() <= 1
        if cells % 2 or shape[axis] % 2 == 0:
            assert lengths.equal(lengths.flip(0)), "a flipped clip has flipped tubelets"


def test_a_units_rank_comes_from_the_mean_of_its_voxels_not_their_sum():
    relevance = torch.zeros(1, 8, 9)
    units = regular_units("tubelet", 1, 8, 9)
    large, small = int(units.sizes.argmax()), int(units.sizes.argmin())
    relevance[units.labels == large] = 1.0
    relevance[units.labels == small] = 1.1
    assert units.sizes[large] * 1.0 > units.sizes[small] * 1.1
    assert removal_order(units.means(relevance), 0, "clip", "tubelet")[0] == small


class PointNet(nn.Module):
    """Mean of a pointwise nonlinearity: no flip of the clip changes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = torch.stack([x[:, 0] + x[:, 1] * x[:, 2], x[:, 1].sin()], 1)
        return 5 * mixed.double().tanh().mean((2, 3, 4))


@pytest.mark.parametrize(
    ("dims", "substrate"), [((3,), "freeze"), ((2, 3), "blur"), ((1,), "blur3d"), ((1, 3), "mean")]
)
def test_flips_of_clip_and_map_together_change_nothing(dims, substrate, x, relevance):
    model = VideoModel(PointNet(), ["a", "b"])
    one = run(model, x, relevance, CurveSpec(substrate=substrate))
    other = run(model, x.flip(dims), relevance.flip([d - 1 for d in dims]), CurveSpec(substrate=substrate))
    assert torch.equal(one.fractions, other.fractions)
    assert torch.allclose(one.morf, other.morf, atol=1e-5)
    assert torch.allclose(one.lerf, other.lerf, atol=1e-5)


def test_the_clip_and_the_map_are_left_alone(convolutional, x, relevance):
    before = x.clone(), relevance.clone()
    run(convolutional, x, relevance, CurveSpec(substrate="freeze"))
    assert torch.equal(x, before[0])
    assert torch.equal(relevance, before[1])


def test_two_cuts_are_enough_for_a_curve(linear, x, relevance):
    found = run(linear, x, relevance, CurveSpec("frame", "mean", 1))
    assert found.fractions.tolist() == [0, 1]
    assert found.morf.shape == found.lerf.shape == (2, 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused(bad, linear, x, relevance):
    relevance[2, 3, 4] = bad
    with pytest.raises(ValueError, match="clip clip: relevance has NaN or infinite"):
        run(linear, x, relevance, CurveSpec())


def test_a_map_of_another_size_is_refused(linear, x, relevance):
    with pytest.raises(ValueError, match="relevance"):
        run(linear, x, relevance[:, :-1], CurveSpec())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "tublet"}, "did you mean tubelet"),
        ({"substrate": "blur4d"}, "did you mean blur"),
        ({"steps": 0}, "one step"),
    ],
)
def test_a_wrong_curve_spec_is_refused_with_the_remedy(options, message):
    with pytest.raises(PluginError, match=message):
        CurveSpec(**options)


class Costly(nn.Module):
    """Takes 3 ms a batch and .1 ms a clip of a simulated clock."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock[0] += 3e-3 + 1e-4 * len(x)
        return x.flatten(1)[:, :2]


def test_the_measured_forward_batch_counts_the_waste_of_padding(monkeypatch, x):
    clock = [0.0]
    monkeypatch.setattr(perturbation.time, "perf_counter", lambda: clock[0])
    model = VideoModel(Costly(clock), ["a", "b"])
    # 62 clips take 2 x 6.1 ms by 31, 9.2 ms by 62, and 13 ms by 100, of which 38 are padding.
    assert perturbation.measure_forward_batch(model, x, (1, 31, 62, 100)) == 62
    assert perturbation.measure_forward_batch(model, x, (1, 31, 100)) == 31
    assert model.calls.forwards == 0


def sparse_map() -> torch.Tensor:
    """Ten voxels of other values, and zeros."""
    flat = torch.zeros(T * H * W)
    flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(5))[:10]] = torch.arange(1.0, 11)
    return flat.view(T, H, W)


@pytest.mark.parametrize("unit", ["voxel", "tubelet"])
def test_of_a_sparse_map_too_each_cut_removes_its_share_and_no_more(unit, x):
    """A threshold at a percentile of the map would remove all of its zeros at once."""
    removed: list[float] = []

    class Counting(nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            removed.extend((clips == 0).all(1).double().mean((1, 2, 3)).tolist())
            return clips.flatten(1)[:, :2]

    spec, ends = CurveSpec(unit, "mean", 8), (torch.zeros(2), torch.ones(2))
    model = video_model(Counting())
    found = curve(model, x + 10, sparse_map(), spec, ends, seed=0, clip_id="clip", forward_batch=1)
    inner = found.fractions[1:-1]
    assert removed == pytest.approx([*inner.tolist(), *(1 - inner.flip(0)).tolist()])
    assert found.ties > 0.5


@pytest.mark.parametrize("distinct", [1, 3, 7])
def test_ties_stay_in_the_order_of_the_permutation_however_many_there_are(distinct):
    means = torch.randint(distinct, (6000,), generator=torch.Generator().manual_seed(distinct)).double()
    permutation = torch.randperm(6000, generator=randomness.generator(3, "clip", "voxel")).tolist()
    expected = sorted(permutation, key=lambda unit: -float(means[unit]))
    assert removal_order(means, 3, "clip", "voxel").tolist() == expected


def test_all_channels_of_a_voxel_go_at_the_same_cut(x):
    clips: list[torch.Tensor] = []

    class Keeping(nn.Module):
        def forward(self, perturbed: torch.Tensor) -> torch.Tensor:
            clips.extend(perturbed.clone())
            return perturbed.flatten(1)[:, :2]

    relevance = torch.randn(T, H, W, generator=torch.Generator().manual_seed(6))
    ends = (torch.zeros(2), torch.ones(2))
    curve(
        video_model(Keeping()),
        x + 10,
        relevance,
        CurveSpec("voxel", "mean", 8),
        ends,
        seed=0,
        clip_id="c",
        forward_batch=4,
    )
    for clip in clips:
        gone = clip == 0
        assert (gone.any(0) == gone.all(0)).all()
