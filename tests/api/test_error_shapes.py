"""Errors have the shape of the router below whose path they happen, whoever refuses."""

from __future__ import annotations

import httpx2
import pytest
from fastapi import APIRouter, Response

from api.app import create_app
from api.dialects.dialect import Dialect
from api.settings import ApiSettings
from jobs.errors import PrintworksError, QueueFull, SettingsError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def other(error: PrintworksError, *, path: str, request_id: str) -> Response:
    """An error as clients of another service expect it."""
    del path
    return Response(f"{error.code} {request_id}", status_code=418, media_type="text/plain")


@pytest.fixture
def client() -> httpx2.AsyncClient:
    router = APIRouter(prefix="/other")

    @router.get("/full")
    async def full() -> None:
        raise QueueFull("no room")

    dialect = Dialect(name="other", prefixes=("/other/",), router=router, shape=other)
    app = create_app(ApiSettings(), (dialect,))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("GET", "/other/full", {}, "queue_full"),  # a route's own error
        ("GET", "/other/nowhere", {}, "not_found"),  # no route
        ("POST", "/other/full", {}, "method_not_allowed"),
        ("POST", "/other/full", {"content-length": "99999999"}, "payload_too_large"),  # the edge
    ],
)
async def test_an_error_has_the_shape_of_its_router_whoever_refuses(
    client: httpx2.AsyncClient, method: str, path: str, headers: dict[str, str], code: str
):
    answer = await client.request(method, path, headers=headers | {"x-request-id": "mine"})

    assert (answer.status_code, answer.text) == (418, f"{code} mine")
    assert answer.headers["x-request-id"] == "mine"


async def test_elsewhere_it_is_problem_json(client: httpx2.AsyncClient):
    answer = await client.get("/nowhere")

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"


async def test_the_methods_of_a_dialects_route_are_named(client: httpx2.AsyncClient):
    answer = await client.post("/other/full")

    assert answer.headers["allow"] == "GET"


async def test_a_dialect_that_is_switched_off_is_no_route(client: httpx2.AsyncClient):
    del client
    router = APIRouter(prefix="/other")
    dialect = Dialect(name="other", prefixes=("/other/",), router=router, shape=other)
    transport = httpx2.ASGITransport(create_app(ApiSettings(dialects=""), (dialect,)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as off:
        answer = await off.get("/other/full")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_misspelt_dialect_is_an_error_at_start():
    dialect = Dialect(name="other", prefixes=("/other/",), router=APIRouter(), shape=other)

    with pytest.raises(SettingsError, match="did you mean other"):
        create_app(ApiSettings(dialects="othr"), (dialect,))
