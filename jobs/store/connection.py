"""Redis connections that fail fast, translated errors, and the check of the server's settings.

Owns every timeout and the translation. Invariant: redis-py repeats no command that waited for an
answer: with its default of ten silent retries one lost reply ran an INCR twice (measured).
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import redis.asyncio
from redis import Redis
from redis import exceptions as rex
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.errors import SettingsError, StorageFull, StoreUnavailable
from jobs.store.sentinels import SentinelAddress, through_sentinels

CALL_BUDGET_S = 2.0  # a client gets its 503 within this, whatever Redis does
CONNECT_S, REPLY_S = 0.8, 1.0  # one of each fits the budget
MAX_CONNECTIONS = 256  # redis-py's own 100 made the 101st follower fail
MIN_VERSION = (7, 0)
LOADING = "Redis is loading its data and is not ready yet"
PASSING = {  # beginnings of refusals that end by themselves or by a failover
    "LOADING": LOADING,
    "BUSY": "Redis is busy with a script",
    "MASTERDOWN": "Redis is a replica without its primary",
}


def connect_async(url: str) -> redis.asyncio.Redis:
    """Return the API's client, with text answers; only for calls that may be sent twice (all may).

    A connection that broke in the pool is replaced once in silence: a restart of Redis breaks
    every pooled connection, and each would cost a client a 503.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": REPLY_S,
        "retry": AsyncRetry(NoBackoff(), 1, supported_errors=(rex.ConnectionError,)),
        "max_connections": MAX_CONNECTIONS,
    }
    if through_sentinels(url):
        return SentinelAddress.of(url).connect_async(**options)
    return redis.asyncio.Redis.from_url(url, **options)


def connect(url: str, *, reply_s: float = REPLY_S) -> Redis:
    """Return a client for workers and RQ, with answers in bytes."""
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": reply_s,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
    }
    if through_sentinels(url):
        return SentinelAddress.of(url).connect(**options)
    return Redis.from_url(url, **options)


@contextmanager
def translated() -> Generator[None]:
    """Translate Redis's errors to ours. A wrong call of a script is a bug, and passes as it is."""
    try:
        yield
    except (rex.RedisError, OSError) as error:
        ours = _refusal(error) or _absence(error)
        if ours is None:
            raise
        raise ours from error


def _absence(error: Exception) -> StoreUnavailable | None:
    if isinstance(error, rex.ConnectionError | rex.TimeoutError | OSError):
        return StoreUnavailable(f"Redis is unavailable: {type(error).__name__}")
    return None


def _refusal(error: Exception) -> StoreUnavailable | None:
    """Translate a refusal by its code.

    redis-py removes known codes (READONLY, LOADING) from the text into `status_code`; other codes
    begin the text, or stand further on in the text, from inside a script.
    """
    said = f"{getattr(error, 'status_code', None) or ''} {error}".strip()
    if "OOM " in said or "maxmemory" in said:
        return StorageFull("Redis is at its memory limit and accepts nothing")
    if "MISCONF" in said:
        return StorageFull("Redis cannot write to its disk and accepts nothing")
    if "READONLY" in said or "NOREPLICAS" in said or "UNBLOCKED" in said:
        return StoreUnavailable("Redis refuses to write: not a primary, or too few replicas")
    passing = next((why for code, why in PASSING.items() if said.startswith(code)), None)
    return StoreUnavailable(passing) if passing else None


def check_info(info: Mapping[str, Any], waived: Collection[str]) -> None:
    """Check a server's INFO for the settings that "nothing is lost" needs.

    Raises SettingsError for faults that an operator must change, StoreUnavailable for passing
    ones: a server that loads its file, or a replica that loads its primary's, says
    `aof_enabled:0` meanwhile, whatever its setting (after a kill three of four roles ended so).
    """
    if int(info.get("loading", 0)) or int(info.get("async_loading", 0)):
        raise StoreUnavailable(LOADING)
    if info.get("role") == "slave":
        raise StoreUnavailable("Redis is a replica, and takes no jobs until it is the primary")
    if int(info.get("cluster_enabled", 0)):
        raise SettingsError(
            "Redis is a node of a Cluster, and a queue's keys must be in one place: one script"
            " touches many of them. Use one primary with replicas and sentinels"
            " (redis+sentinel://, see docs/scaling.md); for more than one carries, a deployment"
            " with a primary of its own for each group of models"
        )
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    faults = {
        "old-version": version < MIN_VERSION
        and f"Redis {info['redis_version']} is too old: 7.0 or later is needed",
        "no-aof": not int(info.get("aof_enabled", 0))
        and "Redis does not keep an append-only file, so a restart loses accepted jobs: set"
        " `appendonly yes`",
        "eviction": info.get("maxmemory_policy") != "noeviction"
        and f"Redis may evict accepted jobs (maxmemory-policy {info.get('maxmemory_policy')}): set"
        " `maxmemory-policy noeviction`",
    }
    found = [
        f"{said} (or accept this: PRINTWORKS_REDIS_WAIVE={word})"
        for word, said in faults.items()
        if said and word not in waived
    ]
    if found:
        raise SettingsError("; ".join(found))
