"""Partitions are dealt once each, evenly, the same everywhere, and move as little as possible."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from rasd.retrieval.deal import deal

NAMES = st.text("abcdefgh-.", min_size=1, max_size=8)
CORPORA = st.dictionaries(NAMES, st.integers(1, 40), max_size=6)


def slots_of(corpora: dict[str, int], slots: int) -> dict[tuple[str, int], int]:
    """The slot of every partition; each is dealt once."""
    found: dict[tuple[str, int], int] = {}
    for slot, held in enumerate(deal(corpora, slots)):
        for name, partitions in held.items():
            assert partitions and list(partitions) == sorted(partitions)
            for partition in partitions:
                assert (name, partition) not in found
                found[name, partition] = slot
    assert set(found) == {(name, p) for name, count in corpora.items() for p in range(count)}
    return found


@given(CORPORA, st.integers(1, 20))
@example({}, 2)
def test_every_corpus_is_spread_evenly(corpora: dict[str, int], slots: int) -> None:
    dealt = slots_of(corpora, slots)
    assert len(deal(corpora, slots)) == slots
    for name, count in corpora.items():
        loads = Counter(slot for (its, _), slot in dealt.items() if its == name)
        assert all(loads[slot] in (count // slots, -(-count // slots)) for slot in range(slots))


@given(CORPORA, st.integers(1, 20), st.integers(1, 20))
def test_only_what_enters_or_leaves_a_slot_that_comes_or_goes_moves(
    corpora: dict[str, int], one: int, other: int
) -> None:
    few, many = slots_of(corpora, min(one, other)), slots_of(corpora, max(one, other))
    for partition, slot in many.items():
        assert slot >= min(one, other) or few[partition] == slot


@given(CORPORA, NAMES, st.integers(1, 20))
def test_a_corpus_that_comes_or_goes_moves_no_other(
    corpora: dict[str, int], name: str, slots: int
) -> None:
    rest = {its: count for its, count in corpora.items() if its != name}
    more = slots_of({**rest, name: 7}, slots)
    assert slots_of(rest, slots) == {key: slot for key, slot in more.items() if key[0] != name}


def test_many_small_corpora_come_out_even() -> None:
    for slots in (3, 8, 13):
        loads = Counter(slots_of({f"corpus-{i}": 4 for i in range(300)}, slots).values())
        fair = 1200 / slots
        assert all(0.7 * fair < loads[slot] < 1.3 * fair for slot in range(slots))


def test_the_same_in_every_process_and_version() -> None:
    """A controller that restarts must deal as its predecessor did."""
    assert deal({"stdlib": 4, "notes": 5}, 3) == [
        {"notes": (0, 1), "stdlib": (0, 1)},
        {"notes": (3,), "stdlib": (2,)},
        {"notes": (2, 4), "stdlib": (3,)},
    ]


def test_the_largest_is_dealt_at_once() -> None:
    slots_of({"large": 1024}, 256)
