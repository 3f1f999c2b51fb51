"""Ends and returns: each once, by the right one, whatever comes at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from random import Random
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from jobs.blobs.s3 import BlobMissing, S3Blobs
from jobs.contract.record import JobError, Status
from jobs.contract.reports import WorkerReport
from jobs.contract.submission import AdmitLimits
from jobs.errors import JobGone
from jobs.settings import RoleSettings
from jobs.store import keys
from jobs.store.job_store import JobStore
from jobs.store.scripts import worker_calls
from jobs.store.scripts.worker_calls import Claimed, Ending
from tests.helpers import wait_until
from tests.queue.making import (
    TENANT,
    admit,
    claim,
    claimed_ids,
    ended_by,
    finish,
    lapse,
    read,
    reap,
    statuses,
)
from worker.janitor import Janitor
from worker.settings import WorkerSettings


def hand_back(store: JobStore, *claimed: Claimed, why: str = "drain") -> dict[str, str]:
    return store.run(worker_calls.hand_back([c.lease for c in claimed], why))  # type: ignore[arg-type]


def test_a_finish_is_written_once_even_when_it_is_sent_twice(store: JobStore, redis: Redis):
    job_id = admit(store)
    (claimed,) = claim(store)

    assert [finish(store, claimed) for _ in range(2)] == ["ok", "again"]
    assert len(ended_by(redis, job_id)) == 1


def test_t02_a_zombies_finish_is_refused(store: JobStore, redis: Redis):
    job_id = admit(store)
    (zombie,) = claim(store, worker="zombie")
    lapse(redis, zombie)
    reap(store)
    (heir,) = claim(store, worker="heir")

    assert finish(store, zombie, "zombie") == "lost"
    assert read(store, job_id).status is Status.RUNNING
    assert finish(store, heir, "heir") == "ok"
    assert finish(store, zombie, "zombie") == "lost"
    assert len(ended_by(redis, job_id)) == 1
    print("T02: of 3 writes of 2 holders, 2 of the zombie refused, 1 end written")


def test_reaped_jobs_go_back_to_the_head_in_their_order(store: JobStore, redis: Redis):
    ids = [admit(store) for _ in range(6)]
    claimed = claim(store, 4)
    for c in claimed:
        lapse(redis, c)

    became = reap(store)

    assert became == dict.fromkeys(ids[:4], "queued")
    assert claimed_ids(store, 9) == ids


def test_after_redis_was_away_nothing_is_reaped_until_the_living_had_a_lease_to_renew_theirs(
    store: JobStore, redis: Redis
):
    job_id = admit(store)
    assert reap(store, lease_s=1) == {}  # somebody looks, all is well
    lapse(redis, claim(store)[0])
    redis.set("pw:reap:looked", redis.time()[0] - 2, keepttl=True)  # as after two seconds of frost

    assert reap(store, lease_s=1) == {}
    became = wait_until(lambda: reap(store, lease_s=1), "a lease later the dead are found")
    assert became == {job_id: "queued"}


def test_t05_a_third_crash_is_the_last_and_a_second_one_isolates(store: JobStore, redis: Redis):
    job_id = admit(store)
    solos = []
    for _ in range(3):
        (claimed,) = claim(store)
        solos.append(claimed.fields.get("x_solo"))
        lapse(redis, claimed)
        became = reap(store)

    assert solos == [None, None, b"1"]
    assert became == {job_id: "failed"}
    record = read(store, job_id)
    assert record.error == worker_calls.CRASHED
    assert redis.hget(f"rq:job:{job_id}", "retries_left") == b"3"  # none was spent
    assert len(ended_by(redis, job_id)) == 1


def test_a_drained_job_goes_back_and_nothing_is_spent(store: JobStore, redis: Redis):
    ids = [admit(store) for _ in range(4)]
    claimed = claim(store, 3)

    hand_back(store, *reversed(claimed))

    assert claimed_ids(store, 4) == ids
    assert redis.hmget(f"rq:job:{ids[0]}", "retries_left", "x_crashes") == [b"3", None]


def test_a_job_past_its_deadline_expires_instead_of_going_back(store: JobStore, redis: Redis):
    job_id = admit(store, deadline_s=60)
    (claimed,) = claim(store)
    redis.hset(f"rq:job:{job_id}", "x_deadline", "1")

    assert hand_back(store, claimed) == {job_id: "expired"}
    assert read(store, job_id).status is Status.EXPIRED


def test_a_running_job_expires_at_its_deadline(store: JobStore, redis: Redis):
    job_id = admit(store, deadline_s=60)
    (claimed,) = claim(store)
    redis.zadd(keys.DEADLINES, {job_id: 1})

    assert store.run(worker_calls.expire()) == [job_id]
    assert finish(store, claimed) == "lost"
    assert read(store, job_id).status is Status.EXPIRED


@pytest.mark.parametrize("state", ["queued", "aside", "running", "succeeded", "failed"])
def test_cancel_is_one_step_whatever_the_state(store: JobStore, redis: Redis, state: str):
    others = [admit(store, tenant="x") for _ in range(2)] if state == "aside" else []
    job_id = admit(store)
    if state == "aside":
        redis.lrem("rq:queue:demo.normal", 1, job_id)
        redis.srem(f"pw:line:demo.normal:{TENANT}", job_id)
        redis.zadd(f"pw:aside:demo.normal:{TENANT}", {job_id: 1})
        redis.hset("pw:asides:demo.normal", TENANT, 1)
    elif state != "queued":
        (claimed,) = claim(store)
        if state == "succeeded":
            finish(store, claimed)
        if state == "failed":
            error = JobError(code="c", message="m", retryable=False).model_dump_json()
            failure = Ending(
                word="failed", rq_status="failed", result={}, fields={"x_error": error}
            )
            store.run(worker_calls.finish("w", claimed.lease, failure))

    became = store.cancel(job_id, tenant=TENANT).status

    final = {"succeeded": Status.SUCCEEDED, "failed": Status.FAILED}
    assert became is final.get(state, Status.CANCELED)
    assert store.cancel(job_id, tenant=TENANT).status is became
    assert claimed_ids(store, 5) == others
    assert not redis.exists("pw:aside:demo.normal:acme", "pw:asides:demo.normal")


def test_t14_cancel_finish_reap_and_hand_back_race_and_exactly_one_wins(
    store: JobStore, redis: Redis
):
    ids = [admit(store) for _ in range(1000)]
    claimed = {c.lease.job_id: c for _ in range(20) for c in claim(store, 64)}
    chance, ends = Random(14), dict[tuple[str, str], Future[Any]]()
    with ThreadPoolExecutor(8) as pool:
        for k, job_id in enumerate(ids):
            held = claimed[job_id]
            calls: list[tuple[str, Callable[[], Any]]] = [
                ("finish", partial(finish, store, held)),
                ("cancel", partial(store.cancel, job_id, tenant=TENANT)),
                ("return", partial(run_out, store, redis, held) if k % 4 == 0 else list),
                ("return", partial(hand_back, store, held) if k % 4 == 1 else list),
            ]
            for name, call in chance.sample(calls, len(calls)):
                ends[name, job_id] = pool.submit(call)
    finished = {i: ends["finish", i].result() == "ok" for i in ids}
    canceled = {i: ends["cancel", i].result().status is Status.CANCELED for i in ids}

    # what was reaped or handed back first was canceled in the line; nothing is left waiting
    assert all(finished[i] != canceled[i] for i in ids)
    won = {"canceled": sum(canceled.values()), "succeeded": sum(finished.values())}
    became = statuses(store, ids)
    assert {s: became.count(s) for s in won} == won
    assert [len(ended_by(redis, i)) for i in ids] == [finished[i] for i in ids]
    assert not any(redis.llen(k) for k in redis.scan_iter("rq:queue:*"))
    assert not any(redis.zcard(k) for k in redis.scan_iter("rq:wip:*"))
    print(f"T14: 1000 races of cancel, finish, reap and hand-back: {won}, one end each")


def run_out(store: JobStore, redis: Redis, claimed: Claimed) -> None:
    """Its lease is over, and somebody looks."""
    if redis.zscore(f"rq:wip:{claimed.lease.queue}", claimed.lease.both):
        redis.zadd(f"rq:wip:{claimed.lease.queue}", {claimed.lease.both: 1}, xx=True)
    reap(store)


def test_a_stranger_is_named_by_the_beat_and_a_lost_lease_too(store: JobStore, redis: Redis):
    ids = [admit(store) for _ in range(3)]
    mine, reaped, _stranger = claim(store, 3)
    lapse(redis, reaped)
    reap(store)
    report = WorkerReport(
        name="w",
        host="h",
        pid=1,
        engine_ready=True,
        draining=False,
        running=2,
        images=2,
        slots=8,
        step_ms=None,
        models=(),
    )

    heard = store.run(
        worker_calls.beat(report, [mine.lease, reaped.lease], worker_ttl_s=60, lease_s=15)
    )

    assert heard.lost == {reaped.lease.both}
    assert [s.job_id for s in heard.strangers] == ids[2:]
    assert hand_back(store, *[claimed_like(s) for s in heard.strangers]) == {ids[2]: "queued"}


def claimed_like(lease: worker_calls.Lease) -> Claimed:
    return Claimed(lease=lease, fields={}, now_s=0)


def test_rq_info_on_a_machine_with_a_wrong_clock_ends_no_job_twice(store: JobStore, redis: Redis):
    job_id = admit(store)
    (first,) = claim(store)

    # RQ's own tools clean this registry by the clock of whoever calls them
    StartedJobRegistry("demo.normal", connection=redis, serializer=JSONSerializer).cleanup(
        timestamp=2e10
    )
    (second,) = claim(store)

    assert finish(store, first) == "lost"
    assert finish(store, second) == "ok"
    assert read(store, job_id).status is Status.SUCCEEDED
    assert len(ended_by(redis, job_id)) == 1


# --- what the janitor does


@pytest.fixture
def janitor(redis: Redis, settings: RoleSettings, blobs: S3Blobs) -> Janitor:
    shared = settings.model_dump()
    return Janitor(WorkerSettings.model_validate(shared), redis=redis, blobs=blobs)


def stored(blobs: S3Blobs, key: str) -> bool:
    try:
        blobs.open(key).close()
    except BlobMissing:
        return False
    return True


def due(redis: Redis) -> None:
    """Let the time pass after which what is to be erased is erased."""
    for member in redis.zrange(keys.ERASE, 0, -1):
        redis.zadd(keys.ERASE, {member: 1})


def test_pictures_and_listing_end_with_the_record(
    store: JobStore, redis: Redis, janitor: Janitor, blobs: S3Blobs
):
    job_id = admit(store)
    key = keys.image_key(TENANT, job_id, 0, "png")
    (claimed,) = claim(store)
    blobs.put(key, b"x", "image/png")
    finish(store, claimed)

    due(redis)
    janitor.erase()
    assert stored(blobs, key)  # its record is still there

    redis.delete(f"rq:job:{job_id}")  # as its TTL does
    due(redis)
    janitor.erase()
    assert not stored(blobs, key)
    assert not redis.exists(keys.ERASE, keys.tenant_jobs(TENANT))
    with pytest.raises(JobGone):
        read(store, job_id)


def test_t11_what_a_canceled_job_uploaded_is_erased(
    store: JobStore, redis: Redis, janitor: Janitor, blobs: S3Blobs
):
    job_id = admit(store)
    claim(store)
    key = keys.image_key(TENANT, job_id, 0, "png")
    store.cancel(job_id, tenant=TENANT)
    blobs.put(key, b"late", "image/png")  # the upload was under way

    due(redis)
    janitor.erase()

    assert not stored(blobs, key)
    assert read(store, job_id).images == ()


def test_a_requeued_job_keeps_the_pictures_of_its_second_run(
    store: JobStore, redis: Redis, janitor: Janitor, blobs: S3Blobs
):
    job_id = admit(store)
    claim(store)
    store.cancel(job_id, tenant=TENANT)
    redis.hset(f"rq:job:{job_id}", "status", "queued")  # an operator's requeue
    redis.rpush("rq:queue:demo.normal", job_id)
    (again,) = claim(store)
    key = keys.image_key(TENANT, job_id, 0, "png")
    blobs.put(key, b"x", "image/png")

    due(redis)
    janitor.erase()
    finish(store, again)
    due(redis)
    janitor.erase()

    assert stored(blobs, key)


def test_a_job_that_an_operator_sent_again_outlives_the_retention_of_its_failure(
    store: JobStore, redis: Redis, janitor: Janitor
):
    job_id = admit(store)
    failed = Ending(word="failed", rq_status="failed", result={}, fields={})
    store.run(worker_calls.finish("w", claim(store)[0].lease, failed))
    Job.fetch(job_id, connection=redis, serializer=JSONSerializer).requeue()
    assert redis.ttl(f"rq:job:{job_id}") > 0  # RQ leaves it: a day later the job would be gone

    janitor.sweep()
    janitor.sweep()

    assert redis.ttl(f"rq:job:{job_id}") == -1
    assert redis.hget("pw:backlog:demo", "jobs") == b"1"
    assert claimed_ids(store) == [job_id]
    assert redis.hget("pw:backlog:demo", "jobs") == b"0"


def test_sweep_frees_places_that_rq_empty_left(store: JobStore, redis: Redis, janitor: Janitor):
    ids = [admit(store, limits=AdmitLimits(tenant_line=2)) for _ in range(5)]
    Queue("demo.normal", connection=redis).empty()

    janitor.sweep()

    assert claimed_ids(store, 5) + claimed_ids(store, 5) == ids[2:]
    janitor.sweep()
    assert not redis.exists("pw:backlog:demo")


def test_a_janitor_needs_no_torch_and_no_pillow():
    code = "import sys, worker.janitor; sys.exit(any(m in sys.modules for m in ('torch', 'PIL')))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
