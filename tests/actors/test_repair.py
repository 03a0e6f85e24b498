"""What shards refuse is written anew, once, and what cannot be is left for a while."""

from __future__ import annotations

import pytest

from actors import repair
from actors.repair import Damaged, Repairs, damaged_in
from actors.table import ShardStatus
from rasd.errors import SegmentCorrupt


def status(damaged: dict[str, dict[str, str]]) -> ShardStatus:
    return ShardStatus("x", "n", 4, 100, 2**20, 7, 0.5, 1.5, 2.5, 3.5, damaged)


ONE = status({"a": {"partition-0003/source-000017.seg": "checksum"}})
TWO = status(
    {
        "a": {
            "partition-0003/source-000017.seg": "checksum",
            "partition-0012/source-1234567.seg": "checksum",
            "partition-0003/source-000018.docs": "nothing to make it from",
        },
        "b": {"corpus.json": "magic", "partition-0000": "gone"},
    }
)


def test_segments_are_told_from_other_files() -> None:
    assert damaged_in([]) == damaged_in([status({})]) == set()
    assert damaged_in([ONE, TWO]) == {Damaged("a", 3, 17), Damaged("a", 12, 1234567)}


async def test_each_is_written_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = [ONE]
    rebuilt: list[tuple[str, int, int]] = []

    async def ask() -> list[ShardStatus]:
        return statuses

    async def rebuild(corpus: str, partition: int, source: int) -> None:
        rebuilt.append((corpus, partition, source))
        if partition == 12:
            raise SegmentCorrupt("its documents are damaged too")

    repairs = Repairs(ask, rebuild)
    await repairs.look()
    statuses.append(TWO)
    await repairs.look()
    await repairs.look()  # shards may be slow to see it
    assert rebuilt == [("a", 3, 17), ("a", 12, 1234567)]
    monkeypatch.setattr(repair, "_AGAIN_S", -1.0)
    again = Repairs(ask, rebuild)
    for _ in range(2):
        await again.look()
    assert rebuilt[2:] == [("a", 3, 17), ("a", 12, 1234567)] * 2
