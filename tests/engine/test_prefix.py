"""What the target has of a text already, and the count of pages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasd.engine.api import Request
from rasd.stages import Admission, Pending, Ready, VerifyReply, VerifyRequest
from tests.engine.test_engine import House, check_answer
from tests.fakes import INFO, VOCABULARY, FakeTarget, gather, plain_tokens, request

SHARED = [2 + (7 * i) % (VOCABULARY - 2) for i in range(60)]


def owned(sequence: int, prompt: list[int], tenant: str = "", **params: Any) -> Request:
    return replace(request(sequence, prompt, **params), tenant=tenant)


def steps_of(house: House, one: Request) -> int:
    """Steps until a request's end; its text is checked."""
    house.engine.add(one)
    steps = 0
    while house.engine.has_work:
        house.step()
        steps += 1
    check_answer(one, gather(house.outputs)[one.sequence])
    return steps


def test_a_known_prompt_needs_two_steps_instead_of_one_per_chunk() -> None:
    house = House(chunk_tokens=8)
    answer = {"max_tokens": 1}
    first = steps_of(house, owned(0, SHARED, **answer))
    assert steps_of(house, owned(1, SHARED, **answer)) <= first - 6
    assert steps_of(house, owned(2, SHARED, "ben", **answer)) == first
    gauges = house.engine.gauges()
    assert (gauges.prefix_queries, gauges.prefix_hits) == (180, 56)


prompts = st.tuples(st.integers(0, 30), st.lists(st.integers(2, 5), min_size=1, max_size=4)).map(
    lambda parts: SHARED[: parts[0]] + parts[1]
)


@settings(max_examples=80)
@given(
    st.lists(st.tuples(prompts, st.sampled_from(["a", "b"]), st.integers(1, 20)), min_size=2),
    st.sampled_from([64, 96, 1024]),
    st.sampled_from([4, 16, 64]),
    st.sampled_from([1, 4, 16]),
)
def test_pages_are_counted_exactly_whatever_is_there(
    asked: list[tuple[list[int], str, int]], kv_slots: int, chunk_tokens: int, page_size: int
) -> None:
    house = House(kv_slots=kv_slots, chunk_tokens=chunk_tokens, page_size=page_size, nodes=32)
    sent = [
        owned(i, prompt, tenant, max_tokens=tokens)
        for i, (prompt, tenant, tokens) in enumerate(asked)
    ]
    for at, one in enumerate(sent):
        house.engine.add(one)
        if at % 3 == 0:
            house.step()
    answers = house.run()
    for one in sent:
        check_answer(one, answers[one.sequence])


def test_a_sequence_keeps_its_tenant_with_another_target() -> None:
    house = House()
    house.engine.add(owned(0, SHARED, "anna", max_tokens=20))
    house.step()
    house.replace_target()
    house.step()
    (held,) = house.targets[-1].held.values()
    assert held.admission.tenant == "anna"
    house.run()


@dataclass
class Boaster(FakeTarget):
    """Says that it holds more than can be."""

    claim: int = 0

    def __post_init__(self) -> None:
        super().__init__(INFO)

    def verify(self, asked: VerifyRequest) -> Pending[VerifyReply]:
        reply = super().verify(asked).wait(1.0)
        results = [replace(result, slots=self.claim) for result in reply.results]
        return Ready(replace(reply, results=results))


@pytest.mark.parametrize("claim", [0, 8, 60, 61, -2])
def test_a_target_that_claims_too_much_is_not_believed(claim: int) -> None:
    house = House(chunk_tokens=8)
    house.targets = [Boaster(claim)]
    house.engine.replace_target(house.targets[0])
    outputs = house.run(owned(0, SHARED, max_tokens=3))[0]
    assert outputs[-1].finish == "error"
    assert "internal error" in outputs[-1].error


def test_the_fake_finds_what_a_target_would() -> None:
    target = FakeTarget()
    prompt = np.asarray(SHARED, np.int32)
    none = np.zeros(0, np.int32)
    params = request(0, SHARED).params
    for sequence, tenant in enumerate(("a", "a", "b")):
        admission = Admission(sequence, prompt, none, params, tenant=tenant)
        target.verify(VerifyRequest(sequence, [], [admission], []))
        target.held[sequence].slots = 60
    assert [held.found for held in target.held.values()] == [0, 56, 0]
    assert plain_tokens(request(0, SHARED, max_tokens=1))
