"""Every method that is installed, in every variant, keeps the contract; a file dropped into methods/ is tested too."""

import runpy
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch

from vidattr_bench.applicability import applicability
from vidattr_bench.fixtures import NETWORKS, as_model
from vidattr_bench.method import AttributionMethod
from vidattr_bench.method_checks import every_spec, quickly, suited_model
from vidattr_bench.model import VideoModel
from vidattr_bench.testing import CHECKS, explain, small_batch


@cache
def subject(text: str) -> tuple[AttributionMethod, VideoModel]:
    method = quickly(text)
    return method, suited_model(method)


@pytest.mark.parametrize("check", CHECKS["methods"], ids=lambda check: check.__name__)
@pytest.mark.parametrize("text", every_spec())
def test_contract(text, check):
    check(*subject(text))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("text", every_spec())
def test_a_verified_map_or_a_reason_as_the_page_says(text, network):
    """Run `python docs/methods_page.py` where a cell of the page has changed."""
    reason = applicability(quickly(text), as_model(NETWORKS[network]), small_batch(2))
    assert reason == "" or len(reason.split()) > 3
    assert written_matrix().loc[text, network] == (reason or "map")


@cache
def written_matrix() -> pd.DataFrame:
    path = Path(__file__).parents[1] / "docs" / "methods_page.py"
    page = runpy.run_path(str(path))
    found: pd.DataFrame = page["read_matrix"](page["PAGE"].read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("text", every_spec())
def test_autocast_reaches_the_network_alone(text):
    method, model = subject(text)
    batch = small_batch(2)
    expected = explain(method, model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(method, model, batch)
        assert torch.is_autocast_enabled("cpu")
    together = torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]
    assert found.dtype == torch.float32
    assert together > 0.95
    assert method.informed or torch.equal(found, expected)
    assert model.calls.autocast is None
