"""Usage: what each key had made, true to the job, after any end, and nobody else's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from redis import Redis

from jobs.store.api_keys import NewKey, Scope, make_key
from jobs.store.scripts import worker_calls
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served

JOB = {"prompt": "a cat", "steps": 10, "size": "128x64", "seed": [1, 2]}
MEGAPIXEL_STEPS = 2 * 10 * 128 * 64 / 1e6


def kept(redis: Redis, **fields) -> tuple[NewKey, dict[str, str]]:
    """A key, and the header that shows it."""
    new = make_key(**fields)
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
    return new, {"authorization": f"Bearer {new.secret}"}


def used(api: httpx2.Client, headers: dict[str, str] | None = None, path: str = "") -> dict:
    answer = api.get(f"/v1/usage{path}", headers=headers or {})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_each_end_counts_for_the_key_that_sent_it(served: Served, redis: Redis, worker: HandWorker):
    one, first = kept(redis, tenant="acme")
    two, second = kept(redis, tenant="acme")
    _, stranger = kept(redis, tenant="other")
    api = served.client

    for headers in (first, first, second):
        api.post("/v1/jobs", json=JOB, headers=headers)
        worker.finish(worker.take())
    api.post("/v1/jobs", json=JOB, headers=first)
    worker.fail(worker.take())
    canceled = api.post("/v1/jobs", json=JOB, headers=second).json()
    api.post(f"/v1/jobs/{canceled['id']}/cancel", headers=second)
    api.delete(f"/v1/jobs/{canceled['id']}", headers=second)  # it counts all the same

    seen, other = used(api, first), used(api, stranger)
    by_key = {entry["key"]: entry for entry in seen["entries"]}
    today = datetime.now(UTC).date().isoformat()
    assert set(by_key) == {one.key.id, two.key.id}
    assert by_key[one.key.id]["jobs"] == {"failed": 1, "succeeded": 2}
    assert by_key[one.key.id]["images"] == 4
    assert by_key[one.key.id]["megapixel_steps"] == pytest.approx(2 * MEGAPIXEL_STEPS)
    assert by_key[two.key.id]["jobs"] == {"canceled": 1, "succeeded": 1}
    assert {entry["day"] for entry in seen["entries"]} <= {today, seen["until"]}
    assert seen["total"]["jobs"] == {"failed": 1, "succeeded": 3, "canceled": 1}
    assert seen["total"]["images"] == 6
    assert other["entries"] == []


def test_a_job_that_crashed_twice_and_then_succeeded_counts_once(
    served: Served, worker: HandWorker
):
    served.client.post("/v1/jobs", json=JOB)
    for _ in range(2):
        worker.store.run(worker_calls.hand_back([worker.take().lease], "crash"))
    worker.finish(worker.take())

    (entry,) = used(served.client)["entries"]
    assert (entry["key"], entry["jobs"], entry["images"]) == ("-", {"succeeded": 1}, 2)


def test_an_administrator_sees_all_tenants_or_one(served: Served, redis: Redis, worker: HandWorker):
    _, acme = kept(redis, tenant="acme")
    _, other = kept(redis, tenant="other")
    _, admin = kept(redis, tenant="ops", scopes=[Scope.ADMIN])
    for headers in (acme, other, other):
        served.client.post("/v1/jobs", json=JOB, headers=headers)
        worker.finish(worker.take())

    everyone = used(served.client, admin, "/tenants")
    only = used(served.client, admin, "/tenants?tenant=other")

    assert {e["tenant"]: e["jobs"] for e in everyone["entries"]} == {
        "acme": {"succeeded": 1},
        "other": {"succeeded": 2},
    }
    assert [e["tenant"] for e in only["entries"]] == ["other"]
    assert served.client.get("/v1/usage/tenants", headers=acme).status_code == 403


def test_days_are_chosen_and_odd_ones_refused(api: httpx2.Client, worker: HandWorker):
    api.post("/v1/jobs", json=JOB)
    worker.finish(worker.take())
    today = datetime.now(UTC).date()
    before = today - timedelta(days=2)

    assert used(api, path=f"?until={before}")["entries"] == []
    assert len(used(api, path=f"?since={before}&until={today + timedelta(days=1)}")["entries"]) == 1
    for odd in ("?since=2026-02-30", "?until=0001-01-01", "?since=2020-01-01", "?since=9999-12-31"):
        answer = api.get(f"/v1/usage{odd}")
        assert answer.status_code in (200, 422), (odd, answer.text)
    assert api.get("/v1/usage?since=2020-01-01").json()["errors"][0]["code"] == "period"


def test_usage_does_not_stay_for_ever(api: httpx2.Client, worker: HandWorker, redis: Redis):
    api.post("/v1/jobs", json=JOB)
    worker.finish(worker.take())

    names = list(redis.scan_iter("pw:usage:*"))
    assert len(names) == 2
    assert all(399 * 86_400 < redis.ttl(name) <= 400 * 86_400 for name in names)
