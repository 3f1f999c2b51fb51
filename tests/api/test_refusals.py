"""A refusal is an answer: a client that is still sending its body reads it, and sees no reset."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.serving import Served
from tests.helpers import wait_until

PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}


def refused(
    address: tuple[str, int], path: str, size: int, headers: dict[str, str]
) -> tuple[int, str]:
    """Status and code, as Python's own client sees them: it sends it all, then it reads."""
    wire = http.client.HTTPConnection(*address, timeout=20)
    try:
        wire.request("POST", path, body=bytes(size), headers=headers)
        answer = wire.getresponse()
        return answer.status, json.loads(answer.read())["code"]
    finally:
        wire.close()


def test_a_body_that_is_too_large_is_a_413_ten_times_of_ten(served: Served):
    large = [refused(served.address, "/v1/inputs", 30_000_000, PNG) for _ in range(10)]
    small = [refused(served.address, "/v1/job-groups", 2_000_000, JSON) for _ in range(10)]

    assert large == small == [(413, "payload_too_large")] * 10


def test_so_it_is_where_its_length_is_not_declared(served: Served):
    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield bytes(100_000)

    wire = http.client.HTTPConnection(*served.address, timeout=20)
    wire.request("POST", "/v1/jobs", body=pieces(), headers=JSON, encode_chunked=True)
    answer = wire.getresponse()

    assert answer.status == 413
    wire.close()


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v1/inputs", {"content-type": "text/plain"}, (415, "unsupported_media_type")),
        ("/v1/inputs", {**PNG, "authorization": "Bearer pw_nobody"}, (401, "unauthorized")),
        ("/v1/nothing", {}, (413, "payload_too_large")),
        ("/v1/inputs?x=1", PNG, (422, "invalid_request")),
    ],
)
def test_so_it_is_whatever_is_refused(
    served: Served, path: str, headers: dict[str, str], expected: tuple[int, str]
):
    answers = [refused(served.address, path, 9_000_000, headers) for _ in range(5)]

    assert answers == [expected] * 5


def test_many_uploads_at_once_are_all_answered(served: Served):
    with ThreadPoolExecutor(16) as pool:
        sent = [
            pool.submit(refused, served.address, "/v1/inputs", 3_000_000, PNG) for _ in range(16)
        ]

    assert {one.result() for one in sent} <= {(422, "invalid_request"), (503, "intake_busy")}


def test_headers_without_an_end_are_a_400(served: Served):
    with socket.create_connection(served.address, timeout=10) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 1_000_000)
        answer = b"".join(iter(lambda: wire.recv(65_536), b""))

    assert answer.startswith(b"HTTP/1.1 400")


def test_a_connection_can_be_used_again_after_a_refusal(served: Served):
    wire = http.client.HTTPConnection(*served.address, timeout=20)
    wire.request("POST", "/v1/jobs", body=bytes(60_000), headers={"content-type": "text/plain"})
    refusal = wire.getresponse()
    refusal.read()
    wire.request("GET", "/livez")

    assert refusal.status == 415
    assert wire.getresponse().status == 200
    wire.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        # refused by its declared length, and the connection with it
        (b"POST /v1/job-groups HTTP/1.1\r\nContent-Length: 999999\r\n", b"413"),
        # refused, but the connection is good for another request, if the rest comes soon
        (b"POST /v1/jobs HTTP/1.1\r\nContent-Type: a/b\r\nContent-Length: 999999\r\n", b"415"),
    ],
)
def test_what_nobody_wants_is_not_read_for_ever(served: Served, head: bytes, status: bytes):
    with socket.create_connection(served.address, timeout=10) as wire:
        wire.sendall(head + b"Host: localhost\r\n\r\n")
        answer = wire.recv(65_536)

        wait_until(lambda: not still_taken(wire), "the connection is closed")

    assert answer.startswith(b"HTTP/1.1 " + status)


def still_taken(wire: socket.socket) -> bool:
    """Return True if one byte more of the body is taken."""
    try:
        wire.sendall(b"x")
    except OSError:
        return False
    return True
