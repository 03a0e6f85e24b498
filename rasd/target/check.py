"""Whether a `Work` can be run, before anything is touched, and what of it must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rasd import kernels
from rasd.stages import TargetInfo, Work
from rasd.tree import Int32s


def fault_of(work: Work, length: int, info: TargetInfo) -> str:
    """Why this work cannot run; empty if it can.

    Args:
        length: slots its sequence has already.
    """
    nodes = len(work.tokens)
    if nodes == 0 or len(work.parents) != nodes or not 1 <= work.decided <= nodes:
        return f"{nodes} tokens, {len(work.parents)} parents, {work.decided} of them decided"
    deepest, wrong = kernels.reach(work.tokens, work.parents, work.decided, info.vocabulary)
    if wrong >= 0 and deepest == 0:
        return f"token {int(work.tokens[wrong])} is not in the vocabulary of {info.vocabulary}"
    if wrong >= 0:
        return "the decided nodes must be a chain, and the others hang from its end"
    reach = length + deepest + 1
    if reach > info.max_positions:
        return f"the model has {info.max_positions} positions; this step needs {reach}"
    return ""


def fault_of_held(work: Work, held: Int32s) -> str:
    """Why a sequence's first work cannot go on from what the cache holds; empty if it can.

    Args:
        held: tokens of its beginning that are in the cache before anything was run.
    """
    known = min(len(held), work.decided)
    if (work.tokens[:known] != held[:known]).any():
        return "the first work does not begin as the sequence was admitted"
    if work.draw and known == work.decided:
        return f"a token is drawn behind {work.decided}; the sequence was admitted with more"
    return ""


def lacking(work: Work, held: int) -> Work | None:
    """What is left of a work when its first ``held`` nodes are in the cache; None if nothing."""
    if held == 0:
        return work
    if held >= work.decided:
        return None
    parents = np.maximum(work.parents[held:] - held, -1)
    return Work(work.sequence, work.tokens[held:], parents, work.decided - held, work.draw)


def fault_of_bias(bias: Sequence[int], vocabulary: int) -> str:
    """Why a request's logit_bias cannot be applied; empty if it can."""
    beyond = [token for token in bias if token >= vocabulary]
    return f"logit_bias names token {beyond[0]} of {vocabulary}" if beyond else ""
