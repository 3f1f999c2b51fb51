"""Events over a connection that breaks without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from jobs.contract.events import StatusEvent
from jobs.errors import StoreUnavailable
from jobs.store.job_store import AsyncJobStore, JobStore
from tests.fault.tcp_proxy import TcpProxy
from tests.queue.making import TENANT, admit

SILENCE_S = 0.2


async def to_the_end(events: AsyncIterator[object]) -> None:
    async for _ in events:
        pass


@pytest.fixture
def proxy(redis_url: str) -> Iterator[TcpProxy]:
    where = urlsplit(redis_url)
    proxy = TcpProxy(where.hostname or "", where.port or 0)
    yield proxy
    proxy.close()


def test_t20_a_follower_whose_link_was_cut_silently_is_told(
    redis_url: str, store: JobStore, proxy: TcpProxy
):
    through = redis_url.replace(f":{urlsplit(redis_url).port}", f":{proxy.port}")

    async def follow() -> tuple[str, str]:
        following = AsyncJobStore(through)
        events = following.subscribe(silence_s=SILENCE_S)
        first = asyncio.ensure_future(anext(events))
        while not first.done():  # quiet for longer than the silence, and still there
            await asyncio.sleep(4 * SILENCE_S)
            job_id = admit(store)
            store.cancel(job_id, tenant=TENANT)  # nobody can follow a job before it is accepted
        event = await first
        assert isinstance(event, StatusEvent)
        proxy.set("hole")
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await asyncio.wait_for(to_the_end(events), 30)
        proxy.set("reset")  # its other end would be waited for
        await following.aclose()
        return event.job, job_id

    told, made = asyncio.run(follow())

    assert told <= made
