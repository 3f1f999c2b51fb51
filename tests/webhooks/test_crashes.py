"""T12, and the transaction: whatever is killed, a job that ended has its event, and it arrives.

Real processes, SIGKILL, and the process's own Valkey killed and started again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from redis import Redis

from deploy import servers
from jobs.settings import ROOT
from jobs.store import keys as job_keys
from jobs.webhooks import keys
from jobs.webhooks.deliveries import LEASE_S
from jobs.webhooks.events import Event
from tests.helpers import wait_until
from tests.webhooks.desk import CANARY, Desk
from tests.webhooks.receivers import Got, Receiver, reply

pytestmark = pytest.mark.anyio


def an_ender(desk: Desk) -> subprocess.Popen:
    """Ends the tenant's jobs, as it reads their IDs."""
    command = [sys.executable, "-m", "tests.webhooks.mortal", desk.redis_url, "t"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def a_courier(desk: Desk, key: SecretStr, port: int) -> subprocess.Popen:
    """`python -m worker courier`, that may call 127.0.0.1 by plain HTTP."""
    env = os.environ | {
        "PRINTWORKS_REDIS_URL": desk.redis_url,
        "PRINTWORKS_WEBHOOK_KEY": key.get_secret_value(),
        "PRINTWORKS_WEBHOOK_SCHEMES": "http,https",
        "PRINTWORKS_WEBHOOK_PORTS": str(port),
        "PRINTWORKS_WEBHOOK_NETWORKS": "127.0.0.0/8",
    }
    command = [sys.executable, "-m", "worker", "courier"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen]]:
    """Every process that a test starts: none outlives it."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


class Deadly(Receiver):
    """Kills the courier that calls it, at one point of the exchange; then answers as one should."""

    def __init__(self, point: str) -> None:
        super().__init__()
        self.point = point
        self.victim: subprocess.Popen | None = None

    def kill(self, point: str) -> None:
        if self.victim and point == self.point:
            self.victim.kill()
            self.victim.wait()
            self.victim = None

    async def _read(self, reader):
        self.kill("connected")
        return await super()._read(reader)

    async def answer(self, got: Got, writer) -> None:
        self.kill("read")
        await reply(writer, 200)
        self.kill("answered")


@pytest.mark.parametrize("point", ["connected", "read", "answered"])
async def test_a_courier_killed_between_post_and_mark_delivers_again_with_the_same_id(
    desk: Desk, webhook_key: SecretStr, processes: list[subprocess.Popen], point: str
):
    async with Deadly(point) as receiver:
        endpoint, _ = await desk.register(receiver.url)
        desk.job_ends()
        receiver.victim = a_courier(desk, webhook_key, receiver.port)
        processes.append(receiver.victim)
        victim = receiver.victim
        await asyncio.to_thread(victim.wait, 30)
        first = (await desk.only(endpoint)).state

        desk.catch_up()  # the dead one's lease is by Redis's clock
        desk.now_s += LEASE_S
        await desk.deliver()

        one = await desk.only(endpoint)
        ids = {g.id for g in receiver.got}
        assert victim.returncode == -signal.SIGKILL
        assert one.state == "delivered"
        assert ids == {one.event}
        print(f"T12 killed when {point}: was {first}, missing 0, sent {len(receiver.got)}x, one id")


async def test_a_courier_told_to_stop_lets_what_is_under_way_end(
    desk: Desk, webhook_key: SecretStr, processes: list[subprocess.Popen]
):
    class Stopping(Receiver):
        async def answer(self, got: Got, writer) -> None:
            courier.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            await reply(writer, 204)

    async with Stopping() as receiver:
        endpoint, secret = await desk.register(receiver.url)
        desk.job_ends()
        courier = a_courier(desk, webhook_key, receiver.port)
        processes.append(courier)

        assert await asyncio.to_thread(courier.wait, 30) == 0

        log = courier.stdout.read()
        assert (await desk.only(endpoint)).state == "delivered"
        assert "webhook.attempted" in log
        for canary in (CANARY, secret, receiver.url, webhook_key.get_secret_value()):
            assert canary not in log


def ended_and_told(redis: Redis, job_ids: list[str]) -> tuple[set[str], set[str]]:
    """The jobs that are final, and the jobs of the events in the outbox."""
    final = {i for i in job_ids if redis.hget(job_keys.rq_key("job", i), "status") == b"canceled"}
    told = [Event.model_validate_json(e).job for e in redis.lrange(keys.OUTBOX, 0, -1)]
    assert len(told) == len(set(told))
    return final, set(told)


async def test_a_job_has_ended_and_its_event_is_there_or_neither(
    desk: Desk, redis: Redis, processes: list[subprocess.Popen]
):
    await desk.register("http://127.0.0.1:9/")
    chance, checked, ended = random.Random(20261123), 0, 0
    for _ in range(2):
        job_ids = [desk.submit() for _ in range(60)]
        ender = an_ender(desk)
        processes.append(ender)
        ender.stdin.write("\n".join(job_ids) + "\n")
        ender.stdin.flush()
        for _ in range(chance.randrange(5, 50)):
            await asyncio.to_thread(ender.stdout.readline)
        ender.kill()
        ender.wait()
        redis.ping()

        final, told = ended_and_told(redis, job_ids)
        assert final == told & set(job_ids)
        assert 0 < len(final) <= len(job_ids)
        checked, ended = checked + len(job_ids), ended + len(final)
    print(f"outbox: killed twice, {ended} of {checked} jobs ended, events missing 0, extra 0")


async def test_the_same_when_redis_itself_is_killed(
    desk: Desk, valkey_server: servers.Valkey, processes: list[subprocess.Popen]
):
    await desk.register("http://127.0.0.1:9/")
    job_ids = [desk.submit() for _ in range(150)]
    ender = an_ender(desk)
    processes.append(ender)
    ender.stdin.write("\n".join(job_ids) + "\n")
    ender.stdin.flush()
    for _ in range(40):
        await asyncio.to_thread(ender.stdout.readline)

    valkey_server.kill()
    ender.wait()
    said = {line.strip() for line in ender.stdout}
    valkey_server.start()
    valkey_server.wait_ready()

    with Redis.from_url(valkey_server.url) as redis:
        wait_until(redis.ping, "Valkey is back")
        final, told = ended_and_told(redis, job_ids)
    assert final == told
    assert said <= final  # what was acknowledged is there
    print(f"outbox: Valkey killed, {len(final)} jobs ended, events {len(told)}, missing 0, extra 0")
