"""Alive and ready: what each says when the parts behind are away."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2

from api.settings import ApiSettings
from deploy import servers
from tests.api.hand_worker import HandWorker
from tests.api.serving import serving


def test_ready_means_redis_s3_and_a_worker(api: httpx2.Client, worker: HandWorker):
    without = api.get("/readyz")
    worker.speak(engine_ready=False)
    loading = api.get("/readyz")
    worker.speak()
    ready = api.get("/readyz")

    assert without.status_code == loading.status_code == 503
    assert "no worker" in without.json()["reasons"]["worker"]
    assert "loading" in loading.json()["reasons"]["worker"]
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


def test_a_missing_picture_store_is_a_reason(api_settings: ApiSettings, redis_url: str):
    elsewhere = api_settings.model_copy(update={"s3_bucket": "nowhere"})

    with serving(elsewhere) as served:
        answer = served.client.get("/readyz")

    assert answer.status_code == 503
    assert "s3" in answer.json()["reasons"]


def test_a24_a_store_that_takes_no_pictures_is_not_ready_whatever_its_bucket_says(
    api: httpx2.Client, worker: HandWorker
):
    worker.speak(uploads_fail="the picture store refuses: XMinioStorageFull")
    none = api.get("/readyz")
    worker.speak(name="another")
    some = api.get("/readyz")
    worker.speak()
    all_well = api.get("/readyz")

    assert (none.status_code, list(none.json()["reasons"])) == (503, ["s3"])
    assert "XMinioStorageFull" in none.json()["reasons"]["s3"]
    assert (some.status_code, some.json()["status"]) == (200, "ready")
    assert some.json()["degraded"]["s3"].startswith("1 of 2 workers cannot store")
    assert all_well.json()["degraded"] == {}


def test_without_redis_it_lives_says_so_and_answers_in_time(
    served, valkey_server: servers.Valkey, worker: HandWorker
):
    api = served.client
    job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()
    valkey_server.kill()
    try:
        alive, ready = api.get("/livez"), api.get("/readyz")
        sent, seen = api.post("/v1/jobs", json={"prompt": "b"}), api.get(job["urls"]["self"])
    finally:
        valkey_server.start()
        valkey_server.wait_ready()

    assert alive.status_code == 200
    assert ready.status_code == 503
    assert "redis" in ready.json()["reasons"]
    for answer in (sent, seen):
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"]
        assert answer.elapsed.total_seconds() < 2.5
    assert api.get(job["urls"]["self"]).json()["status"] == "queued"  # the AOF kept it


def test_a_restart_of_redis_costs_nobody_a_503_afterwards(
    served, valkey_server: servers.Valkey, redis_url: str
):
    def several() -> dict[str, int]:
        """Four at a time, so that several connections lie in the API's pool; refusals by reason."""
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: served.client.get("/v1/jobs"), range(16)))
        return Counter(a.json()["detail"] for a in answers if a.status_code != 200)

    before = several()

    valkey_server.kill()
    valkey_server.start()
    valkey_server.wait_ready()

    assert (before, several()) == ({}, {})
