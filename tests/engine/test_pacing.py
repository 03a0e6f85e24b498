"""What whole steps took reaches the pace: pauses of the machine are nobody's loss."""

from __future__ import annotations

import pytest

from rasd.config import SpeculationConfig
from rasd.engine.budget import Budget, Load
from rasd.engine.pace import Pace
from rasd.engine.pacing import Pacing
from rasd.engine.scheduler import Planned, StepPlan
from rasd.engine.sequence import Sequence
from rasd.stages import VerifyReply
from rasd.tree import CORPUS, DRAFT, PROMPT, DraftTree
from tests.engine.paced import verify_s
from tests.engine.test_budget import learned
from tests.fakes import FakeClock, request

KINDS = DRAFT | PROMPT | CORPUS
ALONE = Load(1, 1, 100)
TREE = DraftTree.of([1] * 8, range(-1, 7), [1.0] * 8, [0] + [DRAFT] * 7)


def running(number: int, decided: int = 0) -> Sequence:
    sequence = Sequence.of(request(number, [1, 2], max_tokens=128))
    sequence.handle, sequence.slots = number, 100
    sequence.tokens += [3] * decided
    return sequence


def play(pacing: Pacing, budget: Budget, clock: FakeClock, steps: int, slow: float) -> int:
    """Steps of 8 rows that bring two tokens and take ``slow`` times as long as usual, of which the
    budget was told; how many of them speculated."""
    plan = StepPlan(work=[Planned(running(1), True, TREE)])
    speculated = 0
    for _ in range(steps):
        used = pacing.begin(KINDS, ALONE)
        speculated += bool(used)
        since_s = clock.now
        clock.now += slow * verify_s(8 if used else 1, 100)
        budget.verified(8 if used else 1, 100, since_s)
        reply = VerifyReply(0, [], 0.0, 0.0, 0, 0)
        pacing.stepped(plan, reply, 2 if used else 1, since_s, asked=True)
    return speculated


def test_pauses_of_the_machine_stop_nothing() -> None:
    clock = FakeClock()
    budget = learned(clock)
    pacing = Pacing(budget, clock, weighs=True)
    assert play(pacing, budget, clock, 20, slow=1.0) == 20
    for _ in range(40):
        assert play(pacing, budget, clock, 1, slow=3.0) == 1
        assert play(pacing, budget, clock, 1, slow=1.0) == 1


def test_a_verify_is_slow_beside_what_is_usual() -> None:
    clock = FakeClock()
    budget = learned(clock)
    for slow, expected in ((1.0, 1.0), (0.5, 1.0), (3.0, 2.7), (1.0, 1.0), (50.0, 4.0)):
        since_s = clock.now
        clock.now += slow * verify_s(8, 100)
        budget.verified(8, 100, since_s)
        assert budget.slowness == pytest.approx(expected, rel=0.15)
    budget.verified(8, -1, clock.now)
    assert budget.slowness == 1.0


def test_what_tokens_cost_lately_is_known_but_not_from_prompts_and_pauses() -> None:
    clock = FakeClock()
    budget = learned(clock)
    pacing = Pacing(budget, clock, weighs=True)
    play(pacing, budget, clock, 40, slow=1.0)
    usual_s = budget.rate.token_s(1)
    assert usual_s == pytest.approx(verify_s(8, 100) / 2, rel=0.05)
    play(pacing, budget, clock, 10, slow=5.0)
    entering = StepPlan(work=[Planned(running(1), True, chunk=64)])
    pacing.begin(KINDS, ALONE)
    since_s = clock.now
    clock.now += 0.5
    pacing.stepped(entering, VerifyReply(0, [], 0.0, 0.0, 0, 0), 1, since_s, asked=False)
    assert budget.rate.token_s(1) == usual_s


def test_only_what_begins_is_welcomed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    budget = Budget(SpeculationConfig(), clock)
    pacing = Pacing(budget, clock, weighs=True)
    welcomed: list[int] = []
    monkeypatch.setattr(Pace, "welcome", lambda *told: welcomed.append(told[-1]))
    pacing.admit(running(1))
    pacing.admit(running(2, decided=5))  # it was set back
    pacing.admit(running(3))
    pacing.retire(3)
    pacing.begin(KINDS, ALONE)
    pacing.begin(KINDS, ALONE)
    assert welcomed == [128]


def test_without_weighing_everything_is_used() -> None:
    clock = FakeClock()
    budget = learned(clock)
    pacing = Pacing(budget, clock, weighs=False)
    plan = StepPlan(work=[Planned(running(1), True, TREE)])
    for _ in range(50):
        assert pacing.begin(KINDS, ALONE) == KINDS
        pacing.stepped(plan, VerifyReply(0, [], 0.0, 0.0, 0, 0), 1, clock.now - 9.0, asked=True)
