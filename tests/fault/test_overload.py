"""More than fits: who waits how long, what is refused how fast, and how true the ETA is.

The three that hold a figure against the clock are outside the gate (`pytest -m slow -s`): on cores
that others use, too, they measure the others. What they rest on is held without a clock in
tests/queue (a flood of 100: the newcomer is ninth; never more than the queue may hold).
"""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import suppress
from random import Random

import pytest
from redis import Redis

from jobs.admission import AdmitLimits
from jobs.errors import NotAdmitted, StorageFull
from jobs.ids import new_job_id
from jobs.store import JobStore
from tests.fault.test_deaths import all_running, all_succeed, ready
from tests.helpers import wait_until
from tests.queue.making import a_spec, admit, read, statuses
from tests.queue.worker_process import worker_process

STEP_S, STEPS, BATCH = 0.01, 20, 8
BATCH_S = STEP_S * STEPS
FAIR = AdmitLimits(max_jobs=None, tenant_jobs=None)


def completed(redis: Redis) -> int:
    return redis.zcard("rq:finished:demo.normal")


@pytest.mark.slow
def test_t17_a_flood_of_one_tenant_costs_another_at_most_two_batch_times(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=STEP_S):
        ready(redis)
        for k in range(400):
            admit(store, tenant="flood", limits=FAIR, steps=STEPS, seed=k)
        wait_until(lambda: completed(redis) > 16, "the flood is being served", 20)
        began_s, before = time.monotonic(), completed(redis)
        small = []
        for _ in range(5):
            small.append(admit(store, tenant="small", limits=FAIR, steps=STEPS))
            done = [*small]
            wait_until(lambda d=done: statuses(store, d, "small")[-1] == "succeeded", "served", 20)
        per_s = (completed(redis) - before) / (time.monotonic() - began_s)
        left = redis.llen("rq:queue:demo.normal") + redis.llen("pw:aside:demo.normal:flood")

    waits_s = [read(store, i, "small").metrics["queue_ms"] / 1000 for i in small]
    batch_s = BATCH / per_s  # what a batch really takes on this machine
    print(f"T17: waits {[round(w, 2) for w in waits_s]} s; a batch takes {batch_s:.2f} s here")
    assert left > 0, "the flood was over before the test was"
    assert statistics.median(waits_s) <= 2 * batch_s
    assert max(waits_s) <= 3 * batch_s  # one hiccup of a shared machine


@pytest.mark.slow
def test_t16_ten_times_the_load_is_refused_quickly_and_costs_no_goodput(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    limits = AdmitLimits(max_jobs=60, tenant_jobs=None)
    with worker_process(environ, step_s=STEP_S):
        ready(redis)
        gentle = goodput(store, redis, limits, pause_s=0.01)
        rejects: list[float] = []
        flooded = goodput(store, redis, limits, pause_s=0.0, rejects=rejects)

    p99 = sorted(rejects)[int(len(rejects) * 0.99)]
    print(
        f"T16: goodput {gentle:.0f}/s at the load that fills it, {flooded:.0f}/s under a flood "
        f"({flooded / gentle:.0%}); {len(rejects)} rejects, p99 {p99 * 1000:.1f} ms"
    )
    # The promise is 90 % and 50 ms (docs/queue.md has the figures). Here the flood, the engine
    # and other tests share two cores, so the bounds are wider than the promise.
    assert flooded >= 0.7 * gentle
    assert p99 <= 0.25


def goodput(
    store: JobStore,
    redis: Redis,
    limits: AdmitLimits,
    *,
    pause_s: float,
    rejects: list[float] | None = None,
    seconds: float = 3.0,
) -> float:
    """Jobs done a second while jobs are offered with that pause between them."""
    stop = threading.Event()

    def offer() -> None:
        with JobStore(store.redis) as mine:
            while not stop.wait(pause_s):
                asked_s = time.monotonic()
                try:
                    mine.admit(a_spec(steps=STEPS), tenant="t", job_id=new_job_id(), limits=limits)
                except NotAdmitted:
                    if rejects is not None:
                        rejects.append(time.monotonic() - asked_s)

    thread = threading.Thread(target=offer)
    thread.start()
    try:
        wait_until(lambda: redis.llen("rq:queue:demo.normal") >= 8, "the line is full", 10)
        began_s, before = time.monotonic(), completed(redis)
        wait_until(lambda: time.monotonic() > began_s + seconds, "measured", seconds + 5)
        return (completed(redis) - before) / (time.monotonic() - began_s)
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_the_eta_is_true_within_a_quarter_under_steady_mixed_load(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    chance, promised = Random(5), dict[str, float]()
    with worker_process(environ, step_s=STEP_S):
        ready(redis)
        until_s = time.monotonic() + 7
        while time.monotonic() < until_s:
            if redis.llen("rq:queue:demo.normal") >= 60:
                with suppress(StopIteration):
                    wait_until(lambda: redis.llen("rq:queue:demo.normal") < 60, "room", 10)
            job_id = new_job_id()
            spec = a_spec(steps=chance.randint(5, 40), guidance_scale=chance.choice([1.0, 4.0]))
            limits = AdmitLimits(max_jobs=None, tenant_jobs=None, tenant_line=1000)
            place = store.admit(spec, tenant="acme", job_id=job_id, limits=limits).record.queue
            if place and place.eta_seconds and until_s - time.monotonic() < 5:
                promised[job_id] = place.eta_seconds
        wait_until(lambda: set(statuses(store, promised)) == {"succeeded"}, "all are done", 30)

    errors = [
        abs(read(store, job_id).metrics["queue_ms"] / 1000 - eta)
        / (read(store, job_id).metrics["queue_ms"] / 1000)
        for job_id, eta in promised.items()
    ]
    print(f"ETA: {len(errors)} promises, median error {statistics.median(errors):.0%}")
    assert statistics.median(errors) <= 0.25


def test_t21_a_redis_at_its_memory_limit_loses_no_result(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=0.02):
        ready(redis)
        ids = [admit(store, steps=30, seed=k) for k in range(4)]
        all_running(store, ids)
        redis.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(StorageFull):
                admit(store)
            wait_until(lambda: read(store, ids[0]).status == "running", "reading works", 5)
        finally:
            redis.config_set("maxmemory", "0")
        all_succeed(store, redis, ids)
