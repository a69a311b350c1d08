"""Every method that is installed, in every variant, keeps the contract; a file dropped into methods/ is tested too."""

from functools import cache

import pytest

from vidattr_bench import plugins
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.method import AttributionMethod
from vidattr_bench.spec import Spec, parse
from vidattr_bench.testing import CHECKS, explain, small_batch, small_model


def specs() -> list[str]:
    names = plugins.available("methods")
    return [f"{name}:{options}".rstrip(":") for name in names for options in plugins.load("methods", name).variants]


def quickly(text: str) -> AttributionMethod:
    """The method with the options under which it is cheap enough to check."""
    given = parse(text)
    cls = plugins.load("methods", given.name)
    quick = parse(f"{given.name}:{cls.quick}".rstrip(":"))
    method: AttributionMethod = plugins.configure(cls, Spec(given.name, {**given.options, **quick.options}))
    return method


@cache
def configured(text: str) -> AttributionMethod:
    method = quickly(text)
    try:
        explain(method, small_model(), small_batch(1))
    except NotApplicableError as reason:
        pytest.skip(f"no small network for it: {reason}")
    return method


@pytest.mark.parametrize("check", CHECKS["methods"], ids=lambda check: check.__name__)
@pytest.mark.parametrize("text", specs())
def test_contract(text, check):
    check(configured(text), small_model())
