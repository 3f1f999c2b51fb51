"""Webhook endpoints and their deliveries, as the service answers them.

Owns the client's view of these answers. Must not know requests.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from printworks.types import EPOCH, Answer


class Webhook(Answer):
    """A webhook endpoint: URL, events, state."""

    id: str
    url: str = ""
    events: list[str] = Field(default_factory=list[str])
    description: str = ""
    state: str = ""
    reason: str | None = None
    disabled_at: datetime | None = None
    failing_since: datetime | None = None
    created_at: datetime = EPOCH
    dropped: int = 0
    secrets: int = 0


class NewWebhook(Webhook):
    """A newly registered endpoint. `secret`, which verifies its events, is shown this once."""

    secret: str


class WebhookSecret(Answer):
    """A new signing secret of an endpoint."""

    secret: str


class WebhookList(Answer):
    """All endpoints."""

    endpoints: list[Webhook]


class Delivery(Answer):
    """One event on its way to an endpoint."""

    id: str
    type: str = ""
    job_id: str | None = None
    state: str = ""
    attempts: int = 0
    url: str = ""
    created_at: datetime = EPOCH
    ended_at: datetime | None = None
    next_attempt_at: datetime | None = None


class DeliveryPage(Answer):
    """One page of an endpoint's deliveries, newest first."""

    deliveries: list[Delivery]
    next_cursor: str | None = None
