"""Changes to API keys: one step each, whoever comes at the same moment; and who is inside goes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from redis import Redis

from jobs.errors import KeyMissing, KeyRotated
from jobs.store import keys
from jobs.store.api_keys import ApiKey, KeyStore, NewKey, Scope, make_key, open_keystore
from tests.api.serving import Served
from tests.helpers import wait_until

DAY = timedelta(days=1)
ROUNDS = 15


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


def kept(redis: Redis) -> dict[str, ApiKey]:
    """All keys, as they are kept."""
    found = map(ApiKey.model_validate_json, redis.hvals(keys.API_KEYS))
    return {key.id: key for key in found}


def put(redis: Redis, new: NewKey, **changes: object) -> NewKey:
    key = new.key.model_copy(update=changes)
    redis.hset(keys.API_KEYS, key.id, key.model_dump_json())
    return NewKey(new.secret, key)


def bearer(new: NewKey) -> dict[str, str]:
    return {"authorization": f"Bearer {new.secret}"}


async def stores(stack: AsyncExitStack, url: str, count: int) -> list[KeyStore]:
    """As many processes have: each its own connections and cache."""
    made = [await stack.enter_async_context(open_keystore(url)) for _ in range(count)]
    for store in made:
        await store.list()  # connected: what follows begins at once
    return made


async def test_a_revocation_wins_over_a_rotation_at_the_same_moment(redis_url: str, redis: Redis):
    async with AsyncExitStack() as stack:
        one, two = await stores(stack, redis_url, 2)
        for _ in range(ROUNDS):
            key = put(redis, make_key(tenant="acme")).key

            rotated, revoked = await asyncio.gather(
                one.rotate(key.id, overlap=DAY), two.revoke(key.id), return_exceptions=True
            )

            assert isinstance(revoked, ApiKey)
            assert revoked.revoked_at
            assert isinstance(rotated, NewKey | KeyMissing)
            after = kept(redis)
            assert after[key.id].revoked_at
            # refused, it left no live key; answered, exactly the one that it told
            successors = {k.id for k in after.values() if k.line == key.id}
            assert successors == ({rotated.key.id} if isinstance(rotated, NewKey) else set())


async def test_ten_rotations_at_once_make_one_key(redis_url: str, redis: Redis):
    key = put(redis, make_key(tenant="acme", scopes=[Scope.ADMIN], per_minute=9)).key
    async with AsyncExitStack() as stack:
        ten = await stores(stack, redis_url, 10)

        said = await asyncio.gather(
            *(store.rotate(key.id, overlap=DAY) for store in ten), return_exceptions=True
        )

    (new,) = [one for one in said if isinstance(one, NewKey)]
    refused = [one for one in said if isinstance(one, KeyRotated)]
    assert len(refused) == 9
    assert all(new.key.id in str(one) for one in refused)
    assert set(kept(redis)) == {key.id, new.key.id}
    assert (new.key.scopes, new.key.per_minute) == (key.scopes, 9)


async def test_a_second_rotation_prolongs_nothing_and_names_the_successor(
    operator: httpx2.Client, redis: Redis
):
    key = put(redis, make_key(tenant="acme")).key
    new = operator.post(f"/v1/keys/{key.id}/rotate").json()
    before = kept(redis)

    again = operator.post(f"/v1/keys/{key.id}/rotate")
    listed = {k["id"]: k for k in operator.get("/v1/keys").json()["keys"]}
    onwards = operator.post(f"/v1/keys/{new['id']}/rotate").json()

    assert (again.status_code, again.json()["code"]) == (409, "key_rotated")
    assert new["id"] in again.json()["detail"]
    assert again.json()["retryable"] is False
    assert {k: v for k, v in kept(redis).items() if k == key.id} == {key.id: before[key.id]}
    assert listed[key.id]["successor"] == new["id"]
    assert kept(redis)[onwards["id"]].line == key.id  # one line, however long


async def test_a_change_whose_answer_was_lost_may_be_sent_again(redis_url: str, redis: Redis):
    async with open_keystore(redis_url) as store:
        new = make_key(tenant="acme").key
        await store.add(new)
        await store.add(new)
        first, second = await store.revoke(new.id), await store.revoke(new.id)
        with pytest.raises(ValueError, match="already"):
            await store.add(new.model_copy(update={"tenant": "other"}))

    assert first == second
    assert set(kept(redis)) == {new.id}


async def test_what_nobody_can_read_as_a_key_opens_nothing_and_hurts_no_other(
    operator: httpx2.Client, redis: Redis
):
    broken, good = make_key(tenant="acme"), put(redis, make_key(tenant="acme"))
    redis.hset(keys.API_KEYS, broken.key.id, '{"id": 1')

    refused = operator.get("/v1/jobs", headers=bearer(broken))
    listed = operator.get("/v1/keys")

    assert refused.status_code == 401
    assert good.key.id in {k["id"] for k in listed.json()["keys"]}


async def test_a_key_and_its_successor_share_one_rate(
    served: Served, operator: httpx2.Client, redis: Redis
):
    old = put(redis, make_key(tenant="acme", per_minute=100))
    new = operator.post(f"/v1/keys/{old.key.id}/rotate").json()

    for secret in (old.secret, new["secret"]):
        asked = served.client.get("/v1/jobs", headers={"authorization": f"Bearer {secret}"})
        assert asked.headers["ratelimit-policy"] == '"minute";q=100;w=60'

    counters = {name.decode().rsplit(":", 1)[0] for name in redis.scan_iter("pw:rate:*")}
    assert counters == {keys.rate(old.key.id)}


@dataclass
class Inside:
    """A caller with a stream and two waits open."""

    api: httpx2.Client
    new: NewKey
    job: str

    def stream(self) -> list[tuple[str, dict]]:
        """The events until it ends."""
        told: list[tuple[str, dict]] = []
        with self.api.stream(
            "GET", f"/v1/jobs/{self.job}/events", headers=bearer(self.new)
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    told.append((line.removeprefix("event: "), {}))
                elif line.startswith("data: "):
                    told[-1] = (told[-1][0], json.loads(line.removeprefix("data: ")))
        return told

    def wait(self) -> httpx2.Response:
        return self._answered("GET", f"/v1/jobs/{self.job}?wait=60")

    def send_and_wait(self) -> httpx2.Response:
        return self._answered("POST", "/v1/jobs?wait=60", json={"prompt": "a cat"})

    def _answered(self, method: str, path: str, **more: object) -> httpx2.Response:
        """Sent again where Redis took over a second, as it may on a busy machine."""
        while True:
            answer = self.api.request(method, path, headers=bearer(self.new), **more)
            if answer.status_code != 503:
                return answer


@pytest.fixture
def patient(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=70) as client:
        yield client


def test_whoever_is_inside_goes_when_the_key_ends(
    served: Served, patient: httpx2.Client, redis: Redis, redis_url: str
):
    ends = {
        "revoked": lambda key: {"revoked_at": datetime.now(UTC)},
        "ended": lambda key: {"ends_at": datetime.now(UTC)},
    }

    def inside(name: str) -> Inside:
        new = put(redis, make_key(tenant=name))
        asked = patient.post("/v1/jobs", json={"prompt": "a cat"}, headers=bearer(new))
        return Inside(patient, new, asked.json()["id"])

    callers = {name: inside(name) for name in (*ends, "erased", "good")}
    with ThreadPoolExecutor(16) as pool:
        held = {
            name: [pool.submit(act) for act in (one.stream, one.wait, one.send_and_wait)]
            for name, one in callers.items()
        }
        try:
            wait_until(lambda: served.services.following.count == 12, "all are inside")

            for name, change in ends.items():
                key = callers[name].new
                put(redis, key, **change(key.key))
            redis.hdel(keys.API_KEYS, callers["erased"].new.key.id)
            outcome = {n: [future.result(30) for future in held[n]] for n in (*ends, "erased")}

            assert served.services.following.count == 3  # the good one's
            for job in redis.zrange("pw:tenant:good:jobs", 0, -1):
                path = f"/v1/jobs/{job.decode()}/cancel"
                patient.post(path, headers=bearer(callers["good"].new))
            good = [future.result(30) for future in held["good"]]
        finally:
            redis.delete(keys.API_KEYS)  # or who is left would stay for ever, where this failed

    for told, waited, sent in outcome.values():
        assert [name for name, _ in told] == ["snapshot", "unauthorized"]
        assert told[-1][1]["code"] == "unauthorized"
        assert "revoked" in told[-1][1]["detail"]
        assert Counter([waited.status_code, sent.status_code]) == {401: 2}
        assert "prompt" not in waited.text + sent.text
    assert good[0][-1][0] == "done"
    assert {good[1].status_code, good[2].status_code} == {200}
