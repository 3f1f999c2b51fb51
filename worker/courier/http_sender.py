"""One attempt: a signed POST, and what the receiver made of it.

Owns the limits of an attempt and the classes of outcome. Must not know Redis or the table of waits.
Invariant: whatever is at the other end, an attempt ends within `total_s`, has read `most_bytes` at
the most, follows no redirect and unpacks nothing.
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

SHOWN_BYTES = 1024  # of an answer, in the delivery log


class Outcome(StrEnum):
    """What came of an attempt; a closed set, since it labels a metric."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # an HTTP status that is not a success
    REDIRECTED = "redirected"  # never followed: where to is not what was registered
    GONE = "gone"  # 410: the receiver wants no more
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"  # no connection, no TLS, or it broke
    NOT_HTTP = "not_http"
    BLOCKED = "blocked"  # not somewhere we may call
    BROKEN = "broken"  # our own fault; the log says which
    UNSIGNED = "unsigned"  # its secret does not open with the key of the settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one attempt may take."""

    total_s: float = 15.0
    connect_s: float = 5.0
    answer_s: float = 2.0  # for the answer's body: it is only for the log, the status has decided
    most_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRequest:
    """What is to be posted."""

    url: str
    event: str  # the webhook-id
    body: bytes
    secrets: tuple[str, ...]
    timestamp_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookResponse:
    """What came back."""

    outcome: Outcome
    status: int | None = None
    retry_after: str | None = None
    text: str = ""


class WebhookSender:
    """Posts letters; one a courier. Connections are never shared or kept."""

    def __init__(
        self, pool: httpcore2.AsyncConnectionPool, egress: EgressRules, limits: Limits, agent: str
    ) -> None:
        self._pool = pool
        self._egress = egress
        self._limits = limits
        self._agent = agent

    async def post(self, letter: WebhookRequest) -> WebhookResponse:
        """One attempt; every failure is an answer."""
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
            limit.reschedule(None)  # the status came in time; its body has a limit of its own
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
        """The head of the body, for the log. The status is there already: nothing here fails."""
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
    """The class of a status: 2xx is success, and nothing else is."""
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
    """A sender with its pool. No proxy, whatever the environment says: it would resolve names."""
    async with httpcore2.AsyncConnectionPool(
        ssl_context=tls or ssl.create_default_context(),
        max_connections=None,
        max_keepalive_connections=0,
        http2=False,
        retries=0,
        network_backend=GuardedBackend(egress, resolve),
    ) as pool:
        yield WebhookSender(pool, egress, limits or Limits(), agent)
