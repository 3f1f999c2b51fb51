"""T31 to T36 through a whole worker: whatever breaks in the engine, neighbours do not know of it.

One `python -m worker gpu` for all, with its real engine process on a model that breaks when its
prompt asks (tests/fault/breaking.py). "Neighbours changed" compares pixels with those made alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis

from deploy import servers
from jobs.contract.record import JobRecord
from jobs.store.job_store import JobStore
from tests.fault.whole_worker import WholeWorker, ends, pixels, up, whole_worker
from tests.helpers import wait_until
from tests.queue.making import QUICK, ended_by

SEEDS = range(7)
STEPS = 12
HANG_S = 6
OOM_ROOM_MB = 200
CGROUPS = Path("/sys/fs/cgroup/memory")

pytestmark = pytest.mark.timeout(1000)


@pytest.fixture(scope="module")
def worker(
    valkey_server: servers.Valkey,
    s3_settings: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WholeWorker]:
    shared = {f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()}
    environ = {"PRINTWORKS_REDIS_URL": valkey_server.url, **shared, **QUICK}
    environ["PRINTWORKS_WORKER_HANG_S"] = str(HANG_S)
    with whole_worker(environ, tmp_path_factory.mktemp("whole")) as running:
        yield running


@pytest.fixture
def neighbours(worker: WholeWorker, store: JobStore, redis: Redis) -> list[str]:
    """What seven pictures look like that are made alone; the worker is up, and idle."""
    up(redis)
    return worker.made_alone(store, SEEDS, steps=STEPS)


def seven(worker: WholeWorker, store: JobStore, model: str = "tiny") -> list[str]:
    return [worker.admit(store, seed=seed, steps=STEPS, model=model) for seed in SEEDS]


def changed(records: list[JobRecord], alone: list[str]) -> int:
    return sum(now != then for now, then in zip(pixels(records), alone, strict=True))


def test_t31_a_full_device_splits_the_batch_and_what_does_not_fit_alone_fails_in_words(
    worker: WholeWorker, store: JobStore, redis: Redis, neighbours: list[str]
):
    alone = worker.made_alone(store, SEEDS, model="wide", steps=STEPS)
    ids = seven(worker, store, "wide")
    # sixteen rows together, and from now on there is memory for four
    ids.append(worker.admit(store, "!crowd@4", model="wide", steps=STEPS))
    records = ends(store, ids)
    splits, wrong = worker.said("engine.group_failed"), changed(records[:-1], alone)
    pixels(records)
    again = sum(r.metrics["attempts"] - 1 for r in records)

    ids = [worker.admit(store, seed=k, model="wide", steps=STEPS) for k in range(4)]
    pixels(ends(store, ids))
    # The cap is lower; once in many good calls it is asked whether there is room again.
    after = worker.said("engine.group_failed") - splits
    greedy = worker.admit(store, "!crowd@1", model="wide", steps=STEPS)
    (record,) = ends(store, [greedy])

    print(
        f"T31: 16 rows where 4 fit: {splits} calls split, 0 failed, {again:.0f} made again, "
        f"neighbours changed {wrong}, {after} calls in vain after; alone too large: {record.error}"
    )
    error = record.error
    assert error is not None
    assert (splits > 0, wrong, again) == (True, 0, 0)
    assert after <= 1
    assert error.code == "out_of_memory"
    assert len(ended_by(redis, greedy)) == 1


def test_t34_latents_that_turn_to_nan_fail_their_job_alone(
    worker: WholeWorker, store: JobStore, redis: Redis, neighbours: list[str]
):
    ids = seven(worker, store)
    broken = worker.admit(store, "!nan@1", steps=40)

    (record,) = ends(store, [broken])
    error = record.error
    assert error is not None
    assert error.code == "nan_output"
    wrong = changed(ends(store, ids), neighbours)
    print(f"T34: NaN in one of 8: failed as {error.code}, neighbours changed {wrong}")
    assert wrong == 0
    assert record.progress.step < 40  # found early: the rest of its steps is not spent
    assert len(ended_by(redis, broken)) == 1


def test_t35_a_picture_of_one_colour_fails_in_words_and_never_succeeds(
    worker: WholeWorker, store: JobStore, neighbours: list[str]
):
    broken = worker.admit(store, "!flat@3", steps=4)
    ids = seven(worker, store)

    (record,) = ends(store, [broken])
    error = record.error
    assert error is not None, record
    assert (error.code, record.images) == ("degenerate_output", ())
    wrong = changed(ends(store, ids), neighbours)
    print(f"T35: one flat picture: failed as {error.code}, {len(ids)} others taken for flat: 0")
    assert wrong == 0


def test_t32_a_broken_device_ends_the_process_and_its_jobs_run_again(
    worker: WholeWorker, store: JobStore, redis: Redis, neighbours: list[str]
):
    dead = worker.engine.pid
    ids = seven(worker, store)
    cause = worker.admit(store, "!sticky@1 !once a", steps=STEPS)
    wait_until(lambda: worker.engine.pid != dead, "another engine process", 60)
    began_s = time.monotonic()
    records = ends(store, [*ids, cause])
    again_s = time.monotonic() - began_s

    wrong = changed(records[:-1], neighbours)
    print(
        f"T32: a sticky device error in one of 8: lost 0, neighbours changed {wrong}, all done "
        f"{again_s:.1f} s after the respawn (importing torch included)"
    )
    pixels(records)
    assert wrong == 0
    assert [len(ended_by(redis, r.id)) for r in records] == [1] * 8
    assert [redis.hget(f"rq:job:{r.id}", "retries_left") for r in records] == [b"3"] * 8
    assert '"cause": "exited"' in worker.log.read_text()


def test_t33_a_step_that_never_ends_is_found_by_the_watchdog(
    worker: WholeWorker, store: JobStore, redis: Redis, neighbours: list[str]
):
    dead = worker.engine.pid
    ids = seven(worker, store)
    stuck = worker.admit(store, "!hang@1 !once b", steps=STEPS)
    mark = worker.log.parent / "once" / "-hang-1-once-b"
    wait_until(mark.exists, "its call has begun", 60)
    hung_s = time.monotonic()
    wait_until(lambda: worker.said('"hung"'), "the watchdog has seen it", 60 + HANG_S)
    found_s = time.monotonic() - hung_s
    records = ends(store, [*ids, stuck])

    wrong = changed(records[:-1], neighbours)
    print(f"T33: found after {found_s:.1f} s (limit {HANG_S} s); neighbours changed {wrong}")
    pixels(records)
    assert wrong == 0
    assert found_s >= HANG_S - 1
    assert worker.engine.pid != dead


@pytest.fixture
def cgroup() -> Iterator[Path | None]:
    """A control group whose processes may take little more memory; None: none may be made here."""
    group = CGROUPS / f"printworks-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(OOM_ROOM_MB << 20))
    except OSError:
        yield None
        return
    yield group
    with suppress(OSError):  # a process that should be dead is still in it
        group.rmdir()


def test_t36_the_kernels_oom_killer_costs_one_attempt_and_no_job(
    worker: WholeWorker,
    store: JobStore,
    redis: Redis,
    neighbours: list[str],
    cgroup: Path | None,
):
    if cgroup:
        (cgroup / "cgroup.procs").write_text(str(worker.engine.pid))
    by = "the kernel" if cgroup else "itself, since no control group may be made here"
    ids = seven(worker, store)
    greedy = worker.admit(store, "!eat@1 !once c", steps=STEPS)
    records = ends(store, [*ids, greedy])

    wrong = changed(records[:-1], neighbours)
    print(f"T36: the engine killed by {by}: lost 0, doubled 0, neighbours changed {wrong}")
    pixels(records)
    assert wrong == 0
    assert records[-1].metrics["attempts"] == 2
    assert '"exitcode": -9' in worker.log.read_text()
    assert redis.hget(f"rq:job:{greedy}", "x_crashes") == b"1"
    assert [len(ended_by(redis, r.id)) for r in records] == [1] * 8


@pytest.mark.slow  # four starts of torch; with a fake engine in the gate (test_deaths.py)
def test_t05_a_job_that_kills_every_engine_fails_alone(
    worker: WholeWorker, store: JobStore, redis: Redis, neighbours: list[str]
):
    before = worker.said("engine.died")
    ids = seven(worker, store)
    poison = worker.admit(store, "!kill@1", steps=STEPS)

    (record,) = ends(store, [poison])
    deaths = worker.said("engine.died") - before
    wrong = changed(ends(store, ids), neighbours)
    print(f"T05: poison in a real engine: {deaths} deaths, innocents failed 0, changed {wrong}")
    error = record.error
    assert error is not None
    assert (error.code, deaths, wrong) == ("crashed", 3, 0)
    assert len(ended_by(redis, poison)) == 1
