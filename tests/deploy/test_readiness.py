"""`up` says that it is up when /readyz says so, and what is missing where it does not."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from deploy.readiness import Patience, reasons, wait_ready
from deploy.service import ServiceError, free_port

AWAY = {"status": "not ready", "reasons": {"s3": "the picture store is away: ProxyConnectionError"}}


class Service(http.server.ThreadingHTTPServer):
    """A service that answers /readyz as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.body = 503, json.dumps(AWAY).encode()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    """One answer."""

    server: Service

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/readyz" else 404)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def test_what_is_missing_is_told_until_it_is_there(service: Service) -> None:
    told: list[str] = []

    def meanwhile(missing: str) -> bool:
        told.append(missing)
        service.status = 200
        return True

    assert wait_ready(service.url, meanwhile=meanwhile)
    assert told == ["s3: the picture store is away: ProxyConnectionError"]


def test_a_service_that_cannot_get_ready_ends_in_the_words_of_readyz(service: Service) -> None:
    with pytest.raises(ServiceError, match=r"after 0 s: s3: the picture store is away: Proxy"):
        wait_ready(service.url, meanwhile=lambda _: True, within_s=0)


def test_an_interrupted_wait_ends(service: Service) -> None:
    assert not wait_ready(service.url, meanwhile=lambda _: False)


def test_patience_begins_anew_when_it_was_ready_in_between(service: Service) -> None:
    now = [0.0]
    patience = Patience(service.url, within_s=60, clock=lambda: now[0])
    patience.look()
    now[0], service.status = 50.0, 200
    assert patience.look() == ""
    now[0], service.status = 70.0, 503
    assert patience.look()
    now[0] = 131.0

    with pytest.raises(ServiceError, match="after 60 s"):
        patience.look()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"reasons": 7}', b"<html>", b'{"reasons": {}}'])
def test_an_answer_of_somebody_else_is_no_yes(service: Service, body: bytes) -> None:
    service.body = body

    assert reasons(service.url).keys() == {"api"}


def test_a_service_that_does_not_answer_is_not_ready() -> None:
    assert "does not answer" in reasons(f"http://127.0.0.1:{free_port()}")["api"]


def test_a_part_that_may_be_missing_costs_no_patience(service: Service) -> None:
    now = [0.0]
    patience = Patience(service.url, within_s=60, ignored=("s3",), clock=lambda: now[0])
    patience.look()
    now[0] = 3600.0

    assert patience.look() == ""
