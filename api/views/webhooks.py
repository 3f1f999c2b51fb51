"""Request and response models of webhooks: endpoints, secrets, deliveries.

Owns their public shape. Must not know connections. Invariant: a secret is in one response only, the
response of the request that made it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.views.jobs import View
from jobs.contract.request_parts import SUBSCRIBABLE, EventType, Frozen, SubscribableEvent
from jobs.webhooks.deliveries import Attempt, Delivery
from jobs.webhooks.endpoints import OVERLAP_S, Endpoint, live
from jobs.webhooks.events import DEFAULT

Events = Annotated[list[SubscribableEvent], Field(min_length=1, max_length=len(SUBSCRIBABLE))]
Url = Annotated[
    str, Field(min_length=8, max_length=2048, description="URL that events are posted to.")
]
Words = Annotated[str, Field(max_length=200, description="Note for your own use.")]
DeliveryState = Literal["pending", "held", "delivered", "exhausted"]


class EndpointRequest(Frozen):
    """A new webhook endpoint: URL, events, description."""

    url: Url
    events: Events = Field(
        list(DEFAULT),
        description="Subscribed events; default: the end of jobs and groups.",
    )
    description: Words = ""


class EndpointChange(Frozen):
    """Changes to a webhook endpoint; fields left out stay as they are."""

    url: Url | None = None
    events: Events | None = None
    description: Words | None = None
    state: Literal["enabled", "disabled"] | None = Field(
        None, description="Enabling sends the events held meanwhile."
    )


class Rotation(Frozen):
    """Rotation of a signing secret: seconds that the old secrets stay valid."""

    overlap_s: Annotated[int, Field(ge=0, le=OVERLAP_S)] = Field(
        OVERLAP_S, description="Seconds that old secrets still sign; 0 if one leaked."
    )


class EndpointView(View):
    """A webhook endpoint: URL, subscribed events, state."""

    id: str
    url: str
    events: list[str]
    description: str
    state: Literal["enabled", "disabled"]
    reason: str | None = Field(
        description="Cause of disabling: failing (120 h), gone (410), by_hand."
    )
    disabled_at: datetime | None
    failing_since: datetime | None = Field(description="First failure since the last success.")
    created_at: datetime
    dropped: int = Field(description="Events dropped because 10,000 were pending.")
    secrets: int = Field(description="Signing secrets in use; above 1 during a rotation.")


class NewEndpointView(EndpointView):
    """A new webhook endpoint and its signing secret, shown once."""

    secret: str = Field(description="Signing secret, whsec_...; store it: it is shown only once.")


class SecretView(View):
    """A new signing secret; shown once."""

    secret: str


class EndpointList(View):
    """All your webhook endpoints, oldest first."""

    endpoints: list[EndpointView]


class AttemptView(View):
    """One attempt to deliver an event: time, outcome, response."""

    at: datetime
    took_ms: int
    outcome: str
    status: int | None = Field(description="HTTP status of the receiver, if it answered.")
    answer: str = Field(description="Start of the receiver's response, 1 KiB at most.")
    next_in_s: float | None = Field(description="Seconds until the next attempt; null: none.")


class DeliveryView(View):
    """The delivery of one event to one URL. `id` is the webhook-id, with -job for a job's URL."""

    id: str
    type: str
    job_id: str | None
    state: DeliveryState = Field(description="held: pending, but the endpoint is disabled.")
    attempts: int = Field(description="Attempts since the first, or since the redelivery.")
    url: str = Field(description="URL that the event is posted to.")
    created_at: datetime
    ended_at: datetime | None
    next_attempt_at: datetime | None


class DeliveryDetail(DeliveryView):
    """A delivery with its payload and the log of its attempts."""

    payload: Any
    log: list[AttemptView]


class DeliveryPage(View):
    """One page of deliveries, those of the newest job first."""

    deliveries: list[DeliveryView]
    next_cursor: str | None


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return `openapi_extra=` of a route whose body is parsed by hand, strictly."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def endpoint_view(endpoint: Endpoint, *, now_s: float) -> EndpointView:
    """Return the public view of an endpoint."""
    return EndpointView(
        id=endpoint.id,
        url=endpoint.url,
        events=[kind.value for kind in endpoint.events],
        description=endpoint.description,
        state=endpoint.state,
        reason=endpoint.reason,
        disabled_at=_time(endpoint.disabled_at),
        failing_since=_time(endpoint.failing_since),
        created_at=datetime.fromtimestamp(endpoint.created_at, UTC),
        dropped=endpoint.dropped,
        secrets=len(live(endpoint.secrets, now_s)),
    )


def new_endpoint_view(endpoint: Endpoint, secret: str, *, now_s: float) -> NewEndpointView:
    """Return the public view of a new endpoint, with its secret."""
    seen = endpoint_view(endpoint, now_s=now_s)
    return NewEndpointView(**seen.model_dump(), secret=secret)


def page_of(endpoint: Endpoint, found: Sequence[Delivery], after: str | None) -> DeliveryPage:
    """Return the public view of a page of deliveries."""
    views = [DeliveryView(**_fields(endpoint, one)) for one in found]
    return DeliveryPage(deliveries=views, next_cursor=after)


def detail_of(endpoint: Endpoint, one: Delivery) -> DeliveryDetail:
    """Return a delivery with its payload and its log."""
    return DeliveryDetail(
        **_fields(endpoint, one),
        payload=json.loads(one.body or "null"),
        log=[_attempt(line) for line in one.log],
    )


def _fields(endpoint: Endpoint, one: Delivery) -> dict[str, Any]:
    held = one.state == "pending" and endpoint.state == "disabled"
    return {
        "id": one.id,
        "type": one.type,
        "job_id": one.job,
        "state": "held" if held else one.state,
        "attempts": one.attempts,
        "url": one.url or endpoint.url,
        "created_at": _time(one.made_at),
        "ended_at": _time(one.ended_at),
        "next_attempt_at": None if held else _time(one.next_at),
    }


def _attempt(line: Attempt) -> AttemptView:
    at = datetime.fromtimestamp(line.at, UTC)
    return AttemptView.model_validate(line.model_dump() | {"at": at})


def _time(unix_s: float | None) -> datetime | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC)


def events_of(names: Sequence[str]) -> tuple[EventType, ...]:
    """Return the event types in the order given, without duplicates."""
    return tuple(EventType(name) for name in dict.fromkeys(names))
