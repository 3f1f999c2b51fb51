"""Following a job as it happens: waits and event streams, over one subscription."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from fastapi import Request
from pydantic import ValidationError

from api.access.request_body import wait_left
from api.observability.metrics import Metrics
from api.routes.events import Stream
from api.services.container import open_services
from api.settings import ApiSettings
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served, serving
from tests.helpers import wait_until


def events(answer: httpx2.Response) -> Iterator[tuple[str, dict]]:
    """The events of a stream, as they come."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_wait_ends_when_the_job_does(served: Served, api: httpx2.Client, worker: HandWorker):
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(
            api.post, "/v1/jobs", json={"prompt": "a cat"}, headers={"prefer": "wait=30"}
        )
        wait_until(lambda: served.services.following.count == 1, "the client waits")
        worker.finish(worker.take())
        answer = waiting.result()

    assert answer.status_code == 200
    assert answer.json()["status"] == "succeeded"
    assert "retry-after" not in answer.headers


def test_a_wait_on_a_job_that_has_ended_returns_at_once(api: httpx2.Client, worker: HandWorker):
    job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()
    worker.fail(worker.take())

    answer = api.get(f"/v1/jobs/{job['id']}?wait=30")

    assert answer.elapsed.total_seconds() < 5
    assert answer.json()["error"]["code"] == "degenerate_output"


def test_a_stream_tells_the_whole_story(api: httpx2.Client, worker: HandWorker):
    job = api.post("/v1/jobs", json={"prompt": "a cat", "n": 2}).json()
    told: list[tuple[str, dict]] = []

    with api.stream("GET", job["urls"]["events"]) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for name, data in events(answer):
            told.append((name, data))
            if name == "snapshot":
                claimed = worker.take()
            elif name == "status" and data["status"] == "running":
                worker.tell(claimed, 7, 50)
            elif name == "progress":
                worker.finish(claimed)

    names = [name for name, _ in told]
    progress = next(data for name, data in told if name == "progress")
    assert names[0] == "snapshot"
    assert names[-3:] == ["image", "image", "done"]
    assert progress == {"stage": "denoising", "step": 7, "steps": 50, "fraction": 0.14}
    assert told[-1][1]["status"] == "succeeded"


def test_a_stream_of_an_ended_job_is_snapshot_images_done(api: httpx2.Client, worker: HandWorker):
    job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()
    worker.finish(worker.take())

    with api.stream("GET", job["urls"]["events"]) as answer:
        names = [name for name, _ in events(answer)]

    assert names == ["snapshot", "image", "done"]


def test_a_stream_of_a_deleted_job_ends_with_gone(api: httpx2.Client):
    job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()
    names: list[str] = []

    with api.stream("GET", job["urls"]["events"]) as answer:
        for name, _ in events(answer):
            names.append(name)
            if name == "snapshot":
                api.delete(f"/v1/jobs/{job['id']}")

    assert names[0] == "snapshot"
    assert names[-1] == "gone"


def test_a_client_that_leaves_frees_its_place(served: Served, api: httpx2.Client):
    job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()

    with api.stream("GET", job["urls"]["events"]) as answer:
        told = events(answer)  # held: an iterator that is dropped closes the stream
        next(told)
        assert served.services.following.count == 1

    wait_until(lambda: served.services.following.count == 0, "the follower is gone")


def test_streams_are_capped_and_polling_still_works(api_settings: ApiSettings, redis_url: str):
    with serving(api_settings.model_copy(update={"max_tenant_streams": 1})) as served:
        api = served.client
        job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()
        with api.stream("GET", job["urls"]["events"]) as first:
            told = events(first)
            next(told)

            second = api.get(job["urls"]["events"])

            assert second.status_code == 429
            assert second.json()["code"] == "too_many_streams"
            assert int(second.headers["retry-after"]) >= 1
            assert api.get(job["urls"]["self"]).status_code == 200


def test_shutting_down_ends_streams_and_waits_at_once(api_settings: ApiSettings, redis_url: str):
    with serving(api_settings) as served, ThreadPoolExecutor() as pool:
        job = served.client.post("/v1/jobs", json={"prompt": "a cat"}).json()
        streaming = threading.Event()

        def stream() -> list[str]:
            with httpx2.stream("GET", job["urls"]["events"], timeout=30) as answer:
                lines: list[str] = []
                for line in answer.iter_lines():
                    lines.append(line)
                    streaming.set()
                return lines

        held = pool.submit(stream)
        waiting = pool.submit(httpx2.get, f"{job['urls']['self']}?wait=60", timeout=70)
        assert streaming.wait(10)
        wait_until(lambda: served.services.following.count == 2, "both follow")

        served.server.should_exit = True

        assert any("connect again" in line for line in held.result(timeout=20))
        assert waiting.result(timeout=20).json()["status"] == "queued"
        served.thread.join(20)
        assert not served.thread.is_alive()


def test_a_stream_shows_previews_and_whoever_comes_late_sees_the_last(
    api: httpx2.Client, worker: HandWorker
):
    job = api.post("/v1/jobs", json={"prompt": "a cat", "preview": True}).json()
    claimed = worker.take()
    first = {"index": 0, "step": 3, "content_type": "image/jpeg", "data": "AAAA"}
    worker.show(claimed, first)
    told: list[tuple[str, dict]] = []

    with api.stream("GET", job["urls"]["events"]) as answer:
        for name, data in events(answer):
            told.append((name, data))
            if name == "preview" and data["step"] == 3:
                worker.show(claimed, first | {"step": 5})
            elif name == "preview":
                worker.finish(claimed)

    assert [name for name, _ in told][:2] == ["snapshot", "preview"]
    assert [d["step"] for n, d in told if n == "preview"] == [3, 5]
    assert told[-1][0] == "done"
    assert told[0][1]["resolved"]["preview"] is True


@pytest.mark.parametrize("asked", ["?wait=60", "?wait=5"])
def test_a_wait_is_cut_at_the_setting_and_says_so(
    api_settings: ApiSettings, redis_url: str, asked: str
):
    # the clock of proxies, 60 s, scaled down: 1 s stands for the 55 of the setting
    with serving(api_settings.model_copy(update={"max_wait_s": 1})) as served:
        sent = served.client.post(f"/v1/jobs{asked}", json={"prompt": "a cat"})
        looked = served.client.get(f"{sent.json()['urls']['self']}{asked}")

    assert sent.headers["preference-applied"] in {"wait=1", "wait=0"}  # 0: a second was gone
    assert looked.headers["preference-applied"] == "wait=1"
    assert (sent.status_code, looked.json()["status"]) == (202, "queued")


def test_no_wait_reaches_the_60_s_of_a_proxy():
    assert ApiSettings().max_wait_s == 55
    with pytest.raises(ValidationError):
        ApiSettings(max_wait_s=56)


def test_the_time_that_a_request_took_is_of_its_wait(served: Served):
    def left(wait_s: int, took_s: float) -> int:
        scope = {"type": "http", "app": served.server.config.app, "headers": []}
        scope["began_s"] = time.perf_counter() - took_s
        return wait_left(Request(scope), wait_s)

    # reading a picture took 20 s: it is answered after 55 s in all
    assert [left(55, 20), left(30, 20), left(55, 70)] == [35, 30, 0]


def test_a_stream_with_news_and_nothing_to_say_still_beats(
    api_settings: ApiSettings, api: httpx2.Client
):
    job_id = api.post("/v1/jobs", json={"prompt": "a cat"}).json()["id"]

    async def beats() -> list[str]:
        async with open_services(api_settings, Metrics()) as services:
            record = await services.store.read(job_id, tenant="default")
            told = Stream(services, "", key_id=None, heartbeat_s=0.2).of(record)
            said = [await anext(told), await anext(told)]

            async def news() -> None:
                while True:  # as while Redis is away: "look again", and there is nothing new
                    for followers in services.following._followers.values():
                        for follower in followers:
                            follower.look_again()
                    await asyncio.sleep(0.02)

            task = asyncio.create_task(news())
            async with asyncio.timeout(10):
                said += [await anext(told) for _ in range(3)]
            task.cancel()
            await told.aclose()
            return said

    retry, snapshot, *rest = asyncio.run(beats())

    assert (retry, snapshot.partition("\n")[0]) == ("retry: 2000\n\n", "event: snapshot")
    assert rest == [": still here\n\n"] * 3
