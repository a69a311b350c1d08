"""What a held-out part shares with the part that networks are trained on: on such clips an accuracy says nothing."""

from __future__ import annotations

import dataclasses

from vidattr_bench.datamodule import ClipDataModule


@dataclasses.dataclass(frozen=True)
class Shared:
    """What a part has in common with the training part, as far as clips have labels.

    Attributes:
        clips: ids of the clips of the part that are trained on too, or are made of one that is.
        groups: the sources that clips of both parts come from.
        kin: ids of the clips of the part that come from these sources.
    """

    clips: tuple[str, ...]
    groups: tuple[str, ...]
    kin: tuple[str, ...]

    def __str__(self) -> str:
        """What of it matters where no clip is shared."""
        return f"{len(self.kin)} of the held-out clips come from {len(self.groups)} sources that are trained on too"


def shared_with_training(data: ClipDataModule) -> Shared:
    """What the part of a data set shares with its training part.

    Raises:
        DataError: one of the two holds no clips, or the data set has no training part.
    """
    training = data.at("train")
    trained = [one for ref in training.refs() if ref.label is not None for one in training.made_of(ref)]
    ids, sources = {one.id for one in trained}, {one.group for one in trained}
    clips, groups, kin = [], set[str](), []
    for ref in data.refs():
        if ref.label is None:
            continue
        made_of = data.made_of(ref)
        if any(one.id in ids for one in made_of):
            clips.append(ref.id)
        if common := sources & {one.group for one in made_of}:
            groups |= common
            kin.append(ref.id)
    return Shared(tuple(clips), tuple(sorted(groups)), tuple(kin))
