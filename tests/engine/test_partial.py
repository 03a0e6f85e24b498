"""An answer that lacks some shard's is counted, once a step, for whom it was given to alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest

from rasd.engine.api import Statistics
from rasd.stages import Pending, RetrieveReply, RetrieveRequest
from tests.engine.test_engine import House, check_answer
from tests.fakes import FakeRetriever, behave, request


@dataclass
class Lacking(FakeRetriever):
    """Finds what there is, and says that who reads "poor" has not been told all of it.

    Attributes:
        says: what it makes of the places of those.
        lacked: steps in which it said so; ``ahead`` those of questions behind drafted nodes.
    """

    says: Callable[[tuple[int, ...]], Any] = lambda places: places
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

        return behave(how, self.clock, request.step, reply.found, said)


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


def test_an_answer_that_is_late_counts_when_it_is_used() -> None:
    house = Poor(drafter=None, prompt=None, corpus="late")
    assert counted(house)[1] == 3 == len(house.library.lacked)  # then the breaker is open


@pytest.mark.parametrize("strange", [True, None, (), (99, -1, "a"), [1]])
def test_what_is_no_place_counts_for_nobody(strange: object) -> None:
    house = Poor(drafter=None, prompt=None)
    house.library.says = lambda places: strange
    assert counted(house) == [0, 0, 0, 0]
    assert house.library.lacked


@pytest.mark.parametrize("how", ["gone", "never", "raising", "garbage"])
def test_no_answer_is_not_a_partial_one(how: str) -> None:
    house = Poor(drafter=None, prompt=None, corpus=how)
    assert counted(house)[0] == 0


def test_totals_add_up_field_by_field() -> None:
    one = Statistics(*range(1, 5), {"draft": 5}, {"draft": 6}, *range(7, 9))
    other = replace(one, drafted={"draft": 50}, accepted={"draft": 60}, steps=10)
    total = one + other
    for each in fields(Statistics):
        a, b, c = (getattr(which, each.name) for which in (one, other, total))
        assert c == ({"draft": a["draft"] + b["draft"]} if isinstance(a, dict) else a + b)
    assert sum([one, other], one) == one + one + other
    assert one.drafted == {"draft": 5}
