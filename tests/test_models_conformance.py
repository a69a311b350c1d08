"""Every architecture that is installed keeps the contract with random weights, and tiny3d with those it ships."""

import dataclasses
from functools import lru_cache

import pytest
import torch

from vidattr_bench import plugins
from vidattr_bench.errors import PluginError
from vidattr_bench.model import VideoModel
from vidattr_bench.testing import CHECKS, as_model, check_model

SMALL = (48, 64)


def entries() -> list:
    names = plugins.available("models")
    small = [name for name in names if max(plugins.load("models", name).input.size) <= max(SMALL)]
    return [pytest.param(name, marks=() if name in small else pytest.mark.slow) for name in names]


@lru_cache(maxsize=1)  # the largest hold half a gigabyte
def untrained(name: str) -> VideoModel:
    """The architecture with random weights, for the smallest clip that it takes: small frames, else its own."""
    try:
        entry = plugins.create("models", name)
    except PluginError as error:
        pytest.skip(f"it has no default configuration: {error}")
    options = {"feature_layer": getattr(entry, "feature_layer", None)}
    if entry.mean is not None:
        options |= {"mean": entry.mean, "std": entry.std}
    wanted = dataclasses.replace(entry.input, length=min(entry.input.length, 16))
    try:
        small = as_model(lambda: entry.network(5), input=dataclasses.replace(wanted, size=SMALL), **options)
        small(torch.zeros(1, len(entry.mean or "RGB"), wanted.length, *SMALL))
    except (AssertionError, RuntimeError, ValueError):
        return as_model(lambda: entry.network(5), input=wanted, **options)
    return small


@pytest.mark.parametrize("check", CHECKS["models"], ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", entries())
def test_architecture(name, check):
    check(untrained(name))


def test_shipped_tiny3d():
    check_model(plugins.create("models", "tiny3d"))
