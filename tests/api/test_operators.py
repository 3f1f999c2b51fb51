"""What operators do over HTTP: drain, purge, look at what each model did."""

from __future__ import annotations

import httpx2
import pytest
from redis import Redis

from jobs.store import keys
from jobs.store.api_keys import make_key
from tests.api.hand_worker import NAME, HandWorker


def sent(api: httpx2.Client, count: int, **headers: str) -> list[str]:
    return [
        api.post("/v1/jobs", json={"prompt": "a cat"}, headers=headers).json()["id"]
        for _ in range(count)
    ]


def as_tenant(redis: Redis, tenant: str) -> dict[str, str]:
    new = make_key(tenant=tenant)
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
    return {"authorization": f"Bearer {new.secret}"}


def test_purge_counts_first_and_then_cancels_what_waits(
    operator: httpx2.Client, redis: Redis, worker: HandWorker
):
    api, noisy = operator, as_tenant(redis, "noisy")
    running = sent(api, 1)
    worker.take()
    mine, theirs = sent(api, 2), sent(api, 12, **noisy)  # more than stand in a line at a time

    counted = api.post("/v1/queue/purge?tenant=noisy&dry_run=true").json()
    still = api.get(f"/v1/jobs/{theirs[0]}", headers=noisy).json()["status"]
    purged = api.post("/v1/queue/purge?tenant=noisy").json()
    of_model = api.post("/v1/queue/purge?model=demo&dry_run=true").json()

    assert counted == {"jobs": 12, "dry_run": True}
    assert still == "queued"
    assert purged == {"jobs": 12, "dry_run": False}
    assert of_model["jobs"] == 2
    ends = {api.get(f"/v1/jobs/{i}", headers=noisy).json()["status"] for i in theirs}
    assert ends == {"canceled"}
    assert [api.get(f"/v1/jobs/{i}").json()["status"] for i in (*running, *mine)] == [
        "running",
        "queued",
        "queued",
    ]


@pytest.mark.parametrize(("query", "status"), [("", 422), ("?model=none", 404)])
def test_purge_says_what_or_does_nothing(operator: httpx2.Client, query: str, status: int):
    api = operator
    (job_id,) = sent(api, 1)

    refused = api.post(f"/v1/queue/purge{query}")

    assert refused.status_code == status
    assert api.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"


def test_drain_pauses_and_counts_what_still_runs(operator: httpx2.Client, worker: HandWorker):
    api = operator
    sent(api, 2)
    claimed = worker.take()  # what it said of itself before is that it holds none

    drained = api.post("/v1/queue/drain")
    (told,) = api.get("/v1/workers").json()["workers"]
    worker.finish(claimed)

    assert drained.json() == {"paused": True, "running": 1}
    assert told["running"] == 1
    assert api.post("/v1/queue/drain").json() == {"paused": True, "running": 0}
    assert api.get("/v1/queue").json()["paused"] is True
    assert api.post("/v1/queue/resume").json() == {"paused": False}


def test_a_worker_is_drained_by_name(operator: httpx2.Client, redis: Redis, worker: HandWorker):
    api = operator
    missing = api.post("/v1/workers/nobody/drain")
    worker.speak()
    deaf = api.post(f"/v1/workers/{NAME}/drain")  # it spoke a moment ago, and listens no more
    listener = redis.pubsub()
    listener.subscribe(keys.rq_key("pubsub", NAME))
    listener.get_message(timeout=5)

    told = api.post(f"/v1/workers/{NAME}/drain")
    heard = listener.get_message(timeout=5)
    listener.close()

    assert (missing.status_code, missing.json()["code"]) == (404, "worker_not_found")
    assert deaf.status_code == 404
    assert (told.status_code, told.json()) == (202, {"name": NAME})
    assert heard["data"] == b'{"command": "shutdown"}'


def test_what_a_model_did_is_told(operator: httpx2.Client, worker: HandWorker):
    api = operator
    sent(api, 3)
    worker.finish(worker.take())
    worker.finish(worker.take())
    worker.fail(worker.take())

    (stats,) = api.get("/v1/stats").json()["models"]

    assert stats["model"] == "demo"
    assert stats["jobs"] == {"succeeded": 2, "failed": 1}
    assert stats["failures"] == {"degenerate_output": 1}
    assert (stats["images"], stats["batch_size_mean"]) == (2, 4.0)
