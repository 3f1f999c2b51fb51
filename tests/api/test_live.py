"""Following a job as it happens: waits and event streams, over one subscription."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2

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
