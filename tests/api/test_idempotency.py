"""Sending a request twice makes one job: the whole contract of the Idempotency-Key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from jobs.store.api_keys import make_key
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served


def send(api: httpx2.Client, key: str, **request: object) -> httpx2.Response:
    body = {"prompt": "a red bicycle", **request}
    return api.post("/v1/jobs", json=body, headers={"idempotency-key": key})


def test_two_hundred_at_once_with_one_key_make_one_job(served: Served, redis):
    def one(_: int) -> httpx2.Response:
        headers = {"idempotency-key": "order-17"}
        return served.client.post("/v1/jobs", json={"prompt": "a"}, headers=headers)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(200)))

    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == 1
    assert len({tuple(a.json()["resolved"]["seed"]) for a in answers}) == 1
    assert sum("idempotency-replayed" in a.headers for a in answers) == 199
    assert len(redis.lrange("rq:queue:demo.normal", 0, -1)) == 1


def test_a_replay_is_the_same_job_as_it_is_now(api: httpx2.Client, worker: HandWorker):
    first = send(api, "k")
    worker.finish(worker.take())

    again = send(api, "k")

    assert again.status_code == first.status_code == 202
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["status"] == "succeeded"
    assert again.json()["resolved"] == first.json()["resolved"]
    assert "idempotency-replayed" not in first.headers
    assert first.headers["idempotency-expires"].endswith("GMT")


def test_another_request_with_the_same_key_is_refused(api: httpx2.Client):
    send(api, "k")

    other = send(api, "k", steps=3)

    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"


def test_the_same_request_written_otherwise_is_the_same(api: httpx2.Client):
    headers = {"idempotency-key": "k", "content-type": "application/json"}
    one = api.post("/v1/jobs", content=b'{"prompt":"a","steps":5}', headers=headers)

    two = api.post("/v1/jobs", content=b'{ "steps": 5,\n "prompt": "\\u0061" }', headers=headers)

    assert two.json()["id"] == one.json()["id"]


def test_a_bare_key_and_a_quoted_one_are_the_same(api: httpx2.Client):
    assert send(api, 'a"b').json()["id"] == send(api, '"a\\"b"').json()["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", '"open', "a\tb", '""', "\xe9"])
def test_a_key_that_is_none_is_refused(api: httpx2.Client, key: str):
    answer = send(api, key.encode("latin-1"))  # type: ignore[arg-type]

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


def test_keys_of_tenants_do_not_meet(served: Served, redis, redis_url: str):
    secrets = []
    for tenant in ("acme", "other"):
        new = make_key(tenant=tenant)
        redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
        secrets.append(new.secret)

    ids = []
    for secret in secrets:
        headers = {"idempotency-key": "k", "authorization": f"Bearer {secret}"}
        ids.append(served.client.post("/v1/jobs", json={"prompt": "a"}, headers=headers).json())

    assert ids[0]["id"] != ids[1]["id"]


def test_what_was_refused_is_not_remembered(api: httpx2.Client):
    refused = send(api, "k", steps=-1)

    accepted = send(api, "k")

    assert (refused.status_code, accepted.status_code) == (422, 202)
    assert "idempotency-replayed" not in accepted.headers


def test_the_replay_of_a_deleted_job_says_that_it_is_gone(api: httpx2.Client):
    job = send(api, "k").json()
    api.delete(f"/v1/jobs/{job['id']}")

    again = send(api, "k")

    assert (again.status_code, again.json()["code"]) == (410, "gone")


def test_a_key_itself_is_never_stored(api: httpx2.Client, redis):
    send(api, "zqx-very-secret-order")

    stored = b"".join(redis.scan_iter()) + b"".join(
        redis.get(k) or b"" for k in redis.scan_iter("pw:idempotency:*")
    )

    assert b"zqx" not in stored


def test_a_rerun_can_be_sent_twice_too(api: httpx2.Client):
    job = send(api, "k").json()

    first, second = (
        api.post(f"/v1/jobs/{job['id']}/rerun", headers={"idempotency-key": "k"}) for _ in "ab"
    )

    assert first.json()["id"] == second.json()["id"] != job["id"]
