"""From the outbox to deliveries: who is to be told of each event, and what.

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
ANOTHER_DID = -1

Receiver = tuple[str, str, str]  # endpoint, delivery, URL or '' for the endpoint's own


class EventEnvelope(NamedTuple):
    """What every delivery of one event has in common."""

    id: str
    kind: str = ""
    job: str = ""
    body: bytes = b""
    trace: str = ""


class Outbox:
    """Events that wait to become deliveries."""

    def __init__(self, redis: Redis, endpoints: Endpoints, egress: EgressRules) -> None:
        self._redis = redis
        self._endpoints = endpoints
        self._egress = egress
        self._spread = redis.register_script(load("fan_out").text)

    async def spread(self, *, now: str = "") -> int:
        """Make deliveries of what waits, oldest first; returns how many events were looked at."""
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
            # what no courier can read would stand at the head of the outbox for ever
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
        """A delivery that never was in the outbox: a test."""
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
    """Who is told: the endpoints that want this type, and the job's own URL, each URL once."""
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
    """The URL that the job, or the group, brought itself, if it asks for this type."""
    if event.webhook is None:
        return None
    if event.type is EventType.GROUP_COMPLETED:
        return GroupWebhook.model_validate_json(event.webhook).url
    own = JobWebhook.model_validate_json(event.webhook)
    return own.url if event.type in own.events else None


def delivery_id(event: Event) -> str:
    """The event's own ID; all of a job's progress has one, so that the latest replaces the last."""
    if event.type is EventType.PROGRESS:
        return f"msg_{event.job.replace('-', '')}-progress"
    return event.id


def signer_of(url: str, endpoints: Sequence[Endpoint], egress: EgressRules) -> Endpoint | None:
    """The endpoint whose secrets sign for a job's own URL: one of the same origin."""
    origin = _origin(url, egress)
    same = [e for e in endpoints if origin and _origin(e.url, egress) == origin]
    # an enabled one first: what a disabled one is to be sent waits
    return min(same, key=lambda e: (e.state == "disabled", e.url != url), default=None)


def _origin(url: str, egress: EgressRules) -> str | None:
    try:
        return target_of(url, egress).origin
    except TargetRefused:
        return None
