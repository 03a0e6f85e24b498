"""Whatever the stages do and whoever comes and goes, text is the target's own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasd.config import EngineConfig, RetrievalConfig, SpeculationConfig
from rasd.engine.api import EngineSettings, Output, Request
from rasd.engine.engine import Engine
from rasd.errors import ConfigError, InvalidRequest, StageTimeout, StageUnavailable
from rasd.params import SPECULATIONS
from rasd.stages import Ready, VerifyReply
from rasd.tree import CORPUS, DRAFT, PROMPT
from tests.fakes import (
    BEHAVIOURS,
    EOS,
    INFO,
    VOCABULARY,
    FakeClock,
    FakeDrafter,
    FakeRetriever,
    FakeTarget,
    gather,
    next_token,
    plain_tokens,
    request,
)

MAX_STEPS = 5000


@dataclass
class House:
    """An engine with all its stages, and everything they said."""

    nodes: int = 8
    budget: str = "fixed"
    scores: str = "static"
    combine: str = "fuse"
    kv_slots: int = 1024
    page_size: int = 4
    max_sequences: int = 8
    chunk_tokens: int = 16
    drafter: str | None = "right"
    prompt: str | None = "right"
    corpus: str | None = "right"
    clock: FakeClock = field(default_factory=FakeClock)
    outputs: list[Output] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.targets = [self.new_target()]
        self.drafters = [FakeDrafter(self.drafter, clock=self.clock)] if self.drafter else []
        self.retrievers = [
            FakeRetriever(how, self.clock) if how else None for how in (self.prompt, self.corpus)
        ]
        self.engine = Engine(
            self.targets[0],
            EngineSettings(
                EngineConfig(max_sequences=self.max_sequences, chunk_tokens=self.chunk_tokens),
                self.speculation(),
                RetrievalConfig(),
            ),
            drafter=self.drafters[0] if self.drafters else None,
            prompt=self.retrievers[0],
            corpus=self.retrievers[1],
            eos=frozenset({EOS}),
            clock=self.clock,
        )

    def speculation(self) -> SpeculationConfig:
        chosen = {"budget": self.budget, "scores": self.scores, "combine": self.combine}
        return SpeculationConfig.model_validate({"nodes": self.nodes, **chosen})

    def new_target(self) -> FakeTarget:
        return FakeTarget(replace(INFO, kv_slots=self.kv_slots, page_size=self.page_size))

    def replace_target(self) -> None:
        self.targets.append(self.new_target())
        self.engine.replace_target(self.targets[-1])

    def replace_drafter(self, how: str | None) -> None:
        new = [FakeDrafter(how, clock=self.clock)] if how else []
        self.drafters = [*self.drafters[:-1], *new]
        self.engine.replace_drafter(new[0] if new else None)

    def step(self) -> list[Output]:
        outputs = self.engine.step()
        self.engine.check_integrity()
        self.outputs += outputs
        return outputs

    def run(self, *requests: Request) -> dict[int, list[Output]]:
        for one in requests:
            self.engine.add(one)
        for _ in range(MAX_STEPS):
            if not self.engine.has_work:
                break
            self.step()
        self.check_end()
        return gather(self.outputs)

    def check_end(self) -> None:
        """Nothing is left anywhere, and nobody broke the contract."""
        assert not self.engine.has_work
        assert self.targets[-1].held == {}
        gauges = self.engine.gauges()
        assert (gauges.running, gauges.waiting, gauges.kv_slots_used) == (0, 0, 0)
        told = ("raising", "gone", "never", "late", "garbage")
        for drafter in self.drafters[-1:]:
            assert drafter.how in told or drafter.texts == {}
        for retriever in self.retrievers:
            assert retriever is None or retriever.texts == {}
        for stage in (*self.targets, *self.drafters, *filter(None, self.retrievers)):
            assert stage.violations == []


def check_answer(one: Request, outputs: list[Output], *, cancelled: bool = False) -> None:
    """One finish, at the end; the plain tokens; totals that add up."""
    assert [o.finish for o in outputs[:-1]] == [None] * (len(outputs) - 1)
    finish = outputs[-1].finish
    tokens = [token for o in outputs for token in o.tokens]
    expected = plain_tokens(one)
    if finish == "cancelled":
        assert cancelled
        assert tokens == expected[: len(tokens)]
    else:
        assert tokens == expected
        ended = one.params.stop_token_ids + (() if one.params.ignore_eos else (EOS,))
        assert finish == ("stop" if tokens[-1] in ended else "length")
    check_totals(one, outputs, tokens)


def check_totals(one: Request, outputs: list[Output], tokens: list[int]) -> None:
    last = outputs[-1].statistics
    sources = [bits for o in outputs for bits in o.sources]
    assert len(sources) == len(tokens) == last.tokens
    assert sum(bits > 0 for bits in sources) == last.accepted_nodes <= last.nodes
    for name, bit in (("draft", DRAFT), ("prompt", PROMPT), ("corpus", CORPUS)):
        assert sum(bool(bits & bit) for bits in sources) == last.accepted[name]
        assert last.accepted[name] <= last.drafted[name] <= last.nodes
    if one.params.logprobs is not None:
        assert [-entry.logprob for o in outputs for entry in o.logprobs] == tokens
    else:
        assert all(o.logprobs == [] for o in outputs)


# --- any mix ------------------------------------------------------------------------------------

prompts = st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=40)
requests = st.builds(
    dict,
    prompt=prompts,
    max_tokens=st.integers(1, 40),
    temperature=st.sampled_from([0.0, 0.7]),
    seed=st.integers(0, 3),
    choice=st.integers(0, 2),
    speculation=st.sampled_from(SPECULATIONS),
    nodes=st.sampled_from([None, None, 0, 1, 5, 40]),
    ignore_eos=st.booleans(),
    stop_token_ids=st.sampled_from([(), (), (3, 9)]),
    logprobs=st.sampled_from([None, None, 0]),
)
behaviours = st.sampled_from([None, "right", "right", *BEHAVIOURS])
houses = st.fixed_dictionaries(
    {
        "nodes": st.sampled_from([0, 1, 4, 8, 32]),
        "budget": st.sampled_from(["fixed", "auto"]),
        "scores": st.sampled_from(["static", "calibrated"]),
        "combine": st.sampled_from(["fuse", "fuse", "route"]),
        "kv_slots": st.sampled_from([96, 128, 200, 1024]),
        "page_size": st.sampled_from([1, 4, 16]),
        "max_sequences": st.integers(1, 6),
        "chunk_tokens": st.sampled_from([1, 7, 16, 64]),
        "drafter": behaviours,
        "prompt": behaviours,
        "corpus": behaviours,
    }
)
happenings = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(["submit", "submit", "submit", "cancel", "target", "drafter", "corpus"]),
        requests,
        behaviours,
    ),
    max_size=14,
)


class Play:
    """A house in which things happen."""

    def __init__(self, rooms: dict[str, Any]) -> None:
        self.house = House(**rooms)
        self.sent: dict[int, Request] = {}
        self.cancelled: set[int] = set()

    def happen(self, what: str, values: dict[str, Any], how: str | None) -> None:
        house = self.house
        match what:
            case "submit":
                one = request(len(self.sent), **values)
                house.engine.add(one)
                self.sent[one.sequence] = one
            case "cancel":
                number = values["seed"] % len(self.sent)
                house.engine.cancel(number)
                self.cancelled.add(number)
            case "target":
                house.replace_target()
            case "drafter":
                house.replace_drafter(how)
            case "corpus":
                house.retrievers[1] = FakeRetriever(how, house.clock) if how else None
                house.engine.replace_corpus(house.retrievers[1])

    def check(self) -> None:
        self.house.check_end()
        answers = gather(self.house.outputs)
        assert answers.keys() == self.sent.keys()
        for number, one in self.sent.items():
            check_answer(one, answers[number], cancelled=number in self.cancelled)


@settings(max_examples=250)
@given(houses, happenings, st.lists(requests, min_size=1, max_size=4))
def test_any_mix_gives_the_plain_tokens(
    rooms: dict[str, Any], later: list[tuple[int, str, Any, Any]], first: list[Any]
) -> None:
    play = Play(rooms)
    for values in first:
        play.happen("submit", values, None)
    for step in range(MAX_STEPS):
        for at, what, values, how in later:
            if at == step:
                play.happen(what, values, how)
        play.house.clock.now += 0.01
        play.house.step()
        if not play.house.engine.has_work and step > 40:
            break
    play.check()


@pytest.mark.parametrize("mode", SPECULATIONS)
@pytest.mark.parametrize("how", ["right", "half"])
def test_every_source_helps_in_its_modes(mode: str, how: str) -> None:
    house = House(drafter=how, prompt=how, corpus=how)
    sent = [
        request(i, [2 + i, 5, 7], max_tokens=30, ignore_eos=True, speculation=mode)
        for i in range(4)
    ]
    answers = house.run(*sent)
    asked = {"draft", "prompt", "corpus"} if mode == "rasd" else {mode} - {"off"}
    for one in sent:
        check_answer(one, answers[one.sequence])
        totals = answers[one.sequence][-1].statistics
        for name in ("draft", "prompt", "corpus"):
            assert (totals.drafted[name] > 0) == (name in asked)
            assert (totals.accepted[name] > 0) == (name in asked)
        if mode == "off":
            assert totals.acceptance_length == 1
            assert totals.steps == 30
        elif how == "right":
            assert totals.acceptance_length > 2
    assert (house.drafters[0].asked > 0) == ("draft" in asked)
    assert house.retrievers[1] is not None
    assert house.retrievers[1].corpora == ({"c"} if "corpus" in asked else set())


@pytest.mark.parametrize(("nodes", "asked"), [(6, None), (6, 3), (6, 20), (0, None)])
def test_a_tree_keeps_to_its_budget(nodes: int, asked: int | None) -> None:
    house = House(nodes=nodes)
    one = request(0, [2, 3], max_tokens=90, ignore_eos=True, nodes=asked)
    totals = house.run(one)[0][-1].statistics
    budget = nodes if asked is None else asked
    assert house.targets[0].largest == max(budget + 1, 2)  # the prompt has two tokens
    assert totals.nodes <= totals.steps * budget


def test_a_sequence_without_corpora_asks_none() -> None:
    house = House()
    house.run(request(0, [2, 3], max_tokens=20, corpora=()), request(1, [2, 3], corpora=None))
    assert house.retrievers[1] is not None
    assert house.retrievers[1].asked == 0


@pytest.mark.parametrize("how", ["right", "late", "garbage", None])
@pytest.mark.parametrize(("kv_slots", "max_sequences"), [(64, 1), (256, 1), (2048, 8), (8192, 64)])
def test_a_rehearsal_leaves_nothing_behind(
    how: str | None, kv_slots: int, max_sequences: int
) -> None:
    house = House(kv_slots=kv_slots, max_sequences=max_sequences, drafter=how, budget="auto")
    house.engine.warm_up()
    house.check_end()
    assert how == "late" or house.targets[0].largest == (0 if kv_slots < 256 else 64)
    one = request(0, [2, 3], max_tokens=20)
    check_answer(one, house.run(one)[0])


# --- ends ---------------------------------------------------------------------------------------


def long_answer(prompt: list[int], count: int) -> list[int]:
    return plain_tokens(request(0, prompt, max_tokens=count, ignore_eos=True))


@pytest.mark.parametrize("mode", ["off", "rasd"])
@pytest.mark.parametrize("count", range(1, 14))
def test_max_tokens_is_exact(mode: str, count: int) -> None:
    one = request(0, [4, 6], max_tokens=count, ignore_eos=True, speculation=mode)
    answer = House().run(one)[0]
    assert [t for o in answer for t in o.tokens] == long_answer([4, 6], count)
    assert answer[-1].finish == "length"
    assert answer[-1].statistics.tokens == count


@pytest.mark.parametrize("position", range(12))
def test_a_stop_token_inside_an_accepted_block_ends_there(position: int) -> None:
    plain = long_answer([4, 6], 12)
    stop = plain[position]
    first = plain.index(stop)
    one = request(0, [4, 6], max_tokens=12, ignore_eos=True, stop_token_ids=(stop,))
    house = House(nodes=32)
    answer = house.run(one)[0]
    assert [t for o in answer for t in o.tokens] == plain[: first + 1]
    assert answer[-1].finish == "stop"
    assert len(answer) <= 1 + first // 2 + 1
    assert answer[-1].statistics.tokens == first + 1


def test_the_end_of_sequence_token_is_the_last_one() -> None:
    ended = 0
    for a, b in itertools.product(range(2, VOCABULARY), repeat=2):
        one = request(0, [a, b], max_tokens=40)
        plain = plain_tokens(one)
        if plain[-1] == EOS and ended < 20:
            ended += 1
            answer = House(nodes=16).run(one)[0]
            assert [t for o in answer for t in o.tokens] == plain
            assert answer[-1].finish == "stop"
    assert ended == 20


def test_the_end_of_the_context_can_be_reached() -> None:
    limit = INFO.max_positions
    prompt = [2 + i % 20 for i in range(limit - 30)]
    one = request(0, prompt, max_tokens=30, ignore_eos=True)
    house = House(nodes=32)
    check_answer(one, house.run(one)[0])
    with pytest.raises(InvalidRequest, match=r"226 tokens and max_tokens 31 exceed .* 256"):
        house.engine.add(request(1, prompt, max_tokens=31))
    assert not house.engine.has_work


def test_what_can_never_fit_is_refused() -> None:
    house = House(kv_slots=35, page_size=4)  # 8 pages
    with pytest.raises(InvalidRequest, match="20 tokens and max_tokens 14 exceed the 32 slots"):
        house.engine.add(request(0, [3] * 20, max_tokens=14))
    one = request(1, [3] * 20, max_tokens=13, ignore_eos=True)
    check_answer(one, house.run(one)[1])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"prompt": []}, "at least 1 token"),
        ({"prompt": [VOCABULARY]}, f"prompt holds token {VOCABULARY}; .* {VOCABULARY}"),
        ({"prompt": [-1]}, "prompt holds token -1"),
        ({"prompt": [2], "output": [99], "max_tokens": 5}, "output holds token 99"),
        ({"prompt": [2], "output": [3, 3], "max_tokens": 2}, "max_tokens is 2; there are 2"),
        ({"prompt": [2], "stop_token_ids": (77,)}, "stop_token_ids holds token 77"),
        ({"prompt": [2], "logit_bias": {55: 1.0}}, "logit_bias holds token 55"),
        ({"prompt": [2], "seed": None}, "seed"),
    ],
)
def test_a_request_that_cannot_run_is_refused_by_name(values: dict[str, Any], reason: str) -> None:
    house = House()
    with pytest.raises(InvalidRequest, match=reason):
        house.engine.add(request(0, **values))
    assert not house.engine.has_work


def test_a_number_in_use_is_refused() -> None:
    house = House()
    house.engine.add(request(0, [2]))
    with pytest.raises(InvalidRequest, match="sequence 0 is in use"):
        house.engine.add(request(0, [3]))


# --- memory -------------------------------------------------------------------------------------


def test_the_youngest_is_set_back_and_comes_again_with_the_same_text() -> None:
    house = House(kv_slots=64, page_size=4, nodes=8)
    sent = [
        request(i, [2 + i, 3, 4], max_tokens=50, ignore_eos=True, temperature=0.7) for i in range(4)
    ]
    answers = house.run(*sent)
    for one in sent:
        check_answer(one, answers[one.sequence])
    preemptions = [answers[i][-1].statistics.preemptions for i in range(4)]
    assert preemptions[0] == 0
    assert sum(preemptions) > 0
    ends = [o.sequence for o in house.outputs if o.finish]
    assert ends == [0, 1, 2, 3]


def test_trees_are_cut_before_anyone_is_set_back() -> None:
    nodes = []
    for kv_slots in (1024, 62):
        house = House(kv_slots=kv_slots, page_size=1, nodes=32)
        sent = [request(i, [2 + i, 3], max_tokens=30, ignore_eos=True) for i in range(2)]
        answers = house.run(*sent)
        for one in sent:
            check_answer(one, answers[one.sequence])
            assert answers[one.sequence][-1].statistics.preemptions == 0
        nodes.append(sum(answers[i][-1].statistics.nodes for i in range(2)))
    assert nodes[1] < nodes[0]


def test_a_target_with_fewer_pages_than_it_says_loses_the_youngest() -> None:
    house = House(kv_slots=64, page_size=4)
    house.targets[0].real_pages = 13
    sent = [request(i, [2 + i, 3], max_tokens=30, ignore_eos=True, nodes=4) for i in range(3)]
    answers = house.run(*sent)
    check_answer(sent[0], answers[0])
    assert answers[2][-1].finish == "error"
    assert "15 pages of 13" in answers[2][-1].error


def test_prompts_enter_in_chunks_beside_running_trees() -> None:
    house = House(chunk_tokens=5)
    running = request(0, [2, 3], max_tokens=60, ignore_eos=True, speculation="off")
    house.engine.add(running)
    house.step()
    late = request(1, [4] * 23, max_tokens=3, ignore_eos=True)
    house.engine.add(late)
    for _ in range(4):
        assert [o.sequence for o in house.step()] == [0]
    assert sorted(o.sequence for o in house.step()) == [0, 1]
    for one in (running, late):
        check_answer(one, house.run()[one.sequence])


# --- cancelling and failing ---------------------------------------------------------------------


def test_cancelling_ends_once_and_frees() -> None:
    house = House()
    for i in range(3):
        house.engine.add(request(i, [2, 3 + i], max_tokens=40, ignore_eos=True))
    house.step()
    house.engine.cancel(1)
    house.engine.cancel(1)
    house.engine.cancel(99)
    answers = house.run()
    assert [o.finish for o in answers[1] if o.finish] == ["cancelled"]
    house.engine.cancel(0)
    assert not house.engine.has_work


def test_a_waiting_sequence_can_be_cancelled() -> None:
    house = House(max_sequences=1)
    first = request(0, [2, 3], max_tokens=20)
    house.engine.add(first)
    house.engine.add(request(1, [2, 4], max_tokens=20))
    house.step()
    house.engine.cancel(1)
    answers = house.run()
    check_answer(first, answers[0])
    assert [o.finish for o in answers[1]] == ["cancelled"]


def test_everything_can_be_cancelled_without_a_target() -> None:
    house = House()
    for i in range(3):
        house.engine.add(request(i, [2, 3 + i]))
    house.step()
    assert {o.finish for o in house.engine.cancel_all()} == {"cancelled"}
    house.engine.check_integrity()


def test_a_fault_of_one_sequence_is_its_own() -> None:
    house = House()
    house.targets[0].faulty = lambda admission: admission.prompt[0] == 9
    good = request(0, [2, 3], max_tokens=20)
    answers = house.run(good, request(1, [9, 3], max_tokens=20))
    check_answer(good, answers[0])
    (bad,) = answers[1]
    assert (bad.finish, bad.error, bad.error_code) == (
        "error",
        "the fake fails this one",
        "server_error",
    )


@pytest.mark.parametrize(
    "lie",
    [
        {"path": [1], "tokens": [3]},
        {"path": [], "tokens": []},
        {"path": [7], "tokens": [3, 3]},
        {"tokens": [VOCABULARY]},
        {"sequence": 77},
        {"tokens": None},
    ],
)
def test_nonsense_about_one_sequence_ends_only_that_one(lie: dict[str, Any]) -> None:
    house = House()
    target = house.targets[0]
    honest = target.verify

    def verify(asked: Any) -> Any:
        reply = honest(asked).wait(0)
        arrays = {k: np.asarray(v, np.int32) if isinstance(v, list) else v for k, v in lie.items()}
        results = [
            replace(result, **arrays)
            if target.held[work.sequence].admission.prompt[0] == 9 and work.draw
            else result
            for work, result in zip(asked.work, reply.results, strict=True)
        ]
        return Ready(VerifyReply(reply.step, results, 0.0, 0.0))

    target.verify = verify  # type: ignore[method-assign]
    good = request(0, [2, 3], max_tokens=20)
    answers = house.run(good, request(1, [9, 3], max_tokens=20))
    check_answer(good, answers[0])
    assert [o.finish for o in answers[1]] == ["error"]


def test_another_target_goes_on_with_the_text() -> None:
    house = House()
    sent = [
        request(i, [2 + i, 3], max_tokens=40, ignore_eos=True, temperature=0.7) for i in range(3)
    ]
    for one in sent:
        house.engine.add(one)
    for _ in range(4):
        house.step()
    house.targets[-1]._fault = 0
    with pytest.raises(StageUnavailable, match="gone"):
        house.engine.step()
    with pytest.raises(StageUnavailable, match="not replaced"):
        house.engine.step()
    house.engine.cancel(2)
    house.replace_target()
    answers = house.run()
    for one in sent:
        check_answer(one, answers[one.sequence], cancelled=one.sequence == 2)
    assert answers[0][-1].statistics.accepted["draft"] > 0
    assert answers[0][-1].statistics.preemptions == 0


def test_the_same_target_goes_on_after_an_interruption() -> None:
    house = House(kv_slots=64)
    sent = [request(i, [2 + i, 3], max_tokens=20, ignore_eos=True) for i in range(3)]
    for one in sent:
        house.engine.add(one)
    house.step()
    target = house.targets[0]
    honest = target.verify

    def interrupted(asked: Any) -> Any:
        honest(asked)
        raise KeyboardInterrupt

    target.verify = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        house.engine.step()
    target.verify = honest  # type: ignore[method-assign]
    house.engine.replace_target(target)
    answers = house.run()
    for one in sent:
        check_answer(one, answers[one.sequence])


def test_a_target_of_another_kind_is_refused() -> None:
    house = House()
    with pytest.raises(ConfigError, match="vocabulary=25"):
        house.engine.replace_target(FakeTarget(replace(INFO, vocabulary=25)))


@pytest.mark.parametrize("fault", ["timeout", "crash", "step", "results", "nothing"])
def test_a_target_that_answers_nonsense_is_down(fault: str) -> None:
    house = House()

    def verify(asked: Any) -> Any:
        match fault:
            case "timeout":
                raise StageTimeout("too late")
            case "crash":
                raise MemoryError("no more")
            case "nothing":
                return Ready(None)
        step = asked.step + (fault == "step")
        return Ready(VerifyReply(step, [], 0.0, 0.0))

    house.targets[0].verify = verify  # type: ignore[method-assign]
    house.engine.add(request(0, [2]))
    with pytest.raises((StageUnavailable, StageTimeout)):
        house.engine.step()
    house.replace_target()
    check_answer(request(0, [2]), house.run()[0])


def test_a_resumed_request_goes_on_where_it_was() -> None:
    whole = request(0, [2, 3], max_tokens=30, ignore_eos=True, temperature=0.7)
    tokens = plain_tokens(whole)
    for done in (1, 7, 29):
        rest = request(0, [2, 3], tokens[:done], max_tokens=30, ignore_eos=True, temperature=0.7)
        answer = House().run(rest)[0]
        assert [t for o in answer for t in o.tokens] == tokens[done:]
        assert answer[-1].statistics.tokens == 30 - done


# --- sources that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["late", "never", "gone", "raising", "garbage"])
def test_a_bad_source_is_left_alone_and_probed(how: str) -> None:
    house = House(drafter=how, prompt=None, corpus=None)
    one = request(0, [2, 3], max_tokens=200, ignore_eos=True, speculation="draft")
    house.engine.add(one)
    drafter = house.drafters[0]
    for _ in range(20):
        house.step()
    assert drafter.asked == 3
    house.clock.now += 1.0
    for _ in range(5):
        house.step()
    assert drafter.asked == 4  # a probe, in vain
    drafter.how = "right"
    house.clock.now += 1.0
    before = house.engine.timings.counts["draft"]
    for _ in range(5):
        house.step()
    assert house.engine.timings.counts["draft"] >= before + 4
    answer = house.run()[0]
    check_answer(one, answer)
    assert answer[-1].statistics.accepted["draft"] > 0


def test_a_late_retrieval_is_used_one_step_later() -> None:
    house = House(drafter=None, prompt=None, corpus="late")
    one = request(0, [2, 3], max_tokens=40, ignore_eos=True)
    answer = house.run(one)[0]
    check_answer(one, answer)
    # The deadline passed three times; what came one step later was moved along and accepted.
    assert answer[-1].statistics.accepted["corpus"] > 0
    assert house.retrievers[1] is not None
    assert house.retrievers[1].asked == 3


def test_an_idle_engine_does_not_wait_for_a_dead_drafter() -> None:
    house = House(drafter="raising", prompt=None, corpus=None)
    house.run(request(0, [2, 3], max_tokens=3, ignore_eos=True))
    assert not house.engine.has_work


def test_another_drafter_drafts_for_what_runs() -> None:
    house = House(drafter="gone", prompt=None, corpus=None)
    one = request(0, [2, 3], max_tokens=40, ignore_eos=True)
    house.engine.add(one)
    for _ in range(5):
        house.step()
    house.replace_drafter("right")
    answer = house.run()[0]
    check_answer(one, answer)
    assert answer[-1].statistics.accepted["draft"] > 10


def test_time_is_accounted_for() -> None:
    house = House()
    house.run(request(0, [2, 3], max_tokens=20))
    timings = house.engine.timings
    assert timings.counts["verify"] == house.targets[0].forwards
    assert timings.counts["draft"] == house.drafters[0].asked
    assert timings.rest_s == 0.0  # the fake clock stood still


def test_the_fake_language_is_deterministic() -> None:
    one = request(0, [2, 3], max_tokens=5, temperature=0.5)
    assert plain_tokens(one) == plain_tokens(one)
    assert next_token([2, 3], [], one.params, 0) == plain_tokens(one)[0]
