"""A step without some shard's answer, or any, is counted once, for who asked alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest

from rasd.engine.api import Output, Statistics
from rasd.stages import Pending, RetrieveReply, RetrieveRequest
from tests.engine.test_engine import House, check_answer
from tests.fakes import FakeRetriever, behave, gather, request


@dataclass
class Lacking(FakeRetriever):
    """Finds what there is, and says that who reads "poor" has not been told all of it.

    Attributes:
        says: what it makes of the places of those.
        far: how it answers questions behind drafted nodes.
        lacked: steps in which it said so; ``ahead`` those of questions behind drafted nodes.
    """

    says: Callable[[tuple[int, ...]], Any] = lambda places: places
    far: str = "right"
    lacked: set[int] = field(default_factory=set)
    ahead: set[int] = field(default_factory=set)

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]:
        how, self.how = self.how, "right"
        reply = super().retrieve(request).wait(0)
        self.how = how
        places = tuple(p for p, query in enumerate(request.queries) if "poor" in query.corpora)
        if places:
            (self.ahead if request.step % 2 else self.lacked).add(request.step // 2)

        def said(step: int, found: list[Any]) -> RetrieveReply:
            return RetrieveReply(step, found, self.says(places))

        manner = self.far if request.step % 2 else how
        return behave(manner, self.clock, request.step, reply.found, said)


@dataclass
class Poor(House):
    """A house whose corpora lack something."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.library = Lacking(self.corpus or "right", self.clock)
        self.retrievers[1] = self.library
        self.engine.replace_corpus(self.library)


ASKED = [
    request(number, [2 + number, 3], max_tokens=30, ignore_eos=True, corpora=corpora)
    for number, corpora in enumerate([("rich",), ("poor", "rich"), ("rich",), ()])
]


def counted(house: House) -> list[int]:
    outputs = house.run(*ASKED)
    for one in ASKED:
        check_answer(one, outputs[one.sequence])
    return [outputs[one.sequence][-1].statistics.partial_steps for one in ASKED]


def test_who_reads_what_is_lacking_counts_its_steps() -> None:
    house = Poor(drafter=None, prompt=None)
    assert counted(house) == [0, len(house.library.lacked), 0, 0]
    assert len(house.library.lacked) > 3 and not house.library.ahead
    first = next(o for o in house.outputs if o.sequence == 1)
    assert first.statistics.partial_steps == 0  # it was not asked yet, and totals are copies


def test_a_step_that_asks_twice_counts_once() -> None:
    house = Poor(drafter="half", prompt=None, scores="calibrated")
    steps = counted(house)[1]
    assert house.library.ahead & house.library.lacked
    assert steps == len(house.library.ahead | house.library.lacked)


@pytest.mark.parametrize("strange", [True, None, (), (99, -1, "a"), [1]])
def test_what_is_no_place_counts_for_nobody(strange: object) -> None:
    house = Poor(drafter=None, prompt=None)
    house.library.says = lambda places: strange
    assert counted(house) == [0, 0, 0, 0]
    assert house.library.lacked


def asking(outputs: list[Output]) -> int:
    """Steps with room for a proposal: behind the prompt, and more than a token from the end."""
    done = list(itertools.accumulate(len(output.tokens) for output in outputs))
    return sum(30 - tokens > 1 for tokens in done[:-1])


@pytest.mark.parametrize("how", ["gone", "late", "never", "raising", "garbage"])
def test_a_step_without_any_answer_counts_whether_it_was_asked_for_or_not(how: str) -> None:
    house = Poor(drafter=None, prompt=None, corpus=how)
    steps = counted(house)
    answers = gather(house.outputs)
    assert steps == [*(asking(answers[number]) for number in range(3)), 0]
    assert house.library.asked <= 3  # then the breaker is open


def test_one_answer_of_two_that_fails_counts() -> None:
    house = Poor(drafter="half", prompt=None, scores="calibrated")
    house.library.far = "gone"
    house.library.says = lambda places: ()
    steps = counted(house)
    assert 0 < steps[1] == len(house.library.ahead) < len(house.library.lacked)
    assert steps[0] > 0 == steps[3]


def test_what_the_prompt_lacks_does_not_count() -> None:
    house = Poor(drafter=None, prompt="gone")
    assert counted(house) == [0, len(house.library.lacked), 0, 0]


def test_totals_add_up_field_by_field() -> None:
    one = Statistics(*range(1, 5), {"draft": 5}, {"draft": 6}, *range(7, 9))
    other = replace(one, drafted={"draft": 50}, accepted={"draft": 60}, steps=10)
    total = one + other
    for each in fields(Statistics):
        a, b, c = (getattr(which, each.name) for which in (one, other, total))
        assert c == ({"draft": a["draft"] + b["draft"]} if isinstance(a, dict) else a + b)
    assert sum([one, other], one) == one + one + other
    assert one.drafted == {"draft": 5}
