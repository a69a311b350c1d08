"""Every metric that is installed, with every preset's options, keeps the contract."""

import pytest

from vidattr_bench import plugins
from vidattr_bench.testing import CHECKS


def specs() -> list[str]:
    return [
        f"{name}:{options}".rstrip(":")
        for name in plugins.available("metrics")
        for options in dict.fromkeys(["", *sum(plugins.load("metrics", name).presets.values(), ())])
    ]


@pytest.mark.parametrize("check", CHECKS["metrics"], ids=lambda check: check.__name__)
@pytest.mark.parametrize("text", specs())
def test_contract(text, check):
    check(plugins.create("metrics", text))
