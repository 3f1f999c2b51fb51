"""What clients send and see of webhooks: endpoints, secrets, deliveries.

Owns their public shape. Must not know connections. Invariant: a secret is in one answer only, the
one that made it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from api.edge.strict_json import strict_json
from api.views.jobs import View
from jobs.contract.parsing import problems_of
from jobs.contract.request_parts import SUBSCRIBABLE, EventType, Frozen, SubscribableEvent
from jobs.errors import InvalidRequest
from jobs.webhooks.deliveries import Attempt, Delivery
from jobs.webhooks.endpoints import OVERLAP_S, Endpoint, live
from jobs.webhooks.events import DEFAULT

Events = Annotated[list[SubscribableEvent], Field(min_length=1, max_length=len(SUBSCRIBABLE))]
Url = Annotated[str, Field(min_length=8, max_length=2048, description="Where to post.")]
Words = Annotated[str, Field(max_length=200, description="Yours, for your own eyes.")]
DeliveryState = Literal["pending", "held", "delivered", "exhausted"]


class EndpointRequest(Frozen):
    """A new endpoint."""

    url: Url
    events: Events = Field(
        list(DEFAULT),
        description="Of what to tell; left out: how jobs and groups end.",
    )
    description: Words = ""


class EndpointChange(Frozen):
    """What is to be different; the rest stays."""

    url: Url | None = None
    events: Events | None = None
    description: Words | None = None
    state: Literal["enabled", "disabled"] | None = Field(
        None, description="Enabling sends what was held meanwhile."
    )


class Rotation(Frozen):
    """How long the old secrets sign beside the new one."""

    overlap_s: Annotated[int, Field(ge=0, le=OVERLAP_S)] = Field(
        OVERLAP_S, description="0 where the old one leaked."
    )


class EndpointView(View):
    """Whom to tell."""

    id: str
    url: str
    events: list[str]
    description: str
    state: Literal["enabled", "disabled"]
    reason: str | None = Field(description="Why disabled: failing (120 h), gone (410), by_hand.")
    disabled_at: datetime | None
    failing_since: datetime | None = Field(description="The first failure since the last success.")
    created_at: datetime
    dropped: int = Field(description="Events left out, because 10,000 waited already.")
    secrets: int = Field(description="How many sign: more than one while a rotation overlaps.")


class NewEndpointView(EndpointView):
    """Whom to tell, and the only sight of its secret."""

    secret: str = Field(description="whsec_...: keep it, it is not shown again.")


class SecretView(View):
    """The only sight of a new secret."""

    secret: str


class EndpointList(View):
    """All of yours, oldest first."""

    endpoints: list[EndpointView]


class AttemptView(View):
    """One attempt."""

    at: datetime
    took_ms: int
    outcome: str
    status: int | None = Field(description="Of the receiver's answer, if there was one.")
    answer: str = Field(description="The head of it, 1 KiB at most.")
    next_in_s: float | None = Field(description="Until the next attempt; null: none.")


class DeliveryView(View):
    """One event on its way to one endpoint. `id` is the webhook-id, with -job for a job's URL."""

    id: str
    type: str
    job_id: str | None
    state: DeliveryState = Field(description="held: pending, but the endpoint is disabled.")
    attempts: int = Field(description="Since it was sent first, or redelivered.")
    url: str = Field(description="Where to.")
    created_at: datetime
    ended_at: datetime | None
    next_attempt_at: datetime | None


class DeliveryDetail(DeliveryView):
    """One delivery, with what is sent and the log."""

    payload: Any
    log: list[AttemptView]


class DeliveryPage(View):
    """Deliveries, of the newest job first."""

    deliveries: list[DeliveryView]
    next_cursor: str | None


M = TypeVar("M", bound=BaseModel)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route whose body is parsed by hand, strictly."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def read_as(model: type[M], body: bytes) -> M:
    """The body as a `model`, strictly; an empty one is an empty object. Raises InvalidRequest."""
    try:
        return model.model_validate(strict_json(body or b"{}"))
    except ValidationError as error:
        raise InvalidRequest(problems_of(error, model)) from None


def endpoint_view(endpoint: Endpoint, *, now_s: float) -> EndpointView:
    """The endpoint as its tenant sees it."""
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
    """The endpoint just made."""
    seen = endpoint_view(endpoint, now_s=now_s)
    return NewEndpointView(**seen.model_dump(), secret=secret)


def page_of(endpoint: Endpoint, found: Sequence[Delivery], after: str | None) -> DeliveryPage:
    """A page of deliveries."""
    views = [DeliveryView(**_fields(endpoint, one)) for one in found]
    return DeliveryPage(deliveries=views, next_cursor=after)


def detail_of(endpoint: Endpoint, one: Delivery) -> DeliveryDetail:
    """A delivery with all that is known of it."""
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
    """Each type once, in the order given."""
    return tuple(EventType(name) for name in dict.fromkeys(names))
