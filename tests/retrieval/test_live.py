"""Which suffixes live, against the documents they start in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.errors import InvalidRequest
from rasd.retrieval import live as live_module
from rasd.retrieval.live import Live
from rasd.retrieval.segment import build_segment


@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=5),
    dead=st.lists(st.integers(0, 4)),
)
def test_counts_what_lives(lengths: list[int], dead: list[int]) -> None:
    dead = [ordinal for ordinal in dead if ordinal < len(lengths)]
    segment = build_segment([np.arange(n) % 7 for n in lengths], vocabulary=7)
    live = Live.without(segment, np.array(dead, np.int64))
    ordinals, _ = segment.locate(segment.suffixes)
    wanted = ~np.isin(ordinals, dead)
    bits = np.unpackbits(live.blocks[:, 1].copy().view(np.uint8), bitorder="little")
    assert bits[: len(wanted)].tolist() == wanted.tolist()
    assert not bits[len(wanted) :].any()
    assert live.blocks[:, 0].tolist() == [
        int(wanted[:rank].sum()) for rank in range(0, len(wanted) + 1, 64)
    ]
    assert live.tokens == wanted.sum()
    assert live.documents == len(lengths) - len(set(dead))


@pytest.mark.parametrize(
    ("lookup", "steps", "possible"),
    [(0, 1e6, True), (0, 0.0, False), (2048, 0.5, False)],
    ids=["looked up", "given up", "read off"],
)
@given(
    texts=st.lists(st.lists(st.integers(0, 2), max_size=70), min_size=1, max_size=6),
    repeats=st.lists(st.integers(0, 5), max_size=3),
    first=st.sets(st.integers(0, 8)),
    later=st.sets(st.integers(0, 8)),
)
def test_both_ways_say_the_same(
    lookup: int,
    steps: float,
    possible: bool,
    texts: list[list[int]],
    repeats: list[int],
    first: set[int],
    later: set[int],
) -> None:
    """Also where documents repeat others, and where some had died before."""
    texts += [texts[i] for i in repeats if i < len(texts)]
    segment = build_segment([np.array(text, np.int64) for text in texts], vocabulary=3)
    dead = np.array(sorted(i for i in first if i < len(texts)), np.int64)
    more = np.array(sorted(i for i in first | later if i < len(texts)), np.int64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(live_module, "_LOOKUP", lookup)
        patched.setattr(live_module, "_STEPS", steps)
        before = Live.without(segment, dead)
        after = Live.without(segment, more, before)
        unrelated = Live.without(segment, dead, after)  # what it holds dead lives
        if possible:
            assert live_module._looked_up(segment, more, None) is not None
    for found, wanted in ((before, dead), (after, more), (unrelated, dead)):
        slow = live_module._read_off(segment, wanted)
        tokens = live_module._count(slow)
        assert np.array_equal(found.blocks, slow)
        assert (found.tokens, found.documents) == (tokens, len(texts) - len(wanted))
        assert found.dead.tolist() == wanted.tolist()
        assert not found.blocks.flags.writeable


@pytest.mark.parametrize("ordinal", [-1, 2])
def test_refuses_documents_that_are_not_there(ordinal: int) -> None:
    segment = build_segment([np.arange(3), np.arange(2)], vocabulary=3)
    with pytest.raises(InvalidRequest, match=rf"\[0, 2\); got {ordinal}"):
        Live.without(segment, np.array([ordinal]))
