"""The command line: exit statuses and messages of good and bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidattr_bench.cli import main

ROOT = Path(__file__).parents[1]
QUICK = ["--dataset", "planted_actions:clips=3", "--metrics", "roc_auc", "--methods", "centre", "--pictures", "0"]


def call(capsys, *words):
    try:
        status = main([str(word) for word in words])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_run_prints_the_table_and_ends_well(capsys, tmp_path):
    status, out, _ = call(capsys, "run", *QUICK, "--output", tmp_path / "run")
    assert status == 0
    assert "centre" in out
    assert "roc_auc" in out
    for command in ("table", "plot"):
        assert call(capsys, command, tmp_path / "run")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "grad_camm"], "unknown method 'grad_camm'; did you mean grad_cam"),
        (["--methods", "grad_cam:pol=frame"], "grad_cam has no option 'pol'; did you mean pool"),
        (["--methods", "grad_cam:pool=fram"], "pool"),
        (["--methods", "grad_cam:pool"], "expected key=value"),
        (["--metrics", "roc_au"], "did you mean roc_auc"),
        (["--metrics", "srg:substrate=blurr"], "did you mean blur"),
        (["--dataset", "planted_action"], "did you mean planted_actions"),
        (["--dataset", "planted_actions:clips=0"], "holds no clip"),
        (["--dataset", "planted_actions:part=tset"], "part"),
        (["--dataset", "ucf101"], "root"),
        (["--dataset", "ucf101:root=/no/such/folder"], "/no/such/folder"),
        (["--model", "tiny3"], "did you mean tiny3d"),
        (["--model", "no.such.module:net"], "no.such"),
        (["--model", "tiny3d:seed=77"], "seed=77"),
        (["--model", "tiny3d:checkpoint=/no/such/file"], "/no/such/file"),
        (["--model", f"tiny3d:checkpoint={Path(__file__)}"], "test_cli.py"),
        (["--target", "MoveLef"], "did you mean MoveLeft"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--limit", "many"], "invalid int value"),
        (["--shard", "0/2"], "--shard must be i/n"),
        (["--metods", "all"], "did you mean --methods"),
        (["--meth", "all"], "unknown option --meth; did you mean --methods"),
        (["--class-map", "/no/map.csv"], "/no/map.csv"),
        (["--config", "/no/run.yaml"], "/no/run.yaml"),
        (["--accelerator", "abacus"], "abacus"),
        (["--precision", "3"], "recision"),
        (["--output", "/proc/run"], "cannot write to the run folder"),
    ],
)
def test_bad_input_is_named_with_status_2(capsys, tmp_path, words, message):
    status, _, err = call(capsys, "run", *QUICK, "--output", tmp_path / "run", *words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not list((tmp_path / "run").glob("scores/*.parquet"))


def test_a_model_with_other_classes_is_refused_or_mapped(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "user_networks.py").write_text(
        "from torch import nn\n"
        "import vidattr_bench as vb\n"
        "def small(k):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, k))\n"
        "def seven(): return small(7)\n"
        "def named(): return vb.VideoModel(small(2), classes=['left', 'other'])\n"
        "def liar(): return vb.VideoModel(small(3), classes=['left', 'other'])\n"
    )
    (tmp_path / "map.csv").write_text("MoveLeft,left\n")
    model = ["run", *QUICK, "--output", tmp_path / "run", "--model"]
    status, _, err = call(capsys, *model, "user_networks:seven")
    assert (status, "7 logits" in err) == (2, True)
    status, _, err = call(capsys, *model, "user_networks:named")
    assert (status, "--class-map" in err) == (2, True)
    status, _, err = call(capsys, *model, "user_networks:missing")
    assert (status, "missing" in err) == (2, True)


def test_a_map_with_nan_fails_its_cells_alone_with_status_1(capsys, tmp_path, monkeypatch):
    import vidattr_bench.methods

    (tmp_path / "not_a_number.py").write_text(
        '"""NaN."""\nimport dataclasses\nfrom vidattr_bench.method import AttributionMethod\n'
        "@dataclasses.dataclass(frozen=True)\nclass NotANumber(AttributionMethod):\n"
        '    """NaN everywhere."""\n    reference = "none"\n'
        "    def attribute(self, model, frames, targets):\n        return frames.mean(1) * float('nan')\n"
    )
    monkeypatch.setattr(
        vidattr_bench.methods, "__path__", [*vidattr_bench.methods.__path__, str(tmp_path)], raising=False
    )
    words = [*QUICK, "--methods", "centre", "not_a_number", "--output", tmp_path / "run"]
    status, out, _ = call(capsys, "run", *words)
    assert status == 1
    assert "failed: 3 cells of not_a_number" in out
    from vidattr_bench.runner import Run

    assert Run(tmp_path / "run").scores().groupby("method")["status"].first().to_dict() == {
        "centre": "ok",
        "not_a_number": "failed",
    }


@pytest.mark.parametrize("given", [["--forward-batch", "1"], []])
def test_dry_run_counts_what_the_run_then_does(capsys, tmp_path, monkeypatch, given):
    monkeypatch.setattr("vidattr_bench.perturbation.measure_forward_batch", lambda model, x: 4)
    words = ["run", *QUICK, "--methods", "gradient", "centre", "--metrics", "srg:steps=4", "roc_auc", *given]
    status, out, _ = call(capsys, *words, "--dry-run", "--output", tmp_path / "run")
    assert status == 0
    assert not (tmp_path / "run").exists()
    assert call(capsys, *words, "--output", tmp_path / "run")[0] == 0
    from vidattr_bench.runner import Run

    costs = Run(tmp_path / "run").costs()
    assert f"forward batch: {1 if given else 4}" in out
    assert f"forwards: {int(costs['forwards'].sum())} " in out
    assert f"backwards: {int(costs['backwards'].sum())}" in out
    assert f"cells: {len(Run(tmp_path / 'run').scores())}" in out
    assert "minutes" in out


@pytest.mark.parametrize("kind", ["methods", "metrics", "datasets", "models"])
def test_list_shows_every_plug_in_with_a_summary(capsys, kind):
    from vidattr_bench.plugins import available

    records = json.loads(call(capsys, "list", kind, "--format", "json")[1])
    assert [r["name"] for r in records] == list(available(kind))
    assert all(r["summary"].strip() for r in records)
    for style in ("text", "md"):
        out = call(capsys, "list", kind, "--format", style)[1]
        assert all(r["name"] in out for r in records)


def test_bad_commands_end_with_status_2(capsys, tmp_path):
    assert call(capsys)[0] == 2
    assert call(capsys, "rum")[0] == 2
    assert call(capsys, "list", "method")[0] == 2
    status, _, err = call(capsys, "table", tmp_path)
    assert (status, "holds no run" in err) == (2, True)


def test_a_broken_run_yaml_names_file_and_field(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("modle: tiny3d\n")
    status, _, err = call(capsys, "run", "--config", tmp_path / "run.yaml")
    assert status == 2
    assert "run.yaml: unknown option 'modle'; did you mean model" in err


def test_a_configuration_says_what_it_imports(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("model: factory:callable=no_such_package.net\n")
    status, _, err = call(capsys, "run", "--config", tmp_path / "run.yaml", "--output", tmp_path / "run")
    assert status == 2
    assert "imports and runs no_such_package.net" in err


def test_a_run_folder_cannot_speak_to_the_terminal(capsys, tmp_path):
    from vidattr_bench.store import Store

    assert call(capsys, "run", *QUICK, "--output", tmp_path / "run")[0] == 0
    run = Store(tmp_path / "run")
    row = run.scores().iloc[0].to_dict() | {"status": "failed", "reason": "\x1b]0;owned\x07 [red]"}
    run.write(0, {"scores": [row], "costs": [], "curves": []})
    status, out, _ = call(capsys, "table", tmp_path / "run")
    assert status == 0
    assert "failed: 1 cells of centre: ?]0;owned? [red]" in out.replace("\n", " ")
    assert "\x1b" not in out


@pytest.mark.parametrize(("command", "expected"), [("run", 1), ("list", 0)])
def test_a_reader_that_leaves_does_not_turn_an_unfinished_run_into_a_good_one(command, expected):
    code = (
        "import sys; from vidattr_bench import cli\n"
        "def leave(arguments): raise BrokenPipeError\n"
        "cli._run = cli._list = leave\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    words = [command, "methods"] if command == "list" else [command]
    assert subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT).returncode == expected


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_keeps_what_is_done(tmp_path):
    command = [
        sys.executable,
        "-m",
        "vidattr_bench",
        "run",
        "--dataset",
        "planted_actions:clips=30",
        "--batch-size",
        "1",
    ]
    command += ["--output", str(tmp_path / "run"), "--methods", "gradient", "--metrics", "srg", "--pictures", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and len(list(tmp_path.glob("run/scores/0*.parquet"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert b"the same command continues" in err
    assert len(list(tmp_path.glob("run/scores/0*.parquet"))) >= 2
