"""Saved tiny models, and targets loaded from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rasd.config import TargetConfig
from rasd.target import LocalTarget
from tests.kv.models import build
from tests.target.steps import Sink

Loader = Callable[..., LocalTarget]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tiny model by name."""
    root = tmp_path_factory.mktemp("models")

    def path_of(name: str) -> Path:
        if not (root / name).exists():
            build(name, "eager").save_pretrained(root / name)
        return root / name

    return path_of


@pytest.fixture
def load(saved: Callable[[str], Path]) -> Loader:
    """Loads a tiny model as a target."""

    def load_target(name: str, sink: Sink | None = None, **settings: object) -> LocalTarget:
        defaults = {"threads": 1, "kv_slots": 512, "page_size": 4, "dtype": "float32"}
        config = TargetConfig(model=str(saved(name)), **(defaults | settings))
        return LocalTarget.load(config, features=sink)

    return load_target
