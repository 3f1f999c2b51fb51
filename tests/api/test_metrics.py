"""Metrics say what happened, in bounded many series, and nothing private."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from api.settings import ApiSettings
from tests.api.hand_worker import HandWorker
from tests.api.serving import serving


def scraped(api: httpx2.Client) -> dict[tuple[str, str], float]:
    """Every sample of ours: (name, labels) to value, as prometheus-client's parser reads it."""
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name.startswith("printworks_"):
                labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
                found[sample.name, labels] = sample.value
    return found


def test_what_is_counted_is_what_happened(
    api_settings: ApiSettings, redis_url: str, worker: HandWorker
):
    with serving(api_settings) as served:
        api = served.client
        for _ in range(3):
            api.post("/v1/jobs", json={"prompt": "a cat"}, headers={"idempotency-key": "k"})
        api.post("/v1/jobs", json={"prompt": "a dog"})
        api.post("/v1/jobs", json={"prompt": ""})
        worker.take()
        found = scraped(api)

    sent = 'method="POST",route="/v1/jobs",status='
    assert found["printworks_http_requests_total", f'{sent}"202"'] == 4
    assert found["printworks_http_requests_total", f'{sent}"422"'] == 1
    assert found["printworks_admissions_total", 'result="accepted"'] == 2
    assert found["printworks_admissions_total", 'result="replayed"'] == 2
    assert found["printworks_http_request_seconds_count", 'method="POST",route="/v1/jobs"'] == 5
    assert found["printworks_queue_jobs", 'model="demo"'] == 1
    assert found["printworks_running_jobs", 'model="demo"'] == 1
    assert found["printworks_workers", 'state="ready"'] == 1
    assert found["printworks_redis_up", ""] == 1


def test_ten_thousand_ways_to_ask_make_no_new_series(api: httpx2.Client):
    api.get("/v1/jobs/first")
    api.get("/nowhere/first")
    before = set(scraped(api))

    for k in range(50):
        api.get(f"/v1/jobs/{k}")
        api.get(f"/nowhere/{k}")
        api.request(f"ODD{k}", "/v1/jobs")
    after = set(scraped(api))

    assert len(after - before) <= 40  # a histogram or two of a method unseen before


def test_metrics_name_no_prompt_no_job_and_no_tenant(api: httpx2.Client):
    job = api.post("/v1/jobs", json={"prompt": "zqxcanary"}).json()
    api.get(job["urls"]["self"])

    text = api.get("/metrics").text

    assert "zqxcanary" not in text
    assert job["id"] not in text
    assert "default" not in text


def test_a_scraper_that_asks_for_openmetrics_gets_it(api: httpx2.Client):
    api.post("/v1/jobs", json={"prompt": "a cat"})

    answer = api.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    found = {family.name: family.type for family in openmetrics_families(answer.text)}
    assert found["printworks_admissions"] == "counter"
    assert found["printworks_http_request_seconds"] == "histogram"
    assert found["printworks_queue_jobs"] == "gauge"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux says what a process uses")
def test_the_process_says_its_memory_and_files(api: httpx2.Client):
    text = api.get("/metrics").text

    assert "process_resident_memory_bytes" in text
    assert "process_open_fds" in text
