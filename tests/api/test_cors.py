"""Pages of other origins: only those that are listed may call, and never with cookies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.settings import ApiSettings
from tests.api.serving import Served, serving

LISTED = "https://studio.example"


@pytest.fixture(scope="module")
def opened(api_settings: ApiSettings) -> Iterator[Served]:
    with serving(api_settings.model_copy(update={"cors_origins": f" {LISTED} ,"})) as served:
        yield served


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://studio.example.evil.com",
        "http://studio.example",
        "https://studio.example:444",
        "https://xstudio.example",
        "https://STUDIO.example.",
    ],
)
def test_an_origin_that_is_not_listed_gets_no_leave(opened: Served, origin: str):
    asked = opened.client.options(
        "/v1/jobs", headers={"origin": origin, "access-control-request-method": "POST"}
    )
    read = opened.client.get("/v1/samplers", headers={"origin": origin})

    assert "access-control-allow-origin" not in asked.headers
    assert "access-control-allow-origin" not in read.headers


def test_a_listed_origin_may_send_and_read_without_cookies(opened: Served, redis_url: str):
    asked = opened.client.options(
        "/v1/jobs",
        headers={
            "origin": LISTED,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,idempotency-key",
        },
    )
    sent = opened.client.post("/v1/jobs", json={"prompt": "a cat"}, headers={"origin": LISTED})

    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == LISTED
    assert sent.status_code == 202
    assert sent.headers["access-control-allow-origin"] == LISTED
    assert "location" in sent.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in sent.headers


def test_by_default_no_origin_is_listed(served: Served):
    answer = served.client.get("/v1/samplers", headers={"origin": LISTED})

    assert "access-control-allow-origin" not in answer.headers
