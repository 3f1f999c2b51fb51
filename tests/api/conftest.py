"""One API for the whole process, on the process's own Valkey and SeaweedFS; Redis empty a test."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from api.settings import ApiSettings
from deploy import servers
from jobs.blobs.s3 import S3Blobs
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served, as_operator, serving


@pytest.fixture(scope="session")
def api_settings(valkey_server: servers.Valkey, s3_settings: dict[str, str]) -> ApiSettings:
    """Settings of an API on this process's servers."""
    return ApiSettings.model_validate({"redis_url": valkey_server.url, **s3_settings})


@pytest.fixture(scope="session")
def api_server(api_settings: ApiSettings) -> Iterator[Served]:
    """The API that most tests share; `served` empties Redis before each."""
    with serving(api_settings) as served:
        yield served


@pytest.fixture
def served(redis_url: str, api_server: Served) -> Served:
    """The shared API, on an empty Redis."""
    return api_server


@pytest.fixture
def api(served: Served) -> httpx2.Client:
    """A client of the shared API."""
    return served.client


@pytest.fixture
def operator(served: Served, redis_url: str) -> Iterator[httpx2.Client]:
    """A client of the shared API with a key of every scope, of the tenant of those without one."""
    with httpx2.Client(base_url=served.url, headers=as_operator(redis_url), timeout=30) as client:
        yield client


@pytest.fixture
def worker(redis_url: str, blobs: S3Blobs) -> Iterator[HandWorker]:
    """A worker that does what the test says."""
    hand = HandWorker(redis_url, blobs)
    yield hand
    hand.store.close()
