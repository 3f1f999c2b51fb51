"""A group is told once, when its last job has ended: however each ends, whatever is killed."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from printworks.webhooks import verify
from redis import Redis

from jobs.contract.request_parts import EventType
from jobs.contract.submission import NewGroup, NewJob
from jobs.ids import new_job_id
from jobs.store import keys as job_keys
from jobs.store.scripts import worker_calls
from jobs.webhooks import keys
from jobs.webhooks.events import Event, body_of
from tests.webhooks.desk import CANARY, Desk, a_spec
from tests.webhooks.receivers import Receiver
from tests.webhooks.test_crashes import an_ender

pytestmark = pytest.mark.anyio
JOBS = [{"prompt": CANARY, "seed": k} for k in range(3)]


def group_events(redis: Redis) -> list[Event]:
    """Those in the outbox."""
    events = [Event.model_validate_json(item) for item in redis.lrange(keys.OUTBOX, 0, -1)]
    return [event for event in events if event.type is EventType.GROUP_COMPLETED]


def a_group(desk: Desk, count: int) -> list[str]:
    """A group of the tenant `t`; its jobs, in order."""
    jobs = [NewJob(id=new_job_id(), spec=a_spec()) for _ in range(count)]
    desk.jobs.admit_group(NewGroup(id=new_job_id(), jobs=jobs), tenant="t")
    return [job.id for job in jobs]


async def test_a_group_calls_back_once_at_its_end_signed(api: httpx2.AsyncClient, desk: Desk):
    async with Receiver() as receiver:
        register = {"url": receiver.url, "events": ["group.completed"]}
        made = (await api.post("/v1/webhooks", json=register)).json()
        own = receiver.url + "/orders/7"
        sent = await api.post("/v1/job-groups", json={"jobs": JOBS, "webhook": {"url": own}})
        first, second, third = [job["id"] for job in sent.json()["jobs"]]

        desk.succeed_claimed(desk.claim(), tenant="default")
        await api.post(f"/v1/jobs/{second}/cancel")
        await desk.deliver()
        before = len(receiver.got)
        await api.delete(f"/v1/jobs/{third}")
        for _ in range(2):  # one attempt at a time, as long as none has succeeded
            await desk.deliver()

    event = verify(receiver.got[0].body, receiver.got[0].headers, made["secret"])
    group_id = sent.json()["id"]
    assert before == 0
    assert {got.path for got in receiver.got} == {"/hook", "/hook/orders/7"}
    assert {got.id for got in receiver.got} == {f"msg_{group_id.replace('-', '')}01"}
    assert event["type"] == "group.completed"
    assert event["data"] == {
        "id": group_id,
        "counts": {"canceled": 2, "succeeded": 1},
        "jobs": sorted(
            [
                {"id": first, "status": "succeeded"},
                {"id": second, "status": "canceled"},
                {"id": third, "status": "canceled"},
            ],
            key=lambda job: job["id"],
        ),
        "path": f"/v1/job-groups/{group_id}",
    }
    assert CANARY not in receiver.got[0].body.decode()


async def test_an_endpoint_that_names_no_events_is_told_of_groups(
    api: httpx2.AsyncClient, desk: Desk
):
    made = (await api.post("/v1/webhooks", json={"url": "http://127.0.0.1:9999/"})).json()

    assert "group.completed" in made["events"]


async def test_a_group_url_of_no_registered_origin_is_refused(api: httpx2.AsyncClient, desk: Desk):
    body = {"jobs": JOBS, "webhook": {"url": "http://127.0.0.1:9999/x"}}
    refused = await api.post("/v1/job-groups", json=body)
    misspelt = await api.post("/v1/job-groups", json={"jobs": JOBS, "webhok": {}})

    assert refused.json()["errors"][0]["code"] == "origin_not_registered"
    assert misspelt.json()["errors"][0]["pointer"] == "/webhok"
    assert (await api.get("/v1/jobs")).json()["jobs"] == []


async def test_only_the_last_to_end_ends_a_group(desk: Desk, redis: Redis):
    await desk.register("http://127.0.0.1:9/", events=[EventType.GROUP_COMPLETED])
    seen = []
    for job_id in a_group(desk, 2):
        desk.jobs.cancel(job_id, tenant="t")
        seen.append(len(group_events(redis)))

    assert seen == [0, 1]


async def test_every_way_to_end_counts_and_a_second_end_does_not(desk: Desk, redis: Redis):
    await desk.register("http://127.0.0.1:9/", events=[EventType.GROUP_COMPLETED])
    done, late, gone, crashed = a_group(desk, 4)
    desk.succeed_claimed(desk.claim())
    redis.hset(job_keys.rq_key("job", late), "x_deadline", "1")
    redis.zadd(job_keys.DEADLINES, {late: 1})
    desk.jobs.run(worker_calls.expire())
    desk.jobs.delete(gone, tenant="t")
    for _ in range(3):
        desk.jobs.run(worker_calls.hand_back([desk.claim().lease], "crash"))
    (event,) = group_events(redis)

    # an operator sends the failed one again, and it ends again
    redis.hset(job_keys.rq_key("job", crashed), "status", "queued")
    redis.lpush(job_keys.rq_key("queue", "demo.normal"), crashed)
    desk.succeed_claimed(desk.claim())

    ends = dict.fromkeys((done, late, gone, crashed), "")
    ends |= {done: "succeeded", late: "expired", gone: "canceled", crashed: "failed"}
    assert {j["id"]: j["status"] for j in data_of(event)["jobs"]} == ends
    assert len(group_events(redis)) == 1


def data_of(event: Event) -> dict[str, Any]:
    return json.loads(body_of(event))["data"]


def test_the_largest_body_fits():
    ends = ", ".join(f'"019a0000-0000-7000-8000-{k:012d}": "succeeded"' for k in range(100))
    event = Event(
        id="msg_0", type=EventType.GROUP_COMPLETED, tenant="t", at="", group="g", ends=f"{{{ends}}}"
    )

    assert len(body_of(event)) < 20_000


@pytest.fixture
def enders() -> Iterator[list[subprocess.Popen]]:
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def test_whoever_ends_them_is_killed_and_the_group_is_told_once(
    desk: Desk, redis: Redis, enders: list[subprocess.Popen]
):
    await desk.register("http://127.0.0.1:9/", events=[EventType.GROUP_COMPLETED])
    chance, killed = random.Random(20261123), 0
    job_ids = a_group(desk, 100)
    for last in (False, True):
        # two at once end the same jobs, in orders of their own
        pair = [an_ender(desk) for _ in range(2)]
        enders += pair
        for ender in pair:
            chance.shuffle(job_ids)
            ender.stdin.write("\n".join(job_ids) + "\n")
            ender.stdin.flush()
        for ender in pair:
            for _ in range(100 if last else chance.randrange(5, 20)):
                await asyncio.to_thread(ender.stdout.readline)
        for ender in pair:
            ender.kill()
            ender.wait()
            killed += 1
        told = group_events(redis)
        final = [
            i for i in job_ids if redis.hget(job_keys.rq_key("job", i), "status") == b"canceled"
        ]
        assert len(told) == (len(final) == 100)

    print(f"groups: {killed} enders killed, 100 jobs ended, told 1 time")
