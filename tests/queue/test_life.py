"""The life of jobs in one worker: many at once, each to its end."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
from PIL import Image as Pillow
from redis import Redis
from rq.command import send_stop_job_command
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from jobs.blobs.s3 import S3Blobs
from jobs.contract.record import Stage, Status
from jobs.store.job_store import JobStore
from tests.helpers import wait_until
from tests.queue.making import TENANT, admit, ended_by, read, statuses
from tests.queue.worker_process import control_for
from worker.control.loop import ControlLoop
from worker.settings import WorkerSettings


@contextmanager
def running(environ: dict[str, str], *, step_s: float = 0.005) -> Iterator[ControlLoop]:
    """A worker in a thread of this process, with a fake engine process."""
    control = control_for(WorkerSettings.load(environ), step_s=step_s)
    thread = threading.Thread(target=control.run)
    thread.start()
    try:
        yield control
    finally:
        control.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()


def all_are(store: JobStore, ids: list[str], status: Status) -> None:
    wait_until(
        lambda: set(statuses(store, ids)) == {status.value}, f"{len(ids)} jobs are {status}", 15
    )


def test_eight_unlike_jobs_run_together_and_each_has_its_own_picture(
    store: JobStore, environ: dict[str, str], blobs: S3Blobs
):
    ids = [admit(store, seed=k, steps=5 + 3 * k) for k in range(8)]

    with running(environ):
        all_are(store, ids, Status.SUCCEEDED)

    for k, job_id in enumerate(ids):
        record = read(store, job_id)
        pixels = Random(k).randbytes(64 * 64 * 3)
        assert record.images[0].pixel_sha256 == hashlib.sha256(pixels).hexdigest()
        assert b"".join(blobs.open(record.images[0].key).chunks())[:4] == b"\x89PNG"
        assert record.metrics["batch_size_mean"] >= 1
        assert record.metrics["attempts"] == 1
        assert record.fingerprint == {"engine": "fake"}
        assert record.progress.fraction == 1.0


def test_a_job_of_three_images_succeeds_when_all_three_are_stored(
    store: JobStore, environ: dict[str, str]
):
    job_id = admit(store, n=3, seed=10)

    with running(environ):
        all_are(store, [job_id], Status.SUCCEEDED)

    assert [(i.index, i.seed) for i in read(store, job_id).images] == [(0, 10), (1, 11), (2, 12)]


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_picture_carries_what_is_needed_to_make_it_again(
    store: JobStore, environ: dict[str, str], blobs: S3Blobs, form: str
):
    job_id = admit(store, prompt="größer, 日本", output={"format": form})

    with running(environ):
        all_are(store, [job_id], Status.SUCCEEDED)

    image = read(store, job_id).images[0]
    with Pillow.open(io.BytesIO(b"".join(blobs.open(image.key).chunks()))) as picture:
        text = picture.info["printworks"] if form == "png" else picture.getexif()[0x010E]
        assert picture.size == (64, 64)
    about = json.loads(text)
    assert (about["prompt"], about["seed"], about["steps"]) == ("größer, 日本", 7, 5)
    assert TENANT not in text


def test_a_failed_image_fails_its_job_alone(store: JobStore, environ: dict[str, str]):
    good, bad = admit(store, steps=30), admit(store, prompt="fail", n=2, seed=3)

    with running(environ):
        all_are(store, [bad], Status.FAILED)
        all_are(store, [good], Status.SUCCEEDED)

    error = read(store, bad).error
    assert error is not None
    assert error.code == "bad_latents"


def test_an_error_worth_a_retry_is_retried_three_times(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    job_id = admit(store, prompt="flaky")

    with running(environ):
        all_are(store, [job_id], Status.FAILED)

    assert redis.hget(f"rq:job:{job_id}", "x_attempts") == b"4"
    assert len(ended_by(redis, job_id)) == 1


def test_progress_moves_while_it_runs(store: JobStore, environ: dict[str, str]):
    job_id = admit(store, steps=100)

    with running(environ, step_s=0.02):
        wait_until(lambda: 0 < read(store, job_id).progress.fraction < 1, "progress is seen")
        assert read(store, job_id).stage is Stage.DENOISING
        store.cancel(job_id, tenant=TENANT)


def test_cancel_frees_the_slot_and_says_how_much_was_spent(
    store: JobStore, environ: dict[str, str]
):
    long = [admit(store, steps=100) for _ in range(8)]

    with running(environ, step_s=0.02) as control:
        wait_until(lambda: len(control._holding) == 8, "8 run")
        wait_until(lambda: read(store, long[0]).progress.step > 3, "it has made steps")
        asked_s = time.monotonic()
        assert store.cancel(long[0], tenant=TENANT).status is Status.CANCELED
        wait_until(lambda: len(control._holding) == 7, "the slot is free", 1.0)
        freed_ms = (time.monotonic() - asked_s) * 1000
        print(f"T14: slot free {freed_ms:.0f} ms after the cancel was sent; a step takes 20 ms")
        wait_until(lambda: read(store, long[0]).progress.step > 3, "the steps are reported")
        for job_id in long[1:]:
            store.cancel(job_id, tenant=TENANT)

    assert read(store, long[0]).status is Status.CANCELED


def test_a_running_job_expires_at_its_deadline_and_frees_its_slot(
    store: JobStore, environ: dict[str, str]
):
    with running(environ, step_s=0.02) as control:
        wait_until(lambda: control._link.ready, "the engine is ready", 20)
        job_id = admit(store, steps=100, deadline_s=1.0)
        wait_until(lambda: len(control._holding) == 1, "it runs")
        all_are(store, [job_id], Status.EXPIRED)
        wait_until(lambda: not control._holding, "the slot is free", 2)

    assert read(store, job_id).progress.fraction < 1


def test_nothing_is_left_behind_in_the_worker(store: JobStore, environ: dict[str, str]):
    # maps that grow by one a job are what ends a process after a month
    asked = [{}, {"prompt": "fail"}, {"n": 2}, {"prompt": "flaky"}, {"steps": 100}]

    with running(environ) as control:
        ids = [admit(store, seed=k, **asked[k % 5]) for k in range(40)]
        for job_id in ids[4::5]:
            store.cancel(job_id, tenant=TENANT)
        wait_until(lambda: not {"queued", "running"} & set(statuses(store, ids)), "all ended", 20)
        wait_until(lambda: not control._holding and not control._settling, "all settled")
        wait_until(lambda: not control._holding._images, "the engine has nothing of ours")
        wait_until(lambda: not control._telling._spent, "what was spent is told")

        assert not control._finishing._dropped
        assert control._finishing._spool._bytes == 0
        assert not control._link._given


def test_rq_stop_job_stops_any_one_of_many(store: JobStore, redis: Redis, environ: dict[str, str]):
    ids = [admit(store, steps=100) for _ in range(3)]

    with running(environ, step_s=0.02):
        wait_until(lambda: statuses(store, ids) == ["running"] * 3, "all run")
        send_stop_job_command(redis, ids[2], serializer=JSONSerializer)
        all_are(store, [ids[2]], Status.CANCELED)
        assert statuses(store, ids[:2]) == ["running"] * 2
        for job_id in ids[:2]:
            store.cancel(job_id, tenant=TENANT)

    assert Job.fetch(ids[2], connection=redis, serializer=JSONSerializer).is_stopped


def test_rq_suspend_holds_claims_from_that_moment_and_resume_goes_on(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    with running(environ):
        all_are(store, [admit(store)], Status.SUCCEEDED)  # it claims, and its last beat is old
        suspend(redis)
        job_id = admit(store)
        asked = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        wait_until(
            lambda: redis.info("commandstats")["cmdstat_evalsha"]["calls"] > asked + 10,
            "the worker has asked again and again",
        )
        assert read(store, job_id).status is Status.QUEUED
        resume(redis)
        all_are(store, [job_id], Status.SUCCEEDED)


def test_rq_requeue_is_the_one_way_back_from_failed(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    job_id = admit(store, prompt="fail")

    with running(environ):
        all_are(store, [job_id], Status.FAILED)
        spec = read(store, job_id).spec.model_copy(update={"prompt": "good now"})
        redis.hset(f"rq:job:{job_id}", "x_spec", spec.model_dump_json())
        Job.fetch(job_id, connection=redis, serializer=JSONSerializer).requeue()
        all_are(store, [job_id], Status.SUCCEEDED)

    record = read(store, job_id)
    assert record.error is None
    assert record.metrics["attempts"] == 2
    assert redis.ttl(f"rq:job:{job_id}") > 0


def test_a_forged_job_is_never_run(store: JobStore, redis: Redis, environ: dict[str, str]):
    forged = admit(store)
    job = Job.fetch(forged, connection=redis, serializer=JSONSerializer)
    job.func_name, job.args = "os.system", ("touch /tmp/owned",)
    redis.hset(f"rq:job:{forged}", "data", job.data)

    with running(environ):
        all_are(store, [forged], Status.FAILED)

    error = read(store, forged).error
    assert error is not None
    assert error.code == "invalid_job"
