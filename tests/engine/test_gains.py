"""Sources are asked where they pay, rarely where they do not, and again when they do."""

from __future__ import annotations

import itertools

from rasd.engine.gains import DraftGains, Prospects, RecentGains


def prospects(cost_s: float = 4e-3, each_s: float = 1e-3) -> Prospects:
    found = Prospects(1e-9, 8, share=0.005, least=1 / 8)
    for count in (1, 2, 4, 8, 16):
        for _ in range(20):
            found.cost.observe(count, 0, cost_s + each_s * count)
    return found


def test_those_are_chosen_together_whose_gains_pay_for_all() -> None:
    asking = prospects()
    assert asking.choose([1, 2], [1.0, 1.0], token_s=10e-3) == [1, 2]
    assert asking.choose([1, 2], [0.0, 0.0], token_s=1e-3) == []
    # Two bring 2 x 1.5 ms, less than the 6 ms that they cost; of sixteen all pay together.
    assert asking.choose([1, 2], [1.5, 1.5], token_s=1e-3) == []
    assert len(prospects().choose(list(range(16)), [1.5] * 16, token_s=1e-3)) == 16
    gains = [2.0] * 4 + [0.1] * 4
    assert asking.choose(list(range(8)), gains, token_s=2e-3) == [0, 1, 2, 3]


def test_what_does_not_pay_is_tried_less_and_less() -> None:
    asking = prospects()
    asked = []
    for step in range(20_000):
        if asking.choose([1], [0.0], token_s=10e-3):
            asked.append(step)
        asking.pass_time(10e-3)
    pauses = [b - a for a, b in itertools.pairwise(asked)]
    assert all(b >= a - 1 for a, b in itertools.pairwise(pauses))
    assert pauses[-1] >= 4 * pauses[0]
    assert len(asked) * 5e-3 < 0.005 * 20_000 * 10e-3
    assert asking.choose([1], [1.0], token_s=10e-3) == [1]


def test_a_new_sequence_is_asked_for_once_if_it_is_long_enough() -> None:
    asking = prospects()  # one costs 5 ms
    for step in range(300):  # nothing is saved any more
        asking.choose([step], [0.0], token_s=10e-3)
    assert asking.choose([1000], [0.0], 10e-3, None, {1000: 4e-3}) == []
    assert asking.choose([1000, 1001], [0.0] * 2, 10e-3, None, {1001: 6e-3}) == [1001]
    assert asking.choose([1000, 1001], [0.0] * 2, 10e-3, None, {1001: 6e-3}) == []
    assert asking.choose([1002], [0.0], 10e-3, {1002: 2e-3}, {1002: 6e-3}) == []


def test_all_take_turns_at_being_tried() -> None:
    asking = prospects(1e-4, 1e-5)
    tried: set[int] = set()
    for _ in range(2000):
        tried |= set(asking.choose(list(range(64)), [0.0] * 64, token_s=1e-3))
        asking.pass_time(10e-3)
    assert tried == set(range(64))


def test_recent_gains_fade_and_come_back_at_once() -> None:
    gains = RecentGains(0.3)
    for _ in range(20):
        gains.learn("a", 1, 0.0)
    assert gains.expected("a", 1) < 0.01
    gains.learn("a", 1, 4.0)
    assert gains.expected("a", 1) >= 1.0
    gains.forget(1)
    assert gains.expected("a", 1) == gains.expected("a", 2) < 0.3


def test_a_new_sequence_begins_as_the_last_ones_of_its_tenant_began() -> None:
    gains = RecentGains(0.3)
    for number in range(8):
        assert gains.expected("b", 100) == 0.3
        gains.learn("a", number, 4.0)
        gains.learn("a", number, 0.0)  # how it went on tells nothing of how others begin
    assert gains.expected("a", 100) > 3.0
    for number in range(100, 140):
        gains.learn("a", number, 0.0)
    assert gains.expected("a", 200) == 0.15  # never so little that it is not asked any more


def test_a_draft_gains_less_where_much_was_retrieved() -> None:
    gains = DraftGains()
    for number in range(200):
        gains.learn("a", number, 0.0, 1, 2.0)
        gains.learn("a", number, 3.0, 1, 0.2)
    assert gains.expected("a", 1000, 0.0, 1) > 1.8
    assert gains.expected("a", 1000, 3.0, 1) < 0.4
    assert gains.expected("b", 1000, 3.0, 1) == DraftGains().expected("b", 0, 3.0, 1)


def test_a_text_that_the_drafter_does_not_know_is_told_apart() -> None:
    gains = DraftGains()
    for _ in range(4):
        gains.learn("a", 1, 0.0, 8, 0.05)
        gains.learn("a", 2, 0.0, 8, 3.0)
    assert gains.expected("a", 1, 0.0, 8) < 0.4 < 1.5 < gains.expected("a", 2, 0.0, 8)
    gains.forget(1)
    assert gains.expected("a", 1, 0.0, 8) > 0.5
