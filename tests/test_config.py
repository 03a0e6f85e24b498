"""Settings: frozen, strict, and refused by the name of the key."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from rasd.config import ApiKey, AppConfig, parse_config
from rasd.errors import ConfigError


def test_nothing_set_is_the_default() -> None:
    assert parse_config({}) == AppConfig()


def test_sections_can_be_set_and_left_out() -> None:
    config = parse_config(
        {
            "drafter": None,
            "datastore": None,
            "target": {"kv_slots": 64},
            "speculation": {"nodes": 0},
        }
    )
    assert config.drafter is None
    assert config.datastore is None
    assert config.target.kv_slots == 64
    assert config.speculation.nodes == 0


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        ({"tagret": {}}, r"tagret: .*\(got {}\)"),
        ({"target": {"kv_slot": 5}}, r"target.kv_slot: .*\(got 5\)"),
        ({"target": {"kv_slots": 0}}, r"target.kv_slots: .*greater than or equal to 1 \(got 0\)"),
        ({"target": {"kv_slots": "5"}}, r"target.kv_slots: .*\(got '5'\)"),
        ({"target": {"dtype": "int8"}}, r"target.dtype: .*\(got 'int8'\)"),
        ({"speculation": {"mode": "eagle"}}, r"speculation.mode: .*\(got 'eagle'\)"),
        ({"speculation": {"nodes": 257}}, r"speculation.nodes: .*256 \(got 257\)"),
        ({"speculation": {"draft_deadline_s": 0.0}}, r"draft_deadline_s: .*\(got 0.0\)"),
        ({"engine": {"verify_deadline_s": float("inf")}}, r"verify_deadline_s: .*\(got inf\)"),
        ({"drafter": {"top_k": 129}}, r"drafter.top_k: .*128 \(got 129\)"),
        ({"retrieval": {"suffix_max": 65}}, r"retrieval.suffix_max: .*64 \(got 65\)"),
        ({"datastore": {"corpora": [{"name": "../x", "source": "s"}]}}, r"corpora.0.name"),
        ({"router": {"api_keys": [{"name": "a", "sha256": "0"}]}}, r"api_keys.0.sha256"),
    ],
)
def test_a_wrong_key_is_named_with_its_value(args: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        parse_config(args)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"engine\.max_sequences.*; router\.max_running"):
        parse_config({"engine": {"max_sequences": 0}, "router": {"max_running": 0}})


def test_settings_do_not_change() -> None:
    config = AppConfig()
    with pytest.raises(ValidationError):
        config.target.kv_slots = 5  # type: ignore[misc]


def test_a_key_is_known_by_its_digest() -> None:
    assert ApiKey.digest("secret") == hashlib.sha256(b"secret").hexdigest()
