"""`/metrics` of a datastore: right numbers, for the right caller, and never a hanging scrape."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rasd.api import datastore_metrics as module
from rasd.api.auth import LOCAL
from rasd.api.datastore_metrics import DatastoreMetrics
from rasd.datastore import DatastoreStatus, Scale, Written
from rasd.errors import Unavailable
from tests.api.fakes import make_site, until
from tests.api.stores import FakeDatastore


def value(text: str, name: str, **labels: str) -> float:
    """One sample. ``labels`` are those beside the model's."""
    (found,) = (
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"rasd:{name}" and sample.labels == {"model_name": "rasd", **labels}
    )
    return found


async def rendered(metrics: DatastoreMetrics) -> str:
    return (await metrics.render(LOCAL)).decode()


async def test_numbers_of_corpora_shards_and_writes() -> None:
    store = FakeDatastore()
    site = make_site(datastore=store)
    path = "/v1/corpora/docs/documents"
    async with site.client() as client:
        await client.post("/v1/corpora", json={"name": "docs"})
        documents = [{"id": "a", "text": "four"}, {"id": "b", "text": ""}]
        await client.post(path, json={"documents": documents})
        await client.delete(f"{path}/a")
        await client.post(path, json={"documents": documents})
        store.scaled = Scale(2, 1)
        answer = await client.get("/metrics")
    text = answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    assert "rasd:num_requests_running" in text
    assert value(text, "corpus_documents", corpus="docs") == 1
    assert value(text, "corpus_tokens", corpus="docs") == 4
    assert value(text, "corpus_memory_tokens", corpus="docs") == 2
    assert value(text, "corpus_bytes", corpus="docs") == 36
    assert value(text, "corpus_segments", corpus="docs") == 1
    assert value(text, "corpus_damaged_files", corpus="docs") == 0
    writes = {
        change: value(text, "corpus_writes_total", corpus="docs", change=change)
        for change in ("created", "deleted", "rejected")
    }
    assert writes == {"created": 2, "deleted": 1, "rejected": 2}
    for slot in "01":
        shard = {"slot": slot, "replica": "0"}
        assert value(text, "shard_queries_total", **shard) == 4200
        assert value(text, "shard_latency_p99_seconds", **shard) == pytest.approx(0.00031)
        assert value(text, "shard_resident_bytes", **shard) == 120e6
        assert value(text, "shard_lag_seconds", **shard) == 0
    assert (value(text, "datastore_shards"), value(text, "datastore_override")) == (2, 1)
    assert value(text, "datastore_up") == 1
    assert (value(text, "datastore_compactions"), value(text, "datastore_commits_total")) == (1, 7)
    assert value(text, "datastore_compactions_waiting") == 3
    assert value(text, "datastore_failed_compactions_total") == 4
    assert value(text, "datastore_failed_commits_total") == 2
    assert value(text, "datastore_commit_seconds_total") == 0.5


async def test_no_writer_has_no_numbers() -> None:
    class Alone(FakeDatastore):
        async def status(self) -> DatastoreStatus:
            return replace(await super().status(), writer=None)

    text = await rendered(DatastoreMetrics("rasd", Alone))
    assert value(text, "datastore_shards") == 1
    assert "compactions" not in text and "commit" not in text


async def test_a_dropped_corpus_leaves_nothing_behind() -> None:
    store = FakeDatastore({"docs": {}}, {"docs": 1})
    metrics = DatastoreMetrics("rasd", lambda: store)
    metrics.wrote("docs", [Written("a", "created")])
    assert 'corpus="docs"' in await rendered(metrics)
    await store.drop("docs")
    metrics.forget("docs")
    metrics._known_at = 0
    assert 'corpus="docs"' not in await rendered(metrics)


async def test_scrapes_share_one_question() -> None:
    store = FakeDatastore()
    metrics = DatastoreMetrics("rasd", lambda: store)
    await asyncio.gather(*(metrics.render(LOCAL) for _ in range(9)))
    await metrics.render(LOCAL)
    assert len(store.calls) == 1


async def test_a_silent_datastore_does_not_hang_a_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AGE_S", 0.0)
    store = FakeDatastore({"docs": {}}, {"docs": 1})
    metrics = DatastoreMetrics("rasd", lambda: store)
    before = await rendered(metrics)
    answers = asyncio.Event()
    store.fault = lambda name, arguments: answers.wait()
    monkeypatch.setattr(module, "SCRAPE_DEADLINE_S", 0.02)
    began = time.monotonic()
    during = await rendered(metrics)
    assert time.monotonic() - began < 5
    assert (value(before, "datastore_up"), value(during, "datastore_up")) == (1, 0)
    assert value(during, "corpus_documents", corpus="docs") == 0
    age = "datastore_status_age_seconds"
    assert value(during, age) > value(before, age)
    await metrics.render(LOCAL)
    assert len(store.calls) == 2  # the slow question is still the only one
    answers.set()
    await until(lambda: metrics._asking is not None and metrics._asking.done(), "it is answered")
    store.fault = None
    monkeypatch.setattr(module, "SCRAPE_DEADLINE_S", 10.0)
    assert value(await rendered(metrics), "datastore_up") == 1


async def test_a_datastore_that_never_came_is_down() -> None:
    def get_datastore() -> Any:
        raise Unavailable("starting")

    text = await rendered(DatastoreMetrics("rasd", get_datastore))
    assert value(text, "datastore_up") == 0
    assert "corpus" not in text
