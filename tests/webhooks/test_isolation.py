"""T45: dead endpoints do not delay living ones; and what a courier may do at once is bounded."""

from __future__ import annotations

import asyncio
import math
import ssl
import time

import pytest

from jobs.contract.request_parts import EventType
from jobs.webhooks.scripts import AT_ONCE, AT_ONCE_PROBING
from jobs.webhooks.ssrf_guard import EgressRules, resolver
from tests.webhooks.desk import Desk
from tests.webhooks.receivers import Receiver, Silent, Slow
from worker.courier.courier import Courier
from worker.courier.http_sender import Limits, open_sender

pytestmark = pytest.mark.anyio
DEAD, TENANTS = 200, 4
EVENTS = 12


async def delays(desk: Desk, healthy: Receiver, events: int = EVENTS) -> list[float]:
    """Seconds from the end of a job to the receipt of its webhook, one after the other."""
    found: list[float] = []
    for _ in range(events):
        seen, started = len(healthy.got), time.monotonic()
        await asyncio.to_thread(desk.job_ends, tenant="healthy")
        await healthy.until(seen + 1)
        found.append(time.monotonic() - started)
    return found


def p99(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


@pytest.mark.timeout(120)
async def test_200_dead_endpoints_do_not_delay_a_healthy_one(
    desk: Desk, loopback: EgressRules, tls: ssl.SSLContext
):
    # 32 slots and 3 s, as the product's 128 and 15 s: 9 to 11 dead attempts end each second
    limits, stopping = Limits(total_s=3), asyncio.Event()
    async with (
        Receiver() as healthy,
        Silent() as dead,
        open_sender(loopback, resolver(), agent="test", limits=limits, tls=tls) as sender,
        asyncio.TaskGroup() as group,
    ):
        courier = Courier(desk.stores, sender, slots=32)
        await desk.register(healthy.url, tenant="healthy")
        running = group.create_task(courier.run(stopping))
        await delays(desk, healthy, 3)  # it has answered before: it is proven
        alone = await delays(desk, healthy)

        for i in range(DEAD):
            await desk.register(f"{dead.url}/{i}", tenant=f"dead{i % TENANTS}")
        for _ in range(3):
            for tenant in range(TENANTS):
                desk.job_ends(tenant=f"dead{tenant}")
        await dead.until(32)
        flooded = await delays(desk, healthy)
        reached = dead.accepted
        stopping.set()
        await running

    ratio = p99(flooded) / p99(alone)
    assert reached >= 32  # the flood was there
    # twice, and half a second for a machine that does other things; with one pool it is many s
    assert p99(flooded) <= 2 * p99(alone) + 0.5
    print(
        f"T45: {DEAD} dead endpoints, {DEAD * 3} deliveries due to them; healthy p99 "
        f"{p99(alone) * 1000:.0f} ms alone, {p99(flooded) * 1000:.0f} ms beside them, "
        f"ratio {ratio:.2f}"
    )


async def test_five_at_once_to_an_endpoint_that_answers_and_one_to_one_that_may_not(desk: Desk):
    async with Slow(0.2) as receiver:
        endpoint, _ = await desk.register(receiver.url)
        for _ in range(20):
            await desk.put(endpoint)

        before = receiver.accepted
        await desk.deliver()
        probed = receiver.accepted - before
        await desk.deliver()
        proven = receiver.accepted - before - probed

        assert (probed, proven) == (AT_ONCE_PROBING, AT_ONCE) == (1, 5)


async def test_any_number_of_couriers_send_each_delivery_once(desk: Desk):
    async with Receiver() as receiver:
        endpoints = [
            (await desk.register(f"{receiver.url}/{i}", events=[EventType.CANCELED]))[0]
            for i in range(10)
        ]
        for _ in range(10):
            desk.job_ends()
        couriers = [desk.a_courier(slots=8) for _ in range(4)]

        for _ in range(100):  # more rounds than it can need
            await asyncio.gather(*(c.round() for c in couriers))
            await asyncio.gather(*(c.landed() for c in couriers))
            if len(receiver.got) >= 100:
                break
        states = [d.state for e in endpoints for d in await desk.deliveries(e)]

        assert states == ["delivered"] * 100
        ids = [(g.id, g.path) for g in receiver.got]
        assert len(ids) == len(set(ids)) == 100
