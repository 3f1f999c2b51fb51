"""Groups: sent as one, accepted whole or not at all, looked at and canceled as one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from redis import Redis

from jobs.store import keys
from jobs.store.api_keys import make_key
from jobs.store.job_store import JobStore
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served
from tests.helpers import wait_until
from tests.queue.making import claim, finish


def send(api: httpx2.Client, *prompts: str, **headers: str) -> httpx2.Response:
    jobs = [{"prompt": prompt} for prompt in prompts]
    return api.post("/v1/job-groups", json={"jobs": jobs}, headers=headers)


def test_a_group_is_sent_looked_at_and_canceled_as_one(api: httpx2.Client, worker: HandWorker):
    sent = send(api, "a cat", "a dog", "an owl")
    worker.finish(worker.take())

    seen = api.get(sent.headers["location"])
    canceled = api.post(f"{sent.headers['location']}/cancel")

    assert sent.status_code == 202
    assert [job["resolved"]["prompt"] for job in seen.json()["jobs"]] == [
        "a cat",
        "a dog",
        "an owl",
    ]
    assert seen.json()["counts"] == {"succeeded": 1, "queued": 2}
    assert seen.json()["done"] is False
    assert canceled.json()["counts"] == {"succeeded": 1, "canceled": 2}
    assert canceled.json()["done"] is True


def test_a_problem_says_which_job_it_is_of(api: httpx2.Client):
    jobs = [{"prompt": "a cat"}, {"prompt": "a dog", "stepps": 3}]
    unknown = api.post("/v1/job-groups", json={"jobs": jobs})
    illegal = api.post("/v1/job-groups", json={"jobs": [{"prompt": "a cat", "steps": 0}]})

    assert unknown.json()["errors"][0]["pointer"] == "/jobs/1/stepps"
    assert "did you mean 'steps'?" in unknown.json()["errors"][0]["detail"]
    assert illegal.json()["errors"][0]["pointer"] == "/jobs/0/steps"
    assert api.get("/v1/jobs").json()["jobs"] == []


def test_what_is_no_group_is_refused(api: httpx2.Client):
    for body in ([], {}, {"jobs": []}, {"jobs": [1]}, {"jobs": {}}, {"jobs": [{}] * 101}):
        answer = api.post("/v1/job-groups", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), body


def test_the_same_group_sent_twice_is_one(api: httpx2.Client):
    first, again = (send(api, "a cat", "a dog", **{"idempotency-key": "k"}) for _ in "ab")
    other = send(api, "a cat", **{"idempotency-key": "k"})

    assert again.json()["id"] == first.json()["id"]
    assert [j["id"] for j in again.json()["jobs"]] == [j["id"] for j in first.json()["jobs"]]
    assert other.json()["code"] == "idempotency_key_reused"
    assert len(api.get("/v1/jobs").json()["jobs"]) == 2


def test_a_group_that_does_not_fit_leaves_nothing(served: Served, redis):
    new = make_key(tenant="small", max_open_jobs=2)
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
    small = {"authorization": f"Bearer {new.secret}", "idempotency-key": "k"}

    refused = send(served.client, "a", "b", "c", **small)
    fits = send(served.client, "a", "b", **small)  # the key was not spent

    assert (refused.status_code, refused.json()["code"]) == (429, "tenant_limit")
    assert fits.status_code == 202
    assert len(redis.lrange("rq:queue:demo.normal", 0, -1)) == 2


def test_a_deleted_job_is_told_as_gone(api: httpx2.Client):
    group = send(api, "a cat", "a dog").json()
    api.delete(f"/v1/jobs/{group['jobs'][0]['id']}")

    seen = api.get(group["url"]).json()

    assert seen["gone"] == [group["jobs"][0]["id"]]
    assert len(seen["jobs"]) == 1


ENDS = ("job.started", "job.succeeded", "job.canceled", "job.failed", "group.completed")
ROOM, SIZE, CALLERS = 30, 6, 100


@contextmanager
def finishing(redis_url: str) -> Iterator[None]:
    """A worker that ends one job after the other, so that the edge of the quota moves."""
    enough = threading.Event()

    def work() -> None:
        with JobStore(redis_url) as store:
            while not enough.wait(0.005):
                for claimed in claim(store, 2):
                    finish(store, claimed)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join(20)


def at_once(url: str, bodies: list[tuple[dict[str, Any], dict[str, str]]]) -> list[httpx2.Response]:
    """All of them sent at the same time."""

    async def post(client: httpx2.AsyncClient, body: Any, headers: Any) -> httpx2.Response:
        while True:
            try:
                answer = await client.post("/v1/job-groups", json=body, headers=headers)
            except httpx2.ReadError:  # the tests' API waits 0.6 s for headers
                continue
            if answer.status_code != 503:  # a busy machine: sent again, as clients do
                return answer

    async def run() -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=len(bodies))
        async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            return list(await asyncio.gather(*(post(client, b, h) for b, h in bodies)))

    return asyncio.run(run())


def test_a_hundred_groups_at_once_at_the_edge_are_each_kept_or_leave_nothing(
    served: Served, redis: Redis, redis_url: str
):
    new = make_key(tenant="small", max_open_jobs=ROOM)
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
    redis.sadd("pw:endpoints:small:events", *ENDS)
    key = {"authorization": f"Bearer {new.secret}"}
    # ten requests by five callers each; fifty that have a key of their own
    asked = []
    for k in range(CALLERS):
        name = f"same-{k % 10}" if k % 2 else f"own-{k}"
        body = {"jobs": [{"prompt": f"{name} {j}", "steps": 2} for j in range(SIZE)]}
        asked.append((body, key | {"idempotency-key": name}))

    with finishing(redis_url):
        answers = at_once(served.url, asked)
        promised: dict[str, list[str]] = {}
        ids_of_key: defaultdict[str, set[str]] = defaultdict(set)
        for (_, headers), answer in zip(asked, answers, strict=True):
            assert answer.status_code in {202, 429}, answer.text
            if answer.status_code == 202:
                group = answer.json()
                promised[group["id"]] = [job["id"] for job in group["jobs"]]
                ids_of_key[headers["idempotency-key"]].add(group["id"])
            else:
                assert answer.json()["code"] == "tenant_limit"
        wait_until(lambda: not redis.exists(keys.tenant_open("small")), "all have ended", 30)

    assert ROOM // SIZE <= len(promised) < CALLERS  # both sides of the edge were met
    assert {len(ids) for ids in ids_of_key.values()} == {1}
    jobs = [job for group in promised.values() for job in group]
    assert len(set(jobs)) == len(promised) * SIZE
    for group_id, of_group in promised.items():
        seen = served.client.get(f"/v1/job-groups/{group_id}", headers=key).json()
        assert seen["counts"] == {"succeeded": SIZE}
        assert [job["id"] for job in seen["jobs"]] == of_group
    the_refused_left_nothing(redis, promised, jobs)


def the_refused_left_nothing(redis: Redis, promised: dict[str, list[str]], jobs: list[str]) -> None:
    """No record, entry, event or figure of a job or group but those that were promised."""
    told = [json.loads(event) for event in redis.lrange("pw:outbox", 0, -1)]
    assert Counter(e["type"] for e in told) == {
        "job.started": len(jobs),
        "job.succeeded": len(jobs),
        "group.completed": len(promised),
    }
    assert {e["job"] for e in told if "job" in e} == set(jobs)
    assert {k.decode().split(":")[2] for k in redis.scan_iter("rq:job:*")} == set(jobs)
    assert {k.decode().split(":")[2] for k in redis.scan_iter("pw:gone:*")} == set(jobs)
    assert {k.decode().split(":")[2] for k in redis.scan_iter("pw:group:*")} == set(promised)
    assert redis.zcard(keys.tenant_jobs("small")) == len(jobs)
    entries = [redis.get(k).decode().split()[0] for k in redis.scan_iter("pw:idempotency:*")]
    assert sorted(entries) == sorted(promised)
    (usage,) = [redis.hgetall(k) for k in redis.scan_iter("pw:usage:*:small")]
    assert {f.decode().split("|")[1] for f in usage} == {"succeeded", "images", "work"}
    ends = {f: int(n) for f, n in redis.hgetall("pw:counts").items() if f.startswith(b"jobs|")}
    assert ends == {b"jobs|demo|succeeded|": len(jobs)}


def test_a_group_that_can_never_fit_is_told_so(served: Served, redis: Redis):
    new = make_key(tenant="small", max_open_jobs=2)
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())

    refused = send(served.client, "a", "b", "c", authorization=f"Bearer {new.secret}")

    assert (refused.status_code, refused.json()["code"]) == (429, "tenant_limit")
    assert "send fewer together" in refused.json()["detail"]
    assert refused.json()["retryable"] is False
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers


def test_a_group_sent_again_after_a_job_was_deleted_says_so(api: httpx2.Client):
    first = send(api, "a cat", "a dog", **{"idempotency-key": "k"}).json()
    api.delete(f"/v1/jobs/{first['jobs'][0]['id']}")

    again = send(api, "a cat", "a dog", **{"idempotency-key": "k"})

    assert again.status_code == 202
    assert again.json()["id"] == first["id"]
    assert again.json()["gone"] == [first["jobs"][0]["id"]]
    assert again.headers["idempotency-replayed"] == "true"


def test_a_key_whose_group_is_gone_is_answered_with_410(api: httpx2.Client, redis: Redis):
    first = send(api, "a cat", **{"idempotency-key": "k"}).json()
    redis.delete(keys.group(first["id"]))

    again = send(api, "a cat", **{"idempotency-key": "k"})

    assert (again.status_code, again.json()["code"]) == (410, "gone")


def test_a_group_of_nobody_is_missing(api: httpx2.Client):
    for name in ("no-id", "019a0000-0000-7000-8000-000000000000"):
        answer = api.get(f"/v1/job-groups/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "group_not_found")
