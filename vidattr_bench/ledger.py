"""What every step of a run cost: seconds, clips forward and backward, peak memory of the device."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from vidattr_bench.metric import Cost
from vidattr_bench.model import Calls, VideoModel


@dataclasses.dataclass
class _Open:
    """A step under way: when it began, what steps inside it have already been booked, its own peak before the last."""

    began: float
    before: Calls
    inner: Cost
    peak: float = 0.0


class Ledger:
    """Books the cost of steps to clips; a step inside another is booked once, to itself."""

    def __init__(self, model: VideoModel) -> None:
        self.model = model
        self.entries: dict[tuple[str, str, str], Cost] = {}
        self._open: list[_Open] = []

    @contextmanager
    def step(self, name: str, clips: Sequence[str], method: str = "") -> Iterator[None]:
        """Share the cost of what happens inside evenly among `clips`; of memory each gets the peak."""
        device = self.model.mean.device
        if self._open:
            self._open[-1].peak = max(_peak(device), self._open[-1].peak)
        _reset_peak(device)
        calls = self.model.calls
        mine = _Open(time.perf_counter(), dataclasses.replace(calls), Cost(0, 0, 0, 0))
        self._open.append(mine)
        try:
            yield
        finally:
            self._open.pop()
            _synchronise(device)
            total = Cost(
                time.perf_counter() - mine.began,
                calls.forwards - mine.before.forwards,
                calls.backwards - mine.before.backwards,
            )
            if self._open:
                _add(self._open[-1].inner, total, 1)
            own = Cost(*(getattr(total, f) - getattr(mine.inner, f) for f in ("seconds", "forwards", "backwards")))
            own.memory = max(_peak(device), mine.peak)
            _reset_peak(device)
            for clip in clips:
                _add(self.entries.setdefault((clip, method, name), Cost(0, 0, 0, own.memory)), own, len(clips))

    def cost(self, clip: str, method: str, step: str) -> Cost:
        """What was booked; nothing is NaN."""
        return self.entries.get((clip, method, step), Cost())

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the costs table."""
        return [
            {"clip": clip, "method": method, "step": step, **dataclasses.asdict(cost)}
            for (clip, method, step), cost in self.entries.items()
        ]


def _add(total: Cost, part: Cost, share: int) -> None:
    total.seconds += part.seconds / share
    total.forwards += part.forwards / share
    total.backwards += part.backwards / share
    total.memory = max(total.memory, part.memory)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float:
    """Peak bytes on an accelerator; on a CPU no such count is kept, so NaN."""
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else float("nan")
