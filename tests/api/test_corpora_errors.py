"""What clients are told of failures: the corpus and the reason, never a path of the server."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from rasd.api.corpora_errors import failure_for_client, for_client
from rasd.datastore import Failure
from rasd.errors import (
    Conflict,
    NotFound,
    Overloaded,
    RasdError,
    SegmentCorrupt,
    StorageError,
    StoreLocked,
)
from tests.api.fakes import make_site
from tests.api.stores import FakeDatastore

ROOT = "/srv/the docs/docs: old"
HIDDEN = "files are damaged, in use, or cannot be written; the server's log says more"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            StorageError(f"{ROOT}/docs/partition-0001/x: No space"),
            "docs/partition-0001/x: No space",
        ),
        (StorageError(f"damaged: {ROOT}/docs/a.docs: length"), "damaged: docs/a.docs: length"),
        (StoreLocked(f"{ROOT}/docs/writer.lock is held by 7 b"), "docs/writer.lock is held by 7 b"),
        (StoreLocked(f"{ROOT}/docs was dropped just now"), "docs was dropped just now"),
        (Conflict(f"{ROOT}/docs is in the way"), "docs is in the way"),
        (SegmentCorrupt(f"{ROOT}/docs/corpus.json: checksum"), "docs/corpus.json: checksum"),
        (StorageError("/srv/other: read-only"), f"corpus 'docs': {HIDDEN}"),
        (Overloaded("input/output: 64 MiB wait"), "input/output: 64 MiB wait"),
        (NotFound(f"no corpus 'docs' in {ROOT}", param="corpus"), "there is no corpus 'docs'"),
        (
            NotFound("there is no document '/a/docs/b'", param="id"),
            "there is no document '/a/docs/b'",
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_paths_go_to_the_log(error: RasdError, told: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rasd.api"):
        found = for_client(error, "docs")
    assert (type(found), str(found)) == (type(error), told)
    assert (str(error) in caplog.text) == (str(error) != told)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            f"StorageError: {ROOT}/docs/partition-0001: full",
            "StorageError: docs/partition-0001: full",
        ),
        ("OutOfMemoryError: killed\nsee /tmp/ray/x.out", "OutOfMemoryError: killed"),
        ("OSError: [Errno 5] '/dev/sda'", f"corpus 'docs': {HIDDEN}"),
        ("MemoryError: ", "MemoryError: "),
    ],
)
def test_a_failure_is_told_in_a_line_without_paths(error: str, told: str) -> None:
    found = failure_for_client(Failure("commit", "docs", error, 1.0))
    assert found == Failure("commit", "docs", told, 1.0)


def test_what_is_about_no_corpus_hides_all() -> None:
    assert str(for_client(StorageError(f"{ROOT}/x: full"), None)) == f"the datastore: {HIDDEN}"
    kept = Overloaded(f"{ROOT}/docs: too much", retry_after_s=7.5)
    told = for_client(kept, "docs")
    assert isinstance(told, Overloaded) and told.retry_after_s == 7.5


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound(f"no corpus 'docs' in {ROOT}", param="corpus"), 404),
        (StoreLocked(f"{ROOT}/docs/writer.lock is held by 7"), 503),
        (StorageError(f"{ROOT}/docs: No space left on device"), 507),
        (SegmentCorrupt(f"{ROOT}/docs/corpus.json: checksum"), 500),
    ],
    ids=lambda one: type(one).__name__,
)
async def test_no_route_tells_a_path(error: Exception, status: int) -> None:
    def fail(name: str, arguments: Any) -> None:
        if name != "corpora":
            raise error

    store = FakeDatastore(fault=fail)
    path = "/v1/corpora/docs/documents"
    async with make_site(datastore=store).client() as client:
        for method, place, body in (
            ("POST", "/v1/corpora", {"name": "docs"}),
            ("DELETE", "/v1/corpora/docs", None),
            ("GET", path, None),
            ("GET", f"{path}?content=true", None),
            ("POST", path, {"documents": [{"id": "a", "text": "b"}]}),
            ("POST", f"{path}/delete", {"ids": ["a"]}),
            ("GET", f"{path}/a", None),
            ("DELETE", f"{path}/a", None),
        ):
            answer = await client.request(method, place, json=body)
            assert answer.status_code == status
            message = answer.json()["error"]["message"]
            assert "/srv" not in message and "docs" in message
            if status == 404:
                assert message == "there is no corpus 'docs'"
