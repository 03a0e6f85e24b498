"""Tables of the datastore: nothing is lost on a narrow terminal."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console

from rasd.cli.console import latency
from rasd.cli.tables import status_tables
from rasd.datastore import CorpusInfo, DatastoreStatus, Scale, ShardInfo

ADDRESSES = ["192.168.100.100:54321", "tcp://[2001:db8:85a3::8a2e:370:7334]:54321"]


def status(address: str) -> dict[str, Any]:
    corpus = CorpusInfo(
        "python-standard-library", 1024, 50_000, "t", 1.0, 123_456_789, 10**11, 9_999, 10**12, 10**8
    )
    shard = ShardInfo(
        slot=255,
        replica=15,
        address=address,
        node="node-a",
        partitions=1024,
        tokens=100_400_000,
        resident_bytes=1_390_000_000,
        queries=1_390,
        queries_per_s=1_370.5,
        p50_ms=19.3,
        p99_ms=18.7,
        lag_s=3 * 3600 + 1200,
    )
    one = Scale(256, 16)
    return asdict(DatastoreStatus(one, one, False, True, 7, [corpus], [shard]))


def shown(status: dict[str, Any], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(status_tables(status))
    return out.getvalue()


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("width", [80, 200])
def test_every_column_is_whole(width: int, address: str) -> None:
    text = shown(status(address), width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for cell in (
        *("corpus", "documents", "in memory", "size", "segments", "partitions", "damaged"),
        *("123,456,789", "100G", "100M", "1 TB", "9,999", "1,024"),
        *("shard", "address", "tokens", "memory", "queries", "per s", "p50", "p99", "lag"),
        *("255.15", address.removeprefix("tcp://"), "1.39 GB", "1.39k", "1.37k"),
        *("19.3 ms", "18.7 ms", "3 h 20 min"),
    ):
        assert cell in text, (cell, text)
    assert ("Searches" in text) == (width == 80)


def test_nothing_measured_is_no_latency() -> None:
    assert (latency(0.0), latency(0.041), latency(2.5)) == ("–", "41 µs", "2.5 ms")


def test_an_older_service_says_nothing_of_its_writer() -> None:
    new = status(ADDRESSES[0])
    assert new["writer"] is None
    assert shown({name: said for name, said in new.items() if name != "writer"}, 80) == shown(
        new, 80
    )
