"""`passages`: taken by a service that can copy them, and refused by one that cannot."""

from __future__ import annotations

import httpx
import pytest

from tests.api.fakes import Site, make_site

BODY = {"model": "rasd", "prompt": "hi", "max_tokens": 2}


async def post(site: Site, **more: object) -> httpx.Response:
    transport = httpx.ASGITransport(app=site.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/v1/completions", json={**BODY, **more})


async def test_they_reach_the_engine() -> None:
    site = make_site()
    site.service.by_meaning = True
    for given in (None, 0, 12):
        assert (await post(site, passages=given)).status_code == 200
    assert [request.params.passages for request in site.engine.started] == [None, 0, 12]


@pytest.mark.parametrize(
    ("given", "message"),
    [(3, "retrieval.dense; got 3"), (-1, "between 0 and 256"), (257, "256"), ("x", "integer")],
)
async def test_what_cannot_be_done_is_refused(given: object, message: str) -> None:
    site = make_site()
    answer = await post(site, passages=given)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "passages"
    assert message in answer.json()["error"]["message"]
    assert (await post(site, passages=0)).status_code == 200
    assert len(site.engine.started) == 1
