"""Pictures through a whole worker: those that jobs begin with, and those shown meanwhile."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator

import pytest
from PIL import Image
from redis import Redis

from jobs.blobs.s3 import S3Blobs
from jobs.contract.input_images import input_blob_key, input_id
from jobs.contract.record import Status
from jobs.store import keys
from jobs.store.job_store import JobStore
from jobs.store.scripts import input_calls
from tests.helpers import wait_until
from tests.queue.making import TENANT, admit, read
from tests.queue.test_life import all_are, running
from worker.control.progress_publisher import LONGEST_SIDE, MOST_BYTES, small_file
from worker.messages import Pixels


def keep_input(store: JobStore, blobs: S3Blobs, *, stored: bool = True) -> str:
    """An input of 64 x 64, as the API keeps one; `stored`: whether its bytes are there."""
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    an_id = input_id(64, 64, picture.tobytes())
    into = io.BytesIO()
    picture.save(into, "PNG")
    if stored:
        blobs.put(input_blob_key(f"{TENANT}/{an_id}/b1"), into.getvalue(), "image/png")
    store.run(input_calls.keep(TENANT, an_id, "b1", changes=(), hold_s=600))
    return an_id


def test_jobs_with_a_picture_run_beside_those_without(
    store: JobStore, environ: dict[str, str], blobs: S3Blobs
):
    an_id = keep_input(store, blobs)
    with_picture = [admit(store, seed=k, image={"input": an_id}, n=2) for k in range(3)]
    without = [admit(store, seed=k) for k in range(3)]

    with running(environ):
        all_are(store, [*with_picture, *without], Status.SUCCEEDED)

    record = read(store, with_picture[0])
    assert record.spec.image == an_id
    with Image.open(io.BytesIO(b"".join(blobs.open(record.images[0].key).chunks()))) as made:
        about = json.loads(made.info["printworks"])
    assert (about["image"], about["strength"]) == (an_id, 0.8)


def test_a_job_whose_picture_was_erased_fails_alone(
    store: JobStore, environ: dict[str, str], blobs: S3Blobs
):
    an_id = keep_input(store, blobs, stored=False)
    lost, good = admit(store, image={"input": an_id}), admit(store)

    with running(environ):
        all_are(store, [good], Status.SUCCEEDED)
        all_are(store, [lost], Status.FAILED)

    error = read(store, lost).error
    assert error is not None
    assert (error.code, error.retryable) == ("input_missing", False)


def test_a_job_waits_for_its_picture_while_the_store_is_away(
    store: JobStore, environ: dict[str, str], blobs: S3Blobs
):
    an_id = keep_input(store, blobs)
    nowhere = {**environ, "PRINTWORKS_S3_ENDPOINT": "http://127.0.0.1:9"}
    job_id = admit(store, image={"input": an_id})

    with running(nowhere) as control:
        wait_until(lambda: read(store, job_id).status is Status.RUNNING, "it is held")
        control.stop()  # told again as the block ends: it does not wait for the grace time
    assert read(store, job_id).status is Status.QUEUED  # handed back, nothing spent
    with running(environ):
        all_are(store, [job_id], Status.SUCCEEDED)


@pytest.fixture
def told(redis: Redis) -> Iterator[list[dict]]:
    """Everything that followers are told, as it is told."""
    heard: list[dict] = []
    with redis.pubsub() as channel:
        channel.psubscribe(**{keys.events("*"): lambda m: heard.append(json.loads(m["data"]))})
        thread = channel.run_in_thread(sleep_time=0.01)
        yield heard
        thread.stop()
        thread.join()


def test_a_preview_is_there_while_the_job_runs_and_only_if_it_asked(
    store: JobStore, environ: dict[str, str], redis: Redis, told: list[dict]
):
    shown = admit(store, preview=True, steps=100)
    plain = admit(store, steps=100)

    with running(environ, step_s=0.02):
        wait_until(lambda: redis.hexists(keys.preview(shown), "0"), "a preview is there")
        preview = json.loads(redis.hget(keys.preview(shown), "0") or "{}")
        assert 0 < redis.ttl(keys.preview(shown)) <= keys.PREVIEW_TTL_S
        assert not redis.exists(keys.preview(plain))
        all_are(store, [shown, plain], Status.SUCCEEDED)

    assert not redis.exists(keys.preview(shown))
    assert {e["job"] for e in told if e["type"] == "preview"} == {shown}
    with Image.open(io.BytesIO(base64.b64decode(preview["data"]))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (16, 8))
    assert (preview["index"], preview["content_type"]) == (0, "image/jpeg")


@pytest.mark.parametrize(("width", "height"), [(256, 256), (1024, 512), (8, 8), (1, 300)])
def test_a_preview_is_small_whatever_it_shows(width: int, height: int):
    noise = Pixels(width=width, height=height, data=os.urandom(width * height * 3))

    data, size = small_file(noise)

    assert len(data) <= MOST_BYTES
    assert max(size) <= LONGEST_SIDE
