"""Trees against slow, obvious twins: sets of paths."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasd.errors import InvalidRequest
from rasd.tree import (
    CORPUS,
    DRAFT,
    PROMPT,
    Draft,
    DraftTree,
    ancestor_mask,
    cut,
    depths,
    fuse,
    path_to,
    prune,
    trim,
)
from rasd.trie import (
    DIGEST_BYTES,
    Continuations,
    Origins,
    advance,
    build_trie,
    score_continuations,
)

ROOT = 9
Path = tuple[int, ...]
tokens = st.integers(0, 4)
paths = st.lists(st.lists(tokens, min_size=1, max_size=5), max_size=8)


@st.composite
def trees(draw: st.DrawFn, source: int = DRAFT) -> DraftTree:
    """A well-formed tree; scores are coarse, so that ties happen."""
    children: set[tuple[int, int]] = set()
    ids, parents, scores = [ROOT], [-1], [1.0]
    for _ in range(draw(st.integers(0, 14))):
        parent, token = draw(st.integers(0, len(ids) - 1)), draw(tokens)
        if (parent, token) not in children:
            children.add((parent, token))
            ids.append(token)
            parents.append(parent)
            scores.append(scores[parent] * draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    return DraftTree.of(ids, parents, scores, [0] + [source] * (len(ids) - 1))


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    tree = draw(trees())
    others = [i for i in range(1, len(tree)) if draw(st.booleans())]
    expanded = [0, *others]
    width = draw(st.integers(1, 4))
    top = [draw(st.permutations(range(5)))[:width] for _ in expanded]
    top_ids = np.asarray(top, np.int32)
    return Draft(tree, np.asarray(expanded, np.int32), top_ids, np.zeros(top_ids.shape, np.float32))


def table(tree: DraftTree) -> dict[Path, tuple[float, int]]:
    """Score and sources by path, the root's being empty."""
    out = {}
    for node in range(len(tree)):
        path = tuple(int(tree.tokens[i]) for i in path_to(tree.parents, node)[1:])
        assert path not in out, "two nodes stand for one path"
        out[path] = (float(tree.scores[node]), int(tree.sources[node]))
    return out


def check(tree: DraftTree) -> None:
    """Everything the docstring of DraftTree promises."""
    assert tree.tokens.dtype == tree.parents.dtype == np.int32
    assert tree.scores.dtype == np.float32
    assert tree.sources.dtype == np.uint8
    assert len(tree.tokens) == len(tree.parents) == len(tree.scores) == len(tree.sources)
    assert tree.origins is None or (tree.origins.dtype, len(tree.origins)) == (np.int32, len(tree))
    assert (tree.parents[0], tree.scores[0], tree.sources[0]) == (-1, 1.0, 0)
    for i in range(1, len(tree)):
        assert 0 <= tree.parents[i] < i
        assert tree.scores[i] <= tree.scores[tree.parents[i]]
        assert tree.sources[i] > 0
    table(tree)


# --- fuse ---------------------------------------------------------------------------------------


@given(trees(DRAFT), trees(CORPUS))
def test_fusing_unites_the_sets_of_paths(first: DraftTree, second: DraftTree) -> None:
    fused = fuse(first, second)
    check(fused)
    one, two, both = table(first), table(second), table(fused)
    assert both.keys() == one.keys() | two.keys()
    for path, (_, sources) in both.items():
        assert sources == one.get(path, (0, 0))[1] | two.get(path, (0, 0))[1]
    assert fused.tokens[: len(first)].tolist() == first.tokens.tolist()
    assert fused.parents[: len(first)].tolist() == first.parents.tolist()


@given(trees(DRAFT), trees(CORPUS))
def test_fused_chances_are_those_of_either_being_right(first: DraftTree, second: DraftTree) -> None:
    one, two = table(first), table(second)

    def chance(known: dict[Path, tuple[float, int]], path: Path) -> float:
        if path not in known:
            return 0.0
        above = known[path[:-1]][0]
        return known[path][0] / above if above > 0 else 0.0

    for path, (score, _) in table(fuse(first, second)).items():
        expected = 1.0
        for end in range(1, len(path) + 1):
            step = path[:end]
            expected *= 1 - (1 - chance(one, step)) * (1 - chance(two, step))
        assert score == pytest.approx(expected, abs=1e-6)


@given(trees(DRAFT), trees(PROMPT), trees(CORPUS))
def test_the_order_of_fusing_does_not_matter(a: DraftTree, b: DraftTree, c: DraftTree) -> None:
    one, other = table(fuse(fuse(a, b), c)), table(fuse(c, fuse(b, a)))
    assert one.keys() == other.keys()
    for path in one:
        assert one[path][0] == pytest.approx(other[path][0], abs=1e-6)
        assert one[path][1] == other[path][1]


@given(trees())
def test_fusing_with_a_bare_root_changes_nothing(tree: DraftTree) -> None:
    assert table(fuse(DraftTree.root(ROOT), tree)).keys() == table(tree).keys()
    again = table(fuse(tree, DraftTree.root(ROOT)))
    for path, (score, sources) in table(tree).items():
        assert again[path] == (pytest.approx(score), sources)


def test_different_roots_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="different tokens: 1 and 2"):
        fuse(DraftTree.root(1), DraftTree.root(2))


# --- prune --------------------------------------------------------------------------------------


@given(trees(CORPUS), drafts(), st.integers(1, 5))
def test_pruning_follows_its_definition(retrieved: DraftTree, draft: Draft, top_k: int) -> None:
    allowed: dict[Path, set[int]] = {}
    for row, node in enumerate(draft.expanded):
        path = tuple(int(draft.tree.tokens[i]) for i in path_to(draft.tree.parents, int(node))[1:])
        allowed[path] = {int(token) for token in draft.top_ids[row, :top_k]}
    expected = {
        path: values
        for path, values in table(retrieved).items()
        if all(path[i] in allowed.get(path[:i], set(range(5))) for i in range(len(path)))
    }
    pruned = prune(retrieved, draft, top_k)
    check(pruned)
    assert table(pruned) == expected


@given(trees(CORPUS), drafts())
def test_no_limit_prunes_nothing(retrieved: DraftTree, draft: Draft) -> None:
    assert prune(retrieved, draft, None) is retrieved


# --- cut and trim -------------------------------------------------------------------------------


@given(trees(), st.integers(0, 15))
def test_a_cut_keeps_the_best_and_their_ancestors(tree: DraftTree, nodes: int) -> None:
    kept = cut(tree, nodes)
    check(kept)
    assert len(kept) == min(len(tree), nodes + 1)
    assert table(kept).items() <= table(tree).items()
    best = sorted(tree.scores[1:].tolist(), reverse=True)[:nodes]
    assert sorted(kept.scores[1:].tolist(), reverse=True) == best


@given(trees(), st.integers(0, 15), st.integers(0, 15))
def test_cutting_twice_is_cutting_once(tree: DraftTree, one: int, two: int) -> None:
    assert table(cut(cut(tree, one), two)) == table(cut(tree, min(one, two)))


@given(trees(), st.integers(0, 6))
def test_trimming_keeps_what_is_not_too_deep(tree: DraftTree, depth: int) -> None:
    kept = trim(tree, depth)
    check(kept)
    assert table(kept) == {p: v for p, v in table(tree).items() if len(p) <= depth}


# --- origins ------------------------------------------------------------------------------------


@st.composite
def traced(draw: st.DrawFn, first_row: int) -> DraftTree:
    """A retrieved tree; not every node has an origin, and maybe nobody asked."""
    tree = draw(trees(CORPUS))
    rows = [-1] + [first_row + i if draw(st.booleans()) else -1 for i in range(len(tree) - 1)]
    return replace(tree, origins=np.asarray(rows, np.int32)) if draw(st.booleans()) else tree


def rows_of(tree: DraftTree) -> dict[Path, int]:
    """The origin of each path."""
    rows = [-1] * len(tree) if tree.origins is None else tree.origins.tolist()
    return {
        tuple(int(tree.tokens[i]) for i in path_to(tree.parents, node)[1:]): rows[node]
        for node in range(len(tree))
    }


@given(traced(0), traced(100))
def test_a_fused_node_has_the_first_origin_there_is(first: DraftTree, second: DraftTree) -> None:
    fused = fuse(first, second)
    check(fused)
    one, two = rows_of(first), rows_of(second)
    for path, row in rows_of(fused).items():
        own = one.get(path, -1)
        assert row == (own if own >= 0 else two.get(path, -1))
    asked = first.origins is not None or second.origins is not None
    assert (fused.origins is not None) == asked


@given(traced(0), drafts(), st.integers(1, 5), st.integers(0, 6))
def test_what_is_left_of_a_tree_keeps_its_origins(
    tree: DraftTree, draft: Draft, top_k: int, size: int
) -> None:
    for left in (prune(tree, draft, top_k), cut(tree, size), trim(tree, size)):
        check(left)
        assert rows_of(left).items() <= rows_of(tree).items()
        assert (left.origins is None) == (tree.origins is None)


# --- continuations ------------------------------------------------------------------------------


def counts(found: Continuations) -> dict[Path, int]:
    below = np.concatenate([[-1], found.parents + 1]).astype(np.int32)
    ids = [ROOT, *found.tokens.tolist()]
    return {
        tuple(ids[i] for i in path_to(below, node + 1)[1:]): int(found.counts[node])
        for node in range(len(found))
    }


@given(paths)
def test_a_trie_counts_the_paths_through_each_prefix(lines: list[list[int]]) -> None:
    found = build_trie(lines, 3)
    expected: dict[Path, int] = {}
    for line in lines:
        for end in range(1, len(line) + 1):
            prefix = tuple(line[:end])
            expected[prefix] = expected.get(prefix, 0) + 1
    assert counts(found) == expected
    assert len(found) == len(expected)
    assert (found.total, found.match_length) == (len(lines), 3)
    assert all(found.parents[i] < i for i in range(len(found)))


@given(paths, st.lists(tokens, max_size=4))
def test_advancing_is_looking_up_later(lines: list[list[int]], since: list[int]) -> None:
    moved = advance(build_trie(lines, 3), since)
    later = [line[len(since) :] for line in lines if line[: len(since)] == since]
    if not later:
        assert len(moved) == 0
        return
    expected = build_trie([line for line in later if line], 3 + len(since))
    assert counts(moved) == counts(expected)
    assert moved.match_length == 3 + len(since)
    assert moved.total == len(later)


@given(paths, st.integers(1, 8), st.sampled_from([0.0, 1.0, 7.5]))
def test_scores_are_shares_times_trust(lines: list[list[int]], length: int, doubt: float) -> None:
    found = build_trie(lines, length)
    tree = score_continuations(found, ROOT, CORPUS, doubt=doubt)
    check(tree)
    known = counts(found)
    for path, (score, sources) in table(tree).items():
        expected = 1.0
        for depth in range(len(path)):
            above = known[path[:depth]] if depth else found.total
            share = known[path[: depth + 1]] / above
            expected *= share * (length + depth) / (length + depth + doubt)
        assert score == pytest.approx(expected, abs=1e-6)
        assert sources == (CORPUS if path else 0)


def with_origins(found: Continuations) -> Continuations:
    """Every node's origin tells which node it was."""
    numbers = np.arange(len(found), dtype=np.int32)
    digests = np.repeat(numbers.astype(np.uint8)[:, None], DIGEST_BYTES, axis=1)
    return replace(found, exact=False, origins=Origins(numbers, digests, numbers + 7))


@given(paths, st.lists(tokens, max_size=4))
def test_advancing_keeps_what_is_known_of_the_rest(
    lines: list[list[int]], since: list[int]
) -> None:
    found = with_origins(build_trie(lines, 3))
    moved = advance(found, since)
    if len(moved) == 0:
        return
    assert not moved.exact
    assert moved.origins is not None
    tree, rest = (score_continuations(f, ROOT, CORPUS, first_row=0) for f in (found, moved))
    before = rows_of(tree)
    for path, row in rows_of(rest).items():
        if path:
            node = before[(*since, *path)]
            assert int(moved.origins.corpora[row]) == node
            assert moved.origins.documents[row].tolist() == [node % 256] * DIGEST_BYTES
            assert int(moved.origins.offsets[row]) == node + 7


@given(paths, st.integers(0, 50))
def test_rows_of_scored_nodes_begin_where_told(lines: list[list[int]], first_row: int) -> None:
    found = build_trie(lines, 3)
    tree = score_continuations(found, ROOT, CORPUS, first_row=first_row)
    check(tree)
    assert tree.origins is not None
    assert tree.origins.tolist() == [-1, *range(first_row, first_row + len(found))]
    assert score_continuations(found, ROOT, CORPUS).origins is None


def test_nothing_found_is_a_bare_root() -> None:
    assert len(score_continuations(Continuations.none(), ROOT, PROMPT)) == 1
    assert len(advance(Continuations.none(), [1, 2])) == 0


# --- shapes -------------------------------------------------------------------------------------


@given(trees())
def test_masks_depths_and_paths_agree(tree: DraftTree) -> None:
    mask, deep = ancestor_mask(tree.parents), depths(tree.parents)
    for node in range(len(tree)):
        path = path_to(tree.parents, node)
        assert path[0] == 0
        assert path[-1] == node
        assert all(tree.parents[b] == a for a, b in pairwise(path))
        assert np.flatnonzero(mask[node]).tolist() == sorted(path)
        assert deep[node] == len(path) - 1
