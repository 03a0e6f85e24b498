"""Whether what a source answers can be used. Nothing it says can do harm: what is malformed is
refused before anybody looks at it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rasd.kernels import is_forest
from rasd.params import MAX_NODES
from rasd.tree import DRAFT, Draft, DraftTree, Float32s, Int32s, depths
from rasd.trie import DIGEST_BYTES, Continuations

# Answers beyond these sizes would cost the step more than they can bring.
_MAX_DRAFT: Final = 4 * MAX_NODES
_MAX_FOUND: Final = 16 * MAX_NODES
_MAX_TOP_K: Final = 128
_MAX_LENGTH: Final = 2**31 - 1
_MAX_TOTAL: Final = 2**62

_INT32: Final = np.dtype(np.int32)
_FLOAT32: Final = np.dtype(np.float32)


def sound_draft(draft: object, root: int, vocabulary: int) -> Draft | None:
    """A draft that is safe to use, or None. Scores above the parent's are lowered to it."""
    try:
        if not isinstance(draft, Draft) or not 1 <= len(draft.tree) <= _MAX_DRAFT:
            return None
        tree, size, rows = draft.tree, len(draft.tree), len(draft.expanded)
        tokens, parents = _plain(tree.tokens, _INT32, size), _plain(tree.parents, _INT32, size)
        scores = _plain(tree.scores, _FLOAT32, size)
        shape = np.shape(draft.top_ids)
        well_formed = (
            int(tokens[0]) == root
            and parents[0] == -1
            and is_forest(tokens[1:], parents[1:] - 1, vocabulary)
            and bool(((scores >= 0) & (scores <= 1)).all())  # false for NaN too
            and len(shape) == 2
            and shape == np.shape(draft.top_logprobs)
            and shape[1] <= _MAX_TOP_K
            and rows <= size
        )
        expanded = _plain(draft.expanded, _INT32, rows)
        top_ids = _plain(draft.top_ids, _INT32, *shape)
        top_logprobs = _plain(draft.top_logprobs, _FLOAT32, *shape)
        if not well_formed or not _ascends(expanded, shape[0], size):
            return None
        sources = np.full(size, DRAFT, np.uint8)
        sources[0] = 0
        safe = DraftTree(tokens, parents, _descending(scores, parents), sources)
        return Draft(safe, expanded, top_ids, top_logprobs)
    except Exception:  # arrays that are no arrays fail in any way they like
        return None


def sound_continuations(
    found: object, vocabulary: int, corpora: range | None = None
) -> Continuations | None:
    """Continuations that are safe to use, or None.

    ``corpora`` are those that origins may name; without, origins were not asked for and are
    left out.
    """
    try:
        if not isinstance(found, Continuations):
            return None
        if corpora is None and found.origins is not None:
            found = replace(found, origins=None)
        size = len(found)
        if size == 0:
            return found
        if not (size <= _MAX_FOUND and 1 <= found.match_length <= _MAX_LENGTH):
            return None
        tokens, parents = _plain(found.tokens, _INT32, size), _plain(found.parents, _INT32, size)
        counts = _plain(found.counts, _INT32, size)
        well_formed = (
            1 <= found.total <= _MAX_TOTAL
            and is_forest(tokens, parents, vocabulary)
            and bool((counts >= 0).all())
            and (corpora is None or _are_origins(found, corpora))
        )
        if not well_formed:
            return None
        if tokens is found.tokens and parents is found.parents and counts is found.counts:
            return found
        return replace(found, tokens=tokens, parents=parents, counts=counts)
    except Exception:  # as above
        return None


def _plain(array: NDArray[Any], kind: np.dtype[Any], *shape: int) -> NDArray[Any]:
    """The array as compiled loops take it, which is itself if it is one already.

    Raises:
        ValueError: it has another shape, or another kind of numbers.
    """
    if array.shape != shape or array.dtype.kind != kind.kind:
        raise ValueError(f"expected {kind} of shape {shape}; got {array.dtype} of {array.shape}")
    if array.dtype == kind and array.flags.carray:
        return array
    return np.array(array, kind, order="C")


def _are_origins(found: Continuations, corpora: range) -> bool:
    """Whether every node has one that can be, or none has one."""
    origins, size = found.origins, len(found)
    if origins is None:
        return True
    arrays = (origins.corpora, origins.documents, origins.offsets)
    return (
        [array.shape for array in arrays] == [(size,), (size, DIGEST_BYTES), (size,)]
        and [array.dtype for array in arrays] == [np.int32, np.uint8, np.int32]
        and bool(((origins.corpora >= corpora.start) & (origins.corpora < corpora.stop)).all())
        # The match and the nodes above stand before it.
        and bool((origins.offsets >= found.match_length + depths(found.parents)).all())
    )


def _ascends(expanded: Int32s, rows: int, size: int) -> bool:
    if len(expanded) != rows:
        return False
    if rows == 0:
        return True
    steps = np.diff(expanded)
    return expanded[0] == 0 and expanded[-1] < size and bool((steps > 0).all())


def _descending(scores: Float32s, parents: Int32s) -> Float32s:
    """Scores with none above its parent's, which cutting relies on."""
    if scores[0] == 1.0 and (scores[1:] <= scores[parents[1:]]).all():
        return scores
    lowered = scores.tolist()
    lowered[0] = 1.0
    for i, parent in enumerate(parents.tolist()[1:], start=1):
        lowered[i] = min(lowered[i], lowered[parent])
    return np.asarray(lowered, np.float32)
