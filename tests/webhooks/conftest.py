"""A desk to send webhooks from: real stores on the process's Valkey, a courier, a clock by hand.

Jobs end by the real scripts. Time on the desk is the desk's own, so that ten attempts over 75 h
take milliseconds; what a test does not advance stays where it is.
"""

from __future__ import annotations

import base64
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from pydantic import SecretStr

from api.settings import ApiSettings
from deploy import servers
from jobs.store.connection import connect_async
from jobs.webhooks.addresses import network_of
from jobs.webhooks.deliveries import Deliveries
from jobs.webhooks.endpoints import Endpoints
from jobs.webhooks.outbox import Outbox
from jobs.webhooks.secret_box import SecretBox
from jobs.webhooks.ssrf_guard import EgressRules, resolver
from tests.api.serving import Served, as_operator, serving
from tests.webhooks.desk import Desk
from worker.courier.courier import Stores
from worker.courier.http_sender import open_sender


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def webhook_key() -> SecretStr:
    return SecretStr(base64.b64encode(secrets.token_bytes(32)).decode())


@pytest.fixture
def loopback() -> EgressRules:
    """Rules that allow plain HTTP to receivers on this machine, and nothing else inside."""
    return EgressRules(
        schemes=frozenset({"http", "https"}),
        ports=(range(1, 65_536),),
        networks=(network_of("127.0.0.0/8"),),
    )


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """Made once: reading the system's authorities takes 0.2 s."""
    return ssl.create_default_context()


@pytest.fixture
async def desk(
    redis_url: str, webhook_key: SecretStr, loopback: EgressRules, tls: ssl.SSLContext
) -> AsyncIterator[Desk]:
    redis = connect_async(redis_url)
    endpoints = Endpoints(redis, SecretBox.of(webhook_key), clock=lambda: made.now_s)
    stores = Stores(
        outbox=Outbox(redis, endpoints, loopback),
        endpoints=endpoints,
        deliveries=Deliveries(redis),
    )
    async with open_sender(loopback, resolver(), agent="Printworks/test", tls=tls) as sender:
        made = Desk(redis_url, redis, stores, sender, now_s=time.time())
        yield made
        await made.courier.landed()
    made.jobs.close()
    await redis.aclose()


@pytest.fixture(scope="session")
def webhook_api(
    valkey_server: servers.Valkey, s3_settings: dict[str, str], webhook_key: SecretStr
) -> Iterator[Served]:
    """One API for all; webhooks may go to 127.0.0.1 by plain HTTP."""
    settings = ApiSettings.model_validate(
        {
            "redis_url": valkey_server.url,
            **s3_settings,
            "webhook_key": webhook_key,
            "webhook_schemes": "http,https",
            "webhook_ports": "1024-65535",
            "webhook_networks": "127.0.0.0/8",
        }
    )
    with serving(settings) as served:
        yield served


@pytest.fixture
async def api(webhook_api: Served, redis_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of it, with a key."""
    headers = as_operator(redis_url)
    url = webhook_api.url
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        yield client
