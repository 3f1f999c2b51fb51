"""Whatever dies, every accepted job ends, and ends once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from redis import Redis

from deploy import servers
from jobs.contract.record import Status
from jobs.contract.reports import WorkerReport
from jobs.store import keys
from jobs.store.job_store import JobStore
from tests.chaos import monkey
from tests.helpers import wait_until
from tests.queue.making import TENANT, admit, ended_by, read, statuses
from tests.queue.worker_process import Worker, worker_process

LEASE_S = 2  # tests/queue/making.py QUICK


def reports(redis: Redis) -> list[WorkerReport]:
    found = [redis.get(k) for k in redis.scan_iter(keys.worker("*"))]
    return [WorkerReport.model_validate_json(r) for r in found if r]


def ready(redis: Redis, workers: int = 1, timeout_s: float = 30) -> list[WorkerReport]:
    wait_until(
        lambda: sum(r.engine_ready for r in reports(redis)) == workers,
        f"{workers} ready",
        timeout_s,
    )
    return reports(redis)


def all_succeed(store: JobStore, redis: Redis, ids: list[str], timeout_s: float = 30) -> None:
    done = [Status.SUCCEEDED.value] * len(ids)
    wait_until(lambda: statuses(store, ids) == done, "every job has succeeded", timeout_s)
    assert [len(ended_by(redis, i)) for i in ids] == [1] * len(ids)  # each end written once
    assert redis.zcard("rq:wip:demo.normal") == 0
    assert not list(redis.scan_iter("rq:execution:*"))


def all_running(store: JobStore, ids: list[str]) -> None:
    wait_until(lambda: set(statuses(store, ids)) == {"running"}, "all run", 15)
    wait_until(lambda: all(read(store, i).progress.step > 0 for i in ids), "all have begun", 15)


def holder(redis: Redis, job_id: str) -> int:
    """The process that runs a job."""
    name = redis.hget(f"rq:job:{job_id}", "worker_name")
    return int(redis.hget(f"rq:worker:{(name or b'').decode()}", "pid") or 0)


def engine_of(worker: Worker) -> psutil.Process:
    return psutil.Process(worker.pid).children()[0]


def test_an_engine_killed_with_eight_running_costs_no_job(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=0.02) as worker:
        ready(redis)
        ids = [admit(store, steps=60, seed=k) for k in range(8)]
        all_running(store, ids)
        engine_of(worker).kill()
        killed_s = time.monotonic()
        wait_until(lambda: "queued" in statuses(store, ids), "they are back", 5)
        back_s = time.monotonic() - killed_s

        all_succeed(store, redis, ids)

    assert [read(store, i).metrics["attempts"] for i in ids] == [2.0] * 8
    assert redis.hget(f"rq:job:{ids[0]}", "x_crashes") == b"1"
    print(f"engine killed with 8 running: back in the queue after {back_s * 1000:.0f} ms")


def test_a_worker_killed_with_eight_running_is_replaced_within_lease_plus_two(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with (
        worker_process(environ, step_s=0.03) as first,
        worker_process(environ, step_s=0.03) as second,
    ):
        ready(redis, 2)
        ids = [admit(store, n=1, steps=100, seed=k) for k in range(8)]
        all_running(store, ids)
        victim = first if holder(redis, ids[0]) == first.pid else second
        theirs = [i for i in ids if holder(redis, i) == victim.pid]
        victim.kill()
        killed_s = time.monotonic()
        wait_until(
            lambda: all(redis.hget(f"rq:job:{i}", "x_attempts") == b"2" for i in theirs),
            "all run again",
            LEASE_S + 5,
        )
        again_s = time.monotonic() - killed_s
        all_succeed(store, redis, ids)

    print(
        f"worker killed with {len(theirs)} jobs: all again after {again_s:.2f} s of {LEASE_S} + 2"
    )
    assert again_s <= LEASE_S + 2


def test_t02_a_frozen_worker_that_wakes_writes_nothing(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=0.02) as frozen:
        ready(redis)
        ids = [admit(store, steps=60, seed=k) for k in range(4)]
        all_running(store, ids)
        frozen.send_signal(signal.SIGSTOP)
        with worker_process(environ):
            all_succeed(store, redis, ids)
            frozen.send_signal(signal.SIGCONT)
            wait_until(
                lambda: any(r.pid == frozen.pid and r.running == 0 for r in reports(redis)),
                "the zombie knows that it holds nothing",
            )
            all_succeed(store, redis, ids)


def test_t03_redis_killed_and_back_with_its_file_loses_nothing(
    valkey_server: servers.Valkey, store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=0.02):
        ready(redis)
        ids = [admit(store, steps=60, seed=k) for k in range(8)]
        waiting = [admit(store, steps=5) for _ in range(20)]
        all_running(store, ids)
        valkey_server.kill()
        valkey_server.start()
        valkey_server.wait_ready()
        all_succeed(store, redis, [*ids, *waiting])

    # the worker went on stepping: nobody had to run again
    assert [read(store, i).metrics["attempts"] for i in ids] == [1.0] * 8


def test_t15_sigterm_finishes_what_fits_and_hands_back_the_rest_in_order(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    environ |= {"PRINTWORKS_WORKER_GRACE_S": "2.2", "PRINTWORKS_WORKER_SLOTS": "8"}
    with worker_process(environ, step_s=0.04) as worker:
        ready(redis)
        short = [admit(store, steps=40, seed=k) for k in range(4)]
        long = [admit(store, steps=100, n=1, seed=k) for k in range(4)]
        waiting = [admit(store, steps=2) for _ in range(3)]
        all_running(store, short + long)
        worker.terminate()
        stopped_s = time.monotonic()
        assert worker.wait(timeout=10) == 0
        took_s = time.monotonic() - stopped_s

    assert statuses(store, short) == ["succeeded"] * 4
    line = [i.decode() for i in redis.lrange("rq:queue:demo.normal", 0, -1)]
    assert line == long + waiting
    assert redis.hmget(f"rq:job:{long[0]}", "retries_left", "x_crashes") == [b"3", None]
    assert not redis.smembers("rq:workers")
    print(f"T15: drained in {took_s:.2f} s with a grace of 2.2 s")


def test_a_second_sigterm_hands_back_at_once(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=0.02) as worker:
        ready(redis)
        ids = [admit(store, steps=100, seed=k) for k in range(3)]
        all_running(store, ids)
        worker.terminate()
        wait_until(lambda: any(r.draining for r in reports(redis)), "it drains")
        worker.terminate()
        asked_s = time.monotonic()
        assert worker.wait(timeout=10) == 0

    assert time.monotonic() - asked_s < 3
    assert [i.decode() for i in redis.lrange("rq:queue:demo.normal", 0, -1)] == ids


def test_t05_a_poison_job_fails_alone_and_its_neighbours_succeed(
    store: JobStore, redis: Redis, environ: dict[str, str], tmp_path: Path
):
    with worker_process(environ, log=tmp_path / "log"):
        ready(redis)
        good = [admit(store, steps=20, seed=k) for k in range(7)]
        poison = admit(store, prompt="poison", steps=20)
        more = [admit(store, steps=20, seed=k) for k in range(20)]
        wait_until(lambda: read(store, poison).status is Status.FAILED, "it has failed", 30)
        all_succeed(store, redis, good + more)

    error = read(store, poison).error
    assert error is not None
    assert error.code == "crashed"
    deaths = (tmp_path / "log").read_text().count("engine.died")
    assert deaths == 3
    print(f"T05: {deaths} deaths of the engine, 27 innocents succeeded")


@pytest.mark.timeout(400)
def test_t01_t03_twelve_seconds_of_chaos_breaks_no_promise():
    assert monkey.run(minutes=0.2, seed=1) == []


def test_cancel_reaches_a_worker_that_never_heard_the_hint(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with worker_process(environ, step_s=0.02):
        (report,) = ready(redis)
        job_id = admit(store, steps=100)
        all_running(store, [job_id])
        redis.client_kill_filter(_type="pubsub")  # the hint goes nowhere
        store.cancel(job_id, tenant=TENANT)
        wait_until(lambda: reports(redis)[0].running == 0, "its next beat told it", 5)

    assert report.name
