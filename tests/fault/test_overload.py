"""More than fits: who waits how long, what is refused how fast, and how true the ETA is.

The promises are held in work and batches, which are the same on a machine that others use, too. By
the clock they are held outside the gate: `pytest -m slow -s tests/fault/test_overload.py`.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import pytest
from redis import Redis

from jobs.contract.submission import AdmitLimits
from jobs.errors import NotAdmitted, StorageFull
from jobs.ids import new_job_id
from jobs.store.job_store import JobStore
from tests.fault.test_deaths import all_running, all_succeed, ready
from tests.helpers import wait_until
from tests.queue.making import a_spec, admit, read, statuses
from tests.queue.worker_process import worker_process

STEP_S, STEPS, BATCH = 0.01, 20, 8
BATCH_S = STEP_S * STEPS
FAIR = AdmitLimits(max_jobs=None, tenant_jobs=None)


def completed(redis: Redis) -> int:
    return redis.zcard("rq:finished:demo.normal")


@dataclass(frozen=True)
class Life:
    """When a job was accepted, claimed and ended, by Redis's clock; what it cost."""

    accepted_s: float
    started_s: float
    ended_s: float
    cost: float


def life(redis: Redis, job_id: str) -> Life:
    found = redis.hmget(f"rq:job:{job_id}", "x_enq", "x_started", "x_ended", "x_cost")
    return Life(*(float(value or "inf") for value in found))


def test_t17_a_flood_of_one_tenant_costs_another_at_most_two_batch_times(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=STEP_S):
        ready(redis)
        flood = [
            admit(store, tenant="flood", limits=FAIR, steps=STEPS, seed=k) for k in range(1000)
        ]
        wait_until(lambda: completed(redis) > 16, "the flood is being served", 60)
        small = []
        for _ in range(5):
            small.append(admit(store, tenant="small", limits=FAIR, steps=STEPS))
            wait_until(lambda: statuses(store, small, "small")[-1] == "succeeded", "served", 60)
        left = redis.llen("rq:queue:demo.normal") + redis.zcard("pw:aside:demo.normal:flood")

    ends_s = sorted(life(redis, i).ended_s for i in flood)
    waits = [(life(redis, i).accepted_s, life(redis, i).started_s) for i in small]
    # Time is counted in what the engine got done meanwhile: a batch is eight jobs of one length.
    batches = [
        (bisect(ends_s, until_s) - bisect(ends_s, from_s)) / BATCH for from_s, until_s in waits
    ]
    print(
        f"T17: {left} jobs of the flood still wait; the other's waited, in batch times: {batches}"
    )
    assert left > 0, "the flood was over before the test was"
    assert max(batches) <= 2


GOODPUT_JOBS = 24
SLOW_STEP_S = 0.05  # so that even a client on a busy machine can offer ten times what is done


@dataclass(frozen=True)
class Filled:
    """What came of some offers."""

    per_s: float  # jobs done
    batch: float  # images in a model call, on average
    load: float  # offered, by what was done
    rejects_s: list[float]  # how long each took


def fill(store: JobStore, redis: Redis, *, times: int) -> Filled:
    """Offer `times` as many jobs as are done, to a queue that holds 16, until enough are done."""
    limits = AdmitLimits(max_jobs=16, tenant_jobs=None)
    ids, rejects_s = list[str](), list[float]()
    before, began_s = completed(redis), time.monotonic()

    def done() -> int:
        return completed(redis) - before

    def due() -> bool:  # at once the load no more than the queue holds, however quick the offers
        return len(ids) + len(rejects_s) < times * (done() + 16)

    while done() < GOODPUT_JOBS:
        wait_until(lambda: due() or done() >= GOODPUT_JOBS, "more are done", 60)
        asked_s = time.monotonic()
        try:
            ids.append(admit(store, tenant="t", limits=limits, steps=STEPS))
        except NotAdmitted:
            rejects_s.append(time.monotonic() - asked_s)
    per_s = done() / (time.monotonic() - began_s)
    ended = [r for r in (read(store, i, "t") for i in ids) if r.status == "succeeded"]
    batch = statistics.mean(r.metrics["batch_size_mean"] for r in ended)
    load = (len(ids) + len(rejects_s)) / done()
    for job_id in ids:
        store.cancel(job_id, tenant="t")
    wait_until(lambda: not redis.exists("pw:tenant:t:open"), "none is left", 60)
    return Filled(per_s, batch, load, rejects_s)


def test_t16_ten_times_the_load_keeps_batches_full_and_the_rest_is_refused(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=SLOW_STEP_S):
        ready(redis)
        once, ten = fill(store, redis, times=1), fill(store, redis, times=10)

    # What an engine gets done is its steps times the images in each. The clock, which others on
    # this machine have a share in, is left out of it here; the slow test below has it in.
    print(
        f"T16: images in a model call {once.batch:.2f} at 1x, {ten.batch:.2f} at "
        f"{ten.load:.1f}x; {len(ten.rejects_s)} refused"
    )
    assert once.rejects_s == []
    assert len(ten.rejects_s) >= GOODPUT_JOBS
    assert ten.batch >= 0.9 * once.batch


@pytest.mark.slow
def test_t16_by_the_clock_goodput_at_ten_times_the_load_is_nine_tenths_and_rejects_are_quick(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=SLOW_STEP_S):
        ready(redis)
        # in turns, so that a machine that slows down slows down both
        rounds = [(fill(store, redis, times=1), fill(store, redis, times=10)) for _ in range(4)]

    once = statistics.median(a.per_s for a, _ in rounds)
    ten = statistics.median(b.per_s for _, b in rounds)
    rejects_s = sorted(s for _, b in rounds for s in b.rejects_s)
    p99_s = rejects_s[int(len(rejects_s) * 0.99)]
    print(
        f"T16: goodput {once:.1f}/s at 1x, {ten:.1f}/s at 10x ({ten / once:.0%}); "
        f"{len(rejects_s)} rejects, p99 {p99_s * 1000:.1f} ms"
    )
    assert ten >= 0.9 * once
    assert p99_s <= 0.05


def test_the_eta_is_true_within_a_quarter_under_steady_mixed_load(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    chance, promised = Random(5), dict[str, float]()  # job: work before it starts
    limits = AdmitLimits(max_jobs=None, tenant_jobs=None, tenant_line=1000)
    ids = list[str]()
    with worker_process(environ, step_s=STEP_S):
        ready(redis)
        while len(promised) < 60:
            wait_until(lambda: redis.llen("rq:queue:demo.normal") < 40, "there is room", 60)
            spec = a_spec(steps=chance.randint(5, 40), guidance_scale=chance.choice([1.0, 4.0]))
            ids.append(new_job_id())
            place = store.admit(spec, tenant="acme", job_id=ids[-1], limits=limits).record.queue
            (told,) = redis.hvals("pw:fleet:demo") or [b"0 0 0"]
            per_s = float(told.split()[1])
            if len(ids) > 80 and place and place.eta_seconds and per_s:
                promised[ids[-1]] = place.eta_seconds * per_s
        wait_until(lambda: set(statuses(store, ids)) == {"succeeded"}, "all are done", 120)

    # An ETA is work before it, over the pace. On a machine that others use the pace changes while
    # it waits, and nobody can know: held here is the work, by the clock below.
    lives = [life(redis, i) for i in ids]
    errors = []
    for job_id, work in promised.items():
        mine = life(redis, job_id)
        was = sum(part(other, mine.accepted_s, mine.started_s) for other in lives)
        errors.append(abs(work - was) / was)
    waits_s = [life(redis, i).started_s - life(redis, i).accepted_s for i in promised]
    print(
        f"ETA: {len(errors)} promises, median error of the work {statistics.median(errors):.0%}, "
        f"waits of {min(waits_s):.1f} to {max(waits_s):.1f} s"
    )
    assert statistics.median(errors) <= 0.25


def part(of: Life, from_s: float, until_s: float) -> float:
    """How much of a job's work was done in that time, if it went on evenly from claim to end."""
    overlap_s = min(of.ended_s, until_s) - max(of.started_s, from_s)
    return of.cost * max(0.0, overlap_s) / max(1e-9, of.ended_s - of.started_s)


@pytest.mark.slow
def test_the_eta_by_the_clock_is_true_within_a_quarter(
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
