"""API keys in Redis: made, looked up, listed, revoked.

Owns the form of a key and what is kept of it: an ID in the clear and a SHA-256 of the whole
(32 random bytes need no slow hash), so that a dump of Redis gives no key away. Must not know
HTTP. Invariant: a revoked key is refused within CACHE_S, by every process.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis

from jobs import keys
from jobs.connection import connect_async, translated
from jobs.errors import PrintworksError

CACHE_S = 3.0  # revocation works within 5 s; one look-up in 3 s instead of one a request
MAX_CACHED = 1_000
KEY = re.compile(r"pw_([0-9a-z]{12})_([0-9A-Za-z_-]{43})")
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class Scope(StrEnum):
    """What a key may do."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    WEBHOOKS = "webhooks"
    METRICS = "metrics"
    ADMIN = "admin"


EVERYTHING = frozenset(Scope)


class KeyMissing(PrintworksError):
    """There is no key of that ID."""

    code = "key_not_found"


class ApiKey(BaseModel):
    """What is kept of a key. The key itself is shown once, when it is made."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    digest: str  # SHA-256 of the whole key, hex
    tenant: str
    name: str = ""
    scopes: frozenset[Scope] = frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE})
    max_open_jobs: int | None = Field(None, ge=0)
    per_minute: int | None = Field(None, ge=1)
    created_at: datetime
    revoked_at: datetime | None = None
    ends_at: datetime | None = None  # a rotated key works on for a while

    def live(self, now: datetime) -> bool:
        """Whether it lets anybody in."""
        return self.revoked_at is None and (self.ends_at is None or now < self.ends_at)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, and the only sight of its `secret`."""

    secret: str
    key: ApiKey


def make_key(
    *,
    tenant: str,
    name: str = "",
    scopes: Collection[Scope] = (Scope.JOBS_READ, Scope.JOBS_WRITE),
    max_open_jobs: int | None = None,
    per_minute: int | None = None,
) -> NewKey:
    """A new key, not stored yet."""
    key_id = "".join(secrets.choice(ALPHABET) for _ in range(12))
    secret = f"pw_{key_id}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=key_id,
        digest=_digest(secret),
        tenant=tenant,
        name=name,
        scopes=frozenset(scopes),
        max_open_jobs=max_open_jobs,
        per_minute=per_minute,
        created_at=datetime.now(UTC),
    )
    return NewKey(secret, key)


class KeyStore:
    """All API keys. One a process."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._cache: dict[str, tuple[float, ApiKey | None]] = {}

    async def find(self, secret: str) -> ApiKey | None:
        """The live key of that text, or None."""
        match = KEY.fullmatch(secret)
        if not match:
            return None
        key = await self._cached(match[1])
        if key is None or not key.live(datetime.now(UTC)):
            return None
        return key if hmac.compare_digest(key.digest, _digest(secret)) else None

    async def _cached(self, key_id: str) -> ApiKey | None:
        now = self._clock()
        known = self._cache.get(key_id)
        if known and known[0] > now:
            return known[1]
        key = await self.get(key_id)
        if len(self._cache) >= MAX_CACHED:  # a flood of made-up IDs must not grow us
            self._cache.clear()
        self._cache[key_id] = (now + CACHE_S, key)
        return key

    async def get(self, key_id: str) -> ApiKey | None:
        """What is kept of a key, or None."""
        with translated():
            text = await self._redis.hget(keys.API_KEYS, key_id)
        return ApiKey.model_validate_json(text) if text else None

    async def put(self, key: ApiKey) -> None:
        """Keep a new key, or a change to one."""
        with translated():
            await self._redis.hset(keys.API_KEYS, key.id, key.model_dump_json())
        self._cache.pop(key.id, None)

    async def list(self) -> list[ApiKey]:
        """Every key, oldest first."""
        with translated():
            texts = await self._redis.hvals(keys.API_KEYS)
        return sorted((ApiKey.model_validate_json(t) for t in texts), key=lambda k: k.created_at)

    async def revoke(self, key_id: str) -> ApiKey:
        """Refuse a key from now on. Raises KeyMissing."""
        key = await self.get(key_id)
        if key is None:
            raise KeyMissing(f"there is no key {key_id}")
        if key.revoked_at is None:
            key = key.model_copy(update={"revoked_at": datetime.now(UTC)})
            await self.put(key)
        return key

    async def rotate(self, key_id: str, *, overlap: timedelta) -> NewKey:
        """A new key with the same rights; the old one works on for `overlap`. Raises KeyMissing."""
        old = await self.get(key_id)
        now = datetime.now(UTC)
        if old is None or not old.live(now):
            raise KeyMissing(f"there is no live key {key_id}")
        new = make_key(
            tenant=old.tenant,
            name=old.name,
            scopes=old.scopes,
            max_open_jobs=old.max_open_jobs,
            per_minute=old.per_minute,
        )
        await self.put(new.key)
        await self.put(old.model_copy(update={"ends_at": now + overlap}))
        return new

    async def any(self) -> bool:
        """Whether a key could come in at all."""
        now = datetime.now(UTC)
        return any(key.live(now) for key in await self.list())


@asynccontextmanager
async def open_redis(redis_url: str) -> AsyncGenerator[Redis]:
    """A connection pool, closed at the end."""
    redis = connect_async(redis_url)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def open_keystore(redis_url: str) -> AsyncGenerator[KeyStore]:
    """A key store with connections of its own, closed at the end."""
    async with open_redis(redis_url) as redis:
        yield KeyStore(redis)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
