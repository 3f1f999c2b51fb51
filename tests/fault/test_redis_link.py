"""The way to Redis is cut, deaf or broken: answers come in time, and nothing happens twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import pytest
from redis import Redis
from rq.suspension import resume, suspend

from jobs.errors import StoreUnavailable
from jobs.ids import new_job_id
from jobs.store import AsyncJobStore, JobStore
from tests.fault.tcp_proxy import TcpProxy
from tests.fault.test_deaths import all_succeed, ready
from tests.queue.making import NO_LIMITS, TENANT, a_spec, admit, claim
from tests.queue.worker_process import worker_process

BUDGET_S = 2.3  # the promise is 2 s; the rest is this machine's


@pytest.fixture
def proxy(redis_url: str) -> Iterator[TcpProxy]:
    where = urlsplit(redis_url)
    proxy = TcpProxy(where.hostname or "", where.port or 0)
    yield proxy
    proxy.close()


@pytest.fixture
def through(redis_url: str, proxy: TcpProxy) -> str:
    return redis_url.replace(f":{urlsplit(redis_url).port}", f":{proxy.port}")


def with_store(url: str, steps: Callable[[AsyncJobStore], Awaitable[None]]) -> None:
    async def run() -> None:
        store = AsyncJobStore(url)
        try:
            await steps(store)
        finally:
            await store.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["hole", "deaf", "reset"])
def test_t20_a_cut_link_is_said_in_time_and_a_mended_one_works_at_once(
    through: str, proxy: TcpProxy, mode: str
):
    async def steps(store: AsyncJobStore) -> None:
        await store.ping()
        proxy.set(mode)
        for call in (store.ping, store.workers, store.ping):
            began_s = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await call()
            assert time.monotonic() - began_s < BUDGET_S
        proxy.set("ok")
        began_s = time.monotonic()
        await store.ping()
        assert time.monotonic() - began_s < BUDGET_S

    with_store(through, steps)


def test_t07_a_lost_answer_and_a_second_sending_make_one_job(
    through: str, proxy: TcpProxy, redis: Redis
):
    job_id = new_job_id()

    async def steps(store: AsyncJobStore) -> None:
        async def send() -> None:
            await store.admit(
                a_spec(), tenant=TENANT, job_id=job_id, idempotency=None, limits=NO_LIMITS
            )

        await store.ping()
        await send()  # the script is known to the server now
        redis.flushall()
        proxy.set("deaf")
        with pytest.raises(StoreUnavailable):
            await send()
        proxy.set("ok")
        await send()

    with_store(through, steps)

    assert redis.lrange("rq:queue:demo.normal", 0, -1) == [job_id.encode()]


def test_jobs_claimed_by_an_answer_that_got_lost_are_given_back(
    store: JobStore, redis: Redis, environ: dict[str, str]
):
    environ |= {"PRINTWORKS_WORKER_LEASE_S": "60"}
    with worker_process(environ):
        (report,) = ready(redis)
        suspend(redis)  # so that it does not claim them itself meanwhile
        ids = [admit(store) for _ in range(4)]
        assert len(claim(store, 8, worker=report.name)) == 4  # and nobody hears the answer
        resume(redis)
        all_succeed(store, redis, ids)  # long before the lease of 60 s is over


def test_t22_a_script_cache_that_was_flushed_is_filled_again(store: JobStore, redis: Redis):
    job_id = admit(store)
    redis.script_flush()

    assert store.read(job_id, tenant=TENANT).id == job_id
