"""Speculation that makes steps slower pauses, loses next to nothing, and comes back."""

from __future__ import annotations

import pytest

from rasd.engine.pace import Pace, Stepped
from rasd.tree import CORPUS, DRAFT, PROMPT
from tests.engine.paced import Paced
from tests.engine.test_budget import asking

PLAIN_S = 20e-3
KINDS = DRAFT | PROMPT | CORPUS


def play(
    pace: Pace,
    steps: int,
    *,
    speed: float,
    overhead: float,
    batch: int = 16,
    drafting: float = 1.0,
) -> float:
    """Tokens per step's plain time, where speculating brings ``speed`` times the tokens and takes
    ``overhead`` times the time, and ``drafting`` times that where the drafter is asked. A plain
    step takes a tenth more than its verify."""
    tokens = seconds = 0.0
    for _ in range(steps):
        used = pace.allowed(KINDS, batch)
        gained = round(batch * speed) if used else batch
        took_s = 1.1 * PLAIN_S * (overhead if used else 1.0) * (drafting if used & DRAFT else 1.0)
        pace.stepped(Stepped(KINDS, used, batch, gained, took_s, PLAIN_S, PLAIN_S))
        tokens, seconds = tokens + gained, seconds + took_s
    return tokens / seconds / (batch / (1.1 * PLAIN_S))


@pytest.mark.parametrize("batch", [1, 16, 64])
@pytest.mark.parametrize("overhead", [1.05, 1.2, 2.5])
def test_what_never_pays_costs_about_a_hundredth(batch: int, overhead: float) -> None:
    pace = Pace()
    play(pace, 200, speed=1.0, overhead=overhead, batch=batch)
    assert play(pace, 1000, speed=1.0, overhead=overhead, batch=batch) > 0.98


def test_what_pays_goes_on() -> None:
    pace = Pace()
    assert play(pace, 300, speed=1.5, overhead=1.2) > 1.2


def test_a_pause_of_the_process_stops_nothing_but_many_do() -> None:
    pace, one = Pace(), Stepped(KINDS, KINDS, 1, 2, 60 * PLAIN_S, PLAIN_S, PLAIN_S)
    for _ in range(3):
        play(pace, 80, speed=1.0, overhead=0.9, batch=1)
        pace.stepped(one)
        assert pace.allowed(KINDS, 1) == KINDS
    for _ in range(6):
        pace.stepped(one)
    assert pace.allowed(KINDS, 1) != KINDS


def test_what_always_takes_long_costs_little_all_the_same() -> None:
    pace = Pace()
    play(pace, 200, speed=1.0, overhead=12.0, batch=1)
    assert play(pace, 4000, speed=1.0, overhead=12.0, batch=1) > 0.93


def test_a_drafter_that_costs_too_much_does_not_stop_retrieval() -> None:
    pace = Pace()
    play(pace, 50, speed=2.0, overhead=1.05, drafting=3.0)
    assert pace.allowed(KINDS, 16) == PROMPT | CORPUS
    assert play(pace, 300, speed=2.0, overhead=1.05, drafting=3.0) > 1.8


def test_it_comes_back_when_it_pays_again() -> None:
    pace = Pace()
    play(pace, 400, speed=1.0, overhead=1.5)
    assert not pace.allowed(KINDS, 16)
    play(pace, 200, speed=2.0, overhead=1.2)
    assert play(pace, 100, speed=2.0, overhead=1.2) > 1.5


def test_a_new_sequence_is_looked_at_for_a_share_of_its_time() -> None:
    pace = Pace()
    play(pace, 400, speed=1.0, overhead=1.5, batch=1)
    for _ in range(100):
        if pace.allowed(KINDS, 1):
            play(pace, 1, speed=1.0, overhead=1.5, batch=1)
    assert not pace.allowed(KINDS, 1)
    pace.welcome(KINDS, 1, 10)
    assert not pace.allowed(KINDS, 1)  # too short to pay for a try
    pace.welcome(KINDS, 1, 128)
    assert pace.allowed(KINDS, 1)
    assert play(pace, 128, speed=3.0, overhead=1.5, batch=1) > 1.9
    slow = Pace()
    play(slow, 400, speed=1.0, overhead=1.5, batch=1)
    rates = []
    for _ in range(20):
        slow.welcome(KINDS, 1, 128)
        rates.append(play(slow, 128, speed=1.0, overhead=1.5, batch=1))
    assert sum(rates) / len(rates) > 0.98


def test_other_batches_are_judged_alone() -> None:
    pace = Pace()
    play(pace, 100, speed=1.0, overhead=2.0, batch=16)
    assert not pace.allowed(KINDS, 16)
    assert pace.allowed(KINDS, 1) and pace.allowed(1, 16)


def test_steps_without_gain_teach_nothing() -> None:
    pace = Pace()
    for _ in range(100):
        pace.stepped(Stepped(KINDS, KINDS, 0, 0, 1.0, 0.1, 0.1))
    assert pace.allowed(KINDS, 0)


@pytest.mark.parametrize("count", [16, 64])
def test_questions_dearer_than_believed_end_in_a_pause(count: int, seed: int) -> None:
    """The drafter is useless and the clock also moves where no part is measured."""
    house, plain = Paced(skill=0.0, seed=seed), Paced(skill=0.0, seed=seed)
    proposer = house.engine._proposer
    honest = proposer._build

    def build() -> None:
        house.clock.now += 60e-6 * len(proposer._rounds)
        honest()

    proposer._build = build  # type: ignore[method-assign]
    house.run(asking(count, 60))
    slow = house.run(asking(count, 80, first=1000))
    assert slow >= 0.975 * plain.run(asking(count, 80, "off"))
