"""T15: a rolling restart under load: every worker is replaced, and no job fails."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from itertools import pairwise

from redis import Redis

from jobs.contract.record import Status
from jobs.store.job_store import JobStore
from tests.fault.test_deaths import all_succeed, ready
from tests.helpers import wait_until
from tests.queue.making import admit, read
from tests.queue.worker_process import Worker, worker_process

WORKERS, ROUND, GRACE_S = 3, 30, 1.0


def test_t15_a_rolling_restart_under_load_fails_no_job_and_leaves_none_idle(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    environ |= {"PRINTWORKS_WORKER_GRACE_S": str(GRACE_S)}
    ids: list[str] = []
    drains_s: list[float] = []
    with ExitStack() as stack:

        def start() -> Worker:
            return stack.enter_context(worker_process(environ, step_s=0.05))

        old = [start() for _ in range(WORKERS)]
        ready(redis, WORKERS)
        for worker in old:
            offer(store, ids)
            start()
            wait_until(lambda: len(redis.smembers("rq:workers")) == WORKERS + 1, "its heir", 20)
            worker.terminate()
            asked_s = time.monotonic()
            assert worker.wait(timeout=60) == 0
            drains_s.append(time.monotonic() - asked_s)
            assert not holds(redis, worker.pid)
        all_succeed(store, redis, ids, 90)

    attempts = [int(read(store, i).metrics["attempts"]) for i in ids]
    ends = sorted(float(redis.hget(f"rq:job:{i}", "x_ended") or 0) for i in ids)
    gap_s = max(b - a for a, b in pairwise(ends))
    print(
        f"T15: {WORKERS} workers replaced under {len(ids)} jobs: failed 0, "
        f"{sum(a > 1 for a in attempts)} handed back, drains {statistics.median(drains_s):.1f} s "
        f"(grace {GRACE_S:.0f} s), no end for at most {gap_s:.1f} s"
    )
    assert {read(store, i).status for i in ids} == {Status.SUCCEEDED}
    retries = [redis.hmget(f"rq:job:{i}", "retries_left", "x_crashes") for i in ids]
    assert retries == [[b"3", None]] * len(ids)  # a drain spends nothing


def offer(store: JobStore, ids: list[str]) -> None:
    """Some jobs more than run at once; every fourth outlasts the grace time."""
    for k in range(ROUND):
        ids.append(admit(store, steps=60 if k % 4 == 3 else 15, seed=len(ids)))


def holds(redis: Redis, pid: int) -> int:
    """How many jobs a worker runs."""
    for key in redis.smembers("rq:workers"):
        if int(redis.hget(key, "pid") or 0) == pid:
            return redis.scard(key + b":executions")
    return 0
