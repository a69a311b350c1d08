"""The formula of forwards is what the model counts: all metrics, several methods, padded tails, sampled clips."""

import dataclasses
from collections import Counter

import pytest
import torch

import vidattr_bench as vb
from vidattr_bench import evaluation, plugins
from vidattr_bench.fixtures import small_batch, small_model
from vidattr_bench.forwards import Forwards, curve_specs, padded, removal_specs
from vidattr_bench.presets import resolve
from vidattr_bench.rows import Subject

METHODS = ("integrated_gradients:steps=3", "grad_cam", "random", "gradient_shap:samples=3", "oracle")
FORWARD_BATCH = 3


def configured(kind, specs):
    plugins_ = [plugins.create(kind, spec) for spec in specs]
    return {plugins.label(kind, plugin): plugin for plugin in plugins_}


def every_metric():
    """All of `--metrics all`, with fewer cuts and draws, so that the test takes seconds."""
    metrics = {plugins.label("metrics", metric): metric for metric in resolve(["all"])}
    return {label: _smaller(metric) for label, metric in metrics.items()}


def _smaller(metric):
    small = {"steps": 5, "draws": 2}
    names = {field.name for field in dataclasses.fields(metric)}
    return dataclasses.replace(metric, **{name: value for name, value in small.items() if name in names})


def subject(model, methods, metrics, batch, sampled):
    to_model = torch.arange(len(model.classes))
    constants = {"dataset": "d", "split": "s", "model": "m", "weights": "w"}

    def donor(clip):
        return batch.frames[0].flip(2)

    return Subject(model, methods, metrics, to_model, "label", 0, FORWARD_BATCH, constants, sampled, donor)


def sent_by_curves(rows, forward_batch):
    """Forwards of the curves that were made, from their points."""
    points = Counter(
        (r["clip"], r["method"], r["seed"], r["unit"], r["substrate"], r["steps"]) for r in rows if r["order"] == "morf"
    )
    return sum(padded(max(2 * (n - 2), 0), forward_batch) for n in points.values())


def planned_curves(formula, batch, sampled):
    """Forwards of the curves as the formula has them."""
    total = 0
    for clip, frames in zip(batch.ids, batch.frames, strict=True):
        for method in formula.methods.values():
            asked = [
                m for m in formula.metrics.values() if not m.explains or (clip in sampled and not method.needs_truth)
            ]
            total += method.draws * sum(formula.of_curve(spec, frames) for spec in curve_specs(asked))
    return total


@pytest.fixture(scope="module")
def scored():
    """A batch of which the second clip is sampled, scored by every metric: model, formula, batch and rows."""
    model, batch = small_model(), small_batch(2)
    formula = Forwards(model, configured("methods", METHODS), every_metric(), FORWARD_BATCH)
    asked = subject(model, formula.methods, formula.metrics, batch, frozenset({"clip-1"}))
    missing = {cell for clip in batch.ids for cell in asked.cells(clip)}
    rows = evaluation.evaluate(asked, batch, missing, lambda clip: False, lambda method, metric: None)
    without = {
        (r["method"], r["metric"]): r["reason"] for r in rows.scores if r["status"] in ("failed", "not_applicable")
    }
    assert {key: reason for key, reason in without.items() if key[0] != "oracle"} == {}
    return model, formula, batch, rows


def test_a_batch_sends_what_the_formula_says(scored):
    model, formula, batch, rows = scored
    counted = (model.calls.forwards, model.calls.backwards)
    works = [formula.of_clip(x, clip == "clip-1") for clip, x in zip(batch.ids, batch.frames, strict=True)]
    # Where units differ in size a middle tie saves two clips; the rows know how many points each curve had.
    saved = planned_curves(formula, batch, {"clip-1"}) - sent_by_curves(rows.curves, FORWARD_BATCH)
    assert 0 <= saved <= 0.05 * counted[0]
    assert counted == (sum(work.forwards for work in works) - saved, sum(work.backwards for work in works))
    assert counted == (model.calls.forwards, model.calls.backwards), "the formula asks nothing that is counted"
    for name, total in zip(("forwards", "backwards"), counted, strict=True):
        assert sum(row[name] for row in rows.costs) == pytest.approx(total)


def test_what_methods_share_is_sent_once_a_clip(scored):
    _, formula, _, rows = scored
    shared = Counter()
    for row in rows.costs:
        if not row["method"]:
            shared[row["step"].partition(":")[0]] += row["forwards"]
    metrics = formula.metrics.values()
    ends = {spec.substrate for spec in curve_specs(metrics)}
    assert not any(metric.explains and (metric.curve_specs() or metric.removal_specs()) for metric in metrics)
    assert shared["clean"] == 2 * FORWARD_BATCH
    assert shared["curves"] == 2 * FORWARD_BATCH * len(ends)
    assert shared["removals"] == 2 * sum(padded(spec.sets, FORWARD_BATCH) for spec in removal_specs(metrics))


@pytest.mark.parametrize("forward_batch", [1, 4])
def test_a_run_on_tiny3d_sends_what_the_formula_says(forward_batch, tmp_path, monkeypatch):
    monkeypatch.setattr("vidattr_bench.runner.report.finish", lambda store, console: None)
    options = {
        "dataset": "planted_actions:clips=3",
        "methods": ["gradient", "random"],
        "metrics": [
            "srg:steps=4",
            "srg:steps=3,unit=supervoxel",
            "infidelity:draws=3",
            "max_sensitivity:draws=2",
            "roc_auc",
        ],
        "forward_batch": forward_batch,
        "batch_size": 2,
        "sample": 2,
    }
    run = vb.run(output=tmp_path / "run", **options)
    assert run.failed == 0
    entry = vb.create("models", "tiny3d")
    data = vb.create("datasets", options["dataset"])
    model = entry.build()
    data.adapt(model.input)
    methods, metrics = configured("methods", options["methods"]), configured("metrics", options["metrics"])
    formula = Forwards(model, methods, metrics, forward_batch)
    clips = [data.load(ref) for ref in data.refs()]
    scores, curves = run.scores(), run.curves()
    sampled = set(scores.loc[scores["metric"].str.startswith("max_sensitivity"), "clip"])
    assert len(sampled) == 2
    expected = sum(formula.of_clip(clip.frames, clip.id in sampled).forwards for clip in clips)
    planned = planned_curves(formula, _batch(clips), sampled)
    saved = planned - sent_by_curves(curves.to_dict("records"), forward_batch)
    assert run.costs()["forwards"].sum() == pytest.approx(expected - saved)


def _batch(clips):
    frames = torch.stack([clip.frames for clip in clips])
    n, _, t, h, w = frames.shape
    empty = torch.zeros(n, t, h, w, dtype=torch.bool)
    return vb.Batch([clip.id for clip in clips], frames, torch.zeros(n, dtype=torch.long), empty, empty[:, :, 0, 0])


@pytest.mark.parametrize("name", plugins.available("methods"))
def test_a_promise_costs_what_its_method_declares(name):
    for options in plugins.load("methods", name).variants or ("",):
        method = plugins.create("methods", f"{name}:{options}" if options else name)
        model, batch = small_model(), small_batch(2)
        total = method.promised_total(model, batch.frames, batch.labels)
        assert model.calls.forwards == sum(method.promise_cost(model, clip) for clip in batch.frames)
        assert (total is None) == (model.calls.forwards == 0)
