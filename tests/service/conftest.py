"""One cluster for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.running import Service, running


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    with running() as service:
        yield service
