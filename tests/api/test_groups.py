"""Groups: sent as one, accepted whole or not at all, looked at and canceled as one."""

from __future__ import annotations

import httpx2

from api.keystore import make_key
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served


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


def test_a_group_sent_again_after_a_job_was_deleted_says_so(api: httpx2.Client):
    first = send(api, "a cat", "a dog", **{"idempotency-key": "k"}).json()
    api.delete(f"/v1/jobs/{first['jobs'][0]['id']}")

    again = send(api, "a cat", "a dog", **{"idempotency-key": "k"})

    assert again.status_code == 202
    assert again.json()["id"] == first["id"]
    assert again.json()["gone"] == [first["jobs"][0]["id"]]


def test_a_group_of_nobody_is_missing(api: httpx2.Client):
    for name in ("no-id", "019a0000-0000-7000-8000-000000000000"):
        answer = api.get(f"/v1/job-groups/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "group_not_found")
