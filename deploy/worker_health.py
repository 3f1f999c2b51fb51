"""Health check of a worker's container: exit 0 if its report in Redis is fresh (1 min), else 1.

The container has no port to ask; the worker's report expires by itself
(jobs.store.keys.WORKER_TTL_S). Owns the reading of reports for `up`, too. Invariant: a report that
cannot be read, as another version may write it, is skipped, and the other reports count.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from redis import Redis

from jobs.settings import RoleSettings
from jobs.store import keys
from jobs.store.connection import connect
from jobs.store.scripts import text


def reports(redis: Redis) -> list[dict[str, Any]]:
    """Return the last report of each worker. Raises RedisError."""
    before = keys.rq_key("worker", "")
    names: Any = redis.smembers(keys.RQ_WORKERS)  # a SCAN would go through 100,000 jobs
    asked = [keys.worker(text(name).removeprefix(before)) for name in names]
    said: Any = redis.mget(asked) if asked else ()
    return [report for one in said if (report := _report(one)) is not None]


def _report(said: bytes | None) -> dict[str, Any] | None:
    try:
        report: Any = json.loads(said or b"null")
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


if __name__ == "__main__":
    settings = RoleSettings.load()
    with connect(settings.redis_url, reply_s=3) as connection:  # sentinel URLs work, too
        here = any(report.get("host") == socket.gethostname() for report in reports(connection))
    sys.exit(not here)
