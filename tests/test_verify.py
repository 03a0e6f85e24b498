"""Walks keep the target's distribution for any tree; a biased walk does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from rasd.params import SamplingParams
from rasd.sampling import Draws, filter_logits
from rasd.stages import Work
from rasd.tree import CORPUS, DRAFT, DraftTree, cut, fuse, path_to
from rasd.trie import build_trie, score_continuations
from rasd.verify import Walk, walk
from tests.stats import chi_square_excess

VOCABULARY = 6
LENGTH = 3
NONE = np.zeros(0, np.int32)
Walker = Callable[[Tensor, Work, Draws], Walk]


@cache
def model(context: tuple[int, ...]) -> Tensor:
    """A language model as a table: logits are a hash of the context."""
    seed = sum((token + 1) * 31**i for i, token in enumerate(context))
    return 1.5 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed))


def some_tree(root: int, seed: int) -> DraftTree:
    """A fused tree of random proposals, some likely and some not."""
    rng = np.random.default_rng(seed)

    def proposals(source: int) -> DraftTree:
        paths = [rng.integers(0, VOCABULARY, rng.integers(1, 4)).tolist() for _ in range(4)]
        return score_continuations(build_trie(paths, 2), root, source)

    return cut(fuse(proposals(DRAFT), proposals(CORPUS)), int(rng.integers(0, 9)))


def verify(context: list[int], tree: DraftTree, draws: Draws, walker: Walker) -> list[int]:
    """One step: logits at every node, then the walk."""
    rows = [
        model((*context, *(int(tree.tokens[i]) for i in path_to(tree.parents, node)[1:])))
        for node in range(len(tree))
    ]
    work = Work(0, tree.tokens, tree.parents, decided=1, draw=True)
    return walker(torch.stack(rows), work, draws).tokens


def generate(params: SamplingParams, seed: int, walker: Walker, *, speculate: bool) -> list[int]:
    output: list[int] = []
    draws = Draws(params, prompt=NONE, output=NONE, choice=seed)
    while len(output) < LENGTH:
        context = [0, *output]
        tree = some_tree(context[-1], seed) if speculate else DraftTree.root(context[-1])
        output += verify(context, tree, draws, walker)
    return output[:LENGTH]


def exact_distribution(params: SamplingParams) -> np.ndarray:
    """Probability of every sequence of LENGTH tokens, by the chain rule."""
    shape = (VOCABULARY,) * LENGTH
    out = np.ones(shape)
    for sequence in np.ndindex(shape):
        for i in range(LENGTH):
            ids, kept = filter_logits(model((0, *sequence[:i])), params)
            row = np.zeros(VOCABULARY)
            row[ids.numpy()] = torch.softmax(kept, -1).numpy()
            out[sequence] *= row[sequence[i]]
    return out


def eager_walk(logits: Tensor, work: Work, draws: Draws) -> Walk:
    """Wrong on purpose: accepts any proposal that is at least fairly likely."""
    path, tokens, node = [], [], 0
    while True:
        chance = torch.softmax(logits[node], -1)
        below = [i for i in range(1, len(work.tokens)) if work.parents[i] == node]
        likely = [i for i in below if chance[work.tokens[i]] > 0.3]
        if not likely:
            break
        node = likely[0]
        path.append(node)
        tokens.append(int(work.tokens[node]))
    tokens.append(draws.draw(logits[node], tokens))
    draws.commit(tokens)
    return Walk(path, tokens, [])


def excess(params: SamplingParams, walker: Walker, count: int) -> float:
    expected = exact_distribution(params)
    seen = np.zeros(expected.shape, np.int64)
    for seed in range(count):
        seen[tuple(generate(params, seed, walker, speculate=True))] += 1
    inside = expected > 0
    assert not seen[~inside].any()
    return chi_square_excess(seen[inside], expected[inside] * count)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_fused_trees_keep_the_distribution(top_p: float) -> None:
    params = SamplingParams(top_p=top_p, seed=1)
    assert excess(params, walk, 4000) < 3.3


def test_a_biased_walk_is_found_out() -> None:
    assert excess(SamplingParams(seed=1), eager_walk, 4000) > 10


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(seed=3),
        SamplingParams(seed=3, temperature=0.7, top_p=0.8, top_k=4),
        SamplingParams(seed=3, presence_penalty=1.0, frequency_penalty=0.5),
        SamplingParams(temperature=0.0, repetition_penalty=1.8, logit_bias={2: 1.0}),
    ],
)
def test_tokens_do_not_depend_on_the_tree(params: SamplingParams) -> None:
    for choice in range(200):
        plain = generate(params, choice, walk, speculate=False)
        assert generate(params, choice, walk, speculate=True) == plain


def test_walk_accepts_a_chain_and_reports_logprobs() -> None:
    params = SamplingParams(temperature=0.0, logprobs=2)
    draws = Draws(params, prompt=NONE, output=NONE, choice=0)
    logits = torch.eye(4)[[1, 2, 3]] * 5  # after node 1: 1, after node 2: 2, after node 3: 3
    tokens = np.array([9, 0, 1, 2], np.int32)
    parents = np.array([-1, 0, 1, 2], np.int32)
    result = walk(logits, Work(0, tokens, parents, decided=2, draw=True), draws)
    assert (result.path, result.tokens) == ([2, 3], [1, 2, 3])
    assert draws.position == 3
    assert [int(entry.top_ids[0]) for entry in result.logprobs] == [1, 2, 3]
