"""Passages over sockets: asked for once, never waited for, of the corpora a query reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from actors import rpc
from actors.retrieve import RemoteRetriever
from actors.rpc import Server
from actors.shard import ShardService, ShardSetting
from actors.table import Holdings, ShardTable, Slot
from actors.wire import DenseQuery, DenseReply, ShardQuery, ShardReply
from rasd.config import DenseConfig, RetrievalConfig, SpeculationConfig, TargetConfig
from rasd.errors import StageUnavailable
from rasd.retrieval.dense.packed import pack_passages
from rasd.retrieval.dense.passages import Passage
from rasd.retrieval.flat import pack_answers, unpack_queries
from rasd.retrieval.store.records import id_digest
from rasd.stages import RetrieveQuery, RetrieveReply, RetrieveRequest
from rasd.trie import Continuations
from tests.actors.threads import HOST, SECRET, served
from tests.retrieval.dense.worlds import VOCABULARY, WIDTH, World, matrix, text, until
from tests.tokenizers import byte_tokenizer

SPECULATION = SpeculationConfig(retrieve_deadline_s=5.0)
PROMPT = text(3, 40, seed=9).astype(np.int32)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(rpc, "STOP_POLL_MS", 20)
    with ExitStack() as stack:
        yield stack


def settings(**dense: Any) -> RetrievalConfig:
    base = DenseConfig(passage_tokens=WIDTH, passages=8)
    return RetrievalConfig(suffix_min=1, dense=base.model_copy(update=dense))


def remote_of(
    stack: ExitStack, retrieval: RetrievalConfig, *slots: tuple[Holdings, str]
) -> RemoteRetriever:
    remote = RemoteRetriever(retrieval, SPECULATION, SECRET, VOCABULARY)
    stack.callback(remote.close)
    table = tuple(Slot(holdings, (address,), 1) for holdings, address in slots)
    remote.set_table(ShardTable(1, table))
    return remote


def ask(remote: RemoteRetriever, step: int, *corpora: str, **more: Any) -> RetrieveReply:
    query = RetrieveQuery(0, text(3, 90)[20:24].astype(np.int32), corpora, **more)
    return remote.retrieve(RetrieveRequest(step, [query])).wait(5)


# --- real shards --------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, stack: ExitStack) -> World:
    world = World(tmp_path / "store")
    stack.callback(world.close)
    for name in ("one", "two"):
        world.create(name)
        world.put(name, **{f"{name}{topic}": text(topic, 90) for topic in range(8)})
    byte_tokenizer().save_pretrained(tmp_path / "model")
    save_file({"wte.weight": matrix()}, tmp_path / "model" / "model.safetensors")
    return world


def shard_of(
    world: World, stack: ExitStack, retrieval: RetrievalConfig, holdings: Holdings
) -> ShardService:
    model = TargetConfig(model=str(world.root.parent / "model"))
    setting = ShardSetting(world.root, VOCABULARY, "t", retrieval, 60, 0.02, model)
    service = ShardService(setting, HOST, SECRET)
    stack.enter_context(served(service.server))
    stack.callback(service.close)
    service.load(1, holdings)
    return service


def test_a_sequence_searches_its_own_passages(world: World, stack: ExitStack) -> None:
    retrieval = settings(ask="none")
    slots = []
    services = []
    for partition in (0, 1):
        holdings = {"one": (partition,), "two": (partition,)}
        service = shard_of(world, stack, retrieval, holdings)
        services.append(service)
        slots.append((holdings, service.server.address))
    until(lambda: sum(s._dense.passages for s in services if s._dense) == 2 * 8 * 11)
    remote = remote_of(stack, retrieval, *slots)
    plain = remote_of(stack, RetrievalConfig(suffix_min=1), *slots)
    remote.observe(0, PROMPT)
    first = ask(remote, 0, "one", "two", origins=True)
    assert first.found[0].match_length == ask(plain, 0, "one", "two").found[0].match_length == 4
    assert remote._near is not None
    until(
        lambda: _step(remote, 1, "one", "two") and remote._near.choices.copied(_query()) is not None
    )
    asked = [service.status("").queries for service in services]
    found = ask(remote, 2, "one", "two", origins=True).found[0]
    assert [service.status("").queries for service in services] == asked  # nobody was asked
    assert found.match_length == 4 and found.origins is not None
    digests = {id_digest("one3"), id_digest("two3")}
    assert {row.tobytes() for row in found.origins.documents} <= digests
    whole = text(3, 90)
    assert whole[found.origins.offsets].tolist() == found.tokens.tolist()
    remote.release(0)
    assert remote._near.choices.copied(_query()) is None


def _query() -> RetrieveQuery:
    return RetrieveQuery(0, np.array([1], np.int32), ("one", "two"))


def _step(remote: RemoteRetriever, step: int, *corpora: str) -> bool:
    return ask(remote, step, *corpora) is not None


def test_only_the_corpora_of_the_query_are_read(world: World, stack: ExitStack) -> None:
    retrieval = settings(ask="all")
    holdings = {"one": (0, 1), "two": (0, 1)}
    service = shard_of(world, stack, retrieval, holdings)
    until(lambda: service._dense is not None and service._dense.passages == 2 * 8 * 11)
    store = service._loaded[1].retriever.store
    assert service._dense is not None
    for names in (("one",), ("two",), ("none",), ()):
        found = service._dense.search(store, PROMPT.astype(np.uint32), names, 200)
        known = {id_digest(f"{name}{topic}") for name in names for topic in range(8)}
        assert {passage.document for passage in found} <= known
        assert bool(found) == bool(set(names) & {"one", "two"})


# --- shards that are asked by meaning and do not behave -------------------------------------


class Dull:
    """Holds corpus ``one``; answers continuations with nothing, and passages as told."""

    def __init__(self, stack: ExitStack, answer: Callable[[DenseQuery], object]) -> None:
        self.asked: list[DenseQuery] = []
        self.queries = 0
        self._answer = answer
        self.server = Server(HOST, SECRET, {ShardQuery: self._none, DenseQuery: self._select})
        stack.enter_context(served(self.server))

    def _none(self, query: ShardQuery) -> ShardReply:
        queries = unpack_queries(query.queries)
        self.queries += len(queries)
        return ShardReply(query.step, pack_answers([Continuations.none()] * len(queries)))

    def _select(self, query: DenseQuery) -> object:
        self.asked.append(query)
        return self._answer(query)


def some(query: DenseQuery, corpus: int = 0, token: int = 0) -> DenseReply:
    tokens = text(3, 90) + np.uint32(token)
    return DenseReply(pack_passages([Passage(corpus, bytes(16), 0, 0.9, tokens)]))


def fails(query: DenseQuery) -> object:
    raise StageUnavailable("nothing is indexed")


def steps(remote: RemoteRetriever, count: int = 6, **more: Any) -> list[Continuations]:
    return [ask(remote, step, "one", **more).found[0] for step in range(count)]


@pytest.mark.parametrize(
    "answer",
    [
        fails,
        lambda query: None,
        lambda query: DenseReply(pack_passages([])),
        lambda query: some(query, corpus=1),
        lambda query: some(query, token=VOCABULARY),
    ],
    ids=["fails", "silent", "empty", "another corpus", "unknown tokens"],
)
def test_a_bad_answer_costs_nothing(stack: ExitStack, answer: Callable[[Any], object]) -> None:
    shard = Dull(stack, answer)
    remote = remote_of(
        stack, settings(ask="none", deadline_s=0.001), ({"one": (0,)}, shard.server.address)
    )
    remote.observe(0, PROMPT)
    assert all(len(found) == 0 for found in steps(remote))
    assert shard.queries == 6 and len(shard.asked) == 1  # asked about its prompt once, and always


def test_with_a_good_answer_nobody_is_asked_any_more(stack: ExitStack) -> None:
    shard = Dull(stack, some)
    remote = remote_of(stack, settings(ask="none"), ({"one": (0,)}, shard.server.address))
    remote.observe(0, PROMPT)
    until(lambda: len(ask(remote, 0, "one").found[0]) > 0)
    before = shard.queries
    assert all(found.match_length == 4 for found in steps(remote))
    assert shard.queries == before
    (query,) = shard.asked
    assert query.prompt.tolist() == PROMPT.tolist()
    assert (query.corpora, query.count, query.version) == (("one",), 8, 1)


@pytest.mark.parametrize("passages", [None, 0, 5])
def test_a_request_says_how_many(stack: ExitStack, passages: int | None) -> None:
    shard = Dull(stack, some)
    remote = remote_of(stack, settings(passages=0), ({"one": (0,)}, shard.server.address))
    remote.observe(0, PROMPT)
    steps(remote, passages=passages)
    assert [query.count for query in shard.asked] == ([5] if passages else [])


def test_selected_slots_are_asked_and_others_are_not(stack: ExitStack) -> None:
    found, empty = Dull(stack, some), Dull(stack, lambda query: DenseReply(pack_passages([])))
    failing = Dull(stack, fails)
    remote = remote_of(
        stack,
        settings(ask="selected"),
        *(({"one": (i,)}, shard.server.address) for i, shard in enumerate((found, empty, failing))),
    )
    remote.observe(0, PROMPT)
    until(lambda: len(ask(remote, 0, "one").found[0]) > 0)
    before = [shard.queries for shard in (found, empty, failing)]
    steps(remote, 4)
    after = [shard.queries for shard in (found, empty, failing)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [4, 0, 4]


def test_a_shard_without_indexes_says_so(world: World, stack: ExitStack) -> None:
    holdings = {"one": (0, 1)}
    service = shard_of(world, stack, RetrievalConfig(suffix_min=1), holdings)
    assert service._dense is None
    remote = remote_of(stack, settings(ask="none"), (holdings, service.server.address))
    remote.observe(0, PROMPT)
    assert all(found.match_length == 4 for found in steps(remote))
