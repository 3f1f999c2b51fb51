"""Exit 0 if the worker of this machine has spoken in Redis within the last minute, else 1.

The worker's container has no port to ask; its report expires by itself (jobs.keys.WORKER_TTL_S).
"""

from __future__ import annotations

import json
import socket
import sys

from redis import Redis

from jobs import keys
from jobs.settings import RoleSettings

if __name__ == "__main__":
    settings = RoleSettings.load()
    with Redis.from_url(settings.redis_url, socket_timeout=3) as redis:
        names = list(redis.scan_iter(keys.worker("*"), count=1000))
        reports = [json.loads(text) for text in (redis.mget(names) if names else ()) if text]
    sys.exit(not any(report["host"] == socket.gethostname() for report in reports))
