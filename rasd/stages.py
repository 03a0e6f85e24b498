"""The three contracts a step is made of, and their messages.

Target, Drafter and Retriever are the same to the engine whether they live in its process or in
an actor: a call starts the work and returns a `Pending`, whose `wait` has a deadline. One engine
thread owns a stage and calls it; a stage need not be thread-safe. Messages are dataclasses of
numbers and numpy arrays, so that they can cross a socket without pickle; the receiver may keep
them, the sender must not modify them afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rasd.params import SamplingParams
from rasd.tree import Draft, Int32s
from rasd.trie import Continuations

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """An answer that may still be on its way."""

    def wait(self, timeout_s: float) -> T_co:
        """Blocks until the answer is here.

        Raises:
            StageTimeout: it is not here after ``timeout_s``; ``wait`` may be called again.
            StageUnavailable: it will never come.
        """


@dataclass(frozen=True, slots=True)
class Ready(Generic[T]):
    """A `Pending` of a local stage: the work is done."""

    answer: T

    def wait(self, timeout_s: float) -> T:
        """The answer, at once."""
        return self.answer


# --- target -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What the engine must know of a target, fixed at start.

    ``kv_slots`` tokens of keys and values fit, in pages of ``page_size`` slots that belong to
    one sequence each. ``feature_size`` is the width of the last hidden state.
    """

    vocabulary: int
    max_positions: int
    kv_slots: int
    page_size: int
    feature_size: int


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence enters the target.

    Attributes:
        sequence: number chosen by the engine, never reused while the target lives.
        prompt: int32[P], source ids of the prompt.
        output: int32[M], tokens decided before, when the sequence was set back or its target
            restarted. They count as output for penalties and noise positions.
        params: how its tokens are drawn; ``seed`` is set.
        choice: which of the request's ``n`` choices; part of the noise key.
        features: whether the drafter wants this sequence's features.
        tenant: whose it is. Keys and values are shared within a tenant only, by content.
    """

    sequence: int
    prompt: Int32s
    output: Int32s
    params: SamplingParams
    choice: int = 0
    features: bool = False
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What one sequence runs in one step: tokens appended behind its slots.

    The first ``decided`` nodes are a chain of tokens that are already text: a chunk of the
    prompt, or the root of a tree. The rest hangs below them as proposals. With ``draw`` the
    target draws the token after node ``decided - 1`` and walks on while the draw is a child;
    without, the chunk only enters the cache (the prompt goes on in a later step).

    Attributes:
        tokens: int32[N]; parents: int32[N], parents[i] < i, -1 for node 0.
    """

    sequence: int
    tokens: Int32s
    parents: Int32s
    decided: int
    draw: bool


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """One step for all sequences: first releases, then admissions, then one forward."""

    step: int
    release: list[int]
    admit: list[Admission]
    work: list[Work]


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities at one decided token, of the target's unmodified distribution."""

    logprob: float
    top_ids: Int32s
    top_logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome for one `Work`.

    Attributes:
        path: int32[A], accepted nodes in order, decided ones not included.
        tokens: int32[A + 1], their tokens and the bonus token; empty without ``draw``.
        logprobs: one entry per token where the parameters ask for it, else empty.
        error: why this sequence cannot go on; it must then be released. Empty if all is well.
        slots: decided tokens in the cache after the step if the target had more of this text
            than the work brought, else -1. Never all: the last one is always run.
    """

    sequence: int
    path: Int32s
    tokens: Int32s
    logprobs: list[Logprobs] = field(default_factory=list)
    error: str = ""
    slots: int = -1


@dataclass(frozen=True, slots=True)
class VerifyReply:
    """Answers in the order of the request's work, and where the time went. Of ``asked`` tokens
    that were admitted, ``restored`` were in the cache already.
    """

    step: int
    results: list[Verified]
    forward_s: float
    walk_s: float
    asked: int = 0
    restored: int = 0


class Target(Protocol):
    """Runs the model. Owns keys and values; logits never leave it."""

    @property
    def info(self) -> TargetInfo: ...

    def verify(self, request: VerifyRequest) -> Pending[VerifyReply]:
        """Runs one step. At most one request is in flight.

        Decided and accepted nodes stay in the cache, the rest is freed. Releasing an unknown
        sequence does nothing. A fault in one sequence is its `Verified.error`.
        """

    def close(self) -> None:
        """Frees everything; pending work is abandoned."""


# --- drafter ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Features:
    """Last hidden states of decided positions, on their way from target to drafter.

    ``rows[i]`` (float32[n, d], or bfloat16 bits as uint16[n, d]) belongs to the token at
    position ``start + i`` of the sequence.
    """

    sequence: int
    start: int
    rows: NDArray[Any]


class FeatureSink(Protocol):
    """Takes features; never blocks the target, and may drop what it cannot hold."""

    def put(self, features: Features) -> None: ...


@dataclass(frozen=True, slots=True)
class DraftQuery:
    """Decided tokens the drafter has not seen: ``tokens[i]`` stands at position ``start + i``.

    The last one is the root of the tree asked for. ``nodes`` is the most it may hold beside it.
    """

    sequence: int
    start: int
    tokens: Int32s
    nodes: int


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """One step of drafting for several sequences; ``release`` are forgotten first.

    A drafter may stop where another level promises fewer than ``worth`` tokens over all queries.
    """

    step: int
    release: list[int]
    queries: list[DraftQuery]
    worth: float = 0.0


@dataclass(frozen=True, slots=True)
class DraftReply:
    """Answers in the order of the queries; None where the drafter has nothing to say."""

    step: int
    drafts: list[Draft | None]


class Drafter(Protocol):
    """Proposes trees from a model. May forget anything at any time: text does not change."""

    def propose(self, request: DraftRequest) -> Pending[DraftReply]:
        """Drafts behind the newest tokens. A sequence it lacks features of starts cold."""

    def close(self) -> None:
        """Frees everything."""


# --- retriever --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RetrieveQuery:
    """What followed ``tail`` elsewhere?

    ``tail`` holds the newest tokens, at most as many as the longest suffix: decided ones up to
    the root, then ``ahead``: drafted ones behind it that are taken for decided. A sequence may
    ask several times, each time with another ``ahead``. ``corpora`` are the names it may read. A
    prompt lookup knows the decided tokens, and ignores ``tail`` and ``corpora``.
    ``origins`` asks where each node was found. ``passages`` is how many near its prompt the
    sequence wants copied; None takes the setting.
    """

    sequence: int
    tail: Int32s
    corpora: tuple[str, ...]
    origins: bool = False
    passages: int | None = None
    ahead: Int32s = field(default_factory=lambda: np.zeros(0, np.int32))


@dataclass(frozen=True, slots=True)
class RetrieveRequest:
    """One step of retrieval for several sequences."""

    step: int
    queries: list[RetrieveQuery]


@dataclass(frozen=True, slots=True)
class RetrieveReply:
    """Answers in the order of the queries. ``partial``: places of those that lack some shard's."""

    step: int
    found: list[Continuations]
    partial: tuple[int, ...] = ()


class Retriever(Protocol):
    """Finds continuations. No hit is an empty answer."""

    def observe(self, sequence: int, tokens: Int32s) -> None:
        """Tokens of the sequence were decided: first prompt and output, then what is accepted."""

    def release(self, sequence: int) -> None:
        """The sequence is gone; unknown ones are ignored."""

    def retrieve(self, request: RetrieveRequest) -> Pending[RetrieveReply]: ...

    def close(self) -> None:
        """Frees everything."""
