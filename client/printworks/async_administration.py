"""Webhooks, API keys, usage and the queue, for asynchronous programs.

Owns the calls that administer a service, apart from those that make images. Knows the contract
through `protocol` only. client/generate_sync.py makes administration.py of this file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from datetime import date

import httpx2

from printworks import protocol
from printworks.errors import NotFound
from printworks.protocol import Call
from printworks.types import Key, KeyList, NewKey, Queue, Usage
from printworks.webhook_types import (
    Delivery,
    DeliveryPage,
    NewWebhook,
    Webhook,
    WebhookList,
    WebhookSecret,
)


class AsyncAdministration(ABC):
    """The calls of a client that administer a service."""

    @abstractmethod
    async def _send(self, call: Call) -> httpx2.Response:
        """Return the successful answer to a call. Raises ApiError, Unreachable."""

    async def queue(self) -> Queue:
        """Return the queue: jobs waiting and running, expected wait and workers, by model."""
        answer = await self._send(Call(method="GET", path="/v1/queue"))
        return protocol.read(Queue, answer)

    async def webhooks(self) -> tuple[Webhook, ...]:
        """Return all webhook endpoints, without their secrets."""
        answer = await self._send(Call(method="GET", path="/v1/webhooks"))
        return tuple(protocol.read(WebhookList, answer).endpoints)

    async def create_webhook(
        self, url: str, *, events: Sequence[str] | None = None, description: str | None = None
    ) -> NewWebhook:
        """Register an endpoint; by default for the ends of jobs and groups.

        The secret that verifies its events is in this answer only.
        """
        asked = {"url": url, "events": events and [*events], "description": description}
        return protocol.read(NewWebhook, await self._send(protocol.create_webhook(asked)))

    async def enable_webhook(self, endpoint_id: str) -> Webhook:
        """Enable an endpoint that was disabled; the events held meanwhile are sent."""
        call = protocol.webhook(endpoint_id, method="PATCH", body={"state": "enabled"})
        return protocol.read(Webhook, await self._send(call))

    async def disable_webhook(self, endpoint_id: str) -> Webhook:
        """Send an endpoint no more events until it is enabled."""
        call = protocol.webhook(endpoint_id, method="PATCH", body={"state": "disabled"})
        return protocol.read(Webhook, await self._send(call))

    async def rotate_webhook(self, endpoint_id: str, *, overlap_s: int = 86_400) -> str:
        """Return an endpoint's new secret; the old ones sign beside it for `overlap_s` seconds."""
        body = {"overlap_s": overlap_s}
        call = protocol.webhook(endpoint_id, method="POST", verb="rotate", body=body)
        return protocol.read(WebhookSecret, await self._send(call)).secret

    async def test_webhook(self, endpoint_id: str) -> Delivery:
        """Send an endpoint a test event; `deliveries` shows what became of it."""
        call = protocol.webhook(endpoint_id, method="POST", verb="test")
        return protocol.read(Delivery, await self._send(call))

    async def deliveries(self, endpoint_id: str) -> tuple[Delivery, ...]:
        """Return an endpoint's latest deliveries, newest first."""
        answer = await self._send(protocol.webhook(endpoint_id, verb="deliveries"))
        return tuple(protocol.read(DeliveryPage, answer).deliveries)

    async def redeliver(self, endpoint_id: str, delivery_id: str) -> Delivery:
        """Send an event to its endpoint again."""
        verb = f"deliveries/{delivery_id}/redeliver"
        call = protocol.webhook(endpoint_id, method="POST", verb=verb)
        return protocol.read(Delivery, await self._send(call))

    async def delete_webhook(self, endpoint_id: str) -> None:
        """Delete an endpoint; a deleted one is no error."""
        with suppress(NotFound):
            await self._send(protocol.webhook(endpoint_id, method="DELETE"))

    async def usage(
        self, *, since: date | None = None, until: date | None = None, all_tenants: bool = False
    ) -> Usage:
        """Return the usage of your API keys by day (UTC); by default of the last 30 days.

        `all_tenants`: usage of all tenants; needs a key of the scope `admin`.
        """
        call = protocol.usage(since, until, all_tenants=all_tenants)
        return protocol.read(Usage, await self._send(call))

    async def keys(self) -> tuple[Key, ...]:
        """Return all API keys, without their secrets. Needs a key of the scope `admin`."""
        answer = await self._send(Call(method="GET", path="/v1/keys"))
        return tuple(protocol.read(KeyList, answer).keys)

    async def create_key(
        self,
        *,
        tenant: str | None = None,
        name: str | None = None,
        scopes: Sequence[str] | None = None,
        max_open_jobs: int | None = None,
        per_minute: int | None = None,
    ) -> NewKey:
        """Create an API key; needs a key of the scope `admin`.

        The secret is in this answer only: revoke a key whose secret is lost.
        """
        asked = {
            "tenant": tenant,
            "name": name,
            "scopes": scopes and [*scopes],
            "max_open_jobs": max_open_jobs,
            "per_minute": per_minute,
        }
        return protocol.read(NewKey, await self._send(protocol.create_key(asked)))

    async def rotate_key(self, key_id: str) -> NewKey:
        """Create a key's successor, with the same rights; the old key works for one more day."""
        return protocol.read(NewKey, await self._send(protocol.rotate_key(key_id)))

    async def revoke_key(self, key_id: str) -> Key:
        """Refuse a key from now on; it takes effect everywhere within five seconds."""
        return protocol.read(Key, await self._send(protocol.revoke_key(key_id)))
