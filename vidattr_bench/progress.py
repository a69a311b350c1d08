"""Progress of a run: a rich bar with the cell under work on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress:
    """Counts clips; on a terminal names the method and metric under work.

    Args:
        total: clips to do.
        console: where to write.
        interval: seconds between two plain lines.
    """

    def __init__(self, total: int, console: Console, interval: float = 10.0) -> None:
        self.total, self.console, self.interval = total, console, interval
        self.done, self._spoke = 0, time.monotonic()
        self._began = self._spoke
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("clips"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def cell(self, method: str, metric: str) -> None:
        """Show the cell under work."""
        self._bar.update(self._task, description=f"{method} · {metric}".replace("[", r"\["))

    def advance(self, clips: int) -> None:
        """Count finished clips."""
        self.done += clips
        self._bar.update(self._task, completed=self.done)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self._spoke >= self.interval or self.done == self.total):
            self._spoke = now
            self.console.print(f"{self.done}/{self.total} clips, {now - self._began:.0f} s", highlight=False)
