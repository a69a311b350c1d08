"""What all methods share: random removals and supervoxels, found once, the same for everyone, forwarded once."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidattr_bench import metric, perturbation, plugins, shared, substrates
from vidattr_bench.errors import NotApplicableError, PluginError
from vidattr_bench.fixtures import small_batch, small_model
from vidattr_bench.metric import Case
from vidattr_bench.perturbation import CurveSpec
from vidattr_bench.shared import RemovalSpec, Shared
from vidattr_bench.supervoxels import supervoxels
from vidattr_bench.units import Units, cut_boundaries, removal_order

SPEC = RemovalSpec(shares=(0.1, 0.6), draws=7)


def share(batch=None, **options):
    batch = batch or small_batch()
    return Shared(small_model(), batch, batch.labels, **{"forward_batch": 4, **options})


def test_removals_are_draws_of_each_share_without_all_or_none():
    found = share().removals(0, SPEC)
    units = len(found.units.sizes)
    assert found.removed.shape == (14, units)
    counts = found.removed.sum(1).tolist()
    assert counts == [round(0.1 * units)] * 7 + [round(0.6 * units)] * 7
    assert len({tuple(row.tolist()) for row in found.removed}) == 14
    frames = share().removals(0, RemovalSpec("frame", "mean", (0.01, 0.99), 3))
    assert frames.removed.sum(1).tolist() == [1] * 3 + [5] * 3


@pytest.mark.parametrize("unit", ["tubelet", "frame", "supervoxel"])
def test_the_logits_are_those_of_the_clip_without_the_set(unit):
    of = share()
    spec = RemovalSpec(unit, "blur3d", (0.3,), 6)
    found = of.removals(1, spec)
    blurred = perturbation.apply_all(of.substrate(1, "blur3d"), of.x(1))
    for row, logits in zip(found.removed, found.logits, strict=True):
        clip = torch.where(row[found.units.labels], blurred, of.x(1))
        assert torch.allclose(of.model.net(clip[None])[0].double(), logits, atol=1e-5)


def test_sums_add_signed_relevance_over_the_removed_voxels():
    found = share().removals(0, dataclasses.replace(SPEC, unit="supervoxel"))
    relevance = torch.randn(found.units.labels.shape, generator=torch.Generator().manual_seed(0))
    expected = [relevance.double()[row[found.units.labels]].sum().item() for row in found.removed]
    assert found.sums(relevance).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["tubelet", "supervoxel"])
def test_sets_are_a_function_of_seed_clip_unit_and_share_alone(unit):
    batch = small_batch()
    spec = dataclasses.replace(SPEC, unit=unit)
    removed = share(batch).removals(1, spec).removed
    assert torch.equal(share(batch).removals(1, spec).removed, removed)
    assert torch.equal(share(batch).removals(1, dataclasses.replace(spec, substrate="freeze")).removed, removed)
    assert torch.equal(share(batch, forward_batch=3).removals(1, spec).removed, removed)
    assert torch.equal(share(batch.select([1])).removals(0, spec).removed, removed)
    assert torch.equal(share(batch.select([2, 1, 0])).removals(1, spec).removed, removed)
    assert torch.equal(share(batch).removals(1, dataclasses.replace(spec, shares=(0.6,))).removed, removed[7:])
    more = share(batch).removals(1, dataclasses.replace(spec, draws=9)).removed
    assert torch.equal(more[:7], removed[:7])
    assert not torch.equal(share(batch, seed=1).removals(1, spec).removed, removed)
    other = share(batch).removals(0, spec).removed
    assert other.shape != removed.shape or not torch.equal(other, removed)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 0.999), st.integers(1, 4), st.sampled_from(["tubelet", "frame"]))
def test_every_set_removes_something_and_keeps_something(part, draws, unit):
    removed = share()._random_sets(0, RemovalSpec(unit, "mean", (part,), draws), 6)
    assert removed.shape == (draws, 6)
    assert removed.any(1).all()
    assert not removed.all(1).any()


@pytest.mark.parametrize("forward_batch", [1, 4, 5])
def test_removals_are_forwarded_once_in_whole_batches(forward_batch):
    of = share(forward_batch=forward_batch)
    first = of.removals(0, SPEC)
    sent = of.model.calls.forwards
    assert sent == -(-SPEC.sets // forward_batch) * forward_batch
    assert of.removals(0, dataclasses.replace(SPEC)) is first
    assert of.alone(0).removals(0, SPEC) is first
    assert of.model.calls.forwards == sent
    assert torch.allclose(first.logits, share(forward_batch=2).removals(0, SPEC).logits, atol=1e-5)


def test_every_method_and_metric_sees_the_same_removals(monkeypatch):
    drawn = []
    make = Shared._random_sets

    def counted(self, clip, spec, units):
        drawn.append((clip, spec))
        return make(self, clip, spec, units)

    monkeypatch.setattr(Shared, "_random_sets", counted)
    of, batch = share(), small_batch()
    names = ("infidelity:draws=5", "faithfulness_correlation:draws=5", "sensitivity_n:draws=3")
    metrics = [plugins.create("metrics", name) for name in names]
    for maps in (batch.frames.mean(1), batch.frames.std(1)):
        for one in metrics:
            one(Case(of.model, batch, batch.labels, maps, shared=of))
    specs = {spec for one in metrics for spec in one.removal_specs()}
    assert sorted(drawn, key=str) == sorted(((clip, spec) for clip in range(3) for spec in specs), key=str)


def test_what_is_known_of_a_clip_apart_is_known_to_its_batch_and_the_other_way_round():
    of = share()
    alone = of.alone(2)
    assert torch.equal(alone.x(0), of.x(2))
    assert alone.clean_logits(0) is of.clean_logits(2)
    sent = of.model.calls.forwards
    assert of.end_logits(2, "freeze") is alone.end_logits(0, "freeze")
    assert of.substrate(2, "blur") is alone.substrate(0, "blur")
    assert alone.units(0, "supervoxel") is of.units(2, "supervoxel")
    assert of.model.calls.forwards == sent + of.forward_batch
    assert alone.removals(0, SPEC) is of.removals(2, SPEC)
    assert of.alone(2).alone(0).clean_logits(0) is of.clean_logits(2)
    assert (alone.batch.ids, alone.targets.tolist(), alone.labels.tolist()) == (["clip-2"], [2], [2])


def test_the_donor_is_another_clip_normalised():
    batch = small_batch()
    asked = []

    def donor(clip):
        asked.append(clip)
        return batch.frames[0].flip(1)

    of = share(batch, donor=donor)
    shown = perturbation.apply_all(of.substrate(1, "other_clip"), of.x(1))
    assert torch.equal(shown, of.model.normalise(batch.frames[:1].flip(2))[0])
    of.substrate(1, "other_clip")
    assert asked == ["clip-1"]
    with pytest.raises(NotApplicableError, match="other_clip"):
        share(batch).substrate(1, "other_clip")


def test_supervoxels_are_those_of_the_pixels_and_found_once(monkeypatch):
    found = []
    monkeypatch.setattr(shared, "supervoxels", lambda frames: found.append(1) or supervoxels(frames))
    of, batch = share(), small_batch()
    for maps in (batch.frames.mean(1), batch.frames.std(1)):
        case = Case(of.model, batch, batch.labels, maps, shared=of)
        for substrate in ("mean", "freeze"):
            case.curves(CurveSpec("supervoxel", substrate, 6))
        plugins.create("metrics", "tie_fraction:unit=supervoxel")(case)
    assert len(found) == 3
    assert torch.equal(of.units(0, "supervoxel").labels, supervoxels(batch.frames[0]))


def test_a_curve_on_supervoxels_ranks_by_means_and_cuts_at_the_boundaries_nearest_in_voxels():
    of, batch = share(), small_batch()
    relevance = torch.randn(batch.frames[:, 0].shape, generator=torch.Generator().manual_seed(3))
    (curve, *_) = Case(of.model, batch, batch.labels, relevance, shared=of).curves(CurveSpec("supervoxel", "mean", 8))
    labels = of.units(0, "supervoxel").labels
    assert len(set(torch.bincount(labels.flatten()).tolist())) > 5, "units of many sizes"
    means = torch.tensor([relevance[0].double()[labels == unit].mean() for unit in range(int(labels.max()) + 1)])
    order = means.argsort(descending=True)
    ends = torch.cat([torch.zeros(1), torch.bincount(labels.flatten())[order].cumsum(0)]).double()
    share_of = ends / ends[-1]
    nearest = {int((share_of - k / 8).abs().argmin()) for k in range(9) if k != 4}
    middle = (share_of - 0.5).abs()
    if (middle == middle.min()).sum() == 1:
        nearest.add(int(middle.argmin()))
    assert curve.fractions.tolist() == pytest.approx([float(share_of[cut]) for cut in sorted(nearest)])
    for cut, morf, lerf in zip(sorted(nearest), curve.morf, curve.lerf.flip(0), strict=True):
        gone = torch.isin(labels, order[:cut])
        without, only = (of.x(0).masked_fill(mask, 0) for mask in (gone, ~gone))
        assert torch.allclose(of.model.net(without[None])[0].double(), morf, atol=1e-5)
        assert torch.allclose(of.model.net(only[None])[0].double(), lerf, atol=1e-5)


def test_a_small_unit_of_high_relevance_goes_before_a_large_one_of_a_larger_sum():
    labels = torch.zeros(2, 3, 4, dtype=torch.int64)
    labels[0, 0, 0] = 1
    units = Units.of(labels)
    relevance = torch.where(labels == 1, 2.0, 1.0)
    assert removal_order(units.means(relevance), 0, "clip", "supervoxel").tolist() == [1, 0]
    assert cut_boundaries(units.sizes[torch.tensor([1, 0])], 4).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unit": "tublet"}, PluginError, "did you mean tubelet"),
        ({"substrate": "blr"}, PluginError, "did you mean blur"),
        ({"shares": ()}, ValueError, "shares"),
        ({"shares": (0.0,)}, ValueError, "shares"),
        ({"shares": (0.5, 1.0)}, ValueError, "shares"),
        ({"draws": 0}, ValueError, "draws"),
    ],
)
def test_a_wrong_removal_spec_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        RemovalSpec(**options)


@pytest.mark.parametrize("substrate", [name for name in substrates.SUBSTRATES if name != "other_clip"])
def test_every_substrate_serves_removals(substrate):
    assert share().removals(0, RemovalSpec("tubelet", substrate, (0.4,), 2)).logits.isfinite().all()


def test_a_metric_may_send_clips_of_its_own_in_any_number():
    of, batch = share(), small_batch()
    case = metric.Case(of.model, batch, batch.labels, batch.frames.mean(1), shared=of)
    clips = torch.stack([of.x(0)] * 6)
    assert torch.allclose(case.forward(clips), of.clean_logits(0).expand(6, -1), atol=1e-5)
    assert of.model.calls.forwards == 6 + of.forward_batch
