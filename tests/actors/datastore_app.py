"""An application of nothing but a datastore, for tests: no model is loaded but its tokenizer."""

from __future__ import annotations

from typing import Any

from ray import serve

from actors.app import datastore_of
from rasd.config import parse_config

SECRET = b"s" * 32


def build(args: dict[str, Any]) -> serve.Application:
    """As `actors.app.build`, with a secret that tests know."""
    return datastore_of(parse_config(args), SECRET)
