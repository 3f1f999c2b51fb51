"""Changes by RQ's own tools or by hand are settled: no place stays taken, no job is lost.

`rq empty`, the dashboard's buttons (`Queue.empty`, `Job.delete`), `rq cancel`, a stock worker, DEL:
none of them knows our books, so every count that is kept beside the jobs is held against the jobs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from jobs.blobs.s3 import S3Blobs
from jobs.contract.parsing import parse_request
from jobs.contract.record import Status
from jobs.contract.request_parts import JobWebhook
from jobs.contract.submission import AdmitLimits, Idempotency, NewGroup, NewJob, SubmissionOrigin
from jobs.errors import JobGone, TenantLimit
from jobs.ids import new_job_id
from jobs.store import keys
from jobs.store.job_store import JobStore
from jobs.store.scripts import input_calls, worker_calls
from jobs.webhooks.events import Event, body_of
from tests.queue.books import books_are_right
from tests.queue.making import (
    TENANT,
    a_spec,
    admit,
    admit_group,
    claim,
    claimed_ids,
    finish,
    read,
    reap,
    statuses,
)
from worker.janitor import Janitor
from worker.settings import WorkerSettings

FAIR = AdmitLimits(max_jobs=None, tenant_jobs=None)  # eight stand in a line, the rest aside
QUEUE = "demo.normal"
ALL_ENDS = ("job.canceled", "job.failed", "job.succeeded", "group.completed")


def rq_job(redis: Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=redis, serializer=JSONSerializer)


def rq_empty(redis_url: str) -> str:
    """The stock command, as an operator types it; what it says."""
    rq = Path(sys.executable).with_name("rq")
    command = [rq, "empty", "--url", redis_url, "--serializer", "rq.serializers.JSONSerializer"]
    return subprocess.run([*command, QUEUE], check=True, capture_output=True, text=True).stdout


def sweep(store: JobStore) -> int:
    """As the janitor does it; how many jobs had ended unseen."""
    ended = sum(settled.ended for settled in store.settle())
    store.run(worker_calls.sweep("demo"))
    return ended


def told(redis: Redis) -> Counter[tuple[str, str]]:
    """Return the events for webhooks: type, and the job or group."""
    events = [json.loads(event) for event in redis.lrange("pw:outbox", 0, -1)]
    return Counter((e["type"], e.get("job") or e.get("group")) for e in events)


def test_rq_empty_gives_the_tenant_its_places_back_at_once(
    redis_url: str, store: JobStore, redis: Redis
):
    limits = AdmitLimits(tenant_jobs=12, max_jobs=12)
    ids = [admit(store, limits=limits) for _ in range(12)]
    with pytest.raises(TenantLimit):
        admit(store, limits=limits)

    assert "8 jobs removed" in rq_empty(redis_url)

    new = [admit(store, limits=limits) for _ in range(8)]  # no sweep has come
    with pytest.raises(TenantLimit):
        admit(store, limits=limits)
    assert statuses(store, ids[8:] + new) == ["queued"] * 12
    books_are_right(redis)


def test_what_rq_empty_removed_has_ended_for_everybody_who_waits_for_it(
    redis_url: str, store: JobStore, redis: Redis
):
    redis.sadd(f"pw:endpoints:{TENANT}:events", *ALL_ENDS, "job.started")
    given = "64x64-" + "1" * 64
    store.run(input_calls.keep(TENANT, given, "bytes", changes=(), hold_s=1))
    own = JobWebhook(url="https://example.org/x", events=("job.canceled",))
    spec = a_spec(deadline_s=600).model_copy(update={"image": given, "webhook": own})
    job = NewJob(id=new_job_id(), spec=spec, sender=SubmissionOrigin(key="k1"))
    group = store.admit_group(
        NewGroup(id=new_job_id(), jobs=[job, NewJob(id=new_job_id(), spec=a_spec())]), tenant=TENANT
    )

    rq_empty(redis_url)
    assert sweep(store) == 2

    assert told(redis) == {
        **{("job.canceled", i): 1 for i in group.group.jobs},
        ("group.completed", group.group.id): 1,
    }
    for told_of in redis.lrange("pw:outbox", 0, -1):
        assert json.loads(body_of(Event.model_validate_json(told_of)))["data"]["id"]
    (event,) = [e for e in map(json.loads, redis.lrange("pw:outbox", 0, -1)) if "webhook" in e]
    assert json.loads(event["webhook"])["url"] == own.url
    for job_id in group.group.jobs:
        with pytest.raises(JobGone):
            read(store, job_id)
    assert redis.zrange(f"pw:input:{TENANT}/{given}:holds", 0, -1) in ([], [b"upload"])
    (usage,) = [redis.hgetall(key) for key in redis.scan_iter("pw:usage:*:acme")]
    assert usage == {b"k1|canceled": b"1", b"-|canceled": b"1"}
    assert redis.zcard(keys.tenant_jobs(TENANT)) == 0
    books_are_right(redis)
    assert sweep(store) == 0


def test_a_running_job_that_is_deleted_tells_its_end_under_an_id_of_its_own(
    store: JobStore, redis: Redis
):
    redis.sadd(f"pw:endpoints:{TENANT}:events", *ALL_ENDS, "job.started")
    job_id = admit(store)
    (claimed,) = claim(store)
    rq_job(redis, job_id).delete()

    sweep(store)

    ids = {json.loads(event)["id"] for event in redis.lrange("pw:outbox", 0, -1)}
    assert told(redis) == {("job.started", job_id): 1, ("job.canceled", job_id): 1}
    assert len(ids) == 2
    assert finish(store, claimed) == "lost"
    books_are_right(redis)


def expire_hash(redis: Redis, job_id: str) -> None:
    redis.pexpire(f"rq:job:{job_id}", 0)


REMOVALS: dict[str, Callable[[Redis, str], object]] = {
    "the dashboard's delete": lambda redis, job_id: rq_job(redis, job_id).delete(),
    "rq cancel": lambda redis, job_id: rq_job(redis, job_id).cancel(),
    "DEL of the hash": lambda redis, job_id: redis.delete(f"rq:job:{job_id}"),
    "expiry of the hash": expire_hash,
    "another kind of key": lambda redis, job_id: redis.set(f"rq:job:{job_id}", "x", keepttl=False),
}


@pytest.mark.parametrize("how", REMOVALS)
def test_a_job_that_is_removed_in_the_line_aside_or_running_holds_no_place(
    store: JobStore, redis: Redis, how: str
):
    ids = [admit(store, limits=FAIR, deadline_s=600) for _ in range(14)]
    running = claimed_ids(store, 2)
    gone = [running[0], ids[4], ids[12]]
    for job_id in gone:
        if how == "another kind of key":
            redis.delete(f"rq:job:{job_id}")
        REMOVALS[how](redis, job_id)

    assert sweep(store) == 3

    books_are_right(redis)
    rest = [i for i in ids if i not in gone and i not in running]
    assert [i for _ in range(20) for i in claimed_ids(store, 1)] == rest
    if how == "rq cancel":
        assert set(statuses(store, gone)) == {"canceled"}
        assert all(redis.ttl(f"rq:job:{i}") > 0 for i in gone)


def test_a_list_that_was_deleted_comes_back_in_its_order(store: JobStore, redis: Redis):
    ids = [admit(store, limits=FAIR) for _ in range(12)] + [
        admit(store, tenant="b", limits=FAIR) for _ in range(2)
    ]
    redis.delete(f"rq:queue:{QUEUE}")

    sweep(store)

    books_are_right(redis)
    served = [i for _ in range(14) for i in claimed_ids(store, 1)]
    assert [i for i in served if i in ids[:12]] == ids[:12]
    assert sorted(served) == sorted(ids)


def test_a_registry_of_running_jobs_that_was_deleted_has_them_run_again(
    store: JobStore, redis: Redis
):
    ids = [admit(store) for _ in range(3)]
    claimed = claim(store, 2)
    redis.delete(f"rq:wip:{QUEUE}")

    assert sweep(store) == 0

    assert statuses(store, ids) == ["queued"] * 3
    books_are_right(redis)
    assert [finish(store, c) for c in claimed] == ["lost", "lost"]
    assert sorted(claimed_ids(store, 3)) == sorted(ids)


def test_a_lease_whose_execution_key_ran_out_is_left_to_the_reaper(store: JobStore, redis: Redis):
    job_id = admit(store)
    (claimed,) = claim(store)
    redis.delete(f"rq:executions:{job_id}")

    sweep(store)

    assert statuses(store, [job_id]) == ["running"]
    redis.zadd(f"rq:wip:{QUEUE}", {claimed.lease.both: 1})
    assert reap(store) == {job_id: "queued"}


def test_a_job_that_a_stock_worker_took_and_failed_has_an_end_that_is_counted(
    store: JobStore, redis: Redis
):
    redis.sadd(f"pw:endpoints:{TENANT}:events", *ALL_ENDS)
    job_id = admit(store)
    redis.hset(f"rq:job:{job_id}", "retries_left", 0)
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    SimpleWorker([queue], connection=redis, serializer=JSONSerializer).work(
        burst=True, logging_level="CRITICAL"
    )

    assert sweep(store) == 1

    record = read(store, job_id)
    assert (record.status, record.error and record.error.code) == (Status.FAILED, "abandoned")
    assert told(redis) == {("job.failed", job_id): 1}
    assert redis.hget("pw:counts", "jobs|demo|failed|abandoned") == b"1"
    books_are_right(redis)
    rq_job(redis, job_id).requeue()
    sweep(store)
    books_are_right(redis)
    assert claimed_ids(store) == [job_id]


def test_what_was_requeued_and_then_emptied_is_settled_too(
    redis_url: str, store: JobStore, redis: Redis
):
    job_id = admit(store)
    (claimed,) = claim(store)
    failed = worker_calls.Ending(word="failed", rq_status="failed", result={}, fields={})
    store.run(worker_calls.finish("w", claimed.lease, failed))
    rq_job(redis, job_id).requeue()
    sweep(store)
    assert redis.zrange(keys.tenant_open(TENANT), 0, -1) == [job_id.encode()]

    rq_empty(redis_url)

    assert sweep(store) == 1
    books_are_right(redis)


def test_a_job_that_an_older_version_accepted_and_rq_removed_holds_no_place(
    redis_url: str, store: JobStore, redis: Redis
):
    seen = admit(store)
    redis.delete(f"pw:tenant:{TENANT}:kept")
    sweep(store)
    assert redis.hkeys(f"pw:tenant:{TENANT}:kept") == [seen.encode()]
    unseen = admit(store)
    redis.hdel(f"pw:tenant:{TENANT}:kept", unseen)
    rq_empty(redis_url)

    assert sweep(store) == 2
    for job_id in (seen, unseen):
        with pytest.raises(JobGone):
            read(store, job_id)
    books_are_right(redis)


def test_a_key_of_what_was_removed_is_answered_as_gone(
    redis_url: str, store: JobStore, redis: Redis
):
    key = Idempotency.of("k", scope=TENANT, request=parse_request({"prompt": "a red bicycle"}))
    store.admit(a_spec(), tenant=TENANT, job_id=new_job_id(), idempotency=key)
    rq_empty(redis_url)

    with pytest.raises(JobGone):
        store.admit(a_spec(), tenant=TENANT, job_id=new_job_id(), idempotency=key)
    sweep(store)
    with pytest.raises(JobGone):
        store.admit(a_spec(), tenant=TENANT, job_id=new_job_id(), idempotency=key)
    assert redis.ttl(f"pw:idempotency:{key.digest}") > 0


def test_many_are_settled_in_steps_and_the_janitor_does_it(
    redis_url: str, store: JobStore, redis: Redis, environ: dict[str, str], blobs: S3Blobs
):
    admit_group(store, 100, limits=FAIR)
    for k in range(5):
        admit_group(store, 100, tenant=f"t{k}")  # no limits: all of them stand in the line
    rq_empty(redis_url)

    Janitor(WorkerSettings.load(environ), redis=redis, blobs=blobs).sweep()

    assert redis.zcard(keys.tenant_open(TENANT)) == 92  # those that stood aside
    books_are_right(redis)


def test_a_damaged_job_keeps_no_other_from_its_end_and_is_named_once(
    store: JobStore,
    redis: Redis,
    environ: dict[str, str],
    blobs: S3Blobs,
    caplog: pytest.LogCaptureFixture,
):
    damaged, deleted = admit(store), admit(store)
    redis.hset(f"rq:job:{damaged}", mapping={"status": "canceled", "result_ttl": "soon"})
    redis.delete(f"rq:job:{deleted}")
    janitor = Janitor(WorkerSettings.load(environ), redis=redis, blobs=blobs)

    for _ in range(2):
        janitor.sweep()

    assert redis.zrange(keys.tenant_open(TENANT), 0, -1) == [damaged.encode()]
    named = [r for r in caplog.records if r.message == "job.damaged"]
    assert [r.__dict__["job_id"] for r in named] == [damaged]
    store.redis.hset(f"rq:job:{damaged}", "result_ttl", 60)
    janitor.sweep()
    books_are_right(redis)
