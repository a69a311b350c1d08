"""The arrays that a run keeps beside its rows: maps, and the frames and tubes of the clips that it draws."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vidattr_bench.clip import Batch
from vidattr_bench.plan import Plan
from vidattr_bench.rows import Subject
from vidattr_bench.store import MAP, Cell, Store
from vidattr_bench.streams import shown
from vidattr_bench.text import slug


class Arrays:
    """Which arrays a run keeps, where they lie, and which of them are not there.

    Args:
        subject: what the run asks.
        plan: the run's plan.
        store: where they go.
    """

    def __init__(self, subject: Subject, plan: Plan, store: Store) -> None:
        self.subject, self.store = subject, store
        clips = {ref.id for ref in plan.refs(plan.numbers())}
        self.drawn = clips & plan.pictured()
        self.kept = clips if plan.settings.save_maps else self.drawn

    def keeps(self, clip: str) -> bool:
        """Whether the maps of a clip are kept."""
        return clip in self.kept

    def write(self, batch: Batch, maps: Mapping[tuple[str, str], Tensor]) -> None:
        """Write maps (T, H, W) by clip and method, and the frames and tubes of the clips of a batch that are drawn."""
        for (clip, label), relevance in maps.items():
            self.store.write_array(_map(clip, label), relevance.numpy())
        for i, clip in enumerate(batch.ids):
            if clip in self.drawn:
                frames, tubes = _picture(clip)
                pixels = shown(batch.frames[i], self.subject.model.input, self.subject.stream)
                self.store.write_array(frames, pixels.numpy())
                self.store.write_array(tubes, batch.tubes[i].cpu().numpy())

    def undrawn(self) -> set[str]:
        """The clips to draw whose frames or tubes are not there."""
        return {clip for clip in self.drawn if not all(map(self._exists, _picture(clip)))}

    def missing_maps(self) -> set[Cell]:
        """The maps to keep that are not there although rows tell that there was one, as cells of the first draw."""
        labels = self.subject.methods
        absent = {(clip, label) for clip in self.kept for label in labels if not self._exists(_map(clip, label))}
        made = {(cell.clip, cell.method) for cell in self.store.cells("ok", "undefined")} if absent else set()
        return {Cell(clip, label, MAP, self.subject.seeds(labels[label])[0]) for clip, label in absent & made}

    def _exists(self, name: str) -> bool:
        return (self.store.folder / name).is_file()


def _map(clip: str, label: str) -> str:
    return f"maps/{slug(clip)}/{slug(label)}.npy"


def _picture(clip: str) -> tuple[str, str]:
    return f"clips/{slug(clip)}/frames.npy", f"clips/{slug(clip)}/tubes.npy"
