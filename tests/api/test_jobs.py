"""The life of a job over HTTP: sent, looked at, listed, canceled, repeated, deleted."""

from __future__ import annotations

import httpx2

from jobs.ids import new_job_id


def send(api: httpx2.Client, **request: object) -> httpx2.Response:
    return api.post("/v1/jobs", json={"prompt": "a red bicycle", **request})


def test_a_job_is_accepted_with_a_place_to_look_and_every_value_resolved(api: httpx2.Client):
    answer = send(api, seed=42, n=2)

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == job["urls"]["self"]
    assert answer.headers["cache-control"] == "no-store"
    assert job["status"] == "queued"
    assert job["resolved"]["seed"] == [42, 43]
    assert job["resolved"]["steps"] > 0
    assert "tenant" not in answer.text


def test_what_was_resolved_is_itself_a_request_for_the_same_pictures(api: httpx2.Client):
    first = send(api, aspect_ratio="3:2").json()["resolved"]

    second = api.post("/v1/jobs", json=first)

    assert second.status_code == 202
    assert second.json()["resolved"] == first


def test_looking_again_with_the_etag_costs_no_body(api: httpx2.Client):
    job = send(api).json()
    seen = api.get(job["urls"]["self"])

    again = api.get(job["urls"]["self"], headers={"if-none-match": seen.headers["etag"]})

    assert seen.json()["id"] == job["id"]
    assert again.status_code == 304
    assert again.content == b""


def test_a_job_that_never_was_is_missing_and_a_deleted_one_is_gone(api: httpx2.Client):
    job = send(api).json()

    deleted = api.delete(f"/v1/jobs/{job['id']}")

    assert deleted.status_code == 204
    assert api.get(f"/v1/jobs/{job['id']}").status_code == 410
    assert api.get(f"/v1/jobs/{job['id']}").json()["code"] == "gone"
    assert api.get(f"/v1/jobs/{new_job_id()}").json()["code"] == "not_found"
    assert api.get("/v1/jobs/../../etc/passwd").status_code == 404
    assert api.get("/v1/jobs/no-id-of-ours").status_code == 404


def test_canceling_is_idempotent(api: httpx2.Client):
    job = send(api).json()

    first, second = (api.post(job["urls"]["cancel"]) for _ in range(2))

    assert first.status_code == second.status_code == 200
    assert first.json()["status"] == second.json()["status"] == "canceled"


def test_the_listing_pages_newest_first(api: httpx2.Client):
    sent = [send(api, seed=k).json()["id"] for k in range(5)]

    first = api.get("/v1/jobs?limit=3").json()
    rest = api.get("/v1/jobs", params={"limit": 3, "cursor": first["next_cursor"]}).json()

    listed = [job["id"] for job in first["jobs"] + rest["jobs"]]
    assert listed == sent[::-1]
    assert rest["next_cursor"] is None


def test_the_listing_filters_by_status_and_model(api: httpx2.Client):
    kept, ended = send(api).json(), send(api).json()
    api.post(ended["urls"]["cancel"])

    canceled = api.get("/v1/jobs?status=canceled").json()["jobs"]
    of_model = api.get("/v1/jobs", params={"model": kept["resolved"]["model"]}).json()["jobs"]

    assert [job["id"] for job in canceled] == [ended["id"]]
    assert len(of_model) == 2
    assert api.get("/v1/jobs?model=other").json()["jobs"] == []


def test_a_rerun_is_a_new_job_with_the_same_values(api: httpx2.Client):
    job = send(api).json()

    again = api.post(f"/v1/jobs/{job['id']}/rerun")

    assert again.status_code == 202
    assert again.json()["id"] != job["id"]
    assert again.json()["resolved"] == job["resolved"]


def test_a_dry_run_prices_a_request_and_sends_nothing(api: httpx2.Client):
    quote = api.post("/v1/jobs?dry_run=true", json={"prompt": "a red bicycle", "n": 2})

    assert quote.status_code == 200
    assert quote.json()["cost"] > 0
    assert quote.json()["resolved"]["n"] == 2
    assert api.get("/v1/jobs").json()["jobs"] == []


def test_a_wait_that_ends_first_says_so(api: httpx2.Client):
    answer = api.post("/v1/jobs", json={"prompt": "a cat"}, headers={"prefer": "wait=1"})

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"
    assert int(answer.headers["retry-after"]) >= 1


def test_models_samplers_and_the_queue_are_told(api: httpx2.Client):
    send(api)

    models = api.get("/v1/models").json()["models"]
    samplers = api.get("/v1/samplers").json()["samplers"]
    queue = api.get("/v1/queue").json()

    assert models[0]["default"] is True
    assert api.get(f"/v1/models/{models[0]['id']}").json() == models[0]
    assert api.get("/v1/models/none").json()["code"] == "model_not_found"
    assert "source" not in models[0]
    assert set(models[0]["samplers"]) <= {s["id"] for s in samplers}
    assert queue["queued"] == 1
