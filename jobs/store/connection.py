"""Connections to Redis that fail fast, their errors as ours, and what we demand of the server.

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
LOADING = "Redis reads its file back and is not ready yet"
PASSING = {  # how a refusal begins that ends by itself, or by a failover
    "LOADING": LOADING,
    "BUSY": "Redis is busy with a script",
    "MASTERDOWN": "Redis is a replica without its primary",
}


def connect_async(url: str) -> redis.asyncio.Redis:
    """For the API: answers are text. Only for calls that may be sent twice, as all the store's may.

    A connection that broke while it lay in the pool is replaced once, without a word: after a
    restart of Redis every pooled one is such, and each would cost a client a 503.
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
    """For workers and RQ: answers are bytes."""
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
    """Redis's errors as ours. A wrong call of a script stays what it is: a bug."""
    try:
        yield
    except (rex.RedisError, OSError) as error:
        ours = _refusal(error) or _absence(error)
        if ours is None:
            raise
        raise ours from error


def _absence(error: Exception) -> StoreUnavailable | None:
    if isinstance(error, rex.ConnectionError | rex.TimeoutError | OSError):
        return StoreUnavailable(f"Redis is away: {type(error).__name__}")
    return None


def _refusal(error: Exception) -> StoreUnavailable | None:
    """What a refusal means, by its code. redis-py cuts known codes off the text (READONLY, LOADING)

    and puts them aside; others begin the text, or stand further on in it, from inside a script.
    """
    said = f"{getattr(error, 'status_code', None) or ''} {error}".strip()
    if "OOM " in said or "maxmemory" in said:
        return StorageFull("Redis is at its memory limit and accepts nothing")
    if "MISCONF" in said:
        return StorageFull("Redis cannot write to its disk and accepts nothing")
    if "READONLY" in said or "NOREPLICAS" in said or "UNBLOCKED" in said:
        return StoreUnavailable("Redis refuses to write: it is no primary, or lacks replicas")
    passing = next((why for code, why in PASSING.items() if said.startswith(code)), None)
    return StoreUnavailable(passing) if passing else None


def check_info(info: Mapping[str, Any], waived: Collection[str]) -> None:
    """Hold a server's INFO against what "nothing is lost" needs.

    Raises SettingsError for what an operator must change, and StoreUnavailable for what passes: a
    server that reads its file back, or a replica that gets its primary's, says `aof_enabled:0`
    meanwhile, whatever it is set to (after a kill three of four roles ended by that).
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
        f"{said} (or live with it: PRINTWORKS_REDIS_WAIVE={word})"
        for word, said in faults.items()
        if said and word not in waived
    ]
    if found:
        raise SettingsError("; ".join(found))
