"""T37: a worker's control process does not grow. Outside the gate: `pytest -m slow`."""

from __future__ import annotations

import os

import psutil
import pytest
from redis import Redis

from jobs.store.job_store import JobStore
from tests.fault.test_deaths import ready
from tests.helpers import wait_until
from tests.queue.making import admit
from tests.queue.worker_process import worker_process

JOBS = int(os.environ.get("SOAK_JOBS", "10000"))
MB = 1024 * 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_t37_memory_stays_flat_over_ten_thousand_jobs(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    ended, at = "rq:finished:demo.normal", {}
    with worker_process(environ, step_s=0.0) as worker:
        ready(redis)
        process = psutil.Process(worker.pid)
        for part in range(1, 11):
            for k in range(JOBS // 10):
                admit(store, steps=1, seed=k)
            wait_until(lambda p=part: redis.zcard(ended) >= p * JOBS // 10, "they are done", 300)
            at[part] = process.memory_info().rss / MB

    slope = (at[10] - at[2]) / (0.8 * JOBS / 1000)
    print(
        f"T37: {at[2]:.1f} MB after {JOBS // 5} jobs, {at[10]:.1f} MB after {JOBS}: "
        f"{slope:+.2f} MB a 1,000 jobs"
    )
    assert slope <= 1.0
