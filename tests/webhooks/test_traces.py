"""T67: one trace from the POST through queue, batch and picture store to the webhook.

Real processes: an API, a worker on a fake engine, a courier; what they tell comes to a real
OTLP/HTTP collector. Traces off, nothing of OpenTelemetry is loaded.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from api.settings import ApiSettings
from jobs.errors import SettingsError
from jobs.settings import ROOT, RoleSettings
from jobs.tracing.opening import open_tracing
from jobs.tracing.spans import OFF, traceparent_in
from tests.api.serving import as_operator, serving
from tests.helpers import wait_until
from tests.queue.making import QUICK
from tests.queue.worker_process import worker_process
from tests.webhooks.collector import Collector, Seen, collecting
from tests.webhooks.desk import CANARY
from tests.webhooks.receivers import Receiver
from worker.settings import WorkerSettings

pytestmark = pytest.mark.anyio
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def environ(
    redis_url: str, s3_settings: dict[str, str], webhook_key: SecretStr, collector: Collector
) -> dict[str, str]:
    """What all three roles are told."""
    shared = {f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()}
    return {
        "PRINTWORKS_REDIS_URL": redis_url,
        **shared,
        **QUICK,
        "PRINTWORKS_OTEL_ENDPOINT": collector.url,
        "PRINTWORKS_WEBHOOK_KEY": webhook_key.get_secret_value(),
        "PRINTWORKS_WEBHOOK_SCHEMES": "http,https",
        "PRINTWORKS_WEBHOOK_PORTS": "1024-65535",
        "PRINTWORKS_WEBHOOK_NETWORKS": "127.0.0.0/8",
    }


@pytest.fixture
async def traced(environ: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    """An API that traces."""
    settings = ApiSettings.load({k: v for k, v in environ.items() if "WORKER" not in k})
    with serving(settings.model_copy(update={"port": 0})) as served:
        headers = as_operator(settings.redis_url)
        async with httpx2.AsyncClient(base_url=served.url, headers=headers, timeout=30) as client:
            yield client


@pytest.fixture
def courier(environ: dict[str, str]) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "worker", "courier"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environ, stderr=subprocess.DEVNULL
    )
    yield process
    process.kill()
    process.wait()


async def until(collector: Collector, count: int, start: str) -> list[Seen]:
    """So many spans of that name, once they have come."""
    return await asyncio.to_thread(
        wait_until,
        lambda: found if len(found := collector.named(start)) >= count else None,
        f"{count} spans {start!r}, of {[s.name for s in collector.spans]}",
        60,
    )


async def test_t67_one_trace_from_post_to_webhook_and_a_batch_linked_to_all_of_its_jobs(
    traced: httpx2.AsyncClient,
    environ: dict[str, str],
    collector: Collector,
    courier: subprocess.Popen,
):
    async with Receiver() as receiver:
        await traced.post("/v1/webhooks", json={"url": receiver.url})
        ids = []
        for k in range(8):
            headers = {"traceparent": CALLER} if k == 0 else {}
            job = {"prompt": CANARY, "steps": 30, "size": "64x64", "seed": k}
            ids.append((await traced.post("/v1/jobs", json=job, headers=headers)).json()["id"])
        sends = {s.attributes["messaging.message.id"]: s for s in await until(collector, 8, "send")}

        with worker_process(environ, step_s=0.02) as worker:
            processed = await until(collector, 8, "process")
            await until(collector, 8, "webhook job.succeeded")
            worker.terminate()
            assert await asyncio.to_thread(worker.wait, 30) == 0
        batches = await until(collector, 1, "batch")

    # one trace a job: the caller's own, where it began one
    assert sends[ids[0]].trace == CALLER.split("-")[1]
    assert len({span.trace for span in sends.values()}) == 8
    for job_id in ids:
        sent = sends[job_id]
        (process,) = [p for p in processed if p.attributes["messaging.message.id"] == job_id]
        (request,) = collector.named("POST /v1/jobs", sent.trace)
        (put,) = collector.named("put picture", sent.trace)
        (webhook,) = collector.named("webhook", sent.trace)
        stages = [s.name for s in collector.spans if s.parent == process.id]
        assert (process.trace, process.parent) == (sent.trace, sent.id)
        assert request.id == sent.parent
        assert request.attributes["http.response.status_code"] == "202"
        assert put.parent == process.id
        assert webhook.parent == sent.id
        assert sorted(stages) == ["decode", "denoise", "encode", "put picture"]
        assert process.error == ""
    # a batch has many parents: links, not one of them
    links = [link for batch in batches for link in batch.links]
    assert sorted(links) == sorted(span.id for span in sends.values())
    assert max(len(batch.links) for batch in batches) == 8
    assert {s.service for s in collector.spans} == {
        "printworks-api",
        "printworks-worker",
        "printworks-courier",
    }
    sent_bytes = b"".join(collector.bodies)
    for private in (CANARY, receiver.url, environ["PRINTWORKS_WEBHOOK_KEY"]):
        assert private.encode() not in sent_bytes
    print(f"T67: {len(collector.spans)} spans, links of the batch: {len(batches[0].links)}")


async def test_t67_the_trace_goes_on_after_a_crash(
    traced: httpx2.AsyncClient, environ: dict[str, str], collector: Collector
):
    sent = await traced.post("/v1/jobs", json={"prompt": "a cat", "steps": 5, "size": "64x64"})
    with worker_process(environ, crash=("submitted", 1)) as doomed:
        await asyncio.to_thread(doomed.wait, 30)
    with worker_process(environ) as worker:
        waited = await traced.get(f"/v1/jobs/{sent.json()['id']}?wait=30")
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 30) == 0
    (send,) = await until(collector, 1, "send")
    (process,) = await until(collector, 1, "process")

    assert waited.json()["status"] == "succeeded"
    assert process.trace == send.trace
    assert process.attributes["printworks.attempt"] == "2"


async def test_a_job_that_fails_says_so_and_a_refused_one_too(
    traced: httpx2.AsyncClient, environ: dict[str, str], collector: Collector
):
    await traced.post("/v1/jobs", json={"prompt": "fail", "steps": 5, "size": "64x64"})
    with worker_process(environ) as worker:
        (process,) = await until(collector, 1, "process")
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 30) == 0

    assert process.error == process.attributes["error.type"] == "bad_latents"


async def test_a_collector_that_is_away_delays_nothing(redis_url: str, s3_settings: dict[str, str]):
    away = {"redis_url": redis_url, **s3_settings, "otel_endpoint": "http://127.0.0.1:9"}
    with serving(ApiSettings.model_validate(away)) as served:
        answers = [served.client.post("/v1/jobs", json={"prompt": "a cat"}) for _ in range(20)]

    assert {answer.status_code for answer in answers} == {202}


async def test_configured_and_not_installed_is_told_in_words(monkeypatch: pytest.MonkeyPatch):
    known = builtins.__import__

    def without(name: str, *rest, **more):
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return known(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "jobs.tracing.otel", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(SettingsError, match=r"install the extra `otel`"):
        open_tracing(RoleSettings(otel_endpoint="http://127.0.0.1:4318"), "api")


async def test_off_nothing_of_it_is_loaded(tmp_path: Path):
    code = (
        "import sys, jobs.tracing.opening, worker.control.loop, worker.courier.process\n"
        "from jobs.settings import RoleSettings\n"
        "jobs.tracing.opening.open_tracing(RoleSettings(), 'worker')\n"
        # its SDK is not ours to keep out: redis-py loads that where it is installed
        "ours = ('opentelemetry.exporter', 'jobs.tracing.otel')\n"
        "sys.exit(any(m.startswith(ours) for m in sys.modules))"
    )

    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], cwd=ROOT, check=False
    )
    assert done.returncode == 0
    assert open_tracing(WorkerSettings(), "worker") is OFF


@pytest.mark.parametrize(
    "header",
    [None, "", "00-x-y-01", "01" + CALLER[2:], CALLER + "-x", "00-" + "0" * 32 + CALLER[35:]],
)
async def test_a_header_that_is_none_begins_a_trace_of_its_own(header: str | None):
    assert traceparent_in(header) is None
    assert traceparent_in(CALLER) == CALLER


async def test_a_collector_on_this_machine_is_told_without_the_proxy_of_the_environment(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", ".example.com")
    tracing = open_tracing(RoleSettings(otel_endpoint=collector.url), "api")

    tracing.start("a request").end()
    await asyncio.to_thread(tracing.close)

    assert [span.name for span in collector.named("a request")] == ["a request"]
