"""Exit 0 if the worker of this machine has spoken in Redis within the last minute, else 1.

The worker's container has no port to ask; its report expires by itself
(jobs.store.keys.WORKER_TTL_S). Owns the reading of reports for `up`, too. Invariant: one that
cannot be read, as another version may write it, is passed over: it says nothing of the others.
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
    """What each worker said of itself last. Raises RedisError."""
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
    with connect(settings.redis_url, reply_s=3) as connection:  # sentinels are asked, too
        here = any(report.get("host") == socket.gethostname() for report in reports(connection))
    sys.exit(not here)
