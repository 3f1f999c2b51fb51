"""Exit 0 if the worker of this machine has spoken in Redis within the last minute, else 1.

The worker's container has no port to ask; its report expires by itself (jobs.keys.WORKER_TTL_S).
"""

from __future__ import annotations

import json
import socket
import sys

from jobs import keys
from jobs.connection import connect
from jobs.scripts import text
from jobs.settings import RoleSettings

if __name__ == "__main__":
    settings = RoleSettings.load()
    with connect(settings.redis_url, reply_s=3) as redis:  # sentinels are asked, too
        before = keys.rq_key("worker", "")
        known = [text(key).removeprefix(before) for key in redis.smembers(keys.RQ_WORKERS)]
        names = [keys.worker(name) for name in known]  # a SCAN would go through 100,000 jobs
        reports = [json.loads(text) for text in (redis.mget(names) if names else ()) if text]
    sys.exit(not any(report["host"] == socket.gethostname() for report in reports))
