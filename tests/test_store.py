"""The store: a finished row survives any death, a wrong row is never accepted."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vidattr_bench import store as stores
from vidattr_bench.errors import RunError
from vidattr_bench.store import Cell, Store, open_run, read_yaml, write_atomically


def score(clip="a", method="m", metric="x", seed=0, value=0.5, status="ok"):
    return {"clip": clip, "method": method, "metric": metric, "seed": seed, "value": value, "status": status}


def rows(*scores, fraction=0.0):
    curve = {
        "clip": "a",
        "method": "m",
        "unit": "frame",
        "steps": 4,
        "order": "morf",
        "seed": 0,
        "fraction": fraction,
        "score": 1.0,
    }
    cost = {"clip": "a", "method": "m", "step": "attribution", "seconds": 0.1, "forwards": 1.0}
    return {"scores": list(scores), "curves": [curve], "costs": [cost]}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "run")
    store.create()
    return store


def test_written_rows_are_read_back(store):
    store.write(0, rows(score("a"), score("b", value=float("nan"), status="undefined")))
    frame = store.scores()
    assert frame["clip"].tolist() == ["a", "b"]
    assert frame["value"].isna().tolist() == [False, True]
    assert store.finished() == {Cell("a", "m", "x", 0), Cell("b", "m", "x", 0)}
    assert len(store.curves()) == len(store.costs()) == 1


def test_curves_of_folders_without_step_counts_are_read(store, monkeypatch):
    old = {**stores.SCHEMAS, "curves": stores.SCHEMAS["curves"].remove(stores.SCHEMAS["curves"].names.index("steps"))}
    with monkeypatch.context() as older:
        older.setattr(stores, "SCHEMAS", old)
        store.write(0, rows(score()))
    store.write(1, rows(score("b"), fraction=0.5))
    frame = store.curves()
    assert frame["steps"].isna().tolist() == [True, False]
    assert frame["fraction"].tolist() == [0.0, 0.5]


def test_equal_rows_are_equal_bytes(tmp_path):
    names = []
    for run in ("one", "two"):
        store = Store(tmp_path / run)
        store.create()
        store.write(3, rows(score()))
        (part,) = store.parts("scores")
        names.append((part.path.name, part.path.read_bytes()))
    assert names[0] == names[1]


def test_a_later_generation_wins_and_failed_cells_are_not_finished(store):
    store.write(0, rows(score(status="failed", value=float("nan"))))
    assert store.finished() == set()
    store.write(0, rows(score(value=0.25)))
    assert store.scores()["value"].tolist() == [0.25]
    assert [part.generation for part in store.parts("scores")] == [0, 1]


def test_cells_are_told_apart_by_their_status(store):
    statuses = ("ok", "undefined", "not_applicable", "failed")
    store.write(0, rows(*(score(clip, status=status) for clip, status in zip("abcd", statuses, strict=True))))
    assert store.cells("ok", "undefined") == {Cell("a", "m", "x", 0), Cell("b", "m", "x", 0)}
    assert store.finished() == {Cell(clip, "m", "x", 0) for clip in "abc"}


@pytest.mark.parametrize("kind", list(stores.SCHEMAS))
@pytest.mark.parametrize("where", [0.05, 0.5, 0.95])
def test_one_flipped_bit_is_noticed_and_the_batch_computed_anew(store, kind, where):
    store.write(0, rows(score("a")))
    store.write(1, rows(score("b")))
    path = store.parts(kind)[0].path
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        store.read(kind)
    assert len(store.set_aside_corrupt()) == 3
    assert store.finished() == {Cell("b", "m", "x", 0)}


def test_parts_without_their_scores_do_not_count(store):
    store.write(0, rows(score()))
    store.parts("scores")[0].path.unlink()
    assert store.curves().empty
    assert store.costs().empty
    assert store.finished() == set()


def test_a_batch_written_again_after_a_death_before_its_scores_leaves_one_part(store):
    store.write(0, rows(score(), fraction=0.25))
    store.parts("scores")[0].path.unlink()
    store.write(0, rows(score(), fraction=0.75))
    assert len(store.parts("curves")) == 1
    assert store.curves()["fraction"].tolist() == [0.75]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failing_disk_leaves_the_old_file_and_a_clear_error(tmp_path, monkeypatch, call, code):
    path = tmp_path / "run.yaml"
    write_atomically(path, b"old")

    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(RunError, match=os.strerror(code)):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file.*--output"):
        Store(tmp_path / "file" / "run").create()


def test_two_processes_do_not_share_a_run(store):
    code = (
        "import sys; from pathlib import Path\n"
        "from vidattr_bench.store import Store; from vidattr_bench.errors import RunError\n"
        "try:\n    with Store(Path(sys.argv[1])).locked(): print('entered')\n"
        "except RunError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    root = Path(__file__).parents[1]
    with store.locked():
        blocked = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout
    assert f"pid {os.getpid()}" in blocked
    assert subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout == "entered\n"


def test_what_is_damaged_is_not_finished(store):
    store.write(0, rows(score("a")))
    store.write(1, rows(score("b")))
    store.parts("curves")[0].path.write_bytes(b"torn")
    assert store.finished() == {Cell("b", "m", "x", 0)}


def test_no_child_of_a_dead_run_keeps_its_lock(store):
    """A loading process outlives the killed run by seconds: the same command must not find the folder in use."""
    code = (
        "import os, sys, time; from pathlib import Path; from vidattr_bench.store import Store\n"
        "with Store(Path(sys.argv[1])).locked():\n"
        "    child = os.fork()\n"
        "    time.sleep(60) if child == 0 else (print(child, flush=True), os.kill(os.getpid(), 9))\n"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    dead = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE)
    child = int(dead.stdout.readline())
    dead.wait()
    try:
        with store.locked():
            pass
    finally:
        os.kill(child, 9)


@pytest.mark.parametrize("text", ["{", "[]", '{"methods": []}', '{"metrics": {"srg": 1}}', '{"clips": 3}'])
def test_a_damaged_provenance_is_named(store, text):
    (store.folder / "provenance.json").write_text(text)
    with pytest.raises(RunError, match=r"provenance\.json.*--output"):
        store.provenance()


def test_settings_provenance_and_arrays_round_trip(store):
    store.write_settings({"methods": ["gradient"], "seed": 3})
    store.write_provenance({"clips": {"planned": 2}, "name": "Å"})
    store.write_array("maps/a/b.npy", np.arange(6, dtype=np.float16).reshape(1, 2, 3))
    assert store.settings() == {"methods": ["gradient"], "seed": 3}
    assert open_run(store.folder).provenance() == {"clips": {"planned": 2}, "name": "Å"}
    assert np.load(store.folder / "maps/a/b.npy").shape == (1, 2, 3)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        open_run(tmp_path)
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(RunError, match=r"list\.yaml must hold a mapping"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "object.yaml").write_text("!!python/object/apply:os.system ['echo hello']")
    with pytest.raises(RunError, match=r"object\.yaml"):
        read_yaml(tmp_path / "object.yaml")
