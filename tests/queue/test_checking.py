"""The image checker: nothing is stored that it did not allow, whatever becomes of the checker."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image
from redis import Redis

from jobs.blobs.s3 import BlobMissing, S3Blobs
from jobs.contract.record import Status
from jobs.errors import SettingsError
from jobs.store import keys
from jobs.store.job_store import JobStore
from tests.helpers import wait_until
from tests.queue.making import TENANT, admit, read
from tests.queue.worker_process import worker_process
from worker.pictures.content_check import HttpChecker, Picture, checker_of


def ended(store: JobStore, job_id: str) -> tuple[str, str | None]:
    """How a job ended: status and error code."""
    wait_until(lambda: read(store, job_id).status.final, "it has ended", 30)
    record = read(store, job_id)
    return record.status.value, record.error.code if record.error else None


def test_a_picture_is_stored_only_if_the_checker_allows_it(
    store: JobStore, redis: Redis, environ: dict[str, str], blobs: S3Blobs, tmp_path: Path
):
    named = {"PRINTWORKS_WORKER_IMAGE_CHECKER": "tests.queue.checkers:no_green"}
    log = tmp_path / "log"
    with worker_process(environ | named, log=log):
        asked = ["a red cat", "a green cat", "it breaks", "it mumbles"]
        ids = {prompt: admit(store, prompt=prompt, n=2) for prompt in asked}
        became = {prompt: ended(store, job_id) for prompt, job_id in ids.items()}

    assert became == {
        "a red cat": ("succeeded", None),
        "a green cat": ("failed", "image_blocked"),
        "it breaks": ("failed", "check_failed"),
        "it mumbles": ("failed", "check_failed"),
    }
    assert read(store, ids["it breaks"]).error.retryable is True
    for prompt, job_id in ids.items():
        for k in range(2):
            key = keys.image_key(TENANT, job_id, k, "png")
            if became[prompt][0] == "succeeded":
                blobs.open(key).close()
            else:
                with pytest.raises(BlobMissing):
                    blobs.open(key)
    assert "it met" not in log.read_text()  # what a checker says may hold the prompt


class Service(BaseHTTPRequestHandler):
    """Answers by its path, and keeps what it was shown."""

    shown: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.shown.append(body)
        status, said = {
            "/yes": (200, {"allowed": True}),
            "/no": (200, {"allowed": False}),
            "/odd": (200, {"allowed": "true"}),
            "/down": (503, {"allowed": True}),
        }[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    Service.shown = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


PICTURE = Picture(
    rgb=bytes(range(48)), width=4, height=4, prompt="a secret", job_id="j", tenant="t"
)


def test_a_service_is_shown_the_picture_and_not_the_prompt(service: str):
    assert HttpChecker(f"{service}/yes", timeout_s=5)(PICTURE) is True
    assert HttpChecker(f"{service}/no", timeout_s=5)(PICTURE) is False

    image = Image.open(io.BytesIO(Service.shown[0]))
    assert image.tobytes() == PICTURE.rgb
    assert not any(b"secret" in body for body in Service.shown)


@pytest.mark.parametrize("path", ["/odd", "/down"])
def test_anything_else_than_a_plain_answer_is_a_failure(service: str, path: str):
    with pytest.raises(ValueError, match=r"answered|allowed"):
        HttpChecker(service + path, timeout_s=5)(PICTURE)


def test_a_service_that_is_away_or_silent_is_a_failure():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TimeoutError):
            HttpChecker(f"http://127.0.0.1:{port}/", timeout_s=0.2)(PICTURE)
    with pytest.raises(OSError, match="refused"):
        HttpChecker(f"http://127.0.0.1:{port}/", timeout_s=5)(PICTURE)


@pytest.mark.parametrize(
    "named", ["nowhere:check", "tests.queue.checkers:nothing", "tests.queue.checkers", "http://"]
)
def test_a_checker_that_is_not_there_stops_the_start(named: str):
    with pytest.raises(SettingsError, match="IMAGE_CHECKER"):
        checker_of(named, timeout_s=1)


def test_without_a_checker_nothing_is_checked():
    assert checker_of(None, timeout_s=1) is None
    assert Status.FAILED.final
