"""Events by the client, as they come: the real stream, and what it does when one breaks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import anyio
import httpx2
import pytest
from printworks import (
    AsyncClient,
    Client,
    Event,
    Gone,
    NotFound,
    Unreachable,
    WaitTimeout,
    protocol,
)
from printworks.events import SseParser

from tests.api.hand_worker import HandWorker
from tests.api.serving import Served
from tests.client.test_protocol import a_job, a_problem
from tests.helpers import wait_until

NOWHERE = "019a0000-0000-7000-8000-000000000000"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FIRST_DELAY_S", 0.001)


def worked(served: Served, worker: HandWorker) -> threading.Thread:
    """A worker's part, once somebody follows."""

    def work() -> None:
        wait_until(lambda: served.services.following.count, "somebody follows")
        claimed = worker.take()
        worker.tell(claimed, 7, 25)
        worker.finish(claimed)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_job_is_followed_from_snapshot_to_done(served: Served, worker: HandWorker):
    with Client(served.url) as printworks:
        sent = printworks.submit("a cat", steps=25)
        work = worked(served, worker)
        events = list(printworks.events(sent.id))
        work.join()

    names = [event.name for event in events]
    assert (names[0], names[-1]) == ("snapshot", "done")
    assert events[0].job.status == "queued"
    assert events[-1].job.status == "succeeded"
    (image,) = [event.image for event in events if event.image]
    assert image == events[-1].job.images[0]


def test_the_same_in_an_asynchronous_program(served: Served, worker: HandWorker):
    async def follow() -> list[Event]:
        async with AsyncClient(served.url) as printworks:
            sent = await printworks.submit("a cat")
            work = worked(served, worker)
            events = [event async for event in printworks.events(sent.id)]
            await anyio.to_thread.run_sync(work.join)
            return events

    events = anyio.run(follow)

    assert events[-1].job.status == "succeeded"


def test_a_job_that_is_not_there_or_gone_is_an_error(served: Served):
    with Client(served.url) as printworks:
        sent = printworks.submit("a cat")
        printworks.delete(sent.id)

        with pytest.raises(NotFound):
            list(printworks.events(NOWHERE))
        with pytest.raises(Gone):
            list(printworks.events(sent.id))


def test_whoever_waits_a_limited_time_is_told_when_it_is_over(served: Served):
    with Client(served.url) as printworks:
        sent = printworks.submit("a cat")

        with pytest.raises(WaitTimeout) as raised:
            list(printworks.events(sent.id, timeout_s=0.3))

    assert raised.value.job.status == "queued"


def said(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class Streams(httpx2.BaseTransport):
    """One answer a request; the last one again and again. Counts them."""

    def __init__(self, *answers: Callable[[], httpx2.Response]) -> None:
        self.answers, self.asked = answers, 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]()


class Broken(httpx2.SyncByteStream):
    def __init__(self, *parts: bytes) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self.parts
        raise httpx2.ReadError("the line went dead")


def test_a_stream_that_breaks_is_taken_up_again(quick: None):
    begun = said("snapshot", a_job(status="running")) + said(
        "progress", {"stage": "denoising", "step": 3, "steps": 25, "fraction": 0.12}
    )
    drained = said("snapshot", a_job(status="running"))  # the service restarts: an end without done
    ended = said("done", a_job(status="succeeded"))
    busy = a_problem(503, "queue_full", retryable=True)
    streams = Streams(
        lambda: httpx2.Response(200, stream=Broken(begun)),
        lambda: busy(httpx2.Request("GET", "/")),
        lambda: httpx2.Response(200, content=drained),
        lambda: httpx2.Response(200, content=ended),
    )

    with Client("http://service", transport=streams) as printworks:
        events = list(printworks.events("0191"))

    assert [e.name for e in events] == ["snapshot", "progress", "snapshot", "done"]
    assert events[1].onto(events[0].job).progress.step == 3
    assert streams.asked == 4


def test_a_stream_that_never_comes_back_ends_in_an_error(quick: None):
    streams = Streams(lambda: httpx2.Response(200, stream=Broken()))

    with Client("http://service", transport=streams) as printworks, pytest.raises(Unreachable):
        list(printworks.events("0191"))

    assert streams.asked == protocol.ATTEMPTS


def test_lines_become_events_and_the_rest_is_passed_over():
    lines, text = SseParser(), ": still here\n\nretry: 2000\n\nevent: odd\ndata: {no json\n\n"
    text += 'event: later\nid: 7\ndata: {\ndata: "a": 1}\n\n'

    events = [event for line in text.split("\n") if (event := lines.take(line))]

    assert events == [Event("later", {"a": 1})]
    assert events[0].job is None
    assert not events[0].last
