"""Traces of requests: one span each, in the caller's trace if `traceparent` names one.

Owns the span of a request, and its link to the job. Must not know routes. Invariant: its name
is the route's template, never the path; no body is ever read.
"""

from __future__ import annotations

from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.tracing.spans import Span, Tracing, traceparent_in

of_request: ContextVar[str | None] = ContextVar("traceparent", default=None)


class TracingMiddleware:
    """Middleware that opens a span for each request under /v1/; pages and probes have none."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        given = next((v for n, v in scope["headers"] if n == b"traceparent"), b"")
        parent = traceparent_in(given.decode("latin-1"))
        span = self.tracing.start("request", "server", parent=parent)
        of_request.set(span.traceparent)
        status = 500

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_seen)
        finally:
            _end(span, scope, status)


def _end(span: Span, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path_format", "none")
    span.rename(f"{scope['method']} {route}")
    span.note(
        {
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": status,
            "printworks.request_id": scope.get("request_id", ""),
        }
    )
    span.end(error=str(status) if status >= 500 else None)


def sending(tracing: Tracing, *, job_id: str, queue: str) -> Span:
    """Start the span of a job's admission, the parent of the job's other spans."""
    return tracing.start(
        f"send {queue}",
        "producer",
        parent=of_request.get(),
        attributes={
            "messaging.system": "redis",
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            "messaging.message.id": job_id,
        },
    )
