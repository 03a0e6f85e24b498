"""Which node takes another shard, and which are left alone for a while."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from actors import nodes
from actors.nodes import choose


def test_a_node_is_chosen_without_a_twin_then_with_the_fewest() -> None:
    alike = {"a": 4.0, "b": 4.0, "c": 4.0}
    assert choose({}, set(), {}) is None
    assert choose(alike, set(), {}) == "a"
    assert choose(alike, set(), {"a": 1, "c": 1}) == "b"
    assert choose(alike, {"b", "c"}, {"a": 5}) == "a"
    assert choose(alike, {"a", "b", "c"}, {"a": 2, "b": 1, "c": 2}) == "b"
    assert choose({"a": 2.0, "b": 8.0}, set(), {"b": 2}) == "b"
    assert choose({"a": 2.0, "b": 8.0}, set(), {"b": 4}) == "a"


def test_a_node_is_avoided_for_longer_each_time_until_a_shard_runs_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(nodes, "time", SimpleNamespace(monotonic=lambda: now[0]))
    known = nodes.Nodes()
    known._alive = {"a": 4.0, "b": 4.0}

    def away(node: str) -> float:
        known.avoid(node)
        since = now[0]
        while node not in known.free:
            assert known.choose(set(), {}) == "b" and known.choose({"b"}, {"b": 9}) == "b"
            now[0] += 1
        return now[0] - since

    assert [away("a") for _ in range(8)] == [30, 60, 120, 240, 480, 960, 1920, 3600]
    known.trust("a")
    assert known.choose(set(), {}) == "a" and away("a") == 30
    known.avoid("a")
    known.avoid("b")
    assert not known.free and known.choose({"a"}, {}) == "b"
    assert known.is_gone("c") and not known.is_gone("a") and not nodes.Nodes().is_gone("a")
