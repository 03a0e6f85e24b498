"""What a target has run once it does not run again, and the text is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from rasd.engine.api import EngineSettings, Output, Request
from rasd.engine.engine import Engine
from rasd.errors import KVExhausted
from rasd.params import SamplingParams
from rasd.stages import Admission, VerifyReply, VerifyRequest, Work
from rasd.target import LocalTarget
from rasd.target.check import fault_of_held, lacking
from tests.kv.models import VOCABULARY, build
from tests.target.conftest import Loader
from tests.target.steps import GREEDY, Run, Sink, chain, drive, generate, work_of

NONE = np.zeros(0, np.int32)


@dataclass
class Rows:
    """How many rows the model ran."""

    count: int = 0


@contextmanager
def counted(target: LocalTarget) -> Iterator[Rows]:
    rows, forward = Rows(), target._runner.forward

    def counting(works: list[Work]) -> object:
        rows.count += sum(len(work.tokens) for work in works)
        return forward(works)

    target._runner.forward = counting
    try:
        yield rows
    finally:
        target._runner.forward = forward


def prompt_of(seed: int, tokens: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, tokens).tolist()


def admission(
    sequence: int, prompt: list[int], tenant: str = "", output: list[int] | None = None
) -> Admission:
    said = np.asarray(output or [], np.int32)
    return Admission(sequence, np.asarray(prompt, np.int32), said, GREEDY, 0, True, tenant)


def ask(
    target: LocalTarget, *works: Work, admit: tuple[Admission, ...] = (), release: tuple = ()
) -> VerifyReply:
    reply = target.verify(VerifyRequest(1, list(release), list(admit), list(works))).wait(1.0)
    target.cache.check_integrity()
    assert target._prefixes is not None
    target._prefixes.check_integrity()
    return reply


@dataclass
class Talk:
    """An engine over a target, and what it says to whom."""

    target: LocalTarget
    engine: Engine = field(init=False)
    numbers: int = 0

    def __post_init__(self) -> None:
        self.engine = Engine(self.target, EngineSettings())

    def say(self, prompt: list[int], tokens: int, tenant: str = "", **how: object) -> list[int]:
        params = SamplingParams(**{"temperature": 0.0, "seed": 3, "max_tokens": tokens, **how})
        self.numbers += 1
        ids = np.asarray(prompt, np.int32)
        self.engine.add(Request(self.numbers, ids, params, tenant=tenant))
        outputs: list[Output] = []
        while self.engine.has_work:
            outputs += self.engine.step()
            self.engine.check_integrity()
            self.target.cache.check_integrity()
        assert outputs[-1].error == ""
        return [token for output in outputs for token in output.tokens]


@pytest.mark.parametrize("name", ["llama", "qwen3-mixed", "mistral", "gpt2"])
def test_the_second_time_only_the_end_of_a_prompt_is_run(name: str, load: Loader) -> None:
    target = load(name)
    talk = Talk(target)
    prompt = prompt_of(1, 101)
    expected = generate(build(name, "sdpa"), prompt, 12)
    with counted(target) as first:
        assert talk.say(prompt, 12) == expected
    with counted(target) as second:
        assert talk.say(prompt, 12) == expected
    assert first.count == 101 + 11
    assert second.count == 1 + 11
    gauges = talk.engine.gauges()
    assert (gauges.prefix_queries, gauges.prefix_hits) == (202, 100)


def test_another_tenant_has_to_run_all_of_it(load: Loader) -> None:
    target = load("llama")
    talk = Talk(target)
    prompt = prompt_of(2, 60)
    runs = []
    for tenant in ("anna", "ben", "", "anna", "ben", ""):
        with counted(target) as rows:
            talk.say(prompt, 2, tenant)
        runs.append(rows.count)
    assert runs == [61, 61, 61, 5, 5, 5]


def test_what_was_said_is_known_in_the_next_turn(load: Loader) -> None:
    target = load("llama")
    talk = Talk(target)
    first, more = prompt_of(3, 30), prompt_of(4, 10)
    said = talk.say(first, 20)
    with counted(target) as rows:
        answer = talk.say([*first, *said, *more], 5)
    assert rows.count == 60 - 48 + 4  # the last token said was never run
    assert answer == generate(build("llama", "sdpa"), [*first, *said, *more], 5)


def test_without_the_setting_everything_is_run_again(load: Loader) -> None:
    target = load("llama", prefix_cache=False)
    talk = Talk(target)
    for _ in range(2):
        with counted(target) as rows:
            talk.say(prompt_of(5, 40), 3)
        assert rows.count == 42
    assert talk.engine.gauges().prefix_hits == 0


def test_sampled_text_does_not_depend_on_what_is_cached(load: Loader) -> None:
    how = {"temperature": 0.9, "top_p": 0.9, "frequency_penalty": 0.5, "seed": 17}
    prompt = prompt_of(6, 50)
    talk = Talk(load("llama"))
    first = talk.say(prompt, 15, **how)
    assert talk.say(prompt, 15, **how) == first


@pytest.mark.parametrize("kv_slots", [512, 240])
def test_any_mix_of_shared_beginnings_gives_the_plain_text(
    kv_slots: int, load: Loader, seed: int
) -> None:
    target = load("qwen3-mixed", kv_slots=kv_slots)
    plain = build("qwen3-mixed", "sdpa")
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, VOCABULARY, 30).tolist()
    runs = []
    for sequence in range(10):
        keep = int(rng.integers(0, 31))
        prompt = [*shared[:keep], *rng.integers(0, VOCABULARY, int(rng.integers(1, 9))).tolist()]
        runs.append(Run(sequence, prompt, generate(plain, prompt, int(rng.integers(3, 10)))))
    for start in (0, 5):  # few enough for the smaller cache
        drive(target, runs[start : start + 5], seed)
        target.cache.check_integrity()
        assert target.cache.pool.available == target.cache.pool.pages
    again = [Run(run.sequence + 20, run.prompt, run.expected) for run in runs[5:]]
    drive(target, again, seed + 1)
    for run in (*runs, *again):
        assert run.text[: len(run.expected)] == run.expected


def test_a_work_that_was_there_says_how_much_more_is(load: Loader) -> None:
    sink = Sink()
    target = load("llama", sink)
    prompt = prompt_of(7, 43)
    expected = generate(build("llama", "sdpa"), prompt, 1)
    reply = ask(target, work_of(1, *chain(prompt), 43, True), admit=(admission(1, prompt),))
    assert (reply.asked, reply.restored) == (43, 0)
    with counted(target) as rows:
        chunk = work_of(2, *chain(prompt[:10]), 10, False)
        reply = ask(target, chunk, admit=(admission(2, prompt[:30], output=prompt[30:]),))
        assert rows.count == 0
        assert (reply.asked, reply.restored) == (43, 40)
        assert reply.results[0].slots == 40 == target.cache.length(2)
        tokens, parents = chain(prompt[40:])
        tree = work_of(2, [*tokens, expected[0], 5], [*parents, 2, 2], 3, True)
        result = ask(target, tree).results[0]
        assert rows.count == 5
    assert (result.slots, result.error) == (-1, "")
    assert result.path.tolist() == [3]
    assert result.tokens.tolist()[0] == expected[0]
    assert [(f.sequence, f.start, len(f.rows)) for f in sink.got] == [(1, 0, 43), (2, 40, 4)]


def test_paths_count_the_nodes_that_were_not_run(load: Loader) -> None:
    target = load("llama")
    prompt = prompt_of(8, 22)
    expected = generate(build("llama", "sdpa"), prompt, 2)
    ask(target, work_of(1, *chain(prompt), 22, True), admit=(admission(1, prompt),))
    tokens, parents = chain([*prompt, expected[0]])
    result = ask(
        target, work_of(2, tokens, parents, 22, True), admit=(admission(2, prompt),)
    ).results[0]
    assert result.path.tolist() == [22]
    assert result.path.dtype == np.int32
    assert result.tokens.tolist() == expected


def test_works_that_do_not_fit_what_is_there_are_faults(load: Loader) -> None:
    target = load("llama")
    prompt = prompt_of(9, 22)
    ask(target, work_of(1, *chain(prompt), 22, True), admit=(admission(1, prompt),))
    other = [(prompt[0] + 1) % VOCABULARY, *prompt[1:]]
    admit = (admission(2, prompt), admission(3, prompt))
    results = ask(
        target,
        work_of(2, *chain(other), 22, True),
        work_of(3, *chain(prompt[:20]), 20, True),
        admit=admit,
    ).results
    assert "does not begin as" in results[0].error
    assert "drawn behind 20" in results[1].error
    ask(target, release=(1, 2, 3))
    assert target.cache.pool.available == target.cache.pool.pages


def test_a_step_that_did_not_fit_can_be_sent_again(load: Loader) -> None:
    target = load("llama", kv_slots=64)
    prompt = prompt_of(10, 40)
    ask(target, work_of(1, *chain(prompt), 40, True), admit=(admission(1, prompt),))
    work = work_of(2, *chain([*prompt, *prompt]), 80, True)
    with pytest.raises(KVExhausted):
        ask(target, work, admit=(admission(2, [*prompt, *prompt]),))
    target.cache.check_integrity()
    with pytest.raises(KVExhausted):
        ask(target, work, admit=(admission(2, [*prompt, *prompt]),))
    reply = ask(
        target,
        work_of(3, *chain(prompt), 40, True),
        admit=(admission(3, prompt),),
        release=(1,),
    )
    assert reply.restored == 36
    assert reply.results[0].error == ""


def test_what_is_lacking_hangs_from_what_is_there() -> None:
    work = work_of(1, [4, 5, 6, 7, 8], [-1, 0, 1, 2, 2], 3, True)
    assert lacking(work, 0) is work
    rest = lacking(work, 2)
    assert rest is not None
    assert (rest.tokens.tolist(), rest.parents.tolist()) == ([6, 7, 8], [-1, 0, 0])
    assert (rest.decided, rest.draw, rest.parents.dtype) == (1, True, np.int32)
    assert lacking(work, 3) is None
    assert fault_of_held(work, np.asarray([4, 5], np.int32)) == ""
    assert fault_of_held(work, NONE) == ""
