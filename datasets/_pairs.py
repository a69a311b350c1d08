"""Which two clips are joined: pairs that share no source with other pairs and tell nothing by their order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from vidattr_bench.datamodule import ClipRef
from vidattr_bench.errors import DataError
from vidattr_bench.randomness import derive

Members = list[ClipRef]
_NAMED = 4  # sources in the name of a group, which every row of a run holds


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two clips to be joined, of which the target's label is asked for.

    Attributes:
        target, partner: clips of different classes and of different groups.
        target_first: whether the target is the first half.
        group: the first four sources that this pair and its kin come from, and how many more; pairs of different
            groups share none.
    """

    target: ClipRef
    partner: ClipRef
    target_first: bool
    group: str

    @property
    def ref(self) -> ClipRef:
        """The joined clip: its id names the target first, wherever it lies."""
        return ClipRef(f"{self.target.id}+{self.partner.id}", self.group, self.target.label)


def join(refs: Sequence[ClipRef], seed: int) -> list[Pair]:
    """A pair for every labelled clip that has a partner, in the order of the clips.

    Raises:
        DataError: there are no two clips of different classes and groups.
    """
    found = {pair.target.id: pair for clips in _matched(refs, seed) for pair in _joined(clips, seed)}
    if not found:
        raise DataError(
            f"the {len(refs)} clips hold no two of different classes and groups that could be joined; give more of them"
        )
    return [found[ref.id] for ref in refs if ref.id in found]


def _matched(refs: Sequence[ClipRef], seed: int) -> list[list[Members]]:
    """The groups two by two, in a random order; those left over, which are all of one class, join such twos.

    As many twos as there can be without a clip that loses its partner: two that are left over part a two that holds
    nothing of their class. What is left then has no partner but those that others have already, and is no independent
    observation beside them; so it joins their group, all of whose clips count as one source. With one frequent class
    there are as many groups as sources of the others, and that is how wide the intervals should be.
    """
    groups: dict[str, Members] = {}
    for ref in sorted(refs, key=lambda ref: derive(seed, "clip", ref.id)):
        if ref.label is not None:
            groups.setdefault(ref.group, []).append(ref)
    matched: list[list[Members]] = []
    waiting: list[Members] = []  # groups that no two of can be matched: all their clips have one label
    # Groups of several classes first: beside one of a single class, most of their clips might have no partner.
    simple = {name for name, members in groups.items() if len({ref.label for ref in members}) < 2}
    for name in sorted(groups, key=lambda name: (name in simple, derive(seed, "group", name))):
        members = groups[name]
        if waiting and _fit(waiting[-1], members):
            matched.append([waiting.pop(), members])
        else:
            waiting.append(members)
    for i, (first, second) in enumerate(tuple(matched)):
        if len(waiting) > 1 and _share_no_class(first, waiting[-1]) and _share_no_class(second, waiting[-2]):
            matched[i] = [first, waiting.pop()]
            matched.append([second, waiting.pop()])
    for i, members in enumerate(waiting):
        if matched:
            matched[i % len(matched)].append(members)
    return matched


def _fit(one: Members, other: Members) -> bool:
    """Whether they hold clips of different classes."""
    return len({ref.label for ref in (*one, *other)}) > 1


def _share_no_class(one: Members, other: Members) -> bool:
    """Whether each clip of either has a partner in the other, whatever it is."""
    return not {ref.label for ref in one} & {ref.label for ref in other}


def _joined(clips: list[Members], seed: int) -> Iterator[Pair]:
    """The pairs of two matched groups, and of those that joined them."""
    first, second, *others = clips
    group = _name_of(sorted({ref.group for members in clips for ref in members}))
    sides = [(0, first, second), (0, second, first)]
    sides += [(turn, other, [*first, *second]) for turn, other in enumerate(others, start=1)]
    for turn, members, candidates in sides:
        for i, target in enumerate(members, start=turn):
            partners = [ref for ref in candidates if ref.label != target.label]
            if partners:
                partner = partners[i % len(partners)]
                yield Pair(target, partner, _is_first(target.id, partner.id, seed), group)


def _name_of(sources: list[str]) -> str:
    """A name for pairs of these sources, told apart by any of them, since no others share one."""
    more = [f"{len(sources) - _NAMED} more"] if len(sources) > _NAMED else []
    return " + ".join(sources[:_NAMED] + more)


def _is_first(target: str, partner: str, seed: int) -> bool:
    """A coin that does not know which of the two is the target."""
    low, high = sorted([target, partner])
    return target == (low, high)[derive(seed, "order", low, high) % 2]
