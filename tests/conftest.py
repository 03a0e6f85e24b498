"""Reproducible randomness for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

# A failing example prints the line that reproduces it. No database: runs do not depend on others.
settings.register_profile(
    "rasd",
    deadline=None,
    print_blob=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
)
settings.load_profile("rasd")


@pytest.fixture
def seed() -> int:
    """A seed for this test, printed when it fails; RASD_TEST_SEED repeats a run."""
    value = int(os.environ.get("RASD_TEST_SEED", int.from_bytes(os.urandom(4), "big")))
    print(f"RASD_TEST_SEED={value}")
    return value
