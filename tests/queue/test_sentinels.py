"""Through sentinels: the primary dies under load, and everybody finds the next by themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from redis import Redis

from jobs.blobs.s3 import S3Blobs
from jobs.contract.parsing import parse_request
from jobs.contract.record import Status
from jobs.contract.submission import Idempotency
from jobs.errors import SettingsError, StoreUnavailable
from jobs.ids import new_job_id
from jobs.store.connection import connect
from jobs.store.job_store import AsyncJobStore, JobStore
from jobs.store.sentinels import SentinelAddress
from tests.helpers import wait_until
from tests.queue.copies import PASSWORD, Copies, client, copies, port_of, sentinels
from tests.queue.making import NO_LIMITS, QUICK, TENANT, a_spec, admit, ended_by, read, statuses
from tests.queue.worker_process import worker_process
from worker.janitor import Janitor
from worker.settings import WorkerSettings

T = TypeVar("T")
JOBS, KILL_AT = 120, 40
ASKED = parse_request({"prompt": "a red bicycle"})


@pytest.fixture
def watched(memory_folder: Path, redis_binary: Path) -> Iterator[tuple[Copies, str]]:
    with (
        TemporaryDirectory(dir=memory_folder) as folder,
        copies(Path(folder), 2, cuttable=False, binary=redis_binary) as made,
        sentinels(Path(folder), made, binary=redis_binary) as url,
    ):
        yield made, url


async def submit(url: str, kill: Copies) -> tuple[dict[int, str], int, float]:
    """JOBS jobs, each sent again with its key until it is accepted; in the middle of it the
    primary is killed. What was accepted, how often was refused, how long nothing was accepted."""
    store, accepted, refused, gap_s = AsyncJobStore(url, replicas=1), {}, 0, 0.0
    last_s = time.monotonic()
    for k in range(JOBS):
        key = Idempotency.of(f"k{k}", scope=TENANT, request=ASKED)
        while k not in accepted:
            try:
                job = await store.admit(
                    a_spec(seed=k, steps=20),
                    tenant=TENANT,
                    job_id=new_job_id(),
                    idempotency=key,
                    limits=NO_LIMITS,
                )
                accepted[k] = job.record.id
            except StoreUnavailable:
                refused += 1
                await asyncio.sleep(0.05)
        gap_s = max(gap_s, time.monotonic() - last_s)
        last_s = time.monotonic()
        if k == KILL_AT:
            kill.primary.kill()
    await store.aclose()
    return accepted, refused, gap_s


def test_t13_a_failover_by_sentinels_under_load_loses_and_doubles_nothing(
    watched: tuple[Copies, str], s3_settings: dict[str, str]
):
    made, url = watched
    environ = {
        "PRINTWORKS_REDIS_URL": url,
        "PRINTWORKS_DURABILITY": "replicated",
        **{f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()},
        **QUICK,
    }
    with worker_process(environ, step_s=0.01), worker_process(environ, step_s=0.01):
        accepted, refused, gap_s = asyncio.run(submit(url, made))
        with JobStore(url) as store:
            done = ["succeeded"] * JOBS
            ids = list(accepted.values())
            wait_until(
                lambda: works(lambda: statuses(store, ids)) == done, "all have succeeded", 60
            )

        with connect(url) as redis:
            ends = [len(ended_by(redis, job_id)) for job_id in accepted.values()]
            jobs = list(redis.scan_iter("rq:job:*"))
            attempts = [int(redis.hget(key, "x_attempts") or 0) for key in jobs]
    print(
        f"T13: primary killed after {KILL_AT} of {JOBS}: lost 0, doubled {len(jobs) - JOBS}; "
        f"{refused} refusals, nothing accepted for {gap_s:.1f} s, {sum(attempts) - JOBS} run again"
    )
    assert ends == [1] * JOBS
    assert len(jobs) == JOBS == len(set(accepted.values()))


def test_a_demoted_primary_is_left_for_the_new_one(
    watched: tuple[Copies, str], s3_settings: dict[str, str]
):
    made, url = watched
    settings = WorkerSettings.model_validate({"redis_url": url, **s3_settings})
    with JobStore(url) as store, connect(url) as redis:
        janitor = Janitor(settings, redis=redis, blobs=S3Blobs(settings))
        store.check_server()
        janitor.sweep()
        (host, port), *_ = SentinelAddress.of(url).hosts
        with Redis(host, port) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", "queue")
            old = port_of(made.primary)
            wait_until(lambda: primary(sentinel) != old, "another is the primary", 30)
            with client(made.primary) as demoted:  # as sentinels do some seconds later
                demoted.execute_command("REPLICAOF", "127.0.0.1", primary(sentinel))

        job_id = wait_until(lambda: works(lambda: admit(store)), "the same store writes to it")
        wait_until(lambda: works(lambda: janitor.sweep() or True), "and the janitor")
        assert read(store, job_id).status is Status.QUEUED


def primary(sentinel: Redis) -> int:
    return sentinel.sentinel_get_master_addr_by_name("queue")[1]


def works(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except StoreUnavailable:
        return None


def test_a_sentinels_url_is_read_whole():
    url = (
        f"rediss+sentinel://me:{PASSWORD}@a.example,[::1]:5/main/3"
        "?sentinel_password=other&ssl_cert_reqs=none"
    )

    found = SentinelAddress.of(url)

    assert found.service == "main"
    assert found.hosts == (("a.example", 26379), ("::1", 5))
    assert dict(found.sentinel) == {"password": "other", "ssl": True}
    assert dict(found.primary) == {
        "username": "me",
        "password": PASSWORD,
        "db": 3,
        "ssl": True,
        "ssl_cert_reqs": "none",
    }


@pytest.mark.parametrize(
    "url", ["redis+sentinel://a:1", "redis+sentinel://a:x/main", "redis+sentinel:///main"]
)
def test_a_sentinels_url_that_cannot_be_read_shows_the_form(url: str):
    with pytest.raises(SettingsError, match="redis\\+sentinel://:password@host:26379"):
        SentinelAddress.of(url)
