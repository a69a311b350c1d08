"""Modules whose input a rule still needs after the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def out_of_place(module: Any) -> Iterator[None]:
    """Inside, a module that works in place leaves its input as it is."""
    inplace = getattr(module, "inplace", False)
    if inplace:
        module.inplace = False
    try:
        yield
    finally:
        if inplace:
            module.inplace = True
