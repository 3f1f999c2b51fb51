"""HEAD requests, served as GET without the body, on routes whose GET is cheap.

Owns the rewriting of HEAD to GET. Must not know routes. Invariant: a path whose GET reads from
object storage, or holds a stream open, is left to its own route.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN = re.compile(
    r".*/(images/[^/]+|content|events)/?"
)  # routes that answer HEAD themselves, or not


class HeadRequestMiddleware:
    """Middleware that serves HEAD as GET and drops the body; length and ETag stay."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        if not is_head or OWN.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"  # for the log and the metrics
