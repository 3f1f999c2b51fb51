"""Processes that tests kill: a courier, and one that ends jobs. Run as `python -m`.

mortal courier REDIS_URL KEY     a courier that may call 127.0.0.1 by plain HTTP
mortal ender REDIS_URL TENANT    reads job IDs, a line each, cancels each, and says so
"""

from __future__ import annotations

import sys

from pydantic import SecretStr

from jobs.settings import RoleSettings
from jobs.store import JobStore
from worker.courier.process import run


def courier(redis_url: str, key: str, ports: str) -> None:
    run(
        RoleSettings(
            redis_url=redis_url,
            webhook_key=SecretStr(key),
            webhook_schemes="http,https",
            webhook_ports=ports,
            webhook_networks="127.0.0.0/8",
        )
    )


def ender(redis_url: str, tenant: str) -> None:
    store = JobStore(redis_url)
    for line in sys.stdin:
        store.cancel(line.strip(), tenant=tenant)
        print(line.strip(), flush=True)


if __name__ == "__main__":
    {"courier": courier, "ender": ender}[sys.argv[1]](*sys.argv[2:])
