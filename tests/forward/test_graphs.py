"""Recorded steps beside the decoder itself, with a recording that runs the forward anew.

What a CUDA graph adds, memory that must not move and sizes that must not change, is what the
recording checks: it keeps the tensors it was made with. The kernel has a slow stand-in here; it
has tests of its own.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from rasd.forward import Decoder
from rasd.forward.graphs import MOST_GRAPHS, Forward, Graphs, Size
from rasd.kv import Append
from rasd.kv.paged import MASK_BITS, PagedView
from rasd.stages import Work
from rasd.target.runner import Runner
from tests.forward.test_decoder import CPU, cache_of, model_of, path_to, random_tree
from tests.kv.models import VOCABULARY


class Again:
    """Runs the forward at every replay, into the tensors of the first time."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.outputs = forward()
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for kept, new in zip(self.outputs, self._forward(), strict=True):
            kept.copy_(new)


def seen_by(view: PagedView, item: int, row: int) -> list[int]:
    """Slots that a row of an item sees."""
    before, length = int(view.committed[item]), int(view.lengths[item])
    words, slots = view.masks[row].tolist(), []
    for place in range(length):
        node = place - before
        if node < 0 or words[node // MASK_BITS] >> node % MASK_BITS & 1:
            page = int(view.pages[item, place // view.page_size])
            slots.append(page * view.page_size + place % view.page_size)
    return slots


def attend_slowly(
    query: Tensor, key: Tensor, value: Tensor, view: PagedView, scaling: float | None
) -> Tensor:
    """Row by row and head by head."""
    assert scaling is not None
    out = torch.full((1, query.shape[2], query.shape[1], query.shape[3]), torch.nan)
    groups = query.shape[1] // key.shape[1]
    for item in range(view.items):
        for row in range(int(view.starts[item]), int(view.starts[item + 1])):
            slots = seen_by(view, item, row)
            for head in range(query.shape[1]):
                states = key[0, head // groups, slots]
                weights = torch.softmax(states @ query[0, head, row] * scaling, 0)
                out[0, row, head] = weights @ value[0, head // groups, slots]
    return out


@pytest.fixture(autouse=True)
def _without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rasd.kv.attention.attend_paged", attend_slowly)


def test_replayed_steps_are_what_the_decoder_computes(seed: int) -> None:
    model = model_of("qwen3", seed)
    twin_model = deepcopy(model)
    cache, twin_cache = cache_of(model), cache_of(twin_model)
    graphs = Graphs(Decoder(model, 256), cache, CPU, Again)
    runner, twin = Runner(graphs, cache, CPU), Runner(Decoder(twin_model, 256), twin_cache, CPU)
    rng = np.random.default_rng(seed)
    for sequence in (0, 1, 2):
        cache.open(sequence)
        twin_cache.open(sequence)
    for step in range(9):
        asked = [0, 1, 2][: 1 + step % 2]
        works = []
        for sequence in asked:
            nodes = int(rng.choice([1, 5, 7]))
            tokens = rng.integers(0, VOCABULARY, nodes).astype(np.int32)
            decided = nodes if step == 0 else 1
            parents = np.arange(-1, nodes - 1) if step == 0 else random_tree(rng, nodes)
            works.append(
                Work(sequence, tokens, parents.astype(np.int32), decided, bool(rng.integers(2)))
            )
        found, expected = runner.forward(works), twin.forward(works)
        torch.testing.assert_close(found.hidden, expected.hidden, atol=1e-5, rtol=1e-4)
        for ours, theirs in zip(found.logits, expected.logits, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert found.attended == expected.attended
        for work in works:
            kept = path_to(work.parents, len(work.tokens) - 1)
            cache.commit(work.sequence, kept)
            twin_cache.commit(work.sequence, kept)
    assert any(graph.recording.replays > 1 for graph in graphs._graphs.values())  # type: ignore[attr-defined]


def test_a_size_holds_a_step_and_what_is_left_over() -> None:
    model = model_of("llama", 0)
    cache = cache_of(model)
    cache.open(0)
    cache.open(1)
    items = cache.plan([append(0, 17), append(1, 1)]).items
    assert Size.of(items) == Size(24, 4, 32)
    cache.commit_all({0: [], 1: []})
    assert Size.of(cache.plan([append(0, 1)]).items) == Size(1, 2, 1)
    cache.commit(0, [])
    assert Size.of(cache.plan([append(0, 513)]).items) is None


def test_the_oldest_recording_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rasd.forward.graphs.MOST_GRAPHS", 2)
    assert MOST_GRAPHS > 2
    model = model_of("llama", 0)
    cache = cache_of(model)
    cache.open(0)
    graphs = Graphs(Decoder(model, 256), cache, CPU, Again)
    runner = Runner(graphs, cache, CPU)
    for nodes in (1, 2, 4, 1):
        tokens = np.arange(nodes, dtype=np.int32)
        parents = np.arange(-1, nodes - 1, dtype=np.int32)
        runner.forward([Work(0, tokens, parents, 1, True)])
        cache.commit(0, [0])
    assert [size.rows for size in graphs._graphs] == [4, 1]


def append(sequence: int, rows: int) -> Append:
    return Append(sequence, np.arange(-1, rows - 1, dtype=np.int32))
