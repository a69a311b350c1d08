"""Every architecture that is installed keeps the contract with random weights, and tiny3d with those it ships."""

import dataclasses
from functools import cache

import pytest

from vidattr_bench import plugins
from vidattr_bench.errors import PluginError
from vidattr_bench.model import VideoModel
from vidattr_bench.testing import CHECKS, as_model, check_model

LARGE = 16 * 64 * 64
LONGEST = 32


def entries() -> list:
    names = plugins.available("models")
    inputs = {name: plugins.load("models", name).input for name in names}
    large = {name for name, wanted in inputs.items() if wanted.length * wanted.size[0] * wanted.size[1] > LARGE}
    return [pytest.param(name, marks=pytest.mark.slow if name in large else ()) for name in names]


@cache
def untrained(name: str) -> VideoModel:
    try:
        entry = plugins.create("models", name)
    except PluginError as error:
        pytest.skip(f"it has no default configuration: {error}")
    wanted = dataclasses.replace(entry.input, length=min(entry.input.length, LONGEST))
    return as_model(lambda: entry.network(5), input=wanted, feature_layer=getattr(entry, "feature_layer", None))


@pytest.mark.parametrize("check", CHECKS["models"], ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", entries())
def test_architecture(name, check):
    check(untrained(name))


def test_shipped_tiny3d():
    check_model(plugins.create("models", "tiny3d"))
