"""Which slot of shards holds which partitions. Known from names and numbers alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache


def deal(corpora: Mapping[str, int], slots: int) -> list[dict[str, tuple[int, ...]]]:
    """Partitions per slot, ascending; ``corpora`` gives the number of partitions of each.

    Each corpus is dealt on its own, so that one that comes or goes moves no other: any two slots
    hold equally many of its partitions, or one more. From n slots to n + 1 the new one takes its
    share from the fullest and nothing else moves, so that any two numbers of slots differ by as
    few moves as balance allows. Who holds one more, and which slots of many hold a corpus of few
    partitions, is drawn by name: over many corpora it comes out even.
    """
    dealt: list[dict[str, tuple[int, ...]]] = [{} for _ in range(slots)]
    for name, partitions in sorted(corpora.items()):
        slot_of = _slots(name, partitions, slots)
        for slot in sorted(set(slot_of)):
            held = (number for number, its in enumerate(slot_of) if its == slot)
            dealt[slot][name] = tuple(held)
    return dealt


@lru_cache(maxsize=4096)
def _slots(name: str, partitions: int, slots: int) -> tuple[int, ...]:
    """The slot of each partition."""
    slot_of = [0] * partitions
    for new in range(1, slots):
        held: dict[int, list[int]] = {slot: [] for slot in range(new)}
        for number, slot in enumerate(slot_of):
            held[slot].append(number)
        for giver in _givers({slot: len(its) for slot, its in held.items()}, name, new):
            slot_of[held[giver].pop()] = new
    return tuple(slot_of)


def _givers(loads: dict[int, int], name: str, new: int) -> list[int]:
    """The slots that give a partition to the ``new`` one, the fullest first."""
    share, rest = divmod(sum(loads.values()), new + 1)
    share += _draw(name, new) % (new + 1) < rest
    givers: list[int] = []
    while len(givers) < share:
        most = max(loads.values())
        fullest = [slot for slot, load in loads.items() if load == most]
        fullest.sort(key=lambda slot: _draw(name, new, slot))
        for slot in fullest[: share - len(givers)]:
            loads[slot] -= 1
            givers.append(slot)
    return givers


def _draw(name: str, *numbers: int) -> int:
    """A number that looks random and is the same everywhere."""
    text = "/".join((name, *map(str, numbers)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
