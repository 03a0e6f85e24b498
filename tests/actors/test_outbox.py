"""What may wait on its way out of the engine, how long, and that nothing is lost or reordered."""

from __future__ import annotations

import random
from dataclasses import replace

from actors.outbox import Outbox
from rasd.engine.api import Output, Request, Statistics
from tests.fakes import request as make_request


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(number: int, **params: object) -> Request:
    return make_request(number, [1, 2], max_tokens=50, **params)


def said(number: int, *tokens: int, finish: str | None = None) -> Output:
    statistics = Statistics(tokens=len(tokens))
    return Output(number, list(tokens), [0] * len(tokens), statistics, finish=finish)  # type: ignore[arg-type]


def tokens_of(outputs: list[Output]) -> dict[int, list[int]]:
    return {output.sequence: output.tokens for output in outputs}


def test_the_first_and_the_last_go_at_once_and_others_by_turns() -> None:
    clock = Clock()
    box = Outbox(0.05, clock)
    box.expect(asked(1))
    assert tokens_of(box.put([said(1, 5)])) == {1: [5]}
    assert tokens_of(box.put([said(1, 6)])) == {1: [6]}  # the first turn is long due
    clock.now += 0.03
    assert box.put([said(1, 7)]) == [] and box.holds
    clock.now += 0.03
    assert tokens_of(box.put([said(1, 8, 9)])) == {1: [7, 8, 9]} and not box.holds
    assert box.put([said(1, 10)]) == []
    (last,) = box.put([said(1, 11, finish="length")])
    assert (last.tokens, last.finish) == ([10, 11], "length") and not box.holds


def test_a_sequence_that_begins_or_ends_brings_no_other() -> None:
    box = Outbox(0.05, Clock())
    for number in (1, 2, 3):
        box.expect(asked(number))
    box.put([said(1, 5), said(2, 6)])
    box.take()
    assert box.put([said(1, 7), said(2, 8)]) == []
    now = box.put([said(1, 9), said(2, finish="cancelled"), said(3, 4)])
    assert tokens_of(now) == {2: [8], 3: [4]}
    assert tokens_of(box.take()) == {1: [7, 9]} and box.take() == []


def test_who_needs_every_token_gets_it() -> None:
    for params in ({"stop": ("x",)}, {"return_origins": True}):
        box = Outbox(0.05, Clock())
        box.expect(asked(1, **params))
        assert [tokens_of(box.put([said(1, i)])) for i in range(4)] == [{1: [i]} for i in range(4)]
    box = Outbox(0.0, Clock())
    box.expect(asked(1))
    assert [tokens_of(box.put([said(1, i)])) for i in range(4)] == [{1: [i]} for i in range(4)]


def test_nothing_is_lost_and_nothing_waits_too_long() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, clock = random.Random(seed), Clock()
    box = Outbox(0.05, clock)
    expected: dict[int, list[int]] = {}
    found: dict[int, list[int]] = {}
    waiting: dict[int, float] = {}
    live: list[int] = []
    for token in range(3000):
        clock.now += rng.uniform(0, 0.03)
        if len(live) < 5 and rng.random() < 0.1:
            live.append(token)
            box.expect(asked(token, **({"stop": ("x",)} if rng.random() < 0.2 else {})))
        step = [said(n, token, finish="stop" if rng.random() < 0.02 else None) for n in live]
        for output in step:
            expected.setdefault(output.sequence, []).append(token)
            waiting.setdefault(output.sequence, clock.now)
        for output in box.put(step):
            found.setdefault(output.sequence, []).extend(output.tokens)
            assert clock.now - waiting.pop(output.sequence) < 0.05 + 0.03
            assert len(output.sources) == len(output.tokens)
        live = [n for n in live if not any(o.finish and o.sequence == n for o in step)]
    for output in box.take():
        found.setdefault(output.sequence, []).extend(output.tokens)
    assert found == expected


def test_statistics_are_the_newest() -> None:
    box = Outbox(1.0, Clock())
    box.expect(asked(1))
    box.put([said(1, 5)])
    box.take()
    box.put([replace(said(1, 6), statistics=Statistics(steps=2))])
    box.put([replace(said(1, 7), statistics=Statistics(steps=3))])
    assert [output.statistics.steps for output in box.take()] == [3]
