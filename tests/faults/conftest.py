"""One cluster for all tests of this folder: two ranks, a drafter, two shards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.running import Service, running


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    with running(target={"tensor_parallel": 2, "threads": 1}) as service:
        yield service
