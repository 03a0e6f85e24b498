"""What goes to the target and what its answer means for one sequence. Pure; asks nobody."""

from __future__ import annotations

import numpy as np

from rasd.engine.api import FinishReason, Output, Request
from rasd.engine.scheduler import Planned, StepPlan
from rasd.engine.sequence import Sequence
from rasd.errors import InvalidRequest, RasdError, ServerError, StageUnavailable
from rasd.stages import Admission, Verified, VerifyReply, VerifyRequest, Work
from rasd.tree import SOURCES, DraftTree


def check_request(request: Request, vocabulary: int) -> None:
    """Checks what does not depend on the target's memory.

    Raises:
        InvalidRequest: naming limit and value.
    """
    params = request.params
    if params.seed is None:
        raise InvalidRequest("a sequence needs a seed", param="seed")
    if len(request.prompt) == 0:
        raise InvalidRequest("a prompt has at least 1 token; got 0", param="prompt")
    if len(request.output) >= params.max_tokens:
        raise InvalidRequest(
            f"max_tokens is {params.max_tokens}; there are {len(request.output)} already",
            param="max_tokens",
        )
    for name, ids in (
        ("prompt", request.prompt),
        ("output", request.output),
        ("stop_token_ids", np.asarray(params.stop_token_ids, np.int64)),
        ("logit_bias", np.asarray(list(params.logit_bias), np.int64)),
    ):
        wrong = ids[(ids < 0) | (ids >= vocabulary)]
        if len(wrong):
            raise InvalidRequest(
                f"{name} holds token {wrong[0]}; the vocabulary has {vocabulary}", param=name
            )


def admission_of(sequence: Sequence, *, drafts: bool) -> Admission:
    """How it enters the target; with ``drafts`` the drafter wants its features."""
    asked = sequence.request
    return Admission(
        sequence.handle,
        asked.prompt,
        sequence.output(),
        asked.params,
        asked.choice,
        drafts,
        asked.tenant,
    )


def work_of(planned: Planned) -> Work:
    sequence, tree = planned.sequence, planned.tree
    if tree is not None:
        return Work(sequence.handle, tree.tokens, tree.parents, 1, True)
    tokens = sequence.since(sequence.slots, sequence.slots + planned.chunk)
    parents = np.arange(-1, len(tokens) - 1, dtype=np.int32)
    return Work(sequence.handle, tokens, parents, len(tokens), planned.draw)


def cost_of(plan: StepPlan, reply: VerifyReply) -> tuple[int, int]:
    """Rows that were run, and slots they attended to; -1 where the target skipped some rows."""
    rows = sum(w.chunk if w.tree is None else len(w.tree) for w in plan.work)
    return rows, -1 if reply.restored else sum(planned.sequence.slots for planned in plan.work)


def until_end(
    sequence: Sequence, tokens: list[int], eos: frozenset[int]
) -> tuple[list[int], FinishReason | None]:
    """The tokens up to the one that ends the sequence, that one included."""
    params = sequence.request.params
    for kept, token in enumerate(tokens, start=1):
        ends = token in eos and not params.ignore_eos
        if ends or token in params.stop_token_ids:
            return tokens[:kept], "stop"
        if kept == sequence.remaining:
            return tokens[:kept], "length"
    return tokens, None


def check_reply(request: VerifyRequest, reply: VerifyReply) -> None:
    """Raises StageUnavailable if this is no answer to the request."""
    asked, got = (request.step, len(request.work)), (reply.step, len(reply.results))
    if asked != got:
        raise StageUnavailable(f"asked were step and works {asked}; the target answered {got}")


def check_result(planned: Planned, result: Verified, vocabulary: int) -> None:
    """Raises RasdError if the target's answer does not fit what it was asked."""
    path, tokens = result.path.tolist(), result.tokens.tolist()
    if result.sequence != planned.sequence.handle:
        raise RasdError(f"the target answered for sequence {result.sequence}")
    if len(tokens) != (len(path) + 1 if planned.draw else 0):
        raise RasdError(f"the target gave {len(tokens)} tokens for {len(path)} accepted nodes")
    if result.slots != -1 and not _is_slots(planned, result.slots):
        raise RasdError(f"the target says it holds {result.slots} tokens")
    if not all(0 <= token < vocabulary for token in tokens):
        raise RasdError(f"the target gave tokens {tokens} out of {vocabulary}")
    node = 0
    for child, token in zip(path, tokens, strict=False):
        tree = planned.tree
        if tree is None or not 0 < child < len(tree) or tree.parents[child] != node:
            raise RasdError(f"the target accepted nodes {path}, which are no path")
        if tree.tokens[child] != token:
            raise RasdError(f"the target accepted node {child} as token {token}")
        node = child


def _is_slots(planned: Planned, slots: int) -> bool:
    """Whether more than a first chunk can be there: not a token that draws, nor the last one."""
    sequence = planned.sequence
    return sequence.slots == 0 and not planned.draw and planned.chunk < slots < len(sequence.tokens)


def count(sequence: Sequence, tree: DraftTree | None, result: Verified, kept: int) -> list[int]:
    """Updates the statistics; gives the sources of the ``kept`` tokens."""
    statistics = sequence.statistics
    statistics.steps += 1
    statistics.tokens += kept
    if tree is None or len(tree) == 1:
        return [0] * kept
    accepted: list[int] = tree.sources[result.path[:kept]].tolist()
    proposed = tree.sources[1:]
    statistics.nodes += len(proposed)
    statistics.accepted_nodes += len(accepted)
    for name, bit in SOURCES.items():
        statistics.drafted[name] += int(np.count_nonzero(proposed & bit))
        statistics.accepted[name] += sum(1 for source in accepted if source & bit)
    return accepted + [0] * (kept - len(accepted))


def last_output(sequence: Sequence, reason: FinishReason, error: str) -> Output:
    """The end of a sequence, without tokens."""
    statistics = sequence.statistics.copy()
    code = ServerError.code if error else ""
    return Output(sequence.number, [], [], statistics, finish=reason, error=error, error_code=code)
