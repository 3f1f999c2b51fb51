"""What operators do to the queue as a whole: pause, drain, purge."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from jobs.contract.submission import AdmitLimits
from jobs.settings import ROOT
from jobs.store.job_store import AsyncJobStore, JobStore
from jobs.store.scripts import worker_calls
from jobs.store.scripts.worker_calls import Ending
from tests.helpers import wait_until
from tests.queue.making import admit, claim, claimed_ids, lapse, reap, statuses
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


def asked_again(redis: Redis) -> None:
    """Every worker that lives has asked for jobs a few times more."""

    def asked() -> int:
        return redis.info("commandstats")["cmdstat_evalsha"]["calls"]

    before = asked()
    wait_until(lambda: asked() > before + 20, "the workers have asked again and again", 20)


def test_nothing_starts_once_a_pause_is_answered_and_a_resume_is_heard_at_once(
    redis_url: str, store: JobStore, redis: Redis, environ: dict[str, str]
):
    slow_beat = environ | {"PRINTWORKS_WORKER_BEAT_S": "5", "PRINTWORKS_WORKER_LEASE_S": "15"}
    with worker_process(slow_beat), worker_process(slow_beat):
        ids = [admit(store) for _ in range(8)]
        wait_until(lambda: set(statuses(store, ids)) == {"succeeded"}, "both have begun", 20)
        for _ in range(5):
            running = [admit(store, steps=30) for _ in range(4)]
            at_once = with_store(redis_url, lambda s: s.pause(["demo"]))
            began = statuses(store, running).count("running")
            late = [admit(store) for _ in range(4)]
            asked_again(redis)
            assert began <= at_once <= 4
            assert set(statuses(store, late)) == {"queued"}
            with_store(redis_url, lambda s: s.resume(["demo"]))
            everybody = running + late
            wait_until(lambda i=everybody: set(statuses(store, i)) == {"succeeded"}, "all end", 20)


def test_what_runs_is_counted_by_leases_whatever_workers_have_said(
    redis_url: str, store: JobStore, redis: Redis
):
    ids = [admit(store, priority=p) for p in ("high", "normal", "low")]
    claimed = claim(store, 3, worker="silent")  # and it never says a word
    redis.srem("rq:queues", "rq:queue:demo.low")  # RQ's `Queue.delete` forgets a queue

    assert with_store(redis_url, lambda s: s.pause(["demo"])) == 3
    assert with_store(redis_url, lambda s: s.pause([])) == 2
    store.run(worker_calls.hand_back([claimed[0].lease], "drain"))
    assert claim(store, 5) == []  # what comes back while it is paused stays
    assert with_store(redis_url, lambda s: s.pause(["demo"])) == 2
    lapse(redis, claimed[1])
    assert list(reap(store).values()) == ["queued"]  # its worker died meanwhile
    assert claim(store, 5) == []
    assert with_store(redis_url, lambda s: s.resume(["demo"])) == 1
    assert sorted(claimed_ids(store, 5)) == sorted(ids[:2])


def test_a_worker_that_is_drained_is_given_nothing_though_the_command_got_lost(
    redis_url: str, store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ | {"PRINTWORKS_WORKER_NAME": "doomed"}) as worker:
        first = admit(store)
        wait_until(lambda: statuses(store, [first]) == ["succeeded"], "it works", 20)
        worker.send_signal(signal.SIGSTOP)  # it hears nothing before the job is there
        assert with_store(redis_url, lambda s: s.drain_worker("doomed"))
        (told,) = with_store(redis_url, lambda s: s.workers())
        assert told.draining
        late = admit(store)
        worker.send_signal(signal.SIGCONT)
        assert worker.wait(timeout=20) == 0
        assert statuses(store, [late]) == ["queued"]

    heir = environ | {"PRINTWORKS_WORKER_NAME": "doomed"}  # of the same name, and not doomed
    with worker_process(heir) as worker:
        wait_until(lambda: statuses(store, [late]) == ["succeeded"], "the heir works", 20)
        redis.hset("rq:worker:doomed", "x_drain", "1")  # as if the command had reached nobody
        assert worker.wait(timeout=20) == 0


def test_the_workers_running_jobs_are_told_as_they_are_now(
    redis_url: str, store: JobStore, environ: dict[str, str]
):
    slow_beat = environ | {"PRINTWORKS_WORKER_BEAT_S": "5", "PRINTWORKS_WORKER_LEASE_S": "15"}
    with worker_process(slow_beat, step_s=0.1):
        wait_until(lambda: with_store(redis_url, lambda s: s.workers()), "it has spoken", 20)
        ids = [admit(store, steps=100) for _ in range(3)]
        wait_until(lambda: statuses(store, ids) == ["running"] * 3, "all run", 20)
        (told,) = with_store(redis_url, lambda s: s.workers())

    assert told.running == 3


def healthy(environ: dict[str, str]) -> bool:
    """What the container's health check says."""
    check = [sys.executable, "-m", "deploy.worker_health"]
    return subprocess.run(check, cwd=ROOT, env=environ, check=False).returncode == 0
