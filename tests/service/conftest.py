"""One cluster for all tests of this folder, started as `make serve` does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.running import Service, as_made_to_serve, running


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    with as_made_to_serve(), running() as service:
        yield service
