"""Whatever couriers, tenants and deaths do, and in whatever order: the sets agree with each other.

A seeded walk over all scripts; after every step the whole of Redis is looked at.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from redis import Redis

from jobs.errors import EndpointMissing
from jobs.webhooks.deliveries import LEASE_S, Attempt, Claimed
from jobs.webhooks.endpoints import Endpoint
from jobs.webhooks.scripts import AT_ONCE, AT_ONCE_PROBING
from tests.webhooks.desk import Desk

pytestmark = pytest.mark.anyio
LINES = {"1": "pw:courier:proven", "0": "pw:courier:probes"}


def faults(redis: Redis) -> list[str]:
    """What does not fit together; nothing, if all is well."""
    found: list[str] = []
    leases = {m.decode() for m in redis.zrange("pw:courier:leases", 0, -1)}
    flying: set[str] = set()
    lines = {flag: dict(redis.zrange(key, 0, -1, withscores=True)) for flag, key in LINES.items()}
    endpoints = [k.decode().removeprefix("pw:endpoint:") for k in redis.keys("pw:endpoint:*")]
    for ep in endpoints:
        home = {k.decode(): v.decode() for k, v in redis.hgetall(f"pw:endpoint:{ep}").items()}
        due = dict(redis.zrange(f"pw:due:{ep}", 0, -1, withscores=True))
        flight = set(redis.zrange(f"pw:flight:{ep}", 0, -1))
        flying |= {f"{ep} {m.decode()}" for m in flight}
        listed = set(redis.zrange(f"pw:deliveries:{ep}", 0, -1))
        found += [f"{ep}: due and under way: {d}" for d in flight & set(due)]
        for member in listed:
            state = redis.hget(f"pw:delivery:{ep}:{member.decode()}", "state")
            if (state == b"pending") != (member in due or member in flight):
                found.append(f"{ep}: {member} is {state}")
        proven = home.get("proven", "0")
        room = len(flight) < (AT_ONCE if proven == "1" else AT_ONCE_PROBING)
        stands = home["state"] == "enabled" and room and due
        want = {ep.encode(): min(due.values())} if stands else {}
        for flag, line in lines.items():
            has = {k: v for k, v in line.items() if k == ep.encode()}
            if has != (want if flag == proven else {}):
                found.append(f"{ep}: stands in {LINES[flag]} as {has}, not as {want}")
    found += [f"a lease of nothing: {m}" for m in leases ^ flying]
    found += [
        f"a line of nobody: {k}"
        for line in lines.values()
        for k in line
        if k.decode() not in endpoints
    ]
    return found


class Walk:
    """One random walk: its moves are what can happen."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk, self.chance = desk, random.Random(seed)
        self.held: list[Claimed] = []
        self.endpoints: list[Endpoint] = []
        self.done: Counter[str] = Counter()

    @property
    def now(self) -> str:
        return f"{self.desk.now_s:.6f}"

    async def step(self) -> None:
        moves = [self.register, *[self.event] * 6, *[self.claim] * 6, *[self.settle] * 10]
        moves += [self.wait, self.lapse, self.switch, self.redeliver, self.drop]
        move = self.chance.choice(moves)
        self.done[move.__name__] += 1
        await move()

    async def register(self) -> None:
        if len(self.endpoints) < 4:
            endpoint, _ = await self.desk.register("http://127.0.0.1:9/")
            self.endpoints.append(endpoint)

    async def event(self) -> None:
        if self.endpoints:
            await self.desk.put(self.chance.choice(self.endpoints))

    async def claim(self) -> None:
        got = await self.desk.stores.deliveries.claim(proven=3, probes=3, now=self.now)
        self.held += got.claimed

    async def settle(self) -> None:
        if not self.held:
            return
        one = self.held.pop(self.chance.randrange(len(self.held)))
        verdict = self.chance.choice(["delivered", "delivered", "failed", "failed", "gone"])
        attempt = Attempt(at=self.desk.now_s, took_ms=1, outcome=verdict)
        wait = self.chance.choice([5.0, 300.0, None])
        await self.desk.stores.deliveries.settle(one, verdict, attempt, wait_s=wait, now=self.now)

    async def wait(self) -> None:
        self.desk.now_s += self.chance.choice([1, 10, 400])

    async def lapse(self) -> None:
        self.desk.now_s += LEASE_S + 1  # and those held here settle too late

    async def switch(self) -> None:
        if self.endpoints:
            endpoint = await self.desk.endpoint(self.chance.choice(self.endpoints))
            stores = self.desk.stores.endpoints
            await (stores.disable if endpoint.state == "enabled" else stores.enable)(endpoint)

    async def redeliver(self) -> None:
        if self.endpoints:
            endpoint = self.chance.choice(self.endpoints)
            found = await self.desk.deliveries(endpoint)
            if found:
                one = self.chance.choice(found)
                await self.desk.stores.deliveries.redeliver(endpoint.id, one.id, now=self.now)

    async def drop(self) -> None:
        if len(self.endpoints) > 2:
            endpoint = self.endpoints.pop()
            await self.desk.stores.endpoints.drop(endpoint)
            with pytest.raises(EndpointMissing):
                await self.desk.endpoint(endpoint)


LONG = [pytest.param(seed, 400, marks=pytest.mark.slow) for seed in range(2, 5)]


@pytest.mark.parametrize(("seed", "steps"), [(1, 150), *LONG])
async def test_the_sets_agree_after_every_step_of_a_walk(
    desk: Desk, redis: Redis, seed: int, steps: int
):
    walk = Walk(desk, seed)

    for number in range(steps):
        await walk.step()
        assert not faults(redis), f"after step {number} of seed {seed}: {walk.done}"

    print(f"walk {seed}: {steps} steps, {dict(walk.done)}, faults 0")
