"""The API as its clients meet it: real uvicorn on a real socket, in a thread of the test.

Owns the start and end of such a server, and a client of it. Invariant: `serving` returns only
when the server has ended as it does on SIGTERM.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import uvicorn
from redis import Redis

from api.__main__ import DrainingServer
from api.app import create_app
from api.edge.header_timeout import TimedH11Protocol
from api.services.container import Services
from api.settings import ApiSettings
from jobs.store import keys
from jobs.store.api_keys import EVERYTHING, make_key
from tests.helpers import wait_until


class HastyProtocol(TimedH11Protocol):
    """As in service, but a test waits less."""

    headers_s = 0.6
    send_s = 0.6
    linger_s = 2.0


@dataclass
class Served:
    """A running API."""

    url: str
    client: httpx2.Client
    server: DrainingServer
    services: Services
    thread: threading.Thread

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for raw sockets."""
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)


def as_operator(redis_url: str) -> dict[str, str]:
    """The headers of a new key of every scope, of the tenant of those without one."""
    new = make_key(tenant="default", scopes=EVERYTHING)
    with Redis.from_url(redis_url) as redis:
        redis.hset(keys.API_KEYS, new.key.id, new.key.model_dump_json())
    return {"authorization": f"Bearer {new.secret}"}


@contextmanager
def serving(settings: ApiSettings, *, max_connections: int = 1_000) -> Iterator[Served]:
    """An API of these settings, on a free port of 127.0.0.1."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        http=HastyProtocol,
        h11_max_incomplete_event_size=32_768,
    )
    server = DrainingServer(config, app, max_connections=max_connections)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the API has started")
        assert server.started, "the API refused to start"
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with httpx2.Client(base_url=url, timeout=30) as client:
            yield Served(url, client, server, app.state.services, thread)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the API did not end"
