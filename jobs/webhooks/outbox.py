"""Outbox of webhook events, and their fan-out to deliveries.

Owns the choice of receivers. An event enters the outbox in the step that ended its job
(jobs/store/scripts/outbox.lua) and leaves it in the step that makes its deliveries. Invariant: any
number of couriers may spread at once, and may die anywhere; an event is spread once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import NamedTuple, cast

from pydantic import ValidationError
from redis.asyncio import Redis

from jobs.contract.request_parts import EventType, GroupWebhook, JobWebhook
from jobs.errors import TargetRefused
from jobs.store.connection import translated
from jobs.webhooks import keys
from jobs.webhooks.endpoints import Endpoint, Endpoints
from jobs.webhooks.events import Event, body_of
from jobs.webhooks.scripts import load
from jobs.webhooks.ssrf_guard import EgressRules, target_of

log = logging.getLogger(__name__)
MOST_AT_ONCE = 100

Receiver = tuple[str, str, str]  # endpoint, delivery, URL or '' for the endpoint's own


class EventEnvelope(NamedTuple):
    """Fields shared by every delivery of one event."""

    id: str
    kind: str = ""
    job: str = ""
    body: bytes = b""
    trace: str = ""


class Outbox:
    """Events in Redis that wait for their deliveries."""

    def __init__(self, redis: Redis, endpoints: Endpoints, egress: EgressRules) -> None:
        self._redis = redis
        self._endpoints = endpoints
        self._egress = egress
        self._spread = redis.register_script(load("fan_out").text)

    async def spread(self, *, now: str = "") -> int:
        """Make deliveries of waiting events, oldest first; return the number of events read."""
        with translated():
            head = self._redis.lrange(keys.OUTBOX, 0, MOST_AT_ONCE - 1)
            waiting = await cast(Awaitable[list[str]], head)
        known: dict[str, list[Endpoint]] = {}
        for item in waiting:
            await self._spread_one(item, known, now)
        return len(waiting)

    async def _spread_one(self, item: str, known: dict[str, list[Endpoint]], now: str) -> None:
        try:
            event = Event.model_validate_json(item)
            body = body_of(event)
        except (ValidationError, ValueError, KeyError, TypeError):
            # an event that no courier can read would stay at the head of the outbox for ever
            log.exception("webhook.event_unreadable", extra={"length": len(item)})
            await self._take(item, EventEnvelope(id="unreadable"), [], now)
            return
        if event.tenant not in known:
            known[event.tenant] = await self._endpoints.list(event.tenant)
        found = receivers(event, known[event.tenant], self._egress)
        told = EventEnvelope(event.id, event.type, event.job, body, event.trace or "")
        await self._take(item, told, found, now)

    async def put(
        self, endpoint: Endpoint, event_id: str, kind: EventType, body: bytes, *, now: str = ""
    ) -> None:
        """Add a delivery without an outbox entry: a test event."""
        told = EventEnvelope(event_id, kind, body=body)
        await self._take("", told, [(endpoint.id, event_id, "")], now)

    async def _take(
        self, item: str, told: EventEnvelope, found: Sequence[Receiver], now: str
    ) -> int:
        flat = [part for receiver in found for part in receiver]
        args = [now, item, told.id, told.kind, told.job, told.body.decode(), told.trace, *flat]
        with translated():
            made: int = await self._spread(keys=[keys.OUTBOX], args=args)
        return made


def receivers(event: Event, endpoints: Sequence[Endpoint], egress: EgressRules) -> list[Receiver]:
    """Return the subscribed endpoints and the job's own URL, each URL once."""
    found: list[Receiver] = []
    told: set[str] = set()
    for endpoint in endpoints:
        if event.type in endpoint.events and endpoint.id != event.endpoint:
            found.append((endpoint.id, delivery_id(event), ""))
            told.add(endpoint.url)
    own_url = _own_url(event)
    if own_url and own_url not in told:
        signer = signer_of(own_url, endpoints, egress)
        if signer:
            found.append((signer.id, f"{delivery_id(event)}-job", own_url))
        else:
            log.warning("webhook.origin_gone", extra={"job_id": event.job or event.group})
    return found


def _own_url(event: Event) -> str | None:
    """Return the webhook URL of the event's job or group, if subscribed to this type."""
    if event.webhook is None:
        return None
    if event.type is EventType.GROUP_COMPLETED:
        return GroupWebhook.model_validate_json(event.webhook).url
    own = JobWebhook.model_validate_json(event.webhook)
    return own.url if event.type in own.events else None


def delivery_id(event: Event) -> str:
    """Return the event's ID; a job's progress events share one, so the latest replaces others."""
    if event.type is EventType.PROGRESS:
        return f"msg_{event.job.replace('-', '')}-progress"
    return event.id


def signer_of(url: str, endpoints: Sequence[Endpoint], egress: EgressRules) -> Endpoint | None:
    """Return the endpoint of the same origin, whose secrets sign for a job's own URL."""
    origin = _origin(url, egress)
    same = [e for e in endpoints if origin and _origin(e.url, egress) == origin]
    # an enabled endpoint first: deliveries of a disabled endpoint wait
    return min(same, key=lambda e: (e.state == "disabled", e.url != url), default=None)


def _origin(url: str, egress: EgressRules) -> str | None:
    try:
        return target_of(url, egress).origin
    except TargetRefused:
        return None
