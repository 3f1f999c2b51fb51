"""The same job through RQ's own SimpleWorker and through ours leaves the same keys behind.

Our scripts write RQ's private layout: this is what holds them to it when RQ changes.
"""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import Worker

from jobs.contract.record import JobError
from jobs.contract.reports import WorkerReport
from jobs.store.job_store import JobStore
from jobs.store.scripts import job_hash, worker_calls
from jobs.store.scripts.worker_calls import ClaimRules, Ending
from tests.queue.making import a_spec, admit
from worker.rq_bridge import BatchWorker

QUEUE = "demo.normal"
OURS = ("pw:", "x_")
VOLATILE = {"created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "data"}
LEASE_S = 15


def good(job_id: str) -> None:
    """The function that the stock worker runs."""


def bad(job_id: str) -> None:
    raise RuntimeError(job_id)


@pytest.fixture
def store(redis: Redis) -> JobStore:
    return JobStore(redis)


def worker(redis: Redis, name: str = "ours") -> BatchWorker:
    made = BatchWorker([QUEUE], name=name, connection=redis, lease_s=LEASE_S)
    made.enter()
    return made


def claim_one(ours: BatchWorker) -> worker_calls.Claimed:
    rules = ClaimRules(images=1, running=0, size_classes=frozenset(), lease_s=LEASE_S)
    return ours.claim(rules, [QUEUE])[0]


def through_stock(redis: Redis, function: Any) -> str:
    """A job with the settings of ours, by RQ's own code from end to end."""
    spec = a_spec()
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    job = queue.create_job(
        function,
        args=("stock",),
        job_id="stock",
        timeout=job_hash.RUN_LIMIT_S,
        result_ttl=spec.retention_s,
        failure_ttl=spec.retention_s,
        description="stock",
    )
    if function is good:
        job.retries_left, job.enqueue_at_front_on_retry = job_hash.RQ_RETRIES, True
    queue.enqueue_job(job)
    SimpleWorker([queue], name="stock-worker", connection=redis, serializer=JSONSerializer).work(
        burst=True, logging_level="ERROR"
    )
    return "stock"


def stock_job(redis: Redis, job_id: str) -> Job:
    """A job of ours as RQ's own `Job.create` makes it."""
    return Job.create(
        job_hash.FUNCTION,
        args=(job_id,),
        id=job_id,
        connection=redis,
        origin=QUEUE,
        timeout=job_hash.RUN_LIMIT_S,
        result_ttl=3600,
        failure_ttl=3600,
        description=job_id,
        serializer=JSONSerializer,
    )


def layout(redis: Redis, job_id: str, worker_name: str) -> dict[str, Any]:
    """Every RQ key that the job has to do with: type, fields or members, TTL, names made equal."""
    found: dict[str, Any] = {}
    for raw in redis.keys("rq:*"):
        key = raw.decode()
        if key.startswith(("rq:worker:", "rq:workers", "rq:clean")):
            continue
        same = key.replace(job_id, "JOB").replace(worker_name, "WORKER")
        found[same] = (redis.type(key).decode(), contents(redis, key, job_id), redis.ttl(key))
    return found


def contents(redis: Redis, key: str, job_id: str) -> Any:
    match redis.type(key).decode():
        case "hash":
            fields = {f.decode(): v.decode(errors="replace") for f, v in redis.hgetall(key).items()}
            return {
                f: "TIME" if f in VOLATILE else v.replace(job_id, "JOB")
                for f, v in fields.items()
                if not f.startswith(OURS) and f != "worker_name"
            }
        case "zset":
            return [m.decode().replace(job_id, "JOB") for m in redis.zrange(key, 0, -1)]
        case "set":
            return sorted(m.decode() for m in redis.smembers(key))
        case "stream":
            return [sorted(f.decode() for f in entry) for _, entry in redis.xrange(key)]
        case kind:
            return kind


def compare(stock: dict[str, Any], ours: dict[str, Any]) -> None:
    assert set(ours) == set(stock)
    for key, (kind, what, ttl) in stock.items():
        assert ours[key][:2] == (kind, what), key
        assert abs(ours[key][2] - ttl) <= 2, f"TTL of {key}"


def test_a_finished_job_leaves_what_rq_leaves(redis: Redis, store: JobStore):
    stock = layout(redis, through_stock(redis, good), "stock-worker")
    redis.flushall()

    ours = worker(redis)
    job_id = admit(store)
    claimed = claim_one(ours)
    assert ours.finish(
        claimed.lease, Ending(word="succeeded", rq_status="finished", result={}, fields={})
    )

    compare(stock, layout(redis, job_id, "ours"))
    ours.leave()


def test_a_failed_job_leaves_what_rq_leaves(redis: Redis, store: JobStore):
    stock = layout(redis, through_stock(redis, bad), "stock-worker")
    redis.flushall()

    ours = worker(redis)
    job_id = admit(store)
    redis.hdel(f"rq:job:{job_id}", "retries_left", "enqueue_at_front_on_retry")
    claimed = claim_one(ours)
    assert ours.fail(claimed.lease, JobError(code="c", message="m", retryable=False))

    compare(stock, layout(redis, job_id, "ours"))
    ours.leave()


def test_a_waiting_job_looks_as_rq_enqueues_it(redis: Redis, store: JobStore):
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    queue.enqueue_job(stock_job(redis, "stock"))
    redis.hset("rq:job:stock", mapping={"retries_left": 3, "enqueue_at_front_on_retry": 1})
    stock = layout(redis, "stock", "-")
    redis.flushall()

    job_id = admit(store)

    compare(stock, layout(redis, job_id, "-"))


def test_the_call_in_a_job_is_written_as_rq_writes_it(redis: Redis, store: JobStore):
    job_id = admit(store)

    ours = redis.hget(f"rq:job:{job_id}", "data")

    assert ours == stock_job(redis, job_id).to_dict()["data"]
    read = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)
    assert (read.func_name, read.args, read.kwargs) == (job_hash.FUNCTION, [job_id], {})


def test_rq_reads_our_running_and_ended_jobs(redis: Redis, store: JobStore):
    ours = worker(redis)
    ids = [admit(store) for _ in range(3)]
    claimed = [claim_one(ours) for _ in ids]

    (seen,) = Worker.all(connection=redis, serializer=JSONSerializer)
    assert seen.current_execution_count == 3
    assert {e.job_id for e in seen.get_current_executions()} == set(ids)
    assert seen.get_state() == "busy"
    started = StartedJobRegistry(QUEUE, connection=redis)
    assert set(started.get_job_ids(cleanup=False)) == set(ids)

    ours.finish(
        claimed[0].lease, Ending(word="succeeded", rq_status="finished", result={}, fields={})
    )
    ours.fail(claimed[1].lease, JobError(code="bad_latents", message="told to", retryable=False))

    assert FinishedJobRegistry(QUEUE, connection=redis).get_job_ids() == [ids[0]]
    assert FailedJobRegistry(QUEUE, connection=redis).get_job_ids() == [ids[1]]
    failed = Job.fetch(ids[1], connection=redis, serializer=JSONSerializer)
    result = failed.latest_result()
    assert result is not None
    assert result.type is Result.Type.FAILED
    assert result.exc_string == "bad_latents: told to"
    assert result.execution_ended_at is not None
    (seen,) = Worker.all(connection=redis, serializer=JSONSerializer)
    assert (seen.successful_job_count, seen.failed_job_count) == (1, 1)
    ours.leave()


def test_rq_sees_a_worker_busy_idle_or_suspended_as_it_is(redis: Redis, store: JobStore):
    ours = worker(redis)
    admit(store)

    def state_after_a_beat(*leases: worker_calls.Lease) -> str:
        report = WorkerReport(
            **ours.identity,
            engine_ready=True,
            draining=False,
            running=len(leases),
            images=0,
            slots=8,
            step_ms=None,
            models=(),
        )
        ours.beat(report, leases)
        (seen,) = Worker.all(connection=redis, serializer=JSONSerializer)
        return seen.get_state()

    assert state_after_a_beat() == "idle"
    claimed = claim_one(ours)
    suspend(redis)
    assert state_after_a_beat(claimed.lease) == "busy"
    ours.finish(claimed.lease, Ending(word="succeeded", rq_status="finished", result={}, fields={}))
    assert state_after_a_beat() == "suspended"
    resume(redis)
    assert state_after_a_beat() == "idle"
    ours.leave()


def test_no_prompt_is_in_what_rq_shows_or_logs(redis: Redis, store: JobStore):
    job_id = admit(store, prompt="a secret garden")

    job = Job.fetch(job_id, connection=redis, serializer=JSONSerializer)

    assert job.description == job_id
    assert "secret" not in (job.get_call_string() or "")
    assert job.args == [job_id]
