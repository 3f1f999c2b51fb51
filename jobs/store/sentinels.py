"""Redis behind sentinels: each new connection asks the sentinels for the current primary.

Owns the form of such a URL and redis-py's options for it. Invariant: a sentinel that does not
answer costs SENTINEL_S, not a call's budget, and the sentinel that answered last is asked first.

    redis+sentinel://[user:password@]host:port[,host:port ...]/name of the primary[/database]
    ?sentinel_username=...&sentinel_password=...   of the sentinels; `rediss+sentinel` is TLS
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis.asyncio
from redis import Redis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelPool
from redis.connection import parse_url
from redis.sentinel import Sentinel, SentinelConnectionPool

from jobs.errors import SettingsError

SCHEMES = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT = 26379
SENTINEL_S = 0.3  # to connect and to answer, each: three dead ones fit into a call's 2 s
FORM = "redis+sentinel://:password@host:26379,host:26379/name-of-the-primary/0"


def through_sentinels(url: str) -> bool:
    """Return True if `url` names sentinels instead of a server."""
    return urlsplit(url).scheme in SCHEMES


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """A primary watched by sentinels: name, sentinels' addresses, connection options of both."""

    service: str
    hosts: tuple[tuple[str, int], ...]
    primary: Mapping[str, Any]  # redis-py's options of a connection
    sentinel: Mapping[str, Any]

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse a sentinels' URL. Raises SettingsError, with the form of a correct URL."""
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        service, _, database = parts.path.strip("/").partition("/")
        query = dict(parse_qsl(parts.query))
        of_sentinels = {
            name: query.pop(f"sentinel_{name}")
            for name in ("username", "password")
            if f"sentinel_{name}" in query
        }
        plain = f"{parts.scheme.split('+')[0]}://{login + '@' if login else ''}primary/{database}"
        try:
            where = tuple(_address(host) for host in hosts.split(","))
            primary: dict[str, Any] = dict(parse_url(f"{plain}?{urlencode(query)}"))
        except ValueError as error:
            raise SettingsError(f"the sentinels' URL must be like {FORM}: {error}") from None
        if not service:
            raise SettingsError(f"the sentinels' URL names no primary; it must be like {FORM}")
        del primary["host"]
        tls = {"ssl": True} if primary.pop("connection_class", None) else {}
        return cls(service, where, {**primary, **tls}, {**of_sentinels, **tls})

    def connect(self, **options: Any) -> Redis:
        """Return a client of the current primary."""
        sentinel = Sentinel(self.hosts, sentinel_kwargs={**self.sentinel, **_limits()})
        return sentinel.master_for(
            self.service, connection_pool_class=_Pool, **self.primary, **options
        )

    def connect_async(self, **options: Any) -> redis.asyncio.Redis:
        """Return a client of the current primary for an event loop."""
        sentinel = AsyncSentinel(self.hosts, sentinel_kwargs={**self.sentinel, **_limits()})
        return sentinel.master_for(
            self.service, connection_pool_class=_AsyncPool, **self.primary, **options
        )


class _Pool(SentinelConnectionPool):
    """A pool that closes the connections to the sentinels with its own."""

    def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002
        super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                sentinel.close()


class _AsyncPool(AsyncSentinelPool):
    """A pool that closes the connections to the sentinels with its own."""

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def _limits() -> dict[str, float]:
    return {"socket_connect_timeout": SENTINEL_S, "socket_timeout": SENTINEL_S}


def _address(host: str) -> tuple[str, int]:
    """Parse `host:port`, `host`, or `[::1]:port`. Raises ValueError."""
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError(f"no host in {host!r}")
    return parts.hostname, parts.port or SENTINEL_PORT
