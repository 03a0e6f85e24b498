"""Walk a verified tree: draw at each node visited, go on while the draw is a child.

The draws are the target's own, so any tree whatever gives the target's distribution: a
proposal decides only how far one forward reaches. Penalties, filters and the draw are computed
at visited nodes alone; over all nodes they would cost more than the forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rasd.sampling import Draws, logprobs_of
from rasd.stages import Logprobs, Work


@dataclass(frozen=True, slots=True)
class Walk:
    """``path``: accepted nodes in order; ``tokens``: theirs and the bonus token."""

    path: list[int]
    tokens: list[int]
    logprobs: list[Logprobs]


def walk(logits: Tensor, work: Work, draws: Draws) -> Walk:
    """Decides the tokens after node ``work.decided - 1``, and commits them to ``draws``.

    Args:
        logits: float[R, V]; row i belongs to node ``work.decided - 1 + i``. Not modified.
        work: its tree; the walk starts at the last decided node.
        draws: the sequence's drawing state; moved on by the tokens returned.
    """
    first = work.decided - 1
    # An accelerator answers for all rows at the price of one; a CPU pays for each.
    batched = draws.plain_greedy and logits.device.type != "cpu"
    picks = logits.argmax(-1).tolist() if batched else None
    top = draws.params.logprobs
    children = _children(work)
    path: list[int] = []
    tokens: list[int] = []
    logprobs: list[Logprobs] = []
    node: int | None = first
    while node is not None:
        row = logits[node - first]
        token = picks[node - first] if picks is not None else draws.draw(row, tokens)
        tokens.append(token)
        if top is not None:
            logprobs.append(logprobs_of(row, token, top))
        node = children.get((node, token))
        if node is not None:
            path.append(node)
    draws.commit(tokens)
    return Walk(path, tokens, logprobs)


def _children(work: Work) -> dict[tuple[int, int], int]:
    start = work.decided
    parents, tokens = work.parents[start:].tolist(), work.tokens[start:].tolist()
    pairs = zip(parents, tokens, strict=True)
    return {pair: node for node, pair in enumerate(pairs, start)}
