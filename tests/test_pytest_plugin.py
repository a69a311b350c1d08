"""The fixture `vidattr_gate`: what another project's test suite sees of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vidattr_bench as vb

ROOT = Path(__file__).resolve().parents[1]
MARGINS = "families:\n  localisation: {margin: 0.02, reason: a test}\n"


@pytest.fixture(scope="module")
def accepted(tmp_path_factory):
    """A run of controls on six planted clips, and margins above it."""
    folder = tmp_path_factory.mktemp("references")
    (folder / "margins.yaml").write_text(MARGINS)
    options = {"dataset": "planted_actions:clips=6", "metrics": ["roc_auc"], "pictures": 0}
    vb.run(methods=["frame_difference", "centre", "random"], output=folder / "accepted", **options)
    return folder / "accepted"


def pytest_of(tmp_path, body):
    """Exit status of pytest on a test file in a fresh interpreter, and what it says."""
    (tmp_path / "test_theirs.py").write_text(body)
    words = ["-q", "-p", "vidattr_bench.pytest_plugin", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    # Where the package is installed its entry point would load the plugin a second time.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *words, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_collection_imports_nothing_heavy(tmp_path):
    body = "import sys\ndef test_light():\n    assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)\n"
    status, out = pytest_of(tmp_path, body)
    assert status == 0, out


def test_a_method_that_is_as_good_passes_and_one_that_got_worse_fails_readably(accepted, tmp_path):
    body = f"""
REFERENCE = {str(accepted)!r}

def test_as_good(vidattr_gate):
    assert vidattr_gate(["frame_difference"], REFERENCE).verdict == "pass"
    assert vidattr_gate(["frame_difference"], REFERENCE, limit=3).verdict == "pass"

def test_worse(vidattr_gate, monkeypatch):
    from vidattr_bench.plugins import load
    method = load("methods", "frame_difference")
    monkeypatch.setattr(method, "_final", lambda self, relevance: -relevance)
    vidattr_gate(["frame_difference"], REFERENCE)
"""
    status, out = pytest_of(tmp_path, body)
    assert status == 1, out
    assert "1 failed, 1 passed" in out
    assert "regressed: roc_auc of frame_difference changed by -0." in out
    assert "Traceback" not in out


def test_a_method_that_the_reference_lacks_is_held_to_nothing_and_fails(accepted, tmp_path):
    body = f"""
def test_new(vidattr_gate):
    vidattr_gate(["frame_difference", "edges"], {str(accepted)!r})
"""
    status, out = pytest_of(tmp_path, body)
    assert status == 1, out
    assert "holds no edges; accept a run with it first" in out


def test_too_few_clips_are_inconclusive_which_fails_unless_lenient(accepted, tmp_path):
    body = f"""
import pytest

@pytest.mark.parametrize("strict", [True, False])
def test_noisy(vidattr_gate, strict):
    tiny = {{"families": {{"localisation": {{"margin": 0.001, "reason": "too small"}}}}}}
    found = vidattr_gate(["random"], {str(accepted)!r}, margins=tiny, strict=strict, seed=1)
    assert found.exit_status == 4
"""
    status, out = pytest_of(tmp_path, body)
    assert status == 1, out
    assert "1 failed, 1 passed, 1 warning" in out
    assert "more clips decide it" in out
