"""What a client sees where an accepted job must be on a replica: through sentinels, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest

from api.settings import ApiSettings
from tests.api.serving import serving
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


def accepted(api: httpx2.Client) -> httpx2.Response | None:
    answer = api.post("/v1/jobs", json=ASKED, headers=KEY)
    return answer if answer.status_code == 202 else None
