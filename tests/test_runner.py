"""A run: resumes after any death byte for byte, extends, refuses to mix, and depends on nothing it should not."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import vidattr_bench as vb
from vidattr_bench import plugins, store
from vidattr_bench.errors import DataError, RunError
from vidattr_bench.model import VideoModel
from vidattr_bench.runner import Run

ROOT = Path(__file__).parents[1]
OPTIONS = {
    "dataset": "planted_actions:clips=5",
    "methods": ["gradient", "random"],
    "metrics": ["srg:steps=4", "roc_auc"],
    "batch_size": 2,
    "forward_batch": 2,
    "pictures": 1,
}

KEYS = ["clip", "method", "metric", "seed"]


def run(folder, **options):
    return vb.run(output=folder, **{**OPTIONS, **options})


def contents(folder, kinds=("scores", "curves")):
    """Name and bytes of every part."""
    return {p.name: p.read_bytes() for kind in kinds for p in (folder / kind).glob("[0-9]*.parquet")}


def by_key(frame):
    return frame.set_index(KEYS)["value"].sort_index()


@pytest.fixture
def bare(monkeypatch):
    """Leave out what comes after the rows: tables, plots and pictures."""
    monkeypatch.setattr("vidattr_bench.runner.report.finish", lambda store, console: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return run(folder)


def copy(finished, folder):
    import shutil

    shutil.copytree(finished.folder, folder)
    return folder


def test_every_owed_row_is_there_and_every_file(finished):
    scores = finished.scores()
    assert finished.failed == 0
    assert len(scores) == 5 * (1 + 5) * 2
    assert scores.groupby("method")["seed"].nunique().to_dict() == {"gradient": 1, "random": 5}
    assert set(scores["status"]) == {"ok"}
    assert len(finished.curves()) == 5 * (1 + 5) * 2 * 5
    names = {p.name for p in finished.folder.iterdir()}
    assert {"run.yaml", "provenance.json", "summary.csv", "summary.md", "summary.tex", "plots", "clips"} <= names
    facts = json.loads((finished.folder / "provenance.json").read_text())
    assert facts["depends_on"]["seed"] == 0
    assert facts["clips"] == {"planned": 5, "missing": 0, "sampled": 5}


def test_the_summary_is_the_mean_of_the_rows(finished):
    summary, scores = finished.summary(), finished.scores()
    row = summary.query("method == 'gradient' and metric == 'roc_auc' and subset == 'all'").iloc[0]
    expected = scores.query("method == 'gradient' and metric == 'roc_auc'")["value"].mean()
    assert row["mean"] == pytest.approx(expected)
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["clips"] == row["groups"] == 5


@pytest.mark.usefixtures("bare")
def test_a_finished_run_again_costs_no_forward(finished, tmp_path, monkeypatch):
    folder = copy(finished, tmp_path / "run")
    before = contents(folder, store.SCHEMAS)
    asked = []
    monkeypatch.setattr(VideoModel, "logits", lambda self, x: asked.append(x))
    assert run(folder).failed == 0
    assert asked == []
    assert contents(folder, store.SCHEMAS) == before


class Death(BaseException):
    """What no handler of the harness may survive."""


@pytest.mark.usefixtures("bare")
def test_dying_at_any_write_changes_nothing_in_the_end(finished, tmp_path, monkeypatch):
    write, deaths, survived = store.write_atomically, 0, False
    while not survived:
        folder, calls = tmp_path / str(deaths), []

        def dying(path, content, calls=calls):
            calls.append(path)
            if len(calls) == deaths + 1:  # noqa: B023
                path.with_name(f".{path.name}.torn").write_bytes(content[: len(content) // 2])
                raise Death
            write(path, content)

        monkeypatch.setattr(store, "write_atomically", dying)
        try:
            run(folder)
            survived = True
        except Death:
            deaths += 1
        monkeypatch.setattr(store, "write_atomically", write)
        if not survived:
            assert run(folder).failed == 0
            assert contents(folder) == contents(finished.folder)
    # run.yaml, provenance.json, then per batch three parts, plus the arrays of the pictured clip.
    assert deaths >= 2 + 3 * 3 + 3


@pytest.mark.slow
def test_sigkill_at_any_moment_and_the_same_command_ends_the_same(finished, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "vidattr_bench", "run", "--output", str(folder)]
    for key, value in OPTIONS.items():
        command += [f"--{key.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = 0
    for parts in (0, 1, 2, 3):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        started = time.monotonic()
        while process.poll() is None and time.monotonic() - started < 120:
            if (folder / "provenance.json").exists() and len(list(folder.glob("*/0*.parquet"))) > 2 * parts:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        killed += process.wait() == -signal.SIGKILL
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert killed >= 2
    # One thread or another, the parts are the same bytes.
    assert contents(folder) == contents(finished.folder)


def test_added_methods_and_metrics_extend_a_run(finished, tmp_path):
    folder = copy(finished, tmp_path / "run")
    run(folder, methods=["centre"])
    extended = run(folder, metrics=["roc_auc", "tube_mass"])
    scores = extended.scores()
    assert scores.groupby("method")["metric"].nunique().to_dict() == {"centre": 2, "gradient": 3, "random": 3}
    old = by_key(finished.scores())
    assert by_key(scores).loc[old.index].equals(old)
    assert len(extended.curves()) == len(finished.curves()) + 5 * 2 * 5
    assert set(pd.read_csv(folder / "summary.csv")["method"]) == {"gradient", "random", "centre"}


def arrays(folder):
    return {p.relative_to(folder): p.read_bytes() for kind in ("maps", "clips") for p in folder.glob(f"{kind}/*/*.npy")}


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("wanted", [{"pictures": 3}, {"pictures": 0, "save_maps": True}])
def test_maps_and_pictures_asked_for_later_are_made_and_no_row_changes(tmp_path, monkeypatch, wanted):
    options = {"methods": ["gradient", "random", "attention_rollout"], "metrics": ["roc_auc"]}
    folder = run(tmp_path / "run", **options).folder
    before, few = contents(folder, store.SCHEMAS), arrays(folder)
    assert run(folder, **{**options, **wanted}).failed == 0
    assert contents(folder, store.SCHEMAS) == before
    whole = run(tmp_path / "at once", **{**options, **wanted}).folder
    assert arrays(folder) == few | arrays(whole)
    assert len(arrays(whole)) > len(few)
    monkeypatch.setattr(VideoModel, "logits", lambda self, x: pytest.fail("nothing is missing any more"))
    assert run(folder, **{**options, **wanted}).failed == 0


@pytest.mark.usefixtures("bare")
def test_a_map_that_cannot_be_made_again_is_a_failure(finished, tmp_path, monkeypatch):
    folder = copy(finished, tmp_path / "run")
    cls = importlib.import_module("vidattr_bench.methods.gradient").Gradient
    monkeypatch.setattr(cls, "attribute", lambda *arguments: 1 / 0)
    before = contents(folder, store.SCHEMAS)
    assert run(folder, save_maps=True).failed == 4
    assert contents(folder, store.SCHEMAS) == before
    monkeypatch.undo()


@pytest.mark.usefixtures("bare")
def test_a_larger_sample_adds_the_cells_of_more_clips_and_changes_none(tmp_path):
    options = {"methods": ["gradient", "oracle"], "metrics": ["roc_auc", "flip_equivariance"]}
    few = run(tmp_path / "run", sample=1, **options)
    assert few.failed == 0
    before = few.scores()
    assert before.groupby("metric")["clip"].nunique().to_dict() == {"flip_equivariance": 1, "roc_auc": 5}
    assert set(before.query("method == 'oracle' and metric == 'flip_equivariance'")["status"]) == {"not_applicable"}
    more = run(tmp_path / "run", sample=5, **options)
    assert more.failed == 0
    after = more.scores()
    assert after.groupby("metric")["clip"].nunique().to_dict() == {"flip_equivariance": 5, "roc_auc": 5}
    assert not after.duplicated(KEYS).any()
    old = by_key(before)
    assert by_key(after).loc[old.index].equals(old)
    assert json.loads((more.folder / "provenance.json").read_text())["clips"]["sampled"] == 5
    whole = run(tmp_path / "at once", sample=5, **options)
    assert by_key(whole.scores()).equals(by_key(after))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"limit": 3}, "limit"), ({"target": "predicted"}, "target"),
     ({"batch_size": 3}, "batch_size"),
     ({"model": "tiny3d:seed=1"}, "weights"), ({"dataset": "planted_actions:clips=6"}, "dataset"),
     ({"forward_batch": 4}, "forward_batch")],
)  # fmt: skip
def test_other_settings_in_a_folder_are_refused_by_name(finished, change, named):
    before = contents(finished.folder, store.SCHEMAS)
    with pytest.raises(RunError, match=f"{named}.*--output"):
        run(finished.folder, **change)
    assert contents(finished.folder, store.SCHEMAS) == before


def test_a_method_whose_code_changed_is_refused(finished, monkeypatch):
    version = plugins.version
    monkeypatch.setattr(
        plugins, "version", lambda plugin: "changed" if plugin == vb.create("methods", "gradient") else version(plugin)
    )
    with pytest.raises(RunError, match="code of gradient"):
        run(finished.folder)


@pytest.mark.usefixtures("bare")
def test_a_damaged_part_is_set_aside_and_computed_again(finished, tmp_path):
    folder = copy(finished, tmp_path / "run")
    part = sorted((folder / "scores").glob("*.parquet"))[1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    with pytest.raises(RunError, match=part.name):
        Run(folder).scores()
    assert run(folder).failed == 0
    assert contents(folder) == contents(finished.folder)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    "change", [{"batch_size": 1}, {"batch_size": 5, "forward_batch": 8}, {"methods": ["random", "gradient"]}]
)
def test_rows_do_not_depend_on_batches_or_order(finished, tmp_path, change):
    other = run(tmp_path / "run", **change)
    pd.testing.assert_series_equal(by_key(other.scores()), by_key(finished.scores()), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("bare")
def test_shards_make_the_whole(finished, tmp_path):
    for shard in ("1/2", "2/2"):
        assert run(tmp_path / "run", shard=shard).failed == 0
    assert contents(tmp_path / "run") == contents(finished.folder)


@pytest.mark.usefixtures("bare")
def test_a_limited_run_takes_clips_evenly_with_the_same_numbers(finished, tmp_path):
    few = run(tmp_path / "run", limit=2, batch_size=1).scores()
    assert sorted(set(few["clip"])) == ["test-00001", "test-00003"]
    whole = by_key(finished.scores())
    pd.testing.assert_series_equal(by_key(few), whole[whole.index.isin(by_key(few).index)], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("bare")
def test_run_yaml_does_the_run_again(finished, tmp_path):
    again = vb.run(config=finished.folder / "run.yaml", output=tmp_path / "again")
    assert contents(again.folder) == contents(finished.folder)


@pytest.mark.usefixtures("bare")
def test_a_clip_that_cannot_be_read_costs_only_its_own_rows(finished, tmp_path, monkeypatch):
    cls = importlib.import_module("vidattr_bench.datasets.planted_actions").PlantedActions
    load = cls.load

    def damaged(self, ref):
        if ref.id == "test-00001":
            raise DataError(f"{ref.id}.avi is truncated")
        return load(self, ref)

    monkeypatch.setattr(cls, "load", damaged)
    broken = run(tmp_path / "run")
    scores = broken.scores()
    failed = scores[scores["status"] == "failed"]
    assert set(failed["clip"]) == {"test-00001"}
    assert set(failed["reason"]) == {"test-00001.avi is truncated"}
    assert broken.failed == len(failed) == (1 + 5) * 2
    monkeypatch.undo()
    mended = run(tmp_path / "run")
    assert mended.failed == 0
    pd.testing.assert_series_equal(by_key(mended.scores()), by_key(finished.scores()), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("bare")
def test_a_row_that_a_dead_rank_never_wrote_is_a_failure(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("vidattr_bench.runner.Trainer.predict", lambda *arguments, **options: None)
    assert run(tmp_path / "run").failed == 5 * (1 + 5) * 2


@pytest.mark.usefixtures("bare")
def test_the_default_folder_names_data_model_and_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {**OPTIONS, "methods": ["centre"], "metrics": ["roc_auc"], "limit": 1}
    folders = [vb.run(**options).folder, vb.run(**options, seed=1).folder]
    assert all(str(folder).startswith("results/planted_actions-tiny3d-") for folder in folders)
    assert folders[0] != folders[1]


def test_options_are_checked_by_name():
    with pytest.raises(RunError, match="did you mean methods"):
        vb.run(method=["gradient"])
    with pytest.raises(RunError, match="--shard"):
        vb.run(shard="3/2")
    with pytest.raises(RunError, match="--limit"):
        vb.run(limit=0)


def test_rows_without_provenance_are_not_added_to(finished, tmp_path):
    folder = copy(finished, tmp_path / "run")
    (folder / "provenance.json").unlink()
    with pytest.raises(RunError, match=r"no provenance\.json.*--output"):
        run(folder, methods=["centre"])


@pytest.mark.usefixtures("bare")
def test_the_measured_forward_batch_outlives_a_lost_run_yaml(tmp_path, monkeypatch):
    options = {"methods": ["centre"], "forward_batch": None, "limit": 1}
    for measured in (3, 5):
        monkeypatch.setattr("vidattr_bench.perturbation.measure_forward_batch", lambda *args, n=measured: n)
        folder = run(tmp_path / "run", **options).folder
        assert store.Store(folder).settings()["forward_batch"] == 3
        (folder / "run.yaml").unlink()
        options["methods"] = ["edges"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"forward_batch": 0}, "--forward-batch must be at least 1"), ({"precision": "bf16-true"}, "--precision"),
     ({"metrics": ["seconds", "forwards"]}, "every run records costs"), ({"shard": "4/4"}, "only 3 batches"),
     ({"seed": 1.5}, "seed has the wrong type"), ({"save_maps": "no"}, "save_maps has the wrong type"),
     ({"batch_size": "4"}, "batch_size has the wrong type"), ({"output": 3}, "output has the wrong type")],
)  # fmt: skip
def test_options_that_make_no_run_are_refused(tmp_path, options, message):
    with pytest.raises(RunError, match=message):
        vb.run(**{**OPTIONS, "output": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_devices_may_be_a_number():
    from vidattr_bench.settings import from_mapping

    assert from_mapping({"devices": 2}, "test").devices == "2"


@pytest.mark.usefixtures("bare")
def test_kept_maps_are_the_maps_however_small(tmp_path, monkeypatch):
    cls = importlib.import_module("vidattr_bench.methods.gradient").Gradient
    monkeypatch.setattr(cls, "attribute", lambda self, model, frames, targets: 1e-9 * frames.mean(1))
    options = {"methods": ["gradient"], "metrics": ["roc_auc"], "limit": 1, "save_maps": True}
    folder = run(tmp_path / "run", **options).folder
    (path,) = folder.glob("maps/*/gradient.npy")
    relevance, frames = np.load(path), np.load(next(folder.glob("clips/*/frames.npy")))
    np.testing.assert_allclose(relevance, 1e-9 * frames.mean(3) / 255, atol=3e-12)


@pytest.mark.usefixtures("bare")
def test_bfloat16_reaches_the_forwards_and_leaves_maps_and_controls_alone(finished, tmp_path):
    low = run(tmp_path / "run", precision="bf16-mixed", save_maps=True)
    change = (by_key(low.scores()) - by_key(finished.scores())).abs().groupby(["method", "metric"]).max()
    assert change["random", "roc_auc"] == 0
    assert 0 < change["gradient", "roc_auc"] < 0.05
    assert 0 < change["random", "srg:steps=4"] < 0.05
    assert {np.load(path).dtype for path in low.folder.glob("maps/*/*.npy")} == {np.dtype("float32")}


@pytest.mark.usefixtures("bare")
def test_a_plug_in_that_exits_the_process_is_no_good_end(tmp_path, monkeypatch):
    cls = importlib.import_module("vidattr_bench.methods.gradient").Gradient
    monkeypatch.setattr(cls, "attribute", lambda *arguments: sys.exit(0))
    with pytest.raises(RunError, match=r"sys\.exit"):
        run(tmp_path / "run")


def test_settings_survive_run_yaml(tmp_path):
    from vidattr_bench.settings import Settings, from_mapping

    settings = Settings(methods=("a:b=1", "c"), output=tmp_path, class_map=tmp_path / "m.csv", limit=3)
    assert from_mapping(settings.as_yaml(), "test") == settings
    assert {f.name for f in dataclasses.fields(Settings)} == set(settings.as_yaml())
