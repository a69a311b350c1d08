"""Fixtures and settings for all tests: one torch thread, and the real clips where they lie beside the project."""

import os
from pathlib import Path

from vidattr_bench import process

process.tune()

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
# A busy machine is not a failure, and CI draws the same examples every time.
settings.register_profile("patient", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("patient")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL.is_dir():
        pytest.skip("the real clips do not lie beside the project (../shared/data)")
    return REAL
