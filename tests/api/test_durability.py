"""What a client sees where an accepted job must be on a replica: through sentinels, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest

from api.app import create_app
from api.edge.openapi import answer_of
from api.settings import ApiSettings
from tests.api.serving import as_operator, serving
from tests.helpers import wait_until
from tests.queue.copies import Copies, client, copies, sentinels

ASKED = {"prompt": "a red bicycle", "seed": 7}
KEY = {"Idempotency-Key": "k1"}
BUDGET_S = 2.3  # the promise is 2 s; the rest is this machine's


@pytest.fixture
def replicated(
    memory_folder: Path, redis_binary: Path, s3_settings: dict[str, str]
) -> Iterator[tuple]:
    with (
        TemporaryDirectory(dir=memory_folder) as folder,
        copies(Path(folder), 1, cuttable=True, binary=redis_binary) as made,
        sentinels(Path(folder), made, binary=redis_binary) as url,
    ):
        settings = {"redis_url": url, "durability": "replicated", **s3_settings}
        with serving(ApiSettings.model_validate(settings)) as served:
            served.client.headers.update(as_operator(made.primary.url))
            yield made, served.client


def test_t13_an_unconfirmed_job_is_503_and_the_same_key_finds_it_again(
    replicated: tuple[Copies, httpx2.Client],
):
    made, api = replicated
    wait_until(lambda: api.post("/v1/jobs", json=ASKED).status_code == 202, "accepted")
    with client(made.primary) as redis:
        before = redis.llen("rq:queue:demo.normal")

    made.cut()
    began_s = time.monotonic()
    refused = api.post("/v1/jobs", json=ASKED, headers=KEY)
    took_s = time.monotonic() - began_s

    assert refused.status_code == 503
    assert refused.json()["code"] == "not_replicated"
    assert int(refused.headers["Retry-After"]) >= 1
    assert took_s < BUDGET_S
    assert api.get("/v1/jobs").status_code == 200  # reading needs no replica

    made.cut("ok")
    made.link_up()
    again = wait_until(lambda: accepted(api), "the same request is accepted")
    assert again.headers["Idempotency-Replayed"] == "true"
    with client(made.primary) as redis:
        assert redis.llen("rq:queue:demo.normal") == before + 1
    print(f"T13: 503 not_replicated after {took_s:.2f} s, then one job")


LASTING = (  # everything that is answered only once it is on a replica
    ("POST", "/v1/jobs", "/v1/jobs", ASKED),
    ("POST", "/v1/jobs/{job_id}/rerun", "/v1/jobs/{job}/rerun", None),
    ("POST", "/v1/jobs/{job_id}/cancel", "/v1/jobs/{job}/cancel", None),
    ("POST", "/v1/job-groups", "/v1/job-groups", {"jobs": [ASKED]}),
    ("POST", "/v1/job-groups/{group_id}/cancel", "/v1/job-groups/{group}/cancel", None),
    ("POST", "/v1/queue/pause", "/v1/queue/pause", None),
    ("POST", "/v1/queue/drain", "/v1/queue/drain", None),
    ("POST", "/v1/queue/resume", "/v1/queue/resume", None),
    ("POST", "/v1/queue/purge", "/v1/queue/purge?model=demo", None),
    ("DELETE", "/v1/jobs/{job_id}", "/v1/jobs/{job}", None),
)


def test_every_route_that_waits_for_a_replica_says_so_when_there_is_none(
    replicated: tuple[Copies, httpx2.Client],
):
    made, api = replicated
    job = wait_until(lambda: accepted(api), "accepted").json()["id"]
    group = api.post("/v1/job-groups", json={"jobs": [ASKED]}).json()["id"]

    made.cut()
    answers = {
        f"{method} {route}": api.request(method, path.format(job=job, group=group), json=body)
        for method, route, path, body in LASTING
    }

    told = {name: (a.status_code, a.json().get("code", a.text)) for name, a in answers.items()}
    assert told == dict.fromkeys(answers, (503, "not_replicated"))
    counted = api.post("/v1/queue/purge?model=demo&dry_run=true")
    assert counted.status_code == 200  # counting changes nothing


def test_what_waits_for_a_replica_is_declared_where_it_can_be_answered():
    whole = create_app(ApiSettings()).openapi()

    declaring = {
        f"{method.upper()} {path}"
        for path, verbs in whole["paths"].items()
        for method, operation in verbs.items()
        if "`not_replicated`"
        in answer_of(whole, operation["responses"].get("503", {})).get("description", "")
    }

    assert declaring == {f"{method} {route}" for method, route, _, _ in LASTING}


def accepted(api: httpx2.Client) -> httpx2.Response | None:
    answer = api.post("/v1/jobs", json=ASKED, headers=KEY)
    return answer if answer.status_code == 202 else None
