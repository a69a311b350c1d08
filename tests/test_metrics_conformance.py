"""Every metric that is installed, with every preset's options, keeps the contract."""

import pytest

from vidattr_bench import plugins
from vidattr_bench.presets import resolve
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


def test_the_declared_endpoints_come_first():
    labels = [plugins.label("metrics", metric) for metric in resolve(["default"])]
    assert labels[:3] == ["srg", "srg:substrate=freeze", "roc_auc"]
    assert [plugins.label("metrics", m) for m in resolve(["deletion", "srg"])] == ["deletion", "srg"]
