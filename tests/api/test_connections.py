"""Connections: more than there may be end nothing, and who does not read is let go."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from api.__main__ import within
from api.edge import connections
from api.edge.connections import Connections, Seldom, log_seldom
from api.settings import ApiSettings
from jobs.errors import SettingsError
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served, serving
from tests.api.test_process import environ, process  # noqa: F401 - a fixture
from tests.helpers import wait_until

ASK = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def narrow(root: Path, environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:  # noqa: F811
    """A process that may open 128 files, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    limited = ("sh", "-c", 'ulimit -n 128 && exec "$@"', "sh")
    with process(root, environ, "--port", str(port), before=limited) as running:
        url = f"http://127.0.0.1:{port}/livez"
        wait_until(lambda: answers(url), "it serves", timeout_s=30)
        yield running, port


def answers(url: str) -> bool:
    """Return True if a new client is answered within 5 s."""
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def test_a_new_client_is_served_whatever_is_open(narrow: tuple[subprocess.Popen[str], int]):
    running, port = narrow
    url = f"http://127.0.0.1:{port}/livez"
    with ExitStack() as held:
        for k in range(400):
            wire = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            if k % 3 == 0:  # nothing was ever asked; or a half; or there was an answer
                wire.sendall(ASK)
                assert wire.recv(65_536).startswith(b"HTTP/1.1 200")
            elif k % 3 == 1:
                wire.sendall(ASK[:-2])

        served = [answers(url) for _ in range(5)]
        running.terminate()
        _, logged = running.communicate(timeout=30)

    lines = [json.loads(line) for line in logged.splitlines()]
    others = [line["event"] for line in lines if line["event"] != "api.request"]
    assert served == [True] * 5
    assert "Traceback" not in logged
    assert "api.connections_full" in others
    assert len(others) < 40, others


def test_with_every_connection_busy_a_new_one_is_told_so(api_settings: ApiSettings, redis_url: str):
    with serving(api_settings, max_connections=4) as served, ExitStack() as held:
        job = served.client.post("/v1/jobs", json={"prompt": "a cat"}).json()
        served.client.close()
        waits = [held.enter_context(socket.create_connection(served.address, 30)) for _ in range(4)]
        for wire in waits:
            wire.sendall(
                f"GET /v1/jobs/{job['id']}?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
        wait_until(lambda: served.services.following.count == 4, "four wait")

        refused = httpx2.post(f"{served.url}/v1/jobs", json={"prompt": "a dog"})
        waits[0].close()
        wait_until(lambda: len(served.server.server_state.connections) < 4, "one has gone")
        taken = httpx2.get(f"{served.url}/livez")

    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-request-id"] == refused.json()["request_id"]
    assert taken.status_code == 200


class Wire:
    """A connection that notes when it is closed."""

    def __init__(self, state: Connections) -> None:
        self.state = state
        self.evicted = False
        state.connections.add(self)  # type: ignore[arg-type]

    def evict(self) -> None:
        self.evicted = True


def test_the_longest_idle_goes_first_then_who_reads_nothing():
    now_s = 0.0
    state = Connections(3, clock=lambda: now_s)
    first, second, third = [Wire(state) for _ in range(3)]
    for wire in (first, second, third):
        state.idle(wire)
    state.busy(first)
    state.idle(first)  # it asked something meanwhile
    state.busy(third)
    state.stalled(third)

    stayed = [state.make_room(Wire(state))]
    assert (first.evicted, second.evicted) == (False, True)
    stayed.append(state.make_room(Wire(state)))
    assert first.evicted
    stayed.append(state.make_room(Wire(state)))  # all are busy, and one may just be slow
    now_s = 6.0
    stayed.append(state.make_room(Wire(state)))

    assert stayed == [True, True, False, True]
    assert third.evicted


def test_a_client_that_reads_nothing_is_let_go(served: Served, worker: HandWorker):
    job = served.client.post("/v1/jobs", json={"prompt": "a cat"}).json()
    (stored,) = worker.finish(worker.take(), content=b"\x89PNG" + bytes(12_000_000))
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        wire.connect(served.address)
        path = f"/v1/jobs/{job['id']}/images/0"
        wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

        wait_until(lambda: served.services.downloads.count == 1, "it is counted")
        wait_until(lambda: served.services.downloads.count == 0, "it is let go")
        whole = served.client.get(path)

    assert whole.content == stored


def test_a_client_that_reads_slowly_has_it_all(served: Served, worker: HandWorker):
    job = served.client.post("/v1/jobs", json={"prompt": "a cat"}).json()
    (stored,) = worker.finish(worker.take(), content=b"\x89PNG" + bytes(6_000_000))
    got = bytearray()
    with socket.create_connection(served.address, timeout=10) as wire:
        wire.sendall(
            f"GET /v1/jobs/{job['id']}/images/0 HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        # some 1.2 s in all, which is twice as long as one may read nothing
        wait_until(lambda: not (more := wire.recv(50_000)) or got.extend(more), "all is read", 30)

    assert got.endswith(stored)


def test_downloads_are_bounded(api_settings: ApiSettings, redis_url: str, worker: HandWorker):
    few = api_settings.model_copy(update={"max_downloads": 4})
    with serving(few) as served:
        job = served.client.post("/v1/jobs", json={"prompt": "a cat"}).json()
        worker.finish(worker.take(), content=b"\x89PNG" + bytes(12_000_000))
        path = f"{served.url}/v1/jobs/{job['id']}/images/0"
        with ExitStack() as open_ones:
            for _ in range(2):
                open_ones.enter_context(httpx2.stream("GET", path))
            wait_until(lambda: served.services.downloads.count == 2, "two are under way")
            third = httpx2.get(path)

    assert (third.status_code, third.json()["code"]) == (429, "too_many_downloads")


def test_one_cause_is_one_line_a_second(caplog: pytest.LogCaptureFixture):
    async def out_of_files() -> None:
        loop = asyncio.get_running_loop()
        log_seldom(loop)
        for _ in range(1_000):
            error = OSError(24, "Too many open files")
            loop.call_exception_handler({"message": "socket.accept()", "exception": error})
            logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")

    asyncio.run(out_of_files())
    written = [re.sub(r"\W", "", record.getMessage()) for record in caplog.records]
    clock = iter((0.0, 0.5, 0.9, 1.1))
    seldom = Seldom(lambda: next(clock))

    assert written == ["apiloop_error", "InvalidHTTPrequestreceived"]
    assert [seldom.due("full") for _ in range(4)] == [0, None, None, 2]


@pytest.mark.parametrize("files", [64, 128, 256, 1_024, 8_192, 1_000_000])
def test_connections_and_downloads_leave_files_for_ourselves(files: int):
    settings, most = within(files, ApiSettings())

    spare = files - most - settings.max_downloads - connections.accepts_of(files)
    assert spare >= min(connections.OWN_FILES, files // 3)
    assert most >= 8
    assert settings.max_streams < most


def test_more_connections_than_files_are_refused_in_words():
    with pytest.raises(SettingsError, match="open files allow 7"):
        within(1_024, ApiSettings(max_connections=1_000))


def test_more_come_at_once_than_are_accepted_in_one_turn(served: Served):
    with ExitStack() as held:
        wires = [held.enter_context(socket.socket()) for _ in range(3 * connections.ACCEPTS)]
        for wire in wires:
            wire.settimeout(10)
            wire.connect(served.address)
        for wire in wires:
            wire.sendall(ASK)
        answered = [wire.recv(65_536) for wire in wires]

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answered)
