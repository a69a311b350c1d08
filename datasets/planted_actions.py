"""Rendered clips whose class is the motion of one actor inside a known tube; see docs/planted_actions.md."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch

from vidattr_bench.clip import Clip, Tube
from vidattr_bench.datamodule import ClipDataModule, ClipRef
from vidattr_bench.errors import DataError, did_you_mean
from vidattr_bench.model import ClipInput
from vidattr_bench.plugins import create
from vidattr_bench.randomness import generator

from ._planted_rendering import Motion, Scene, draw_scene
from ._planted_verification import table, verify
from ._planted_writing import write_ucf101

_MOTIONS = {
    "FlashDarkLight": Motion(flash=-0.4),
    "FlashLightDark": Motion(flash=0.4),
    "Grow": Motion(growth=math.log(2.5)),
    "MoveDown": Motion(down=0.36),
    "MoveLeft": Motion(right=-0.36),
    "MoveRight": Motion(right=0.36),
    "MoveUp": Motion(down=-0.36),
    "Shrink": Motion(growth=-math.log(2.5)),
    "TurnAnticlockwise": Motion(turn=-2.6),
    "TurnClockwise": Motion(turn=2.6),
}


@dataclasses.dataclass(eq=False, kw_only=True)
class PlantedActions(ClipDataModule):
    """Rendered clips in which one actor's motion, inside a known tube, is the only evidence for the class.

    The five pairs of opposite classes hold the same frames in reversed order. Clips are drawn independently, each from
    its own generator, and rendered at the length and size that the model asks for (16 x 48 x 64 without one).

    Attributes:
        part: test, dev (for choosing settings), train, or all of them.
        clips: clips of the test part, and of the dev part.
        train_clips: clips of the train part.
        scenes: seed of the scenes.
    """

    native: ClassVar[ClipInput] = ClipInput(length=16, size=(48, 64))

    part: Literal["test", "dev", "train", "all"] = "test"
    clips: int = 40
    train_clips: int = 8000
    scenes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adapt(self.native)

    @property
    def classes(self) -> tuple[str, ...]:
        """Ten motions, in alphabetical order."""
        return tuple(_MOTIONS)

    def refs(self) -> list[ClipRef]:
        """Clips named part-index, their classes taking turns."""
        parts = {"train": self.train_clips, "dev": self.clips, "test": self.clips}
        if self.part not in (*parts, "all"):
            raise DataError(f"planted_actions has no part={self.part}; {did_you_mean(self.part, [*parts, 'all'])}")
        ids = [
            (f"{part}-{i:05d}", i) for part, count in parts.items() if self.part in (part, "all") for i in range(count)
        ]
        if not ids:
            raise DataError(f"planted_actions:part={self.part} holds no clip; give clips and train_clips above 0")
        return [ClipRef(id, group=id, label=i % len(_MOTIONS)) for id, i in ids]

    def scene(self, ref: ClipRef) -> Scene:
        """What a clip shows: a function of the seed, the clip's id and its class."""
        assert ref.label is not None
        height, width = self.clip_input.size
        draws = generator(self.scenes, "planted_actions", ref.id)
        return draw_scene(draws, _MOTIONS[self.classes[ref.label]], aspect=width / height)

    def load(self, ref: ClipRef) -> Clip:
        """Render one clip; its tube covers exactly the frames on which the actor is there, the others are empty."""
        return self.clip(self.scene(ref), ref)

    def clip(self, scene: Scene, ref: ClipRef) -> Clip:
        """Render `scene`, the clip's own or one that was intervened upon, as the clip `ref`."""
        length, (height, width) = self.clip_input.length, self.clip_input.size
        tubes: tuple[Tube, ...] = ()
        if scene.actor and ref.label is not None:
            boxes = scene.actor.boxes(length, height, width)
            tubes = (Tube(ref.label, scene.actor.span(length).start, boxes),)
        frames = scene.render(length, height, width)
        return Clip(ref.id, ref.group, frames, ref.label, tubes, torch.ones(length, dtype=torch.bool))

    def fingerprint(self) -> str:
        """Equal for equal seeds: the clips are made from nothing else."""
        return f"scenes={self.scenes}"


def main(arguments: Sequence[str] | None = None) -> None:
    """`write ROOT`: the clips in UCF101's layout. `verify MODEL ...`: does the planted truth hold for these models?"""
    parser = argparse.ArgumentParser(prog="python -m vidattr_bench.datasets.planted_actions", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write the test and train parts as UCF101 lies on disk")
    write.add_argument("root", type=Path)
    write.add_argument("--train-clips", type=int, default=40)
    check = commands.add_parser("verify", help="intervene on the clips and count what models answer")
    check.add_argument("models", nargs="+", metavar="SPEC")
    check.add_argument("--part", default="test")
    for command in (write, check):
        command.add_argument("--clips", type=int, default=40)
    options = parser.parse_args(arguments)
    if options.command == "write":
        write_ucf101(PlantedActions(clips=options.clips, train_clips=options.train_clips), options.root)
        return
    module = PlantedActions(part=options.part, clips=options.clips)
    print(table([(spec, verify(create("models", spec).build(), module)) for spec in options.models]))


if __name__ == "__main__":
    main()
