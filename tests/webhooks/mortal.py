"""A process that ends jobs until a test kills it: `python -m tests.webhooks.mortal URL TENANT`.

Reads job IDs, a line each; cancels each, then says so.
"""

from __future__ import annotations

import sys

from jobs.store.job_store import JobStore

if __name__ == "__main__":
    redis_url, tenant = sys.argv[1:]
    store = JobStore(redis_url)
    for line in sys.stdin:
        store.cancel(line.strip(), tenant=tenant)
        print(line.strip(), flush=True)
