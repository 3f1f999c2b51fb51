"""What cancel and deadline cost, counted in steps of the engine, through a running worker."""

from __future__ import annotations

import json
from collections.abc import Callable

from redis import Redis

from jobs.contract.record import Status
from jobs.store.job_store import JobStore
from tests.fault.test_deaths import all_running, ready
from tests.helpers import wait_until
from tests.queue.making import TENANT, admit, read, statuses
from tests.queue.test_life import running
from tests.queue.worker_process import worker_process
from worker.control.loop import ControlLoop

STEP_S = 0.5  # ten times what a hint takes to reach an engine on a busy machine


def calls_of(control: ControlLoop, job_id: str) -> Callable[[], int]:
    """How many model calls of a job its worker has heard of."""
    (job,) = [j for j in control._holding if j.lease.job_id == job_id]
    return lambda: sum(image.calls for image in job.images)


def test_t14_a_cancel_frees_the_slot_within_one_step(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    others = [admit(store, steps=50) for _ in range(7)]
    with running(environ, step_s=STEP_S) as control:
        job_id = admit(store, steps=50)
        all_running(store, [*others, job_id])
        calls = calls_of(control, job_id)
        before = calls()
        wait_until(lambda: calls() > before, "a step has just ended", 30)

        at = calls()
        assert store.cancel(job_id, tenant=TENANT).status is Status.CANCELED
        wait_until(lambda: len(control._holding) == 7, "the slot is free", 30)
        taken = admit(store, steps=50)
        wait_until(lambda: statuses(store, [taken]) == ["running"], "another has it", 30)
        wait_until(lambda: read(store, job_id).progress.step >= at, "the steps are told", 30)

        spent = read(store, job_id).progress.step - at
        print(f"T14: canceled after step {at}: {spent} more were spent, of {STEP_S:g} s each")
        assert spent <= 1
        for other in (*others, taken):
            store.cancel(other, tenant=TENANT)


def test_t18_a_deadline_that_passes_in_the_queue_spends_no_step_and_is_told(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    redis.sadd(f"pw:endpoints:{TENANT}:events", "job.expired")
    with worker_process(environ | {"PRINTWORKS_WORKER_SLOTS": "1"}, step_s=0.1):
        ready(redis)
        busy = admit(store, steps=100)
        all_running(store, [busy])
        late = admit(store, steps=50, deadline_s=1)
        wait_until(lambda: statuses(store, [late]) == ["expired"], "its time is over", 30)
        record = read(store, late)
        store.cancel(busy, tenant=TENANT)

    attempts = redis.hget(f"rq:job:{late}", "x_attempts")
    told = [json.loads(e)["job"] for e in redis.lrange("pw:outbox", 0, -1)]
    print(f"T18: expired in the queue: {record.progress.step} steps, {int(attempts or 0)} attempts")
    assert (record.progress.step, attempts, record.started_at) == (0, None, None)
    assert told == [late]
