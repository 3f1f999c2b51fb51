"""Sends one webhook attempt: a signed POST, and the outcome from the receiver's response.

Owns the limits of an attempt and the outcomes. Must not know Redis or the retry schedule.
Invariant: whatever the receiver does, an attempt ends within `total_s`, reads `most_bytes` at most,
follows no redirect and decompresses nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import httpcore2

from jobs.errors import TargetRefused
from jobs.webhooks.signing import signed_headers
from jobs.webhooks.ssrf_guard import EgressRules, Resolve, Target, target_of
from worker.courier.guarded_backend import GuardedBackend

SHOWN_BYTES = 1024  # of a response body, in the delivery log


class Outcome(StrEnum):
    """Outcome of an attempt; a closed set, since outcomes label a metric."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # an HTTP status other than 2xx, 3xx and 410
    REDIRECTED = "redirected"  # 3xx, never followed: the new URL was not registered
    GONE = "gone"  # 410: the receiver wants no more
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"  # no connection, no TLS, or the connection broke
    NOT_HTTP = "not_http"  # the response is not HTTP
    BLOCKED = "blocked"  # the address is not permitted (SSRF guard)
    BROKEN = "broken"  # an internal error; the log has the details
    UNSIGNED = "unsigned"  # PRINTWORKS_WEBHOOK_KEY does not decrypt the endpoint's secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one attempt: seconds and bytes."""

    total_s: float = 15.0
    connect_s: float = 5.0
    answer_s: float = 2.0  # for the response body, which only the log needs
    most_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRequest:
    """A webhook to POST: URL, event ID, body, signing secrets, timestamp."""

    url: str
    event: str  # the webhook-id
    body: bytes
    secrets: tuple[str, ...]
    timestamp_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookResponse:
    """Result of an attempt: outcome, and status, Retry-After and text of the response."""

    outcome: Outcome
    status: int | None = None
    retry_after: str | None = None
    text: str = ""


class WebhookSender:
    """Sends webhooks, one sender per courier. Connections are never shared or kept alive."""

    def __init__(
        self, pool: httpcore2.AsyncConnectionPool, egress: EgressRules, limits: Limits, agent: str
    ) -> None:
        self._pool = pool
        self._egress = egress
        self._limits = limits
        self._agent = agent

    async def post(self, letter: WebhookRequest) -> WebhookResponse:
        """Make one attempt. Failures are returned as outcomes, not raised."""
        try:
            target = target_of(letter.url, self._egress)
            async with asyncio.timeout(self._limits.total_s) as limit:
                return await self._exchange(target, letter, limit)
        except TargetRefused as refused:
            return WebhookResponse(outcome=Outcome.BLOCKED, text=str(refused))
        except (TimeoutError, httpcore2.TimeoutException):
            return WebhookResponse(outcome=Outcome.TIMEOUT)
        except (httpcore2.RemoteProtocolError, httpcore2.LocalProtocolError):
            return WebhookResponse(outcome=Outcome.NOT_HTTP)
        except (httpcore2.NetworkError, OSError):
            return WebhookResponse(outcome=Outcome.UNREACHABLE)

    async def _exchange(
        self, target: Target, letter: WebhookRequest, limit: asyncio.Timeout
    ) -> WebhookResponse:
        url = httpcore2.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.path
        )
        async with self._pool.stream(
            "POST",
            url,
            headers=self._headers(target, letter),
            content=letter.body,
            extensions={"timeout": {"connect": self._limits.connect_s}},
        ) as response:
            limit.reschedule(None)  # the status came in time; the body has its own limit
            headers = {name.lower(): value for name, value in response.headers}
            retry_after = headers.get(b"retry-after", b"").decode("ascii", "replace")
            return WebhookResponse(
                outcome=outcome_of(response.status),
                status=response.status,
                retry_after=retry_after or None,
                text=await self._text(response),
            )

    def _headers(self, target: Target, letter: WebhookRequest) -> list[tuple[str, str]]:
        signed = signed_headers(
            letter.secrets,
            event_id=letter.event,
            timestamp_s=letter.timestamp_s,
            body=letter.body,
        )
        return [
            ("host", target.netloc),
            ("user-agent", self._agent),
            ("content-type", "application/json"),
            ("content-length", str(len(letter.body))),
            ("accept", "*/*"),
            ("connection", "close"),
            *signed.items(),
        ]

    async def _text(self, response: httpcore2.Response) -> str:
        """Return the start of the body, for the log. Never raises: the status is already known."""
        seen = bytearray()
        try:
            async with (
                asyncio.timeout(self._limits.answer_s),
                aclosing(response.aiter_stream()) as chunks,
            ):
                async for chunk in chunks:
                    seen += chunk
                    if len(seen) >= self._limits.most_bytes:
                        break
        except (TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError, OSError):
            pass
        shown = bytes(seen[:SHOWN_BYTES]).decode("utf-8", "replace")
        return "".join(
            c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in shown
        )


def outcome_of(status: int) -> Outcome:
    """Return the outcome of an HTTP status: only 2xx is success."""
    if 200 <= status < 300:
        return Outcome.DELIVERED
    if status == 410:
        return Outcome.GONE
    return Outcome.REDIRECTED if 300 <= status < 400 else Outcome.REFUSED


@asynccontextmanager
async def open_sender(
    egress: EgressRules,
    resolve: Resolve,
    *,
    agent: str,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[WebhookSender]:
    """Open a sender with its pool. Proxies are never used: a proxy would resolve host names."""
    async with httpcore2.AsyncConnectionPool(
        ssl_context=tls or ssl.create_default_context(),
        max_connections=None,
        max_keepalive_connections=0,
        http2=False,
        retries=0,
        network_backend=GuardedBackend(egress, resolve),
    ) as pool:
        yield WebhookSender(pool, egress, limits or Limits(), agent)
