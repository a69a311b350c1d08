"""Seeds as a function of what they are for, so that no draw depends on batch, order, shard or restart."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *parts: str) -> int:
    """A 63-bit seed from a run's seed and the names of what draws: (clip id, method spec), (clip id, unit spec), ..."""
    text = "\x1f".join([str(seed), *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *parts: str) -> torch.Generator:
    """A CPU generator seeded with `derive(seed, *parts)`."""
    return torch.Generator().manual_seed(derive(seed, *parts))
