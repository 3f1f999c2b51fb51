"""T46, T49: when a delivery is tried again, and when an endpoint is given up. A clock by hand."""

from __future__ import annotations

import itertools
from email.utils import formatdate

import pytest
from redis import Redis

from jobs.contract.request_parts import ENDINGS, EventType
from jobs.webhooks.retry_schedule import DISABLE_AFTER_S, WAITS_S, retry_after_s, wait_s
from tests.webhooks.desk import Desk
from tests.webhooks.receivers import Answering

pytestmark = pytest.mark.anyio
HOUR = 3600


async def test_ten_attempts_over_75_hours_then_exhausted_with_the_same_bytes_each_time(desk: Desk):
    async with Answering(500) as receiver:
        endpoint, _ = await desk.register(receiver.url)
        desk.job_ends()
        start = desk.now_s
        at: list[float] = []
        for _ in WAITS_S:
            await desk.deliver()
            at.append(desk.now_s - start)
            due = (await desk.only(endpoint)).next_at
            desk.now_s = due or desk.now_s

        one = await desk.only(endpoint)
        gaps = [round(b - a) for a, b in itertools.pairwise(at)]
        assert gaps == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
        assert (one.state, one.attempts, len(one.log)) == ("exhausted", 10, 10)
        assert len({(g.id, g.body) for g in receiver.got}) == 1
        print(f"T46: attempts at {[round(t / HOUR, 2) for t in at]} h, one body, one webhook-id")


@pytest.mark.parametrize(
    ("said", "outcome", "wait"),
    [
        (200, "delivered", None),
        (204, "delivered", None),
        (301, "redirected", 5),
        (308, "redirected", 5),
        (400, "refused", 5),
        (404, "refused", 5),
        (410, "gone", 5),
        (429, "refused", 5),
        ((429, {"Retry-After": "7"}), "refused", 7),
        ((429, {"Retry-After": "1"}), "refused", 5),  # never sooner than the table
        ((503, {"Retry-After": "100000"}), "refused", 10),  # never later than twice
        ((500, {"Retry-After": "9"}), "refused", 5),  # heeded with 429, 502, 503, 504 only
        ((503, {"Retry-After": "in a while"}), "refused", 5),
        (500, "refused", 5),
    ],
)
async def test_what_each_status_means(desk: Desk, said, outcome: str, wait: float | None):
    async with Answering(said) as receiver:
        endpoint, _ = await desk.register(receiver.url)
        desk.job_ends()

        await desk.deliver()

        (attempt,) = (await desk.only(endpoint)).log
        assert (attempt.outcome, attempt.next_in_s) == (outcome, wait)
        print(f"T46: {said} -> {outcome}, again in {wait} s")


async def test_retry_after_may_be_a_date(desk: Desk):
    async with Answering((503, {"Retry-After": formatdate(desk.now_s + 8, usegmt=True)})) as it:
        endpoint, _ = await desk.register(it.url)
        desk.job_ends()

        await desk.deliver()

        (attempt,) = (await desk.only(endpoint)).log
        assert attempt.next_in_s is not None
        assert 6.5 <= attempt.next_in_s <= 8


async def test_410_disables_at_once_and_enabling_sends_what_was_kept(desk: Desk):
    async with Answering(410, 200) as receiver:
        endpoint, _ = await desk.register(receiver.url)
        desk.job_ends()
        await desk.deliver()
        gone = await desk.endpoint(endpoint)
        desk.job_ends()
        desk.now_s += HOUR
        await desk.deliver()
        assert (gone.state, gone.reason, len(receiver.got)) == ("disabled", "gone", 1)

        await desk.stores.endpoints.enable(gone)
        for _ in range(3):
            await desk.deliver()

        assert {d.state for d in await desk.deliveries(endpoint)} == {"delivered"}
        assert len({g.id for g in receiver.got}) == 2


async def test_120_hours_of_failures_disable_and_nothing_is_dropped(desk: Desk):
    async with Answering(500) as receiver, Answering(200) as watcher:
        endpoint, _ = await desk.register(receiver.url)
        await desk.register(watcher.url, events=[EventType.ENDPOINT_DISABLED])
        hours, made = 0, 0
        while (await desk.endpoint(endpoint)).state == "enabled":
            desk.job_ends()
            made += 1
            for _ in range(3):
                await desk.deliver()
            desk.now_s += 10 * HOUR
            hours += 10
        await desk.deliver()  # the word of it
        disabled = await desk.endpoint(endpoint)

        assert disabled.reason == "failing"
        assert hours - 10 == DISABLE_AFTER_S / HOUR
        (told,) = watcher.got
        assert told.event["data"]["endpoint"] == endpoint.id
        assert told.event["type"] == "endpoint.disabled"

        receiver.answers = [200]
        desk.now_s += 20 * 24 * HOUR
        await desk.stores.endpoints.enable(disabled)
        before = await desk.deliveries(endpoint)
        for one in before:
            if one.state == "exhausted":
                await desk.stores.deliveries.redeliver(endpoint.id, one.id, now=f"{desk.now_s:.6f}")
        for _ in range(made + 1):
            await desk.deliver()
        states = [d.state for d in await desk.deliveries(endpoint)]
        assert states == ["delivered"] * made
        print(f"T49: disabled after {hours - 10} h, {made} events kept 20 days, all delivered then")


async def test_one_success_starts_the_120_hours_again(desk: Desk):
    async with Answering(500, 200, 500) as receiver:
        endpoint, _ = await desk.register(receiver.url)
        desk.job_ends()
        await desk.deliver()
        assert (await desk.endpoint(endpoint)).failing_since

        desk.now_s += 119 * HOUR
        await desk.deliver()
        desk.now_s += 2 * HOUR
        desk.job_ends()
        await desk.deliver()

        found = await desk.endpoint(endpoint)
        assert found.state == "enabled"
        assert found.failing_since == pytest.approx(desk.now_s)


def test_jitter_is_a_fifth_either_way_and_a_wait_never_ends_early():
    waits = [wait_s(3, chance=c / 100) for c in range(101)]

    assert min(waits) == pytest.approx(0.8 * 1800)
    assert max(waits) == pytest.approx(1.2 * 1800)
    assert wait_s(10, chance=0.5) is None
    assert retry_after_s(429, "9" * 400, now_s=0) is not None
    assert retry_after_s(503, "Sun, 99 Nov 9999", now_s=0) is None
    assert set(ENDINGS) == {"job.succeeded", "job.failed", "job.canceled", "job.expired"}


async def test_progress_is_told_to_who_asks_twice_a_second_and_never_again(desk: Desk):
    async with Answering(500) as receiver:
        kinds = [EventType.PROGRESS, EventType.SUCCEEDED]
        endpoint, _ = await desk.register(receiver.url, events=kinds)
        desk.submit()
        run = desk.claim()

        for step in range(1, 20):
            desk.tell(run, step, 20)
        await desk.deliver()
        desk.now_s += HOUR
        await desk.deliver()

        (got,) = receiver.got
        one = await desk.only(endpoint)
        assert got.event["data"] | {"id": ""} == {
            "id": "",
            "status": "running",
            "seq": 1,
            "stage": "denoising",
            "step": 1,
            "steps": 20,
        }
        assert (one.state, one.attempts, one.event) == ("exhausted", 1, got.id)


async def test_of_progress_that_waits_the_latest_wins(desk: Desk, redis: Redis):
    async with Answering(200) as receiver:
        await desk.register(receiver.url, events=[EventType.PROGRESS])
        desk.submit()
        run = desk.claim()

        for step in (1, 2, 3):
            desk.tell(run, step, 20)
            redis.delete(f"pw:progress:{run.lease.job_id}")  # half a second later
        await desk.deliver()

        assert [g.event["data"]["step"] for g in receiver.got] == [3]
        assert receiver.got[0].id.endswith("03")
