"""What operators do to the queue as a whole: pause, drain, purge."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from jobs.admission import AdmitLimits
from jobs.scripts import worker_calls
from jobs.scripts.worker_calls import Ending
from jobs.settings import ROOT
from jobs.store import AsyncJobStore, JobStore
from tests.helpers import wait_until
from tests.queue.making import admit, claim, claimed_ids, statuses
from tests.queue.worker_process import worker_process

T = TypeVar("T")
FAILED = Ending(word="failed", rq_status="failed", result={}, fields={})
FAIR = AdmitLimits(max_jobs=None, tenant_jobs=None)  # eight of a tenant stand in a line


def with_store(url: str, call: Callable[[AsyncJobStore], Awaitable[T]]) -> T:
    async def run() -> T:
        store = AsyncJobStore(url)
        try:
            return await call(store)
        finally:
            await store.aclose()

    return asyncio.run(run())


def some(store: JobStore, tenant: str, n: int, priority: str = "normal") -> list[str]:
    return [admit(store, tenant=tenant, limits=FAIR, priority=priority) for _ in range(n)]


def test_purge_cancels_what_waits_and_leaves_what_runs(
    redis_url: str, store: JobStore, redis: Redis
):
    flood = some(store, "flood", 450) + some(store, "flood", 5, "low")
    small = some(store, "small", 3)
    running = claimed_ids(store, 4)

    purged = with_store(redis_url, lambda s: s.purge(["demo"]))

    assert purged == 454
    assert sorted(claimed_ids(store, 9)) == []
    became = statuses(store, flood, "flood") + statuses(store, small, "small")
    assert became.count("running") == len(running) == 4
    assert became.count("canceled") == 454
    left = [k for p in ("pw:aside*", "pw:line*", "rq:queue:*") for k in redis.scan_iter(p)]
    assert left == []
    assert redis.hget("pw:backlog:demo", "jobs") == b"0"


def test_purge_of_one_tenant_touches_nobody_elses(redis_url: str, store: JobStore):
    flood, small = some(store, "flood", 30), some(store, "small", 12)

    assert with_store(redis_url, lambda s: s.purge(["demo"], tenant="flood")) == 30

    assert set(statuses(store, flood, "flood")) == {"canceled"}
    assert claimed_ids(store, 20) + claimed_ids(store, 20) == small  # eight at a time


def test_purge_takes_away_what_rq_canceled_and_left_standing(
    redis_url: str, store: JobStore, redis: Redis
):
    ids = some(store, "acme", 20)
    for job_id in (ids[2], ids[15]):  # one in the line, one aside
        redis.hset(f"rq:job:{job_id}", "status", "canceled")
        redis.expire(f"rq:job:{job_id}", 100)

    assert with_store(redis_url, lambda s: s.purge(["demo"], tenant="acme")) == 18
    assert claim(store, 9) == []
    assert not redis.exists("pw:aside:demo.normal:acme", "pw:line:demo.normal:acme")


def test_purge_of_one_tenant_finds_what_an_operator_sent_again(
    redis_url: str, store: JobStore, redis: Redis
):
    failed, others = some(store, "acme", 3), some(store, "other", 2)
    for claimed in claim(store, 5):
        store.run(worker_calls.finish("w", claimed.lease, FAILED))
    for job_id in (*failed, *others):
        Job.fetch(job_id, connection=redis, serializer=JSONSerializer).requeue()
    waiting = some(store, "acme", 12)

    counted = with_store(redis_url, lambda s: s.waiting(["demo"], tenant="acme"))
    purged = with_store(redis_url, lambda s: s.purge(["demo"], tenant="acme"))

    assert (counted, purged) == (15, 15)
    assert set(statuses(store, failed + waiting, "acme")) == {"canceled"}
    assert sorted(claimed_ids(store, 20)) == sorted(others)


def test_drain_says_how_many_still_run_and_a_drained_worker_ends(
    redis_url: str, store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=0.02) as worker:
        ids = [admit(store, steps=40, seed=k) for k in range(3)]
        wait_until(lambda: statuses(store, ids) == ["running"] * 3, "all run", 20)
        wait_until(lambda: with_store(redis_url, lambda s: s.pause(["demo"])) == 3, "three run")
        waiting = admit(store)
        wait_until(lambda: statuses(store, ids) == ["succeeded"] * 3, "they end", 20)
        wait_until(lambda: with_store(redis_url, lambda s: s.pause([])) == 0, "none runs")
        assert statuses(store, [waiting]) == ["queued"]

        assert healthy(environ)
        (name,) = [k.decode().split(":")[-1] for k in redis.scan_iter("pw:worker:*")]
        assert with_store(redis_url, lambda s: s.drain_worker(name))
        assert worker.wait(timeout=20) == 0
        assert not with_store(redis_url, lambda s: s.drain_worker(name))
        assert not healthy(environ)

    assert Job.fetch(waiting, connection=redis, serializer=JSONSerializer).is_queued


def healthy(environ: dict[str, str]) -> bool:
    """What the container's health check says."""
    check = [sys.executable, "-m", "deploy.worker_health"]
    return subprocess.run(check, cwd=ROOT, env=environ, check=False).returncode == 0
