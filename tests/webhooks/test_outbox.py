"""The outbox: every way in which a job can end writes one event, and nothing else does."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr
from redis import Redis

from api.views.webhooks import EndpointRequest
from jobs.contract.request_parts import SUBSCRIBABLE, EventType, JobWebhook
from jobs.errors import StoreUnavailable
from jobs.settings import RoleSettings
from jobs.store import keys as job_keys
from jobs.store.keys import HashField
from jobs.store.scripts import worker_calls
from jobs.webhooks import keys
from jobs.webhooks.deliveries import LEASE_S, MAX_LAPSES
from jobs.webhooks.endpoints import Endpoints
from jobs.webhooks.events import Event, body_of
from jobs.webhooks.outbox import Outbox
from jobs.webhooks.scripts import MOST_KEPT
from jobs.webhooks.secret_box import SecretBox
from jobs.webhooks.ssrf_guard import EgressRules
from tests.helpers import wait_until
from tests.webhooks.desk import CANARY, Desk
from tests.webhooks.receivers import Receiver
from worker.courier.courier import Courier, Stores

pytestmark = pytest.mark.anyio
NOWHERE = "http://127.0.0.1:9/"


def told(redis: Redis) -> list[tuple[str, int]]:
    """Type and number of each event in the outbox."""
    events = [Event.model_validate_json(item) for item in redis.lrange(keys.OUTBOX, 0, -1)]
    return [(event.type.value, event.seq) for event in events]


def canceled_waiting(desk: Desk) -> None:
    desk.job_ends()


def canceled_running(desk: Desk) -> None:
    job_id = desk.submit()
    desk.claim()
    desk.jobs.cancel(job_id, tenant="t")
    desk.jobs.cancel(job_id, tenant="t")


def deleted_running(desk: Desk) -> None:
    job_id = desk.submit()
    desk.claim()
    desk.jobs.delete(job_id, tenant="t")


def expired_waiting(desk: Desk) -> None:
    job_id = desk.submit(deadline_s=600.0)
    desk.jobs.redis.zadd(job_keys.DEADLINES, {job_id: 1})
    desk.jobs.run(worker_calls.expire())


def succeeded(desk: Desk) -> None:
    desk.succeed()


def failed(desk: Desk) -> None:
    desk.fail()


def crashed(desk: Desk) -> None:
    desk.submit()
    for _ in range(10):
        run = desk.claim()
        became = desk.jobs.run(worker_calls.hand_back([run.lease], "crash"))
        if became[run.lease.job_id] == "failed":
            return
    pytest.fail("it never failed")


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (canceled_waiting, "job.canceled"),
        (canceled_running, "job.canceled"),
        (deleted_running, "job.canceled"),
        (expired_waiting, "job.expired"),
        (succeeded, "job.succeeded"),
        (failed, "job.failed"),
        (crashed, "job.failed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_every_end_of_a_job_writes_one_event(desk: Desk, redis: Redis, end, kind: str):
    await desk.register(NOWHERE)

    end(desk)

    assert told(redis) == [(kind, 1)]
    assert CANARY.encode() not in body_of(Event.model_validate_json(redis.lindex(keys.OUTBOX, 0)))


async def test_what_nobody_asked_for_is_not_written(desk: Desk, redis: Redis):
    await desk.register(NOWHERE, events=[EventType.FAILED])
    other, _ = await desk.register(NOWHERE, tenant="other")

    desk.job_ends()
    desk.job_ends(tenant="third")
    await desk.stores.endpoints.drop(other)
    desk.job_ends(tenant="other")
    own = JobWebhook(url=NOWHERE, events=("job.failed",))
    desk.job_ends(tenant="third", webhook=own)

    assert told(redis) == []


async def test_started_again_after_a_crash_counts_on(desk: Desk, redis: Redis):
    await desk.register(NOWHERE, events=SUBSCRIBABLE)
    desk.submit()
    run = desk.claim()
    desk.jobs.run(worker_calls.hand_back([run.lease], "crash"))
    desk.succeed_claimed(desk.claim())

    assert told(redis) == [("job.started", 1), ("job.started", 2), ("job.succeeded", 3)]


async def test_an_event_that_no_courier_can_read_does_not_stand_in_the_way(
    desk: Desk, redis: Redis
):
    async with Receiver() as receiver:
        await desk.register(receiver.url)
        for item in (b"{", b'{"id":1}', b'{"id":"m","type":"job.failed","tenant":"t","at":"",'):
            redis.rpush(keys.OUTBOX, item)
        odd = Event(id="m", type=EventType.FAILED, tenant="t", at="", status="succeeded")
        redis.rpush(keys.OUTBOX, odd.model_copy(update={"images": "[1]"}).model_dump_json())
        desk.job_ends()
        await desk.deliver()

        assert len(receiver.got) == 1
        assert not redis.exists(keys.OUTBOX)


async def test_a_delivery_that_kills_its_couriers_is_given_up(desk: Desk):
    endpoint, _ = await desk.register(NOWHERE)
    desk.job_ends()
    await desk.stores.outbox.spread(now=f"{desk.now_s:.6f}")

    claims = 0
    for _ in range(MAX_LAPSES + 3):
        got = await desk.stores.deliveries.claim(proven=9, probes=9, now=f"{desk.now_s:.6f}")
        claims += len(got.claimed)  # and the courier dies
        desk.now_s += LEASE_S + 1

    assert claims == MAX_LAPSES
    assert (await desk.only(endpoint)).state == "exhausted"


async def test_a_settlement_that_comes_after_its_lease_changes_nothing(desk: Desk):
    async with Receiver() as receiver:
        endpoint, _ = await desk.register(receiver.url)
        desk.job_ends()
        await desk.stores.outbox.spread(now=f"{desk.now_s:.6f}")
        now = f"{desk.now_s:.6f}"
        _, (late,) = await desk.stores.deliveries.claim(proven=1, probes=1, now=now)
        desk.now_s += LEASE_S + 1
        await desk.deliver()
        one = await desk.only(endpoint)

        settled = await desk.stores.deliveries.settle(
            late, "failed", one.log[0], wait_s=5, now=f"{desk.now_s:.6f}"
        )

        assert settled.state == "lost"
        assert await desk.only(endpoint) == one


async def test_another_key_of_the_operator_sends_nothing_unsigned_and_loses_nothing(
    desk: Desk, webhook_key: SecretStr, loopback: EgressRules
):
    new = base64.b64encode(bytes(32)).decode()
    both = SecretStr(f"{new},{webhook_key.get_secret_value()}")

    def a_courier(key: SecretStr) -> Courier:
        endpoints = Endpoints(desk.redis, SecretBox.of(key))
        outbox = Outbox(desk.redis, endpoints, loopback)
        stores = Stores(outbox=outbox, endpoints=endpoints, deliveries=desk.stores.deliveries)
        return Courier(stores, desk.sender, chance=lambda: 0.5, now=lambda: f"{desk.now_s:.6f}")

    async with Receiver() as receiver:
        endpoint, _ = await desk.register(receiver.url)
        desk.job_ends()
        wrong = a_courier(SecretStr(new))
        await wrong.round()
        await wrong.landed()
        refused = await desk.only(endpoint)
        desk.now_s += 6
        right = a_courier(both)
        await right.round()
        await right.landed()

        assert [line.outcome for line in refused.log] == ["unsigned"]
        assert (await desk.only(endpoint)).state == "delivered"
        assert len(receiver.got) == 1


async def test_a_courier_outlives_redis(desk: Desk, valkey_server):
    stopping = asyncio.Event()
    async with Receiver() as receiver, asyncio.TaskGroup() as group:
        await desk.register(receiver.url)
        courier = Courier(desk.stores, desk.sender)
        group.create_task(courier.run(stopping))
        desk.job_ends()
        await receiver.until(1)

        valkey_server.kill()
        valkey_server.start()  # in this thread: with the one that started it a server ends
        valkey_server.wait_ready()
        await asyncio.to_thread(wait_until, lambda: _ended(desk), "a job ends")
        await receiver.until(2)
        stopping.set()

    assert len({g.id for g in receiver.got}) >= 2


def _ended(desk: Desk) -> bool:
    try:
        desk.job_ends()
    except StoreUnavailable:
        return False
    return True


def test_the_wants_of_a_tenant_are_those_that_can_be_asked_for():
    def named(schema: type[BaseModel]) -> list[str]:
        return schema.model_json_schema()["properties"]["events"]["items"]["enum"]

    assert named(JobWebhook) == [kind.value for kind in SUBSCRIBABLE if kind.startswith("job.")]
    assert named(EndpointRequest) == [kind.value for kind in SUBSCRIBABLE]
    assert HashField.WEBHOOK not in job_keys.READ_FIELDS
    assert SecretBox.of(RoleSettings().webhook_key).able is False


async def test_the_receiver_of_the_docs_believes_us_and_nobody_else(
    desk: Desk, root: Path, tmp_path: Path, free_port: int
):
    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs/webhooks.md").read_text(), re.DOTALL)
    assert "8600" in code
    (tmp_path / "receiver.py").write_text(code.replace("8600", str(free_port)))
    endpoint, secret = await desk.register(f"http://127.0.0.1:{free_port}/")
    env = {"PYTHONPATH": str(root / "client"), "WEBHOOK_SECRET": secret}
    with subprocess.Popen(  # noqa: ASYNC220 - started in no time, read in a thread
        [sys.executable, tmp_path / "receiver.py"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as receiver:
        try:
            await asyncio.to_thread(wait_until, lambda: _listens(free_port), "it listens")
            job_id = desk.job_ends()
            await desk.deliver()
            said = await asyncio.to_thread(receiver.stdout.readline)
            delivered = (await desk.only(endpoint)).state
            await desk.stores.endpoints.rotate(endpoint, overlap_s=0)
            desk.job_ends()
            await desk.deliver()
        finally:
            receiver.kill()

    newest = (await desk.deliveries(endpoint))[0]
    one = await desk.stores.deliveries.get(endpoint.id, newest.id)
    assert said.startswith("job.canceled")
    assert job_id in said
    assert delivered == "delivered"
    assert [line.status for line in one.log] == [400]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_an_endpoint_that_is_off_cannot_fill_redis(desk: Desk, redis: Redis):
    endpoint, _ = await desk.register(NOWHERE)
    await desk.stores.endpoints.disable(endpoint)
    redis.zadd(keys.due(endpoint.id), {f"msg_{i}": 1 for i in range(MOST_KEPT - 1)})
    redis.expire(keys.due(endpoint.id), 60)
    for _ in range(3):
        desk.job_ends()

    await desk.stores.outbox.spread()

    assert (await desk.endpoint(endpoint)).dropped == 2
    assert redis.zcard(keys.due(endpoint.id)) == MOST_KEPT


async def test_after_a_change_of_the_operators_key_the_old_one_can_go(
    desk: Desk, webhook_key: SecretStr
):
    endpoint, secret = await desk.register(NOWHERE)
    old, new = webhook_key.get_secret_value(), base64.b64encode(bytes(32)).decode()
    between = Endpoints(desk.redis, SecretBox.of(SecretStr(f"{new},{old}")))

    counts = [await between.reseal(), await between.reseal()]

    after = Endpoints(desk.redis, SecretBox.of(SecretStr(new)))
    kept = (await after.get(endpoint.id, tenant="t")).secrets
    assert counts == [1, 0]
    assert after.open(endpoint.id, kept, desk.now_s) == [secret]
