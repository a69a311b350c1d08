"""Several processes share a run: the rows are those of one, and a rank that dies is neither lost nor hidden."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidattr_bench.runner import Run

ROOT = Path(__file__).parents[1]
TWO = ["--devices", "2", "--strategy", "ddp"]

pytestmark = pytest.mark.slow


def start(folder, clips, *words):
    command = [sys.executable, "-m", "vidattr_bench", "run", "--output", folder, "--accelerator", "cpu"]
    command += ["--dataset", f"planted_actions:clips={clips}", "--methods", "gradient", "random", "--pictures", "0"]
    command += ["--metrics", "srg:steps=8", "roc_auc", "--batch-size", "1", "--forward-batch", "2", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([str(word) for word in command], cwd=ROOT, env=environment, **pipes)


def finish(process, timeout=240):
    said, _ = process.communicate(timeout=timeout)
    return process.returncode, said.decode()


def contents(folder):
    return {p.name: p.read_bytes() for kind in ("scores", "curves") for p in (folder / kind).glob("[0-9]*.parquet")}


def wait_for_parts(process, folder, count):
    while process.poll() is None and len(list(folder.glob("scores/0*.parquet"))) < count:
        time.sleep(0.02)


def children(pid):
    return [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_two_ranks_write_the_bytes_of_one_process(tmp_path):
    assert finish(start(tmp_path / "one", 5))[0] == 0
    status, said = finish(start(tmp_path / "two", 5, *TWO))
    assert status == 0, said
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(Run(tmp_path / "two").scores()) == 5 * (1 + 5) * 2


def test_two_ranks_take_the_forward_batch_that_rank_0_chose(tmp_path):
    """As under torchrun, both start at once: no run.yaml tells rank 1 what rank 0 has measured."""
    code = (
        "import sys\nfrom vidattr_bench import cli, perturbation, runner\n"
        "rank = runner.os.environ['RANK']\n"
        "perturbation.measure_forward_batch = lambda *arguments: {'0': 2, '1': 3}[rank]\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["run", "--output", tmp_path / "two", "--accelerator", "cpu", "--dataset", "planted_actions:clips=5"]
    words += ["--methods", "gradient", "random", "--pictures", "0", "--metrics", "srg:steps=8", "roc_auc"]
    words += ["--batch-size", "1", *TWO]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    address |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, **address, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in "01"
    ]
    ends = [finish(process) for process in ranks]
    assert [status for status, _ in ends] == [0, 0], ends
    assert finish(start(tmp_path / "one", 5))[0] == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the other rank in /proc")
@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_the_job_and_the_same_command_finishes_it(tmp_path, dies):
    process = start(tmp_path / "run", 24, *TWO)
    wait_for_parts(process, tmp_path / "run", 3)
    (other,) = children(process.pid)
    os.kill(other if dies else process.pid, signal.SIGKILL)
    status, said = finish(process, 60)
    assert status != 0, said
    deadline = time.monotonic() + 30
    while is_running(other) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(other)
    done = len(list(tmp_path.glob("run/scores/0*.parquet")))
    assert 3 <= done < 24
    status, said = finish(start(tmp_path / "run", 24))
    assert status == 0, said
    assert len(Run(tmp_path / "run").scores()) == 24 * (1 + 5) * 2


def test_sigterm_stops_between_cells_with_130(tmp_path):
    process = start(tmp_path / "run", 60)
    wait_for_parts(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGTERM)
    status, said = finish(process, 30)
    assert status == 130, said
    assert "the same command continues" in said
    assert len(list(tmp_path.glob("run/scores/0*.parquet"))) < 60
