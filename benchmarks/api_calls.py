"""Function calls of Python that a request costs, beside the bare floor: the same in every run.

The clock of a shared machine moves by a factor of two; this count does not. It is what to look at
when a change is to make a request cheaper. No socket: the app is called as a server calls it.

    python -m benchmarks.api_calls [--requests 50]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

from api.app import create_app
from api.settings import ApiSettings
from benchmarks.api_floor import REQUEST, floor_app
from deploy import servers

MANY = 100_000_000


async def call(app: Any, method: str, path: str, body: bytes = b"") -> bytes:
    """Send one request; return the body of the answer."""
    parts: list[bytes] = []
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return b"".join(parts)


async def counted(requests: int, app: Any, *request: Any) -> float:
    """Return the calls of Python and C functions per request."""
    calls = 0

    def count(_frame: object, event: str, _what: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    await call(app, *request)  # what is made once is made now
    sys.setprofile(count)
    try:
        for _ in range(requests):
            await call(app, *request)
    finally:
        sys.setprofile(None)
    return calls / requests


async def measure(redis_url: str, requests: int) -> None:
    unbounded = {"max_queued": MANY, "max_open_jobs": MANY}
    app = create_app(ApiSettings.model_validate({"redis_url": redis_url, **unbounded}))
    async with app.router.lifespan_context(app):
        job = json.loads(await call(app, "POST", "/v1/jobs", REQUEST))["id"]
        floor = floor_app(redis_url, job)
        print(f"{'':8} {'API':>6} {'floor':>6} {'ratio':>6}   function calls a request")
        for name, ours, least in (
            ("submit", ("POST", "/v1/jobs", REQUEST), ("POST", "/submit", REQUEST)),
            ("read", ("GET", f"/v1/jobs/{job}"), ("GET", "/read")),
        ):
            a, b = await counted(requests, app, *ours), await counted(requests, floor, *least)
            print(f"{name:8} {a:6.0f} {b:6.0f} {b / a:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        valkey = servers.valkey(Path(folder) / "valkey", password=secrets.token_hex(8))
        valkey.start()
        try:
            valkey.wait_ready()
            asyncio.run(measure(valkey.url, asked.requests))
        finally:
            valkey.kill()


if __name__ == "__main__":
    main()
