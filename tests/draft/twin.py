"""Slow and obvious: one sequence, no cache, dense attention, every path from the beginning."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig

from rasd.config import DrafterConfig
from rasd.draft.eagle import EagleDrafter
from rasd.draft.eagle_head import EagleHead
from rasd.draft.weights import SharedWeights
from rasd.stages import DraftQuery, DraftRequest, Features
from rasd.tree import Draft

VOCABULARY, WIDTH = 61, 16

torch.set_num_threads(1)


def tiny_head(
    generator: torch.Generator, *, width: int = WIDTH, units: int = 24, bias: bool = True
) -> EagleHead:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=units,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    config.bias = bias
    config._attn_implementation = "eager"
    head = EagleHead(config).eval()
    for parameter in head.parameters():
        # Wide weights make distributions that differ much from place to place.
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.25
    return head


@dataclass
class World:
    """A head, a target's weights, and texts with made-up features."""

    generator: torch.Generator
    head: EagleHead
    shared: SharedWeights

    @classmethod
    def make(cls, seed: int) -> World:
        print(f"seed {seed}")
        generator = torch.Generator().manual_seed(seed)
        embedding = torch.randn(VOCABULARY, WIDTH, generator=generator)
        lm_head = torch.randn(VOCABULARY, WIDTH, generator=generator) * 0.2
        return cls(generator, tiny_head(generator), SharedWeights(embedding, lm_head))

    def drafter(self, **settings: object) -> EagleDrafter:
        defaults = {"levels": 4, "top_k": 3, "nodes": 14, "kv_slots": 512, "page_size": 4}
        config = DrafterConfig.model_validate(defaults | settings)
        return EagleDrafter(config, copy.deepcopy(self.head), self.shared)

    def text(self, sequence: int, length: int) -> Text:
        return Text(
            sequence,
            torch.randint(VOCABULARY, (length,), generator=self.generator),
            torch.randn(length, WIDTH, generator=self.generator),
        )


@dataclass(frozen=True)
class Text:
    """A sequence whose future is fixed: a token and a feature per position."""

    sequence: int
    tokens: Tensor
    features: Tensor

    def put(self, drafter: EagleDrafter, start: int, stop: int) -> None:
        rows = self.features[start:stop].numpy().copy()
        drafter.put(Features(self.sequence, start, rows))

    def query(self, start: int, stop: int, nodes: int = 100) -> DraftQuery:
        tokens = self.tokens[start:stop].numpy().astype(np.int32)
        return DraftQuery(self.sequence, start, tokens, nodes)


def propose(
    drafter: EagleDrafter, *queries: DraftQuery, release: tuple[int, ...] = ()
) -> list[Draft | None]:
    """One request; the drafter's books must be right after it."""
    reply = drafter.propose(DraftRequest(7, list(release), list(queries))).wait(0.0)
    drafter.check_integrity()
    assert reply.step == 7
    assert len(reply.drafts) == len(queries)
    return reply.drafts


@dataclass
class Node:
    """A scored candidate of the twin.

    Attributes:
        path: the tokens below the root that lead to it, itself last.
        score: log-probability of the path.
        features: [n, H], what the head reads before it: the target's, then its own.
    """

    path: tuple[int, ...]
    score: float
    features: Tensor


def twin(
    world: World,
    text: Text,
    stop: int,
    *,
    start: int = 0,
    levels: int = 4,
    top_k: int = 3,
    nodes: int = 14,
) -> dict[tuple[int, ...], float]:
    """The tree behind the root ``text.tokens[stop - 1]``: log-probability by path.

    ``start`` is the first position whose feature is used.
    """
    candidates: list[Node] = []
    beam = [Node((), 0.0, text.features[start : stop - 1])]
    for _ in range(levels):
        below: list[Node] = []
        for node in beam:
            logprobs, feature = distribution(world, text, start, stop, node)
            features = torch.cat([node.features, feature[None]])
            best = sorted(range(VOCABULARY), key=lambda t: -logprobs[t])[:top_k]
            below += [Node((*node.path, t), node.score + logprobs[t], features) for t in best]
        candidates += below
        beam = sorted(below, key=lambda n: -n.score)[:top_k]
    kept = sorted(candidates, key=lambda n: -n.score)[:nodes]
    return {node.path: node.score for node in kept}


@torch.no_grad()
def distribution(
    world: World, text: Text, start: int, stop: int, node: Node
) -> tuple[list[float], Tensor]:
    """Log-probabilities after a node, and the head's feature there: a forward over everything."""
    tokens = torch.cat([text.tokens[start + 1 : stop], torch.tensor(node.path, dtype=torch.int64)])
    positions = torch.arange(len(tokens))[None]
    out = world.head(world.shared.embedding[tokens][None], node.features[None], positions)[0, -1]
    return (world.shared.head @ out).log_softmax(-1).tolist(), out


def paths(draft: Draft) -> dict[tuple[int, ...], float]:
    """Log-probability by path of a drafted tree; checks its form."""
    tree = draft.tree
    found: list[tuple[int, ...]] = [()]
    for i in range(1, len(tree)):
        parent = int(tree.parents[i])
        assert 0 <= parent < i
        assert tree.scores[i] <= tree.scores[parent]
        found.append((*found[parent], int(tree.tokens[i])))
    assert len(set(found)) == len(found)
    assert tree.parents[0] == -1
    assert tree.scores[0] == 1
    assert tree.sources.tolist() == [0] + [1] * (len(tree) - 1)
    assert draft.expanded[0] == 0
    assert (np.diff(draft.expanded) > 0).all()
    assert len(draft.expanded) == len(draft.top_ids) == len(draft.top_logprobs)
    return {p: math.log(s) for p, s in zip(found[1:], tree.scores[1:].tolist(), strict=True)}


def assert_same(draft: Draft | None, expected: dict[tuple[int, ...], float]) -> None:
    assert draft is not None
    found = paths(draft)
    assert found.keys() == expected.keys()
    for path, score in expected.items():
        assert abs(found[path] - score) < 1e-3, (path, found[path], score)


def cached(drafter: EagleDrafter, text: Text) -> int:
    return drafter._rows.length(text.sequence)


def assert_empty(drafter: EagleDrafter) -> None:
    assert drafter._rows.pool.available == drafter._rows.pool.pages
    assert drafter._features.held == 0
    assert not drafter._sequences
