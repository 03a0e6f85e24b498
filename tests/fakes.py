"""Stages without a model: a small language, and stages that know it, misread it, or misbehave.

The fakes check the contract strictly and note every violation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np

from rasd.engine.api import Output, Request
from rasd.errors import KVExhausted, StageTimeout, StageUnavailable
from rasd.params import SamplingParams
from rasd.stages import (
    Admission,
    DraftQuery,
    DraftReply,
    DraftRequest,
    Logprobs,
    Pending,
    Ready,
    RetrieveReply,
    RetrieveRequest,
    TargetInfo,
    Verified,
    VerifyReply,
    VerifyRequest,
    Work,
)
from rasd.tree import DRAFT, Draft, DraftTree, Int32s, path_to
from rasd.trie import Continuations, build_trie

VOCABULARY = 24
EOS = 1
INFO = TargetInfo(
    vocabulary=VOCABULARY, max_positions=256, kv_slots=1024, page_size=4, feature_size=8
)
T = TypeVar("T")


class FakeClock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# --- the language -------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def scores(before: tuple[int, int]) -> np.ndarray[Any, Any]:
    """float64[V]: how likely each token is after two others."""
    out = np.random.default_rng([7, *before]).gumbel(size=VOCABULARY) * 1.5
    out[EOS] -= 1.0
    return out


@lru_cache(maxsize=65536)
def noise(seed: int, choice: int, position: int) -> np.ndarray[Any, Any]:
    """float64[V]: what makes a draw of one request at one output position."""
    return np.random.default_rng([abs(seed), choice, position]).gumbel(size=VOCABULARY)


def next_token(
    prompt: Sequence[int], output: Sequence[int], params: SamplingParams, choice: int
) -> int:
    """The target's token after ``prompt + output``; depends on nothing else."""
    before = [0, 0, *prompt[-2:], *output[-2:]][-2:]
    values = scores((before[0], before[1]))
    if not params.greedy:
        assert params.seed is not None
        values = values / params.temperature + noise(params.seed, choice, len(output))
    return int(np.argmax(values))


def plain_tokens(request: Request, eos: frozenset[int] = frozenset({EOS})) -> list[int]:
    """What a request must produce, token by token, without any engine."""
    params, output = request.params, request.output.tolist()
    prompt = request.prompt.tolist()
    start = len(output)
    while len(output) < params.max_tokens:
        token = next_token(prompt, output, params, request.choice)
        output.append(token)
        if (token in eos and not params.ignore_eos) or token in params.stop_token_ids:
            break
    return output[start:]


# --- target -------------------------------------------------------------------------------------


@dataclass
class _Held:
    admission: Admission
    text: list[int]
    slots: int = 0
    output: int = 0
    found: int = 0  # slots it had at its admission, until its first work


class FakeTarget:
    """Draws from the language. Every violation of the contract is noted, then raised.

    With ``prefixes`` it has the keys and values of every text it ever ran for a tenant.

    Attributes:
        fault: steps at which ``verify`` raises StageUnavailable.
        faulty: handles whose work fails.
        largest: most nodes of any work.
    """

    def __init__(
        self, info: TargetInfo = INFO, *, first_fault: int | None = None, prefixes: bool = True
    ) -> None:
        self._info = info
        self._prefixes = prefixes
        self._past: list[_Held] = []
        self.asked = self.restored = 0
        self._fault = first_fault
        self._step = -1
        self._seen: set[int] = set()
        self.held: dict[int, _Held] = {}
        self.violations: list[str] = []
        self.faulty: Callable[[Admission], bool] = lambda admission: False
        self.forwards = 0
        self.largest = 0
        self.real_pages: int | None = None  # fewer than it says, if set

    @property
    def info(self) -> TargetInfo:
        return self._info

    def close(self) -> None:
        self.held.clear()

    def verify(self, request: VerifyRequest) -> Pending[VerifyReply]:
        if self._fault is not None and self.forwards >= self._fault:
            raise StageUnavailable("the fake target is gone")
        self._demand(request.step > self._step, f"step {request.step} after {self._step}")
        self._step = request.step
        for handle in request.release:
            if handle in self.held:
                self._past.append(self.held.pop(handle))
        counted = self.asked, self.restored
        for admission in request.admit:
            self._admit(admission)
        self._count_pages(request.work)
        self._demand(
            len({work.sequence for work in request.work}) == len(request.work), "work twice"
        )
        results = [self._run(work) for work in request.work]
        self.forwards += 1
        asked, restored = self.asked - counted[0], self.restored - counted[1]
        return Ready(VerifyReply(request.step, results, 0.0, 0.0, asked, restored))

    def _admit(self, admission: Admission) -> None:
        self._demand(admission.sequence not in self._seen, "a sequence number came again")
        self._demand(admission.params.seed is not None, "no seed")
        self._seen.add(admission.sequence)
        text = [*admission.prompt.tolist(), *admission.output.tolist()]
        found = self._found(admission.tenant, text) if self._prefixes else 0
        self.held[admission.sequence] = _Held(admission, text, 0, len(admission.output), found)
        self.asked += len(text)
        self.restored += found

    def _found(self, tenant: str, text: list[int]) -> int:
        """Slots of full pages that some text of the tenant shares, the last token left out."""
        longest = 0
        for other in (*self._past, *self.held.values()):
            if other.admission.tenant == tenant:
                known = other.text[: other.slots]
                pairs = zip(known, text[:-1], strict=False)
                shared = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
                shared = min(len(known), len(text) - 1) if shared is None else shared
                longest = max(longest, shared)
        return longest - longest % self._info.page_size

    def _count_pages(self, works: list[Work]) -> None:
        new = {work.sequence: len(work.tokens) for work in works}
        size = self._info.page_size
        rows = (max(s.slots + new.get(h, 0), s.found) for h, s in self.held.items())
        pages = sum(-(-count // size) for count in rows)
        limit = self._info.kv_slots // size
        self._demand(pages <= limit, f"{pages} pages of {limit}")
        if self.real_pages is not None and pages > self.real_pages:
            raise KVExhausted(f"{pages} pages of {self.real_pages}")

    def _run(self, work: Work) -> Verified:
        self._demand(work.sequence in self.held, f"unknown sequence {work.sequence}")
        held = self.held[work.sequence]
        self._check(work, held)
        empty = np.zeros(0, np.int32)
        if self.faulty(held.admission):
            return Verified(work.sequence, empty, empty, error="the fake fails this one")
        held.slots += work.decided
        found, held.found = held.found, 0
        if not work.draw:
            if found <= held.slots:
                return Verified(work.sequence, empty, empty)
            held.slots = found
            return Verified(work.sequence, empty, empty, slots=found)
        path, tokens = self._walk(work, held)
        held.slots += len(path)
        held.text += tokens
        held.output += len(tokens)
        wanted = held.admission.params.logprobs is not None
        logprobs = [Logprobs(-float(t), empty, empty.astype(np.float32)) for t in tokens]
        return Verified(
            work.sequence,
            np.asarray(path, np.int32),
            np.asarray(tokens, np.int32),
            logprobs if wanted else [],
        )

    def _walk(self, work: Work, held: _Held) -> tuple[list[int], list[int]]:
        admission = held.admission
        prompt = admission.prompt.tolist()
        node, path, tokens = work.decided - 1, [], []
        while True:
            output = [*held.text[len(prompt) :], *tokens]
            tokens.append(next_token(prompt, output, admission.params, admission.choice))
            below = np.flatnonzero((work.parents == node) & (work.tokens == tokens[-1]))
            if len(below) == 0:
                return path, tokens
            node = int(below[0])
            path.append(node)

    def _check(self, work: Work, held: _Held) -> None:
        size, stop = len(work.tokens), held.slots + work.decided
        parents = work.parents.tolist()
        self.largest = max(self.largest, size)
        self._demand(work.tokens.dtype == work.parents.dtype == np.int32, "dtypes")
        self._demand(1 <= work.decided <= size, "no decided token")
        self._demand(parents[: work.decided] == list(range(-1, work.decided - 1)), "no chain")
        rest = range(work.decided, size)
        self._demand(all(work.decided - 1 <= parents[i] < i for i in rest), "parents")
        pairs = {(p, t) for p, t in zip(parents, work.tokens.tolist(), strict=True)}
        self._demand(len(pairs) == size, "siblings agree")
        self._demand(work.tokens[: work.decided].tolist() == held.text[held.slots : stop], "text")
        self._demand(work.draw == (stop == len(held.text)), "draw before the prompt ended")
        self._demand(work.draw or size == work.decided, "proposals without draw")
        deepest = max(len(path_to(work.parents, i)) for i in range(size))
        self._demand(held.slots + deepest <= self._info.max_positions, "positions")
        left = held.admission.params.max_tokens - held.output
        self._demand(deepest - work.decided <= max(left - 1, 0), "deeper than max_tokens")

    def _demand(self, fact: bool, what: str) -> None:
        if not fact:
            self.violations.append(what)
            raise AssertionError(what)


# --- answers that come badly ----------------------------------------------------------------------


class Late(Generic[T]):
    """Misses its first deadline; ``ever`` it comes after that."""

    def __init__(self, answer: T, clock: FakeClock, *, ever: bool = True) -> None:
        self._answer, self._clock, self._ever, self._waits = answer, clock, ever, 0

    def wait(self, timeout_s: float) -> T:
        self._clock.now += timeout_s
        self._waits += 1
        if self._waits == 1 or not self._ever:
            raise StageTimeout(f"nothing after {timeout_s} s")
        return self._answer


class Gone:
    """Never comes."""

    def wait(self, timeout_s: float) -> Any:
        raise StageUnavailable("the fake stage is gone")


GARBAGE: tuple[Any, ...] = (
    None,
    "text",
    DraftTree.root(3),
    Draft(DraftTree.of([5, 6], [-1, 0], [1, 1], [0, 1]), *([np.zeros(0)] * 3)),
    Draft(DraftTree.of([5, VOCABULARY], [-1, 0], [1, 1], [0, 1]), *([np.zeros(0)] * 3)),
    Continuations(np.array([3]), np.array([4]), np.array([1]), 1, 1),
    Continuations(np.array([3, 3]), np.array([-1, -1]), np.array([1, 1]), 2, 1),
    Continuations(np.array([-3]), np.array([-1]), np.array([1]), 1, 1),
    Continuations(np.array([3]), np.array([-1]), np.array([1, 2]), 1, 0),
)

BEHAVIOURS = ("right", "wrong", "half", "silent", "late", "never", "gone", "raising", "garbage")


def behave(how: str, clock: FakeClock, step: int, answers: list[Any], reply: Any) -> Pending[Any]:
    """The answers in the manner of ``how``; the good manners give them as they are."""
    if how == "raising":
        raise RuntimeError("the fake stage raises")
    if how == "gone":
        return Gone()
    if how == "garbage":
        junk = [GARBAGE[(step + i) % len(GARBAGE)] for i in range(len(answers))]
        forms = [reply(step, junk), reply(step + 1, answers), reply(step, answers[1:]), None]
        return Ready(forms[step % 4])
    if how in ("late", "never"):
        return Late(reply(step, answers), clock, ever=how == "late")
    return Ready(reply(step, answers))


def foresee(text: Sequence[int], depth: int, how: str) -> list[int]:
    """What greedily follows a text; "wrong" never, "half" in every other token."""
    text, out = list(text), []
    greedy = SamplingParams(temperature=0.0)
    for i in range(depth):
        token = next_token(text, [], greedy, 0)
        if how == "wrong" or (how == "half" and i % 2 == 1):
            token = (token + 1) % VOCABULARY
        text.append(token)
        out.append(token)
    return out


# --- drafter and retriever ------------------------------------------------------------------------


class FakeDrafter:
    """Drafts a chain of what it foresees, with a sibling at every node."""

    def __init__(self, how: str = "right", *, clock: FakeClock | None = None) -> None:
        self.how = how
        self._clock = clock or FakeClock()
        self.texts: dict[int, list[int]] = {}
        self.violations: list[str] = []
        self.asked = 0

    def close(self) -> None:
        self.texts.clear()

    def propose(self, request: DraftRequest) -> Pending[DraftReply]:
        self.asked += 1
        for handle in request.release:
            self.texts.pop(handle, None)
        if self.how == "raising":
            raise RuntimeError("the fake drafter raises")
        drafts = [self._draft(query) for query in request.queries]
        return behave(self.how, self._clock, request.step, drafts, DraftReply)

    def _draft(self, query: DraftQuery) -> Draft | None:
        text = self.texts.setdefault(query.sequence, [])
        if query.start != len(text) or len(query.tokens) == 0:
            self.violations.append(f"query from {query.start}, known are {len(text)}")
        text += query.tokens.tolist()
        if self.how == "silent":
            return None
        chain = foresee(text, max(query.nodes // 2, 1), self.how)
        return as_draft(text[-1], chain, query.nodes)


def as_draft(root: int, chain: list[int], nodes: int) -> Draft:
    """A chain as a draft; every node has a second child, and every chain node is expanded."""
    tokens, parents, values, expanded, top = [root], [-1], [1.0], [0], []
    above = 0
    for token in chain:
        other = (token + 5) % VOCABULARY
        top.append([token, other])
        if len(tokens) + 2 > nodes + 1:
            break
        tokens += [token, other]
        parents += [above, above]
        values += [values[above] * 0.9, values[above] * 0.05]
        above = len(tokens) - 2
        expanded.append(above)
    expanded = expanded[: len(top)]
    tree = DraftTree.of(tokens, parents, values, [0] + [DRAFT] * (len(tokens) - 1))
    top_ids = np.asarray(top, np.int32).reshape(-1, 2)
    return Draft(tree, np.asarray(expanded, np.int32), top_ids, np.zeros(top_ids.shape, np.float32))


@dataclass
class FakeRetriever:
    """Foresees continuations of the tail; several, with different counts."""

    how: str = "right"
    clock: FakeClock = field(default_factory=FakeClock)
    depth: int = 5
    texts: dict[int, list[int]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    asked: int = 0
    corpora: set[str] = field(default_factory=set)

    def close(self) -> None:
        self.texts.clear()

    def observe(self, sequence: int, tokens: Int32s) -> None:
        if self.how == "raising":
            raise RuntimeError("the fake retriever raises")
        self.texts.setdefault(sequence, []).extend(tokens.tolist())

    def release(self, sequence: int) -> None:
        self.texts.pop(sequence, None)
        if self.how == "raising":
            raise RuntimeError("the fake retriever raises")

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]:
        self.asked += 1
        found = []
        for query in request.queries:
            tail = query.tail.tolist()
            known = [*self.texts.get(query.sequence, []), *query.ahead.tolist()]
            if self.how != "raising" and (not tail or known[-len(tail) :] != tail):
                self.violations.append(f"tail {tail} of a text that ends in {known[-5:]}")
            self.corpora |= set(query.corpora)
            right = foresee(tail, self.depth, self.how)
            other = foresee(tail, self.depth, "half")
            nothing = self.how == "silent"
            found.append(Continuations.none() if nothing else build_trie([right] * 3 + [other], 4))
        return behave(self.how, self.clock, request.step, found, RetrieveReply)


# --- running an engine ----------------------------------------------------------------------------


def request(
    sequence: int, prompt: Sequence[int], output: Sequence[int] = (), choice: int = 0, **params: Any
) -> Request:
    """A request for the engine; greedy and seeded unless told otherwise."""
    values: dict[str, Any] = {"temperature": 0.0, "seed": 1, "corpora": ("c",), **params}
    return Request(
        sequence,
        np.asarray(prompt, np.int32),
        SamplingParams(**values),
        choice,
        np.asarray(output, np.int32),
    )


def gather(outputs: Sequence[Output]) -> dict[int, list[Output]]:
    """Outputs by sequence, in order."""
    by_sequence: dict[int, list[Output]] = {}
    for output in outputs:
        by_sequence.setdefault(output.sequence, []).append(output)
    return by_sequence
