"""A tuned process keeps the memory that forwards free."""

import os
import subprocess
import sys

import pytest

from vidattr_bench import process

SCRIPT = """
import resource
from vidattr_bench import process
{tune}
import torch
torch.set_num_threads(1)
def faults_of_rounds(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        [torch.ones(2 << 20) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults_of_rounds(2)
print(faults_of_rounds(10))
"""


def page_faults(tune):
    script = [sys.executable, "-c", SCRIPT.format(tune=tune)]
    return int(subprocess.run(script, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone can be told")
def test_a_tuned_process_clears_freed_memory_once_only():
    assert page_faults("process.tune()") < page_faults("") / 10


def test_waiting_threads_sleep_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    process.tune()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    process.tune()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
