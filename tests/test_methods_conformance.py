"""Every method that is installed, in every variant, keeps the contract; a file dropped into methods/ is tested too."""

from functools import cache

import pytest

from vidattr_bench.fixtures import NETWORKS, as_model
from vidattr_bench.method import AttributionMethod
from vidattr_bench.method_checks import applicability, quickly, suited_model
from vidattr_bench.model import VideoModel
from vidattr_bench.plan import all_methods
from vidattr_bench.testing import CHECKS, small_batch


@cache
def subject(text: str) -> tuple[AttributionMethod, VideoModel]:
    method = quickly(text)
    return method, suited_model(method)


@pytest.mark.parametrize("check", CHECKS["methods"], ids=lambda check: check.__name__)
@pytest.mark.parametrize("text", all_methods())
def test_contract(text, check):
    check(*subject(text))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("text", all_methods())
def test_a_verified_map_or_a_reason(text, network):
    reason = applicability(quickly(text), as_model(NETWORKS[network]), small_batch(2))
    assert reason == "" or len(reason.split()) > 3
