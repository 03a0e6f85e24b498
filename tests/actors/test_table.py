"""What a table and a shard's numbers say."""

from __future__ import annotations

from actors.table import ShardLease, ShardStatus, ShardTable, Slot


def test_a_table_names_corpora_of_slots_that_nobody_holds_too() -> None:
    table = ShardTable(3, (Slot({"a": (0, 2)}, ("x", "y")), Slot({"a": (1,), "b": (0,)})))
    assert table.corpora == {"a", "b"}
    assert ShardTable(0).corpora == frozenset()


def test_a_lease_knows_its_newest_version() -> None:
    assert ShardLease("x", "n", {}).version == 0
    assert ShardLease("x", "n", {4: {}, 7: {"a": (1,)}, 5: {}}).version == 7


def test_a_status_carries_every_number_over() -> None:
    status = ShardStatus("x", "n", 4, 100, 2**20, 7, 0.5, 1.5, 2.5, 3.5)
    info = status.info(2, 1)
    assert (info.slot, info.replica) == (2, 1)
    for name in set(ShardStatus.__slots__) - {"damaged"}:
        assert getattr(info, name) == getattr(status, name)
