"""A page of another origin, in a real browser: what it may do to a service that needs no key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page, expect

from tests.api.serving import Served

FORM = """(url) => {
  const field = `<input name='{"prompt":"x' value='"}'>`;  // a body that is JSON, as text/plain
  document.body.innerHTML =
    `<form method=post enctype=text/plain action="${url}">${field}</form>`;
  document.forms[0].submit();
}"""
# the answer cannot be read, the act would have been done all the same
FETCH = "(url) => fetch(url, {method: 'POST', mode: 'no-cors', body: '{\"prompt\": \"x\"}'})"
SANDBOXED = """(url) => new Promise((done) => {
  const frame = document.createElement('iframe');
  frame.sandbox = 'allow-scripts';
  frame.srcdoc = `<script>fetch('${url}', {method: 'POST', mode: 'no-cors'})
    .finally(() => parent.postMessage(1, '*'))</scr` + `ipt>`;
  addEventListener('message', done, {once: true});
  document.body.append(frame);
}).then(() => 1)"""


class Empty(BaseHTTPRequestHandler):
    """A page with nothing on it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of somebody else's pages."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


# another site by its name, and the same site on another port
@pytest.mark.parametrize("host", ["evil.localhost", "127.0.0.1"])
def test_a_page_elsewhere_changes_nothing(page: Page, served: Served, elsewhere: int, host: str):
    job = served.client.post("/v1/jobs", json={"prompt": "a cat"}).json()["id"]
    acts = [f"/v1/jobs/{job}/cancel", f"/v1/jobs/{job}/rerun", "/v1/jobs", "/v1/queue/pause"]
    answers: list[tuple[str, int]] = []
    page.on("response", lambda answer: answers.append((answer.request.method, answer.status)))

    page.goto(f"http://{host}:{elsewhere}")
    for act in acts:
        page.evaluate(FETCH, f"{served.url}{act}")
        page.evaluate(SANDBOXED, f"{served.url}{act}")
    for act in acts:
        page.goto(f"http://{host}:{elsewhere}")
        with page.expect_navigation():
            page.evaluate(FORM, f"{served.url}{act}")
        expect(page.locator("body")).to_contain_text("origin_not_allowed")

    posted = [status for method, status in answers if method == "POST"]
    assert set(posted) == {403}
    assert len(posted) >= 2 * len(acts)  # those of a frame that is gone are not always told
    (only,) = served.client.get("/v1/jobs").json()["jobs"]
    assert (only["id"], only["status"]) == (job, "queued")
    assert served.client.get("/v1/queue").json()["paused"] is False
