"""Slow and greedy clients: each is cut off, and nobody else notices."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil

from api.settings import ApiSettings
from tests.api.hand_worker import HandWorker
from tests.api.serving import Served, serving


def closed(wire: socket.socket) -> bool:
    """Whether the server ends the connection within the socket's own timeout."""
    try:
        while wire.recv(65_536):
            pass
    except TimeoutError:
        return False
    return True


def test_headers_that_never_end_are_cut_off(served: Served):
    with socket.create_connection(served.address, timeout=5) as wire:
        wire.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-")

        assert closed(wire)


def test_a_connection_that_says_nothing_is_cut_off(served: Served):
    with socket.create_connection(served.address, timeout=5) as wire:
        assert closed(wire)


def test_a_second_request_has_its_own_time(served: Served):
    with socket.create_connection(served.address, timeout=5) as wire:
        wire.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = wire.recv(65_536)
        wire.sendall(b"GET /livez HTT")

        assert first.startswith(b"HTTP/1.1 200")
        assert closed(wire)


def test_a_wait_is_not_taken_for_a_slow_request(api: httpx2.Client):
    # longer than the time for headers: the answer is slow, the request was not
    answer = api.post("/v1/jobs?wait=1", json={"prompt": "a cat"})

    assert answer.status_code == 202


def test_a_body_that_never_ends_is_a_408(api_settings: ApiSettings, redis_url: str):
    hasty = api_settings.model_copy(update={"body_timeout_s": 0.3})
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n"
    with serving(hasty) as served, socket.create_connection(served.address, timeout=5) as wire:
        wire.sendall(head + b'{"prom')
        answer = b"".join(iter(lambda: wire.recv(65_536), b""))  # to the end of the connection

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"\r\nconnection: close\r\n" in answer
    assert b"body_timeout" in answer


def test_two_lengths_are_never_believed(served: Served):
    # the seed of request smuggling: what is before us may count otherwise
    both = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    with socket.create_connection(served.address, timeout=5) as wire:
        wire.sendall(both)
        answer = wire.recv(65_536)
        ended = closed(wire)

    assert answer.startswith(b"HTTP/1.1 400")
    assert b"200 OK" not in answer
    assert ended


def test_200_megabytes_grow_nothing(served: Served):
    before = psutil.Process().memory_info().rss

    def much():
        for _ in range(200 * 16):
            yield b"x" * 65_536

    try:
        answer = served.client.post("/v1/jobs", content=much())
        assert answer.status_code == 413
    except (httpx2.WriteError, httpx2.ReadError, httpx2.RemoteProtocolError):
        pass  # the server closed while the client was still sending: as it should

    assert psutil.Process().memory_info().rss - before < 20 * 2**20


def test_pictures_go_out_to_many_at_once(served: Served, worker: HandWorker):
    api = served.client
    job = api.post("/v1/jobs", json={"prompt": "a cat"}).json()
    (stored,) = worker.finish(worker.take(), content=b"\x89PNG" + bytes(300_000))
    url = f"{job['urls']['self']}/images/0"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: api.get(url), range(64)))

    assert all(a.content == stored for a in answers)
