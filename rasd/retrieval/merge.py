"""One answer out of those of several shards."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from rasd.trie import Continuations

_MAX_COUNT = 2**31 - 1


def merge(answers: Sequence[Continuations], nodes: int) -> Continuations:
    """The longest match wins; tries of equally long matches are united and their counts summed.

    At most ``nodes`` are kept, best-first as each shard chose its own: highest count, then
    smallest token, then earliest parent. Counts are a lower bound: a shard does not send nodes
    it found too rare, which may be frequent elsewhere. ``total`` is exact.
    """
    length = max((answer.match_length for answer in answers), default=0)
    equals = [answer for answer in answers if answer.match_length == length]
    if length == 0:
        return Continuations.none()
    if len(equals) == 1 and len(equals[0]) <= nodes:
        return equals[0]
    total = sum(answer.total for answer in equals)
    return _best_first(_unite(equals), nodes, total, length)


def _unite(answers: Sequence[Continuations]) -> list[dict[int, list[int]]]:
    """Per node, the first being the anchor: its children by token, each [node, count]."""
    children: list[dict[int, list[int]]] = [{}]
    for answer in answers:
        place = [0]  # where node i - 1 of the answer went; first the anchor, -1
        for token, parent, count in zip(
            answer.tokens.tolist(), answer.parents.tolist(), answer.counts.tolist(), strict=True
        ):
            siblings = children[place[parent + 1]]
            child = siblings.get(token)
            if child is None:
                child = siblings[token] = [len(children), 0]
                children.append({})
            child[1] += count
            place.append(child[0])
    return children


def _best_first(
    children: list[dict[int, list[int]]], nodes: int, total: int, length: int
) -> Continuations:
    frontier: list[tuple[int, int, int, int]] = []  # -count, token, parent, node

    def reach(node: int, parent: int) -> None:
        for token, (child, count) in children[node].items():
            heapq.heappush(frontier, (-count, token, parent, child))

    taken: list[tuple[int, int, int]] = []
    reach(0, -1)
    while frontier and len(taken) < nodes:
        count, token, parent, node = heapq.heappop(frontier)
        taken.append((token, parent, min(-count, _MAX_COUNT)))
        reach(node, len(taken) - 1)
    columns = np.array(taken, np.int32).reshape(-1, 3).T
    return Continuations(columns[0].copy(), columns[1].copy(), columns[2].copy(), total, length)
