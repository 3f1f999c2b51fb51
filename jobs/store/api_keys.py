"""API keys in Redis: make, look up, list, rotate, revoke.

Owns the form of a key and its stored part: an ID in plain text and a SHA-256 of the whole
(32 random bytes need no slow hash), so that a dump of Redis reveals no key. Must not know
HTTP. Invariants: a revoked key is refused within CACHE_S, by every process; a change to a key is
one step in Redis, taken only if the key is still what the change was decided on.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import Redis

from jobs.errors import KeyMissing, KeyRotated
from jobs.store import keys
from jobs.store.connection import connect_async, translated
from jobs.store.scripts import load
from jobs.store.scripts import text as as_text

log = logging.getLogger(__name__)
CACHE_S = 3.0  # revocation works within 5 s; one look-up in 3 s instead of one a request
MAX_CACHED = 1_000
KEY = re.compile(r"pw_([0-9a-z]{12})_([0-9A-Za-z_-]{43})")
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class Scope(StrEnum):
    """Scopes of an API key."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    WEBHOOKS = "webhooks"
    METRICS = "metrics"
    ADMIN = "admin"


EVERYTHING = frozenset(Scope)


class ApiKey(BaseModel):
    """The stored part of an API key. The key itself is shown once, when made."""

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
    successor: str | None = None  # ID of the key that it was rotated to
    line: str = ""  # ID of the first key of a line of rotations; "": this is it

    @property
    def counted_as(self) -> str:
        """ID for the rate limit: a key and its successors share one rate."""
        return self.line or self.id

    def live(self, now: datetime) -> bool:
        """Return True if the key is valid at `now`: not revoked, and not ended."""
        return self.revoked_at is None and (self.ends_at is None or now < self.ends_at)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new API key with its `secret`, which is shown this once."""

    secret: str
    key: ApiKey


def make_key(
    *,
    tenant: str,
    name: str = "",
    scopes: Collection[Scope] = (Scope.JOBS_READ, Scope.JOBS_WRITE),
    max_open_jobs: int | None = None,
    per_minute: int | None = None,
    line: str = "",
    secret: str | None = None,
) -> NewKey:
    """Return a new key, not stored yet; `secret`: the result of an earlier `draw_secret`."""
    secret = secret or draw_secret()
    key = ApiKey(
        id=id_of(secret),
        digest=_digest(secret),
        tenant=tenant,
        name=name,
        scopes=frozenset(scopes),
        max_open_jobs=max_open_jobs,
        per_minute=per_minute,
        created_at=datetime.now(UTC),
        line=line,
    )
    return NewKey(secret, key)


def draw_secret() -> str:
    """Return the text of a new random key."""
    key_id = "".join(secrets.choice(ALPHABET) for _ in range(12))
    return f"pw_{key_id}_{secrets.token_urlsafe(32)}"


def id_of(secret: str) -> str:
    """Return the ID in the text of a key. Raises ValueError if the text is no key."""
    match = KEY.fullmatch(secret)
    if match is None:
        raise ValueError("this is not an API key; a key has the form pw_ID_SECRET")
    return match[1]


class KeyStore:
    """API keys in Redis, with a cache. One a process."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._cache: dict[str, tuple[float, ApiKey | None]] = {}

    async def find(self, secret: str) -> ApiKey | None:
        """Return the live key for the text `secret`, or None."""
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
        """Return the stored key with the ID `key_id`, or None."""
        return _read(await self._text(key_id))

    async def live(self, key_ids: Collection[str]) -> set[str]:
        """Return the valid ones of `key_ids`: one read, past the cache."""
        asked = list(key_ids)
        with translated():
            texts = await self._redis.hmget(keys.API_KEYS, asked) if asked else []
        now = datetime.now(UTC)
        found = ((key_id, _read(text)) for key_id, text in zip(asked, texts, strict=True))
        return {key_id for key_id, key in found if key is not None and key.live(now)}

    async def add(self, key: ApiKey) -> None:
        """Store a new key. Raises ValueError where its ID is taken."""
        if not await self._change((key.id, "", key)):
            raise ValueError(f"there is a key {key.id} already")

    async def list(self) -> list[ApiKey]:
        """Return every key, oldest first."""
        with translated():
            texts = await self._redis.hvals(keys.API_KEYS)
        return sorted(_readable(texts), key=lambda k: k.created_at)

    async def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key from now on, despite concurrent changes. Raises KeyMissing."""
        while True:  # each round that fails is another change that succeeded: it ends
            text = await self._text(key_id)
            key = _read(text)
            if key is None:
                raise KeyMissing(f"there is no key {key_id}")
            if key.revoked_at is not None:
                return key
            revoked = key.model_copy(update={"revoked_at": datetime.now(UTC)})
            if await self._change((key_id, text, revoked)):
                return revoked

    async def rotate(self, key_id: str, *, overlap: timedelta) -> NewKey:
        """Make a key with the same rights; the old key stays valid for `overlap`, once.

        Raises KeyMissing (also for revoked and ended keys), KeyRotated (there is a successor).
        """
        while True:
            text = await self._text(key_id)
            old, now = _read(text), datetime.now(UTC)
            if old is None or not old.live(now):
                raise KeyMissing(f"there is no live key {key_id}")
            if old.ends_at is not None:
                raise KeyRotated(old.id, old.successor)
            new = make_key(
                tenant=old.tenant,
                name=old.name,
                scopes=old.scopes,
                max_open_jobs=old.max_open_jobs,
                per_minute=old.per_minute,
                line=old.counted_as,
            )
            ending = {"ends_at": now + overlap, "successor": new.key.id}
            after = old.model_copy(update=ending)
            if await self._change((key_id, text, after), (new.key.id, "", new.key)):
                return new

    async def _text(self, key_id: str) -> str:
        with translated():
            return as_text(await self._redis.hget(keys.API_KEYS, key_id) or "")

    async def _change(self, *changes: tuple[str, str, ApiKey]) -> bool:
        """Store keys if unchanged since they were read; each change: ID, text read, new key."""
        parts = [
            part for key_id, was, key in changes for part in (key_id, was, key.model_dump_json())
        ]
        with translated():
            kept = await self._redis.eval(load("key_change").text, 1, keys.API_KEYS, *parts)
        for key_id, _, _ in changes:
            self._cache.pop(key_id, None)
        return bool(kept)

    async def any(self) -> bool:
        """Return True if there is any valid key."""
        now = datetime.now(UTC)
        return any(key.live(now) for key in await self.list())


@asynccontextmanager
async def open_redis(redis_url: str) -> AsyncGenerator[Redis]:
    """Open a connection pool; closes the pool at the end."""
    redis = connect_async(redis_url)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def open_keystore(redis_url: str) -> AsyncGenerator[KeyStore]:
    """Open a key store with its own connections; closes them at the end."""
    async with open_redis(redis_url) as redis:
        yield KeyStore(redis)


def _read(text: str | bytes | None) -> ApiKey | None:
    """Parse a stored key; None if there is none, or if unreadable: such a key is never valid."""
    if not text:
        return None
    try:
        return ApiKey.model_validate_json(text)
    except ValidationError:
        log.exception("api.key_unreadable")
        return None


def _readable(texts: Iterable[str | bytes]) -> Iterable[ApiKey]:
    return (key for key in map(_read, texts) if key is not None)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
