"""One batch -> rows: failures stay in their cells, costs add up, no value depends on its neighbours."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from vidattr_bench import evaluation, ledger, plugins
from vidattr_bench.clip import Batch, Unreadable
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Measurement, Metric
from vidattr_bench.model import VideoModel
from vidattr_bench.perturbation import CurveSpec
from vidattr_bench.rows import Subject, unreadable_rows
from vidattr_bench.shared import RemovalSpec
from vidattr_bench.store import MAP, Cell

N, T, H, W, K = 3, 4, 6, 5, 7


@dataclasses.dataclass(frozen=True)
class Brightness(AttributionMethod):
    """Mean over channels, after one forward and one backward; raises or gives NaN for a bright clip if told to."""

    on_bright: str = ""

    def attribute(self, model, frames, targets, *extra: Any):
        x = model.normalise(frames).requires_grad_()
        model.logits(x).gather(1, targets[:, None]).sum().backward()
        bright = frames.mean((1, 2, 3, 4)) > 0.9
        if self.on_bright == "raise" and bright.any():
            raise RuntimeError("too bright")
        relevance = frames.mean(1)
        if self.on_bright == "nan":
            relevance[bright] = float("nan")
        return relevance


@dataclasses.dataclass(frozen=True)
class Noise(AttributionMethod):
    """Noise from the clip's seed, after some forwards."""

    calls: int = 0

    stochastic = True
    informed = False
    draws = 2

    def attribute(self, model, frames, targets, *extra: Any):
        shape = (1, *frames.shape[2:])
        for _ in range(self.calls):
            model(frames)
        return torch.cat([torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in extra[0]])


@dataclasses.dataclass(frozen=True)
class Truth(AttributionMethod):
    """The tubes."""

    needs_truth = True

    def attribute(self, model, frames, targets, *extra: Any):
        return extra[0].float()


@dataclasses.dataclass(frozen=True)
class Reversed(AttributionMethod):
    """A method that needs ReLUs, which the network lacks."""

    requires = ("relu_modules",)

    def attribute(self, model, frames, targets, *extra: Any):
        return frames.mean(1)


@dataclasses.dataclass(frozen=True)
class Total(Metric):
    """Sum of the relevance; raises or is undefined for a bright clip if told to."""

    family = "localisation"
    on_bright: str = ""

    def measure(self, case):
        bright = case.batch.frames.mean((1, 2, 3, 4)) > 0.9
        if self.on_bright == "raise" and bright.any():
            raise RuntimeError("blinded")
        if self.on_bright == "infinite":
            return Measurement(torch.where(bright, float("inf"), 1.0).double())
        if self.on_bright == "undefined":
            return Measurement.of(["too_bright" if b else 1.0 for b in bright.tolist()])
        return Measurement(case.relevance.double().sum((1, 2, 3)))


@dataclasses.dataclass(frozen=True)
class Area(Metric):
    """Mean probability along the MoRF curve; raises for a clip if told to."""

    family = "faithfulness"
    fails_on: str = ""

    def curve_specs(self):
        return (CurveSpec("frame", "black", 4),)

    def measure(self, case):
        target = case.targets.tolist()
        if self.fails_on in case.batch.ids:
            raise RuntimeError("no curve for this clip")
        curves = case.curves(self.curve_specs()[0])
        return Measurement.of(
            [c.reason or c.morf.softmax(1)[:, k].mean().item() for c, k in zip(curves, target, strict=True)]
        )


@dataclasses.dataclass(frozen=True)
class Change(Metric):
    """Largest difference between the map and the same map made again."""

    family = "sanity"

    def measure(self, case):
        again = case.explain(case.model, case.batch.frames, case.targets)
        return Measurement((again - case.relevance).abs().flatten(1).amax(1).double())


@dataclasses.dataclass(frozen=True)
class Again(Metric):
    """Number of clips of the case, after explaining them again `times` times; asks for a removal and a curve too."""

    family = "robustness"
    explains = 2
    refuses: bool = False

    def measure(self, case):
        if self.refuses:
            raise NotApplicableError("this network has nothing to change")
        for draw in range(self.explains):
            case.explain(case.model, case.batch.frames.flip(2), case.targets, draw=draw)
        case.curves(CurveSpec("frame", "black", 4))
        case.shared.removals(0, RemovalSpec("frame", "black", (0.5,), 3))
        return Measurement.of([float(len(case))] * len(case))


@dataclasses.dataclass(frozen=True)
class Redrawn(Metric):
    """Largest difference between the maps of draws 1 and 1, and of draws 1 and 2, as 10 a + b."""

    family = "robustness"
    explains = 3

    def measure(self, case):
        one, same, two = (case.explain(case.model, case.batch.frames, case.targets, draw=d) for d in (1, 1, 2))
        pairs = [((one - other).abs().max() > 0).item() for other in (same, two)]
        return Measurement.of([10.0 * pairs[0] + pairs[1]] * len(case))


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 4 * 3, K))
    return VideoModel(net, [f"class {i}" for i in range(K)])


@pytest.fixture
def batch():
    frames = torch.rand(N, 3, T, H, W, generator=torch.Generator().manual_seed(1)) * 0.5
    frames[1] = 0.95
    frames[1, :, 0] = 1.0
    tubes = torch.zeros(N, T, H, W, dtype=torch.bool)
    tubes[:, 1:3, 1:4, 2:4] = True
    known = torch.ones(N, T, dtype=torch.bool)
    return Batch(["a", "b", "c"], frames, torch.tensor([0, 1, -1]), tubes, known, groups=["g", "g", "h"])


def subject(model, methods, metrics, target="label", sampled=frozenset()):
    constants = {"dataset": "d", "split": "s", "model": "m", "weights": "w"}
    return Subject(model, methods, metrics, torch.tensor([3, 5]), target, 11, 2, constants, sampled)


def evaluate(subject, batch, only=None):
    missing = {cell for clip in batch.ids for cell in subject.cells(clip)} if only is None else only
    rows = evaluation.evaluate(subject, batch, missing, lambda clip: clip == "c", lambda method, metric: None)
    return rows, {(r["clip"], r["method"], r["metric"], r["seed"]): r for r in rows.scores}


def test_every_owed_cell_gets_one_row_with_its_facts(model, batch):
    s = subject(model, {"brightness": Brightness(), "noise": Noise()}, {"total": Total(), "area": Area()})
    rows, cells = evaluate(s, batch)
    assert set(cells) == {tuple(cell) for clip in batch.ids for cell in s.cells(clip)}
    assert len(cells) == len(rows.scores) == N * (1 + 2) * 2
    first = cells["a", "brightness", "total", 11]
    assert first["label"] == "class 3"
    assert first["target"] == "class 3"
    assert first["group"] == "g"
    assert first["correct"] == (first["prediction"] == "class 3")
    unlabelled = cells["c", "brightness", "total", 11]
    assert unlabelled["label"] is None
    assert unlabelled["correct"] is None
    assert unlabelled["target"] == unlabelled["prediction"]
    assert first["value"] == pytest.approx(batch.frames[0].mean(0).sum().item())


@pytest.mark.parametrize(("target", "expected"), [("predicted", None), ("class 6", "class 6")])
def test_the_target_is_what_the_run_asks_for(model, batch, target, expected):
    _, cells = evaluate(subject(model, {"b": Brightness()}, {"t": Total()}, target), batch)
    assert all(row["target"] == (expected or row["prediction"]) for row in cells.values())


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_a_clip_whose_map_fails_costs_no_other_cell(model, batch, how):
    methods = {"bad": Brightness(how), "good": Brightness()}
    _, cells = evaluate(subject(model, methods, {"total": Total()}), batch)
    assert {key[:2]: row["status"] for key, row in cells.items()} == {
        ("a", "bad"): "ok", ("b", "bad"): "failed", ("c", "bad"): "ok",
        ("a", "good"): "ok", ("b", "good"): "ok", ("c", "good"): "ok",
    }  # fmt: skip
    expected = "too bright" if how == "raise" else "NaN"
    assert expected in cells["b", "bad", "total", 11]["reason"]
    assert cells["a", "bad", "total", 11]["value"] == cells["a", "good", "total", 11]["value"]


def test_a_metric_that_fails_on_one_clip_costs_no_other_cell(model, batch):
    metrics = {"bad": Total("raise"), "dim": Total("undefined"), "area": Area()}
    _, cells = evaluate(subject(model, {"b": Brightness()}, metrics), batch)
    assert [cells[clip, "b", "bad", 11]["status"] for clip in "abc"] == ["ok", "failed", "ok"]
    assert "blinded" in cells["b", "b", "bad", 11]["reason"]
    assert [cells[clip, "b", "dim", 11]["status"] for clip in "abc"] == ["ok", "undefined", "ok"]
    assert cells["b", "b", "dim", 11]["reason"] == "too_bright"
    assert [cells[clip, "b", "area", 11]["status"] for clip in "abc"] == ["ok"] * 3


def test_curves_of_clips_that_fall_back_are_kept(model, batch):
    methods = {"b": Brightness()}
    metrics = {"bad": Total("raise"), "area": Area()}
    whole, _ = evaluate(subject(model, methods, metrics), batch)
    assert len(whole.curves) == N * 2 * 5
    rows, cells = evaluate(subject(model, methods, {"area": Area(fails_on="b")}), batch)
    assert [cells[clip, "b", "area", 11]["status"] for clip in "abc"] == ["ok", "failed", "ok"]
    assert rows.curves == [row for row in whole.curves if row["clip"] != "b"]


@pytest.mark.parametrize("broken", ["raise", "nan"])
def test_a_clip_on_which_the_model_fails_costs_no_other_clip(model, batch, broken):
    class Choosy(nn.Module):
        def forward(self, x):
            bright = x.mean((1, 2, 3, 4)) > 0.9
            if bright.any() and broken == "raise":
                raise RuntimeError("too bright for me")
            return model.net(x).masked_fill(bright[:, None], float("nan"))

    choosy = VideoModel(Choosy(), model.classes)
    _, cells = evaluate(subject(choosy, {"noise": Noise()}, {"total": Total()}), batch)
    assert [cells[clip, "noise", "total", 22]["status"] for clip in "abc"] == ["ok", "failed", "ok"]
    assert ("too bright for me" if broken == "raise" else "NaN") in cells["b", "noise", "total", 22]["reason"]
    assert cells["b", "noise", "total", 22]["group"] == "g"


def test_an_infinite_value_is_a_failure_of_its_clip_alone(model, batch):
    _, cells = evaluate(subject(model, {"b": Brightness()}, {"total": Total("infinite")}), batch)
    assert [cells[clip, "b", "total", 11]["status"] for clip in "abc"] == ["ok", "failed", "ok"]
    assert "infinite" in cells["b", "b", "total", 11]["reason"]


def test_clips_without_classes_are_explained_by_the_prediction(model, batch):
    none = dataclasses.replace(subject(model, {"b": Brightness()}, {"t": Total()}), to_model=torch.tensor([]))
    unlabelled = dataclasses.replace(batch, labels=torch.full((N,), -1))
    _, cells = evaluate(none, unlabelled)
    assert all(row["label"] is None and row["target"] == row["prediction"] for row in cells.values())


def test_explaining_again_repeats_the_draw_of_the_map(model, batch):
    _, cells = evaluate(subject(model, {"noise": Noise()}, {"change": Change()}), batch)
    assert len(cells) == N * 2
    assert all(row["value"] == 0 for row in cells.values())


def test_what_the_model_lacks_is_said_not_faked(model, batch):
    _, cells = evaluate(subject(model, {"r": Reversed()}, {"total": Total()}), batch)
    assert {row["status"] for row in cells.values()} == {"not_applicable"}
    assert "tanh" in cells["a", "r", "total", 11]["reason"]


def test_the_oracle_alone_sees_the_tubes(model, batch):
    _, cells = evaluate(subject(model, {"truth": Truth()}, {"total": Total()}), batch)
    assert [cells[clip, "truth", "total", 11]["value"] for clip in "abc"] == [2 * 3 * 2] * 3


def test_costs_add_up_to_the_counter(model, batch):
    s = subject(model, {"b": Brightness(), "noise": Noise()}, {"area": Area(), "total": Total()})
    rows, _ = evaluate(s, batch)
    assert sum(row["forwards"] for row in rows.costs) == model.calls.forwards
    assert sum(row["backwards"] for row in rows.costs) == model.calls.backwards == N
    attribution = [r for r in rows.costs if r["method"] == "b" and r["step"] == "attribution"]
    assert [(r["forwards"], r["backwards"]) for r in attribution] == [(1, 1)] * N
    # 4 frames, 4 steps: 3 interior cuts in two orders, in batches of 2; both ends are shared by all maps.
    curves = [r["forwards"] for r in rows.costs if r["step"] == "curves:black" and r["method"] == "b"]
    assert curves == [6] * N


def test_a_step_inside_another_keeps_its_peak_to_itself(model, monkeypatch):
    peaks = [0.0]
    monkeypatch.setattr(ledger, "_peak", lambda device: peaks[-1])
    monkeypatch.setattr(ledger, "_reset_peak", lambda device: peaks.append(0.0))
    book = ledger.Ledger(model)
    with book.step("outer", ["a"]):
        peaks[-1] = 5.0
        with book.step("inner", ["a"]):
            peaks[-1] = 9.0
        peaks[-1] = 2.0
    assert (book.cost("a", "", "inner").memory, book.cost("a", "", "outer").memory) == (9, 5)


def test_rows_do_not_depend_on_the_neighbours_or_on_what_else_is_asked(model, batch):
    s = subject(model, {"b": Brightness(), "noise": Noise()}, {"area": Area(), "total": Total()})
    _, together = evaluate(s, batch)
    _, alone = evaluate(s, batch.select([2]))
    only = {Cell("a", "noise", "area", 23)}
    _, single = evaluate(s, batch, only)
    assert set(single) == {tuple(cell) for cell in only}
    for other in (alone, single):
        for key, row in other.items():
            assert row["value"] == pytest.approx(together[key]["value"], abs=1e-6)


def test_one_draw_tried_again_leaves_the_cost_of_all(model, batch):
    s = subject(model, {"noise": Noise(calls=1)}, {"total": Total()})
    rows, cells = evaluate(s, batch, {Cell("a", "noise", "total", 23)})
    assert set(cells) == {("a", "noise", "total", 23)}
    assert [row["forwards"] for row in rows.costs if row["step"] == "attribution"] == [2] * N


def test_a_map_alone_is_made_where_a_map_alone_is_missing(model, batch):
    s = subject(model, {"b": Brightness(), "noise": Noise()}, {"total": Total()})
    rows, cells = evaluate(s, batch, {Cell("c", "b", MAP, 11)})
    assert cells == {}
    assert set(rows.maps) == {("c", "b")}
    assert torch.equal(rows.maps["c", "b"], batch.frames[2].mean(0))


def test_draws_differ_between_clips_and_draws(model, batch):
    _, cells = evaluate(subject(model, {"noise": Noise()}, {"total": Total()}), batch)
    values = [row["value"] for row in cells.values()]
    assert len(set(values)) == len(values) == N * 2


def test_curve_points_are_the_target_probability_at_each_fraction(model, batch):
    rows, _ = evaluate(subject(model, {"b": Brightness()}, {"area": Area()}), batch)
    morf = [(r["fraction"], r["score"]) for r in rows.curves if r["clip"] == "a" and r["order"] == "morf"]
    lerf = [(r["fraction"], r["score"]) for r in rows.curves if r["clip"] == "a" and r["order"] == "lerf"]
    assert [fraction for fraction, _ in morf] == [fraction for fraction, _ in lerf] == [0, 0.25, 0.5, 0.75, 1]
    clean = model(batch.frames[:1]).softmax(1)[0, 3].item()
    assert morf[0][1] == lerf[0][1] == pytest.approx(clean, abs=1e-6)
    assert morf[-1][1] == lerf[-1][1] != morf[0][1]
    frames = batch.frames[0].clone()
    darkest = frames.mean((0, 2, 3)).argmin()
    frames[:, darkest] = 0
    assert lerf[1][1] == pytest.approx(model(frames[None]).softmax(1)[0, 3].item(), abs=1e-6)


def test_the_points_of_every_step_count_are_told_apart(model, batch):
    metrics = [plugins.create("metrics", f"srg:unit=frame,substrate=black,steps={steps}") for steps in (2, 4)]
    rows, cells = evaluate(subject(model, {"b": Brightness()}, {"coarse": metrics[0], "fine": metrics[1]}), batch)
    points = pd.DataFrame(rows.curves)
    assert not points.duplicated(["clip", "method", "unit", "substrate", "steps", "order", "seed", "fraction"]).any()
    for name, steps in (("coarse", 2), ("fine", 4)):
        for clip in batch.ids:
            part = points[points["clip"].eq(clip) & points["steps"].eq(steps)]
            areas = {order: np.trapezoid(curve["score"], curve["fraction"]) for order, curve in part.groupby("order")}
            (value,) = [row["value"] for key, row in cells.items() if key[0] == clip and key[2] == name]
            assert value == pytest.approx(areas["lerf"] - areas["morf"])


def test_asked_maps_are_kept(model, batch):
    rows, _ = evaluate(subject(model, {"b": Brightness()}, {"total": Total()}), batch)
    assert set(rows.maps) == {("c", "b")}
    torch.testing.assert_close(rows.maps["c", "b"], batch.frames[2].mean(0))


def test_an_unreadable_clip_fails_in_every_cell_it_owes(model):
    s = subject(model, {"noise": Noise()}, {"total": Total()})
    rows = unreadable_rows(s, Unreadable("z", "z.avi is empty"), "g", set(s.cells("z")))
    assert [(row["clip"], row["seed"], row["status"], row["reason"]) for row in rows] == [
        ("z", 22, "failed", "z.avi is empty"),
        ("z", 23, "failed", "z.avi is empty"),
    ]


def test_runs_of_different_seeds_share_no_draw(model):
    subjects = [dataclasses.replace(subject(model, {"n": Noise()}, {"t": Total()}), seed=seed) for seed in range(4)]
    drawn = [cell.seed for s in subjects for cell in s.cells("a")]
    assert len(set(drawn)) == len(drawn) == 4 * 2


def test_a_metric_that_explains_again_is_owed_and_measured_on_the_sampled_clips_alone(model, batch):
    metrics = {"again": Again(), "total": Total()}
    s = subject(model, {"b": Brightness(), "noise": Noise()}, metrics, sampled={"a", "c", "elsewhere"})
    _, cells = evaluate(s, batch)
    assert {key[0] for key in cells if key[2] == "again"} == {"a", "c"}
    assert {key[0] for key in cells if key[2] == "total"} == {"a", "b", "c"}
    assert len(cells) == 3 * (2 + 3)
    values = [row["value"] for key, row in cells.items() if key[2] == "again"]
    assert values == [1.0] * 6, "each in a case of its own"


@pytest.mark.parametrize("first", ["again", "area"])
def test_a_clip_apart_forwards_nothing_that_its_batch_has_or_will_need(model, batch, first):
    metrics = dict(sorted({"again": Again(), "area": Area()}.items(), key=lambda item: item[0] != first))
    s = subject(model, {"b": Brightness(), "noise": Noise()}, metrics, sampled={"a", "b", "c"})
    rows, _ = evaluate(s, batch)
    sent = {}
    for row in rows.costs:
        key = (row["clip"], row["method"], row["step"])
        assert key not in sent
        sent[key] = row["forwards"]
    # In batches of 2: the clean clip, one end, 3 removals (4), 3 + 3 cuts a map; 2 explanations of 1 forward each.
    for clip in "abc":
        shared = {step: n for (c, method, step), n in sent.items() if c == clip and not method}
        assert shared == {"clean": 2, "curves:black": 2, "removals:black": 4}
        assert sent[clip, "b", "curves:black"] == 6
        assert sent[clip, "noise", "curves:black"] == 2 * 6
        assert sent[clip, "b", "again"] == 2
        assert sent[clip, "noise", "again"] == 0
    assert sum(sent.values()) == model.calls.forwards


def test_curves_of_clips_apart_are_kept_once(model, batch):
    s = subject(model, {"b": Brightness()}, {"again": Again()}, sampled={"a"})
    alone, _ = evaluate(s, batch)
    assert {row["clip"] for row in alone.curves} == {"a"}
    both = subject(model, {"b": Brightness()}, {"again": Again(), "area": Area()}, sampled={"a"})
    whole, _ = evaluate(both, batch)
    assert len(whole.curves) == N * 2 * 5
    assert [row for row in whole.curves if row["clip"] == "a"] == alone.curves


def test_a_metric_that_does_not_apply_says_so_and_costs_no_other_cell(model, batch):
    metrics = {"refuses": Again(refuses=True), "total": Total()}
    _, cells = evaluate(subject(model, {"b": Brightness()}, metrics, sampled={"b", "c"}), batch)
    refused = [row for key, row in cells.items() if key[2] == "refuses"]
    assert {(row["status"], row["reason"]) for row in refused} == {
        ("not_applicable", "this network has nothing to change")
    }
    assert [cells[clip, "b", "total", 11]["status"] for clip in "abc"] == ["ok"] * 3


def test_the_oracle_is_not_asked_to_explain_another_clip_and_that_costs_nothing(model, batch):
    metrics = {"again": Again(), "total": Total()}
    rows, cells = evaluate(subject(model, {"truth": Truth()}, metrics, sampled={"a", "b"}), batch)
    for clip in "ab":
        assert cells[clip, "truth", "again", 11]["status"] == "not_applicable"
        assert "sees the truth" in cells[clip, "truth", "again", 11]["reason"]
    assert [cells[clip, "truth", "total", 11]["status"] for clip in "abc"] == ["ok"] * 3
    assert {row["step"] for row in rows.costs if row["forwards"]} == {"clean"}


def test_an_oracle_that_a_metric_asks_all_the_same_refuses(model, batch):
    _, cells = evaluate(subject(model, {"truth": Truth()}, {"change": Change()}), batch)
    assert {row["status"] for row in cells.values()} == {"not_applicable"}


def test_another_draw_has_other_seeds_and_the_same_draw_the_same(model, batch):
    s = subject(model, {"noise": Noise(), "b": Brightness()}, {"redrawn": Redrawn()}, sampled={"a"})
    _, cells = evaluate(s, batch)
    assert {row["value"] for key, row in cells.items() if key[1] == "noise"} == {1.0}
    assert {row["value"] for key, row in cells.items() if key[1] == "b"} == {0.0}


def test_a_failing_sampled_metric_fails_on_its_clip_alone(model, batch):
    class Fails(Again):
        def measure(self, case):
            if case.batch.ids == ["b"]:
                raise RuntimeError("no second map")
            return super().measure(case)

    s = subject(model, {"b": Brightness()}, {"fails": Fails(), "area": Area()}, sampled={"a", "b"})
    _, cells = evaluate(s, batch)
    assert [cells[clip, "b", "fails", 11]["status"] for clip in "ab"] == ["ok", "failed"]
    assert [cells[clip, "b", "area", 11]["status"] for clip in "abc"] == ["ok"] * 3
