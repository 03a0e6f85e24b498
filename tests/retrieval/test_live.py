"""Which suffixes live, against the documents they start in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.errors import InvalidRequest
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


@pytest.mark.parametrize("ordinal", [-1, 2])
def test_refuses_documents_that_are_not_there(ordinal: int) -> None:
    segment = build_segment([np.arange(3), np.arange(2)], vocabulary=3)
    with pytest.raises(InvalidRequest, match=rf"\[0, 2\); got {ordinal}"):
        Live.without(segment, np.array([ordinal]))
