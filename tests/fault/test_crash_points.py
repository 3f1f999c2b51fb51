"""T04, T11: a worker killed at every point from claim to event; each job ends once, all the same.

The scene of every point: a job of two images, one that fails, one that is worth a retry and fails
then, and webhooks that want to hear of each. A second worker, stopped until then, takes over.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from deploy import servers
from jobs.blobs.s3 import S3Blobs
from jobs.contract.record import FINAL, Status
from jobs.store import keys
from jobs.store.job_store import JobStore
from tests.fault.mortal import mortal_worker, teach
from tests.fault.s3_proxy import S3Proxy
from tests.fault.test_deaths import ready
from tests.helpers import wait_until
from tests.queue.making import QUICK, TENANT, admit, ended_by, read
from tests.queue.worker_process import Worker, worker_process
from worker.janitor import Janitor
from worker.settings import WorkerSettings

ENDS = ("job.succeeded", "job.failed", "job.canceled", "job.expired")
# What a worker sends between a claim and the event, and at which of the times that it does, a death
# just before and one just after are tried. Two points with no message between them are one: so the
# loop's own names (claimed, stored, ending ...) are no points of their own; `finished` is, where
# pixels are in memory only. `test_t04_the_list...` fails when the product sends anything else.
POINTS = {
    "claim asked": (1, 2),
    "claim answered": (1,),
    "submitted": (1,),
    "beat asked": (1,),
    "beat answered": (1, 2),
    "reap answered": (1,),
    "expire answered": (1,),
    "progress asked": (1,),
    "progress answered": (1,),
    "finished": (1, 2),
    "put asked": (1, 2),
    "put answered": (1, 2),
    "finish asked": (1, 2, 3),
    "finish answered": (1, 2, 3),
    "requeue asked": (1,),
    "requeue answered": (1,),
}
SAME = {"claimed", "stored", "ending", "ended", "returning", "reap asked", "expire asked"}
ALL = [(point, nth) for point, times in POINTS.items() for nth in times]


@pytest.fixture(scope="module")
def passed() -> Iterator[list[tuple[str, int]]]:
    """The points passed so far: the figure at the end."""
    done: list[tuple[str, int]] = []
    yield done
    print(f"\nT04: {len(done)} points of {len(ALL)} passed: 0 lost, 0 doubled, 0 orphans in sight")


@pytest.fixture(scope="module")
def second_worker(valkey_server: servers.Valkey, s3_settings: dict[str, str]) -> Iterator[Worker]:
    shared = {f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()}
    environ = {"PRINTWORKS_REDIS_URL": valkey_server.url, **shared, **QUICK}
    with worker_process(environ, step_s=0.001) as worker:
        yield worker


@pytest.fixture
def heir(second_worker: Worker, redis: Redis) -> Worker:
    """A worker that sleeps until it is woken; then it takes over."""
    second_worker.send_signal(signal.SIGCONT)
    ready(redis, timeout_s=60)
    second_worker.send_signal(signal.SIGSTOP)
    redis.flushall()
    return second_worker


def scene(store: JobStore, redis: Redis) -> list[str]:
    """The jobs, waiting; webhooks that want all of their ends."""
    teach(redis)
    redis.sadd(f"pw:endpoints:{TENANT}:events", *ENDS)
    pair, bad = admit(store, n=2, steps=8, seed=20), admit(store, prompt="fail")
    flaky = admit(store, prompt="flaky", steps=2)
    redis.hset(f"rq:job:{flaky}", "retries_left", 1)
    return [pair, bad, flaky]


def lapse_all(redis: Redis) -> None:
    """The dead one's leases run out: nobody has to wait for that."""
    for key in redis.scan_iter("rq:wip:*"):
        redis.zadd(key, dict.fromkeys(redis.zrange(key, 0, -1), 1))


def ended(store: JobStore, ids: list[str]) -> bool:
    return all(read(store, i).status in FINAL for i in ids)


def events(redis: Redis) -> Counter[str]:
    """How often webhooks are told of a job's end."""
    told = [json.loads(e) for e in redis.lrange("pw:outbox", 0, -1)]
    return Counter(e["job"] for e in told if e["type"] in ENDS)


def stored(blobs: S3Blobs, job_id: str) -> set[str]:
    """Every object of a job that lies in the picture store."""
    found = blobs._client.list_objects_v2(Bucket=blobs.bucket, Prefix=f"images/{TENANT}/{job_id}/")
    return {entry["Key"] for entry in found.get("Contents", ())}


def test_t04_the_list_of_points_is_whole(
    store: JobStore, redis: Redis, environ: dict[str, str], tmp_path: Path
):
    ids = scene(store, redis)
    with mortal_worker(environ, record=tmp_path / "points"):
        wait_until(lambda: ended(store, ids), "all have ended", 60)

    passed = Counter((tmp_path / "points").read_text().split("\n")[:-1])
    assert set(passed) == set(POINTS) | SAME
    assert {p: max(times) for p, times in POINTS.items() if passed[p] < max(times)} == {}


@pytest.mark.parametrize(("point", "nth"), ALL, ids=[f"{p} {n}" for p, n in ALL])
def test_t04_killed_there_every_job_ends_once(
    store: JobStore,
    redis: Redis,
    environ: dict[str, str],
    blobs: S3Blobs,
    heir: Worker,
    passed: list[tuple[str, int]],
    point: str,
    nth: int,
):
    ids = scene(store, redis)

    with mortal_worker(environ, crash=(point, nth)) as doomed:
        assert doomed.wait(timeout=60) == -signal.SIGKILL
    lapse_all(redis)
    heir.send_signal(signal.SIGCONT)
    wait_until(lambda: ended(store, ids), "every job has ended", 60)

    pair, *others = [read(store, i) for i in ids]
    assert [r.status for r in (pair, *others)] == [Status.SUCCEEDED, Status.FAILED, Status.FAILED]
    assert [len(ended_by(redis, i)) for i in ids] == [1, 1, 1]
    assert events(redis) == dict.fromkeys(ids, 1)
    assert [stored(blobs, i) for i in ids] == [{i.key for i in pair.images}, set(), set()]
    assert len(pair.images) == 2
    assert not list(redis.scan_iter("rq:execution:*"))
    passed.append((point, nth))


def test_t04_killed_in_the_middle_of_an_upload_nothing_of_it_is_seen(
    store: JobStore,
    redis: Redis,
    environ: dict[str, str],
    blobs: S3Blobs,
    heir: Worker,
    s3_settings: dict[str, str],
):
    ids = scene(store, redis)
    with S3Proxy(s3_settings["s3_endpoint"]) as proxy:
        proxy.set("hang")
        through = environ | {"PRINTWORKS_S3_ENDPOINT": proxy.endpoint}
        with mortal_worker(through) as doomed:
            wait_until(lambda: proxy.seen >= 2, "both uploads are on their way", 60)
            doomed.kill()
        proxy.set("ok")
        proxy.shutdown()
    assert stored(blobs, ids[0]) == set()
    lapse_all(redis)
    heir.send_signal(signal.SIGCONT)
    wait_until(lambda: ended(store, ids), "every job has ended", 60)

    record = read(store, ids[0])
    assert record.status is Status.SUCCEEDED
    assert stored(blobs, ids[0]) == {i.key for i in record.images}
    assert events(redis) == dict.fromkeys(ids, 1)


def test_t11_what_a_dead_worker_uploaded_of_a_canceled_job_is_never_seen_and_is_erased(
    store: JobStore, redis: Redis, environ: dict[str, str], blobs: S3Blobs, heir: Worker
):
    ids = scene(store, redis)
    with mortal_worker(environ, crash=("put answered", 2)) as doomed:
        assert doomed.wait(timeout=60) == -signal.SIGKILL
    record = store.cancel(ids[0], tenant=TENANT)
    orphans = stored(blobs, ids[0])
    assert (record.status, record.images, len(orphans)) == (Status.CANCELED, (), 2)

    redis.zadd(keys.ERASE, dict.fromkeys(redis.zrange(keys.ERASE, 0, -1), 1))  # the time is over
    Janitor(WorkerSettings.load(environ), redis=redis, blobs=blobs).erase()

    assert stored(blobs, ids[0]) == set()
    print(f"T11: {len(orphans)} orphans of a killed worker, 0 seen, 0 left")


@pytest.mark.parametrize("point", ["requeue asked", "requeue answered"])
def test_t15_killed_while_it_hands_back_on_sigterm_a_job_still_runs_once_more_only(
    store: JobStore, redis: Redis, environ: dict[str, str], heir: Worker, point: str
):
    teach(redis)
    long = admit(store, steps=100)
    hasty = environ | {"PRINTWORKS_WORKER_GRACE_S": "0"}
    with mortal_worker(hasty, crash=(point, 1), step_s=0.05) as doomed:
        wait_until(lambda: read(store, long).progress.step > 0, "it runs", 60)
        redis.hset(f"rq:job:{long}", "x_spec", read_spec(store, long, steps=3))
        doomed.terminate()
        assert doomed.wait(timeout=60) == -signal.SIGKILL
    lapse_all(redis)
    heir.send_signal(signal.SIGCONT)
    wait_until(lambda: ended(store, [long]), "it has ended", 60)

    record = read(store, long)
    assert (record.status, record.metrics["attempts"]) == (Status.SUCCEEDED, 2)
    assert len(ended_by(redis, long)) == 1


def read_spec(store: JobStore, job_id: str, **other: int) -> str:
    """Its spec with other values: so that the second run is a short one."""
    return read(store, job_id).spec.model_copy(update=other).model_dump_json()
