"""HEAD: what GET says, without the body."""

from __future__ import annotations

import httpx2
import pytest

from tests.api.hand_worker import HandWorker


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/livez", "/v1/models", "/v1/models/demo", "/v1/queue"]
)
def test_head_says_what_get_does(api: httpx2.Client, path: str):
    got, head = api.get(path), api.head(path)

    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == got.headers["content-length"]
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.headers["x-request-id"]


def test_a_job_can_be_asked_for_by_its_tag_alone(api: httpx2.Client, worker: HandWorker):
    job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()
    worker.finish(worker.take())
    path = f"/v1/jobs/{job['id']}"

    tag = api.head(path).headers["etag"]
    same = api.head(path, headers={"if-none-match": tag})
    missing = api.head("/v1/jobs/019a0000-0000-7000-8000-000000000000")

    assert tag == api.get(path).headers["etag"]
    assert same.status_code == 304
    assert (missing.status_code, missing.content) == (404, b"")


def test_a_stream_has_no_head(api: httpx2.Client):
    job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()

    assert api.head(f"/v1/jobs/{job['id']}/events").status_code == 405
    assert api.head("/v1/queue/pause").status_code == 405
