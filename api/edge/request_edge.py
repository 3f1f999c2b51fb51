"""Outermost middleware: limits, request IDs, security headers, access log. Pure ASGI, unbuffered.

Owns the checks common to every request before any route is known. Must not know Redis, jobs or
routes. Invariant: every response carries X-Request-Id, and no more than the limit is ever read.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.edge.problem import ErrorShapes
from api.errors import BadRequest, HeadersTooLarge, HttpError, PayloadTooLarge

log = logging.getLogger("api.access")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110 9.2.1; no other route has TRACE
MAX_HEADER_BYTES = 16_384
MAX_HEADERS = 100
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")
request_id_now: ContextVar[str] = ContextVar("request_id", default="")
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
# responses are data: a browser that displays one must run nothing from it
DATA_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

Observe = Callable[[Scope, int, float], None]
NONE_LARGER: Mapping[str, int] = {}


def request_stamp() -> dict[str, str]:
    """Return the fields of every log line of a request."""
    request_id = request_id_now.get()
    return {"request_id": request_id} if request_id else {}


def ignore(scope: Scope, status: int, seconds: float) -> None:
    """Observe nothing."""


class RequestEdgeMiddleware:
    """The outermost middleware; `observe` gets every response, for metrics.

    `larger_bodies`: paths, or prefixes that end in `/`, whose bodies may be larger than
    `max_body_bytes`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        larger_bodies: Mapping[str, int] = NONE_LARGER,
        observe: Observe = ignore,
        shapes: ErrorShapes,
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.larger_bodies = larger_bodies
        self._larger_below = tuple(path for path in larger_bodies if path.endswith("/"))
        self.observe = observe
        self.shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = scope["began_s"] = time.perf_counter()
        request_id = _request_id(scope)
        scope["request_id"] = request_id
        request_id_now.set(request_id)
        status = 500

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _mark(message, request_id, scope.get("answer_headers", ()))
            await send(message)

        refused = self._refusal(scope)
        try:
            if refused:
                path = scope["path"]
                response = self.shapes.answer(refused, path=path, request_id=request_id)
                response.headers["connection"] = "close"  # the next bytes may be its unread body
                await response(scope, receive, send_marked)
            else:
                await self.app(scope, self._counted(scope, receive), send_marked)
        finally:
            seconds = time.perf_counter() - started
            self.observe(scope, status, seconds)
            _log_access(scope, status, seconds)

    def _refusal(self, scope: Scope) -> HttpError | None:
        """Return the error that the headers alone show, or None."""
        headers = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
            return HeadersTooLarge(
                f"at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes in all"
            )
        length = _header(scope, b"content-length") or b"0"
        if length != b"0" and _header(scope, b"transfer-encoding"):
            # a proxy that believes the other of the two would see other requests than this server
            return BadRequest("send Content-Length or Transfer-Encoding, not both")
        if length.isdigit() and int(length[:20]) > self._most(scope):
            return _too_large(self._most(scope))
        return None

    def _most(self, scope: Scope) -> int:
        path: str = scope["path"]
        if path.startswith(self._larger_below):
            path = next(prefix for prefix in self._larger_below if path.startswith(prefix))
        return self.larger_bodies.get(path, self.max_body_bytes)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """Wrap `receive` to stop at the body limit: a chunked body declares no length."""
        total, most = 0, self._most(scope)

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                if total > most:
                    raise _too_large(most)
            return message

        return counted


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body may have at most {most} bytes")


def _request_id(scope: Scope) -> str:
    """Return the caller's own request ID if it is harmless, else a new one."""
    given = _header(scope, b"x-request-id")
    if given and REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return secrets.token_hex(16)


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((v for n, v in scope["headers"] if n == name), None)


def _mark(message: Message, request_id: str, more: Sequence[tuple[bytes, bytes]]) -> None:
    headers = message.setdefault("headers", [])
    headers.extend(more)
    present = {name for name, _ in headers}
    headers.append((b"x-request-id", request_id.encode("ascii")))
    headers.extend(h for h in SECURITY_HEADERS if h[0] not in present)
    if DATA_POLICY[0] not in present:
        headers.append(DATA_POLICY)


def _log_access(scope: Scope, status: int, seconds: float) -> None:
    """Log one line per request, with the route's template: a path could carry private data."""
    if not log.isEnabledFor(logging.INFO):
        return
    route = getattr(scope.get("route"), "path", None)
    log.info(
        "api.request",
        extra={
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
        },
    )
