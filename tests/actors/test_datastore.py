"""The datastore on a real cluster: written to, scaled, repaired, and killed piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rasd.datastore import NewDocument, Scale
from rasd.errors import Conflict, InvalidRequest, NotFound, Unavailable
from rasd.retrieval.store.corpora import partition_path
from rasd.retrieval.store.manifest import newest, seg_path
from tests.actors.askers import Client, asking
from tests.actors.history import History, document, key, versions
from tests.actors.running import SEEDED, Service, datastore
from tests.service.running import processes, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

DOCUMENTS = 80
CORPUS = "notes"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with datastore(corpora=True, store={"flush_tokens": 2000}) as service:
        service.settled(1, 1)  # a shard on a new machine first compiles its search
        yield service


@pytest.fixture(scope="module")
def history(service: Service) -> History:
    """A corpus that no test changes."""
    history = History(DOCUMENTS)
    service.insist("create", CORPUS)
    for number in range(DOCUMENTS):
        history.begin(number, 0)
    written = service.ask("add", CORPUS, [document(n, 0) for n in range(DOCUMENTS)])
    assert {one.change for one in written} == {"created"}
    for number in range(DOCUMENTS):
        history.acknowledge(number)
    client = service.client()
    until(lambda: found(client) == DOCUMENTS, "found", 10)
    client.close()
    return history


def found(client: Client) -> int:
    """Documents of the corpus that are found; 0 if any answer is partial."""
    reply = client.ask([key(group) for group in range(DOCUMENTS // 8)], CORPUS)
    return 0 if reply.partial else sum(len(versions(each)) for each in reply.found)


def test_configured_corpora_are_filled(service: Service) -> None:
    def filled() -> bool:
        corpora = {corpus.name: corpus for corpus in service.insist("corpora")}
        return "seeded" in corpora and corpora["seeded"].documents == len(SEEDED)

    until(filled, "filled", 60)
    assert service.ask("get", "seeded", "seed-7").text == SEEDED[7]["text"]


def test_documents_come_and_go(service: Service) -> None:
    client = service.client()
    made = service.insist("create", "mine", 3)
    assert (made.name, made.partitions) == ("mine", 3)
    assert service.ask("create", "mine", 3) == made
    new = [NewDocument("a", tokens=[*range(20, 60)]), NewDocument("b", text="two\ud800")]
    written = service.ask("add", "mine", new)
    assert [one.change for one in written] == ["created", "rejected"] and written[1].error

    def following() -> list[int]:
        return client.ask([[30, 31, 32, 33]], "mine").found[0].tokens.tolist()

    until(lambda: following() == [34, 35, 36], "the document", 10)
    assert service.ask("get", "mine", "a").tokens == [*range(20, 60)]
    page = service.ask("page", "mine", None, 10)
    assert [one.id for one in page.documents] == ["a"] and page.after is None
    assert service.ask("resolve", "mine", [b"x" * 16]) == [None]
    changes = service.ask("delete", "mine", ["a", "z"])
    assert [one.change for one in changes] == ["deleted", "missing"]
    writer = service.ask("status").writer
    assert writer.commits >= 2 and writer.commit_seconds > 0 and writer.failure is None
    assert service.ask("corpus", "mine").documents == 0
    until(lambda: following() == [], "its end", 10)
    service.ask("drop", "mine")
    until(lambda: "mine" not in service.tables.newest.corpora, "no table with it", 10)
    client.close()


def test_errors_are_those_of_the_catalog(service: Service) -> None:
    service.insist("create", "mine", 2)
    with pytest.raises(Conflict, match="partitions"):
        service.ask("create", "mine", 5)
    with pytest.raises(NotFound, match="other") as missing:
        service.ask("add", "other", [NewDocument("a", text="b")])
    assert missing.value.param == "corpus" and missing.value.status == 404
    with pytest.raises(NotFound, match="nobody"):
        service.ask("get", "mine", "nobody")
    with pytest.raises(InvalidRequest, match="name"):
        service.ask("create", "../up")
    with pytest.raises(InvalidRequest, match=r"shards must be 1 to 256; got 0"):
        service.ask("scale", Scale(0, 1))
    service.ask("drop", "mine")
    with pytest.raises(NotFound):
        service.ask("drop", "mine")


def test_shards_and_replicas_come_and_go_unnoticed(service: Service, history: History) -> None:
    before = processes("ShardActor")
    with asking(service.client, history, CORPUS, 1) as (asker,):
        service.deploy(shards=2, replicas=2)
        status = service.settled(2, 2)
        assert status.scale == status.configured == Scale(2, 2) and not status.override
        assert set(before) < set(processes("ShardActor"))
        assert sorted((s.slot, s.replica) for s in status.shards) == [
            (0, 0),
            (0, 1),
            (1, 0),
            (1, 1),
        ]
        service.deploy(shards=1)
        service.settled(1, 2)
        until(lambda: len(processes("ShardActor")) == 2, "two shards")
    assert not asker.partial


def test_a_dead_shard_is_not_missed_where_it_has_a_replica(
    service: Service, history: History
) -> None:
    service.deploy(shards=1, replicas=2)
    service.settled(1, 2)
    with asking(service.client, history, CORPUS, 2) as (asker,):
        service.kill("ShardActor")
        until(lambda: len(processes("ShardActor")) == 2, "another one")
        service.settled(1, 2)
    assert not asker.partial


def test_the_controller_dies_and_nobody_asks_in_vain(service: Service, history: History) -> None:
    service.deploy(shards=1, replicas=2)
    service.settled(1, 2)
    service.ask("scale", Scale(2, 1))
    service.settled(2, 1)
    until(lambda: len(processes("ShardActor")) == 2, "two shards")
    shards = processes("ShardActor")
    with asking(service.client, history, CORPUS, 3) as (asker,):
        service.kill("Datastore")
        service.insist("create", "later")
        status = service.settled(2, 1)
        assert (status.scale, status.configured) == (Scale(2, 1), Scale(1, 2)) and status.override
        until(lambda: "later" in service.tables.newest.corpora, "a new corpus", 10)
    assert not asker.partial
    until(lambda: processes("ShardActor") == shards, "the same shards, and no other")
    service.ask("drop", "later")


def test_an_override_lasts_until_the_next_deployment(service: Service) -> None:
    service.deploy(shards=1, replicas=1)
    assert not service.settled(1, 1).override
    assert service.ask("scale", Scale(2, 1)).override
    service.settled(2, 1)
    service.deploy()  # the same again
    until(lambda: not service.ask("status").override, "no override", 20)
    service.settled(1, 1)


def test_writes_are_refused_while_there_is_no_writer(service: Service, history: History) -> None:
    with asking(service.client, history, CORPUS, 4) as (asker,):
        service.kill("WriterActor")
        with pytest.raises(Unavailable, match="repeat the call"):
            for number in range(10_000):
                service.ask("delete", CORPUS, [f"no-{number}"])
        assert CORPUS in {corpus.name for corpus in service.ask("corpora")}
        assert service.insist("delete", CORPUS, ["nobody"])[0].change == "missing"
    assert not asker.partial


def test_a_damaged_segment_is_written_anew(service: Service, history: History) -> None:
    service.deploy(shards=1, replicas=1)
    service.settled(1, 1)
    paths = [partition_path(service.root, "seeded", p) for p in range(4)]
    path = next(path for path in paths if newest(path).segments)
    damaged = newest(path).segments[0].number
    flip(seg_path(path, damaged))
    client = service.client()
    with asking(service.client, history, CORPUS, 5):
        service.kill("ShardActor")
        corpora = {corpus.name: corpus for corpus in service.settled(1, 1).corpora}
        assert corpora["seeded"].damaged == [f"{path.name}/{seg_path(path, damaged).name}"]
        assert client.ask([[1, 2, 3, 4]], "seeded").partial
        until(lambda: damaged not in {one.number for one in newest(path).segments}, "repair", 60)
        until(lambda: not client.ask([[1, 2, 3, 4]], "seeded").partial, "complete", 30)
    client.close()


def flip(path: Path) -> None:
    """Changes a byte in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 255]))
