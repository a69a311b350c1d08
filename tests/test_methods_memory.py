"""No method needs more than 3 GB for a 3 x 16 x 112 x 112 clip with torchvision's r3d_18.

Run as a script, this file measures: it forks a process for each spec given, so that none inherits another's peak.
"""

import json
import os
import resource
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torchvision

from vidattr_bench import plugins
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.fixtures import small_batch
from vidattr_bench.model import VideoModel

T, H, W = 16, 112, 112
GIGABYTE = 2**30
ENOUGH = 8  # clips, the largest chunk
PROCESSES = 2


class EnoughError(Exception):
    """The method has sent a whole chunk through the network; the next ones need no more."""


def specs() -> list[str]:
    """What `--methods all` runs; the defaults, which send no less through the network at once, for a small budget."""
    names = plugins.available("methods")
    loaded = {name: plugins.load("methods", name) for name in names}
    chosen = [(name, cls) for name, cls in loaded.items() if cls.informed and not cls.needs_truth]
    options = [(name, cls.variants if "" in cls.variants else ("",)) for name, cls in chosen]
    return [f"{name}:{option}".rstrip(":") for name, variants in options for option in variants]


def r3d_18() -> VideoModel:
    torch.manual_seed(0)
    return VideoModel(torchvision.models.video.r3d_18(), [str(k) for k in range(400)], mean=[0.43] * 3, std=[0.22] * 3)


def stop_when_enough(model: VideoModel) -> None:
    """Let no forward begin once the network has seen `ENOUGH` clips."""

    def note(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if model.calls.forwards - len(args[0]) >= ENOUGH:
            raise EnoughError

    model.net.register_forward_pre_hook(note)


def peak() -> int:
    """Bytes that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def increase(model: VideoModel, spec: str) -> int | str:
    """By how many bytes explaining one clip raises the peak, or why the method does not apply."""
    method = plugins.create("methods", spec)
    stop_when_enough(model)
    frames, before = small_batch(1, (T, H, W)).frames, peak()
    try:
        method(model, frames, torch.tensor([7]), [0] if method.stochastic else None)
    except EnoughError:
        pass
    except NotApplicableError as reason:
        return str(reason)
    return peak() - before


def measure(chosen: list[str]) -> None:
    """Print a JSON line (spec, increase) for every spec."""
    torch.set_num_threads(1)
    model = r3d_18()
    for spec in chosen:
        sys.stdout.flush()
        if os.fork() == 0:
            try:
                print(json.dumps([spec, increase(model, spec)]), flush=True)
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.wait()


@pytest.fixture(scope="module")
def increases() -> dict[str, int | str]:
    with ThreadPoolExecutor(PROCESSES) as pool:
        texts = pool.map(run_as_a_script, [specs()[i::PROCESSES] for i in range(PROCESSES)])
    return dict(json.loads(line) for text in texts for line in text.splitlines())


def run_as_a_script(chosen: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__)), *chosen]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the first one measures them all
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")
@pytest.mark.parametrize("spec", specs())
def test_a_method_stays_below_3_gigabytes(spec, increases):
    assert spec in increases, "the method failed"
    if isinstance(increases[spec], str):
        pytest.skip(f"not applicable: {increases[spec]}")
    assert increases[spec] < 3 * GIGABYTE


if __name__ == "__main__":
    measure(sys.argv[1:])
