"""Checks of a method's options as it is configured; their messages name the field, its value and what it must be."""

from __future__ import annotations

import math


def require_positive(method: object, *names: str) -> None:
    """Raise `ValueError` unless each of these fields is a finite number above 0."""
    for name, value in _values(method, names):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive and finite")


def require_not_negative(method: object, *names: str) -> None:
    """Raise `ValueError` unless each of these fields is a finite number, 0 or above."""
    for name, value in _values(method, names):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be finite and not negative")


def _values(method: object, names: tuple[str, ...]) -> list[tuple[str, float]]:
    return [(name, getattr(method, name)) for name in names]
