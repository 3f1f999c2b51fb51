"""Webhook services of the API: the stores, and the check of tenants' URLs.

Owns the opening of the stores. Must not know routes. Invariant: every stored URL was one that the
courier may call; the courier checks again at every attempt, since names change.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from jobs.contract.request_parts import GroupWebhook
from jobs.errors import InvalidRequest, Problem, SealingUnset, TargetRefused
from jobs.settings import RoleSettings
from jobs.store.connection import connect_async
from jobs.webhooks.deliveries import Deliveries
from jobs.webhooks.endpoints import Endpoints
from jobs.webhooks.outbox import Outbox, signer_of
from jobs.webhooks.secret_box import SecretBox
from jobs.webhooks.ssrf_guard import EgressRules, Resolve, permitted_addresses, resolver, target_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """Stores and checks for the webhook routes."""

    endpoints: Endpoints
    deliveries: Deliveries
    outbox: Outbox
    egress: EgressRules
    able: bool  # True: there is a key to encrypt secrets with
    resolve: Resolve

    def need(self) -> None:
        """Raise SealingUnset where this service has no webhooks."""
        if not self.able:
            raise SealingUnset(
                "this service has no webhooks: its operator must set PRINTWORKS_WEBHOOK_KEY"
            )

    async def check_url(self, url: str, *, pointer: str) -> None:
        """Raise InvalidRequest unless the courier could call `url` now."""
        try:
            target = target_of(url, self.egress)
            await permitted_addresses(target.host, target.port, self.egress, self.resolve)
        except TargetRefused as refused:
            raise InvalidRequest([Problem(pointer, refused.code, str(refused))]) from None

    async def check_own(self, webhook: GroupWebhook | None, *, tenant: str) -> None:
        """Raise InvalidRequest unless one of the tenant's endpoints can sign for a job's or a
        group's own URL."""
        if webhook is None:
            return
        if not self.able:
            detail = "this service has no webhooks: leave `webhook` out"
            raise InvalidRequest([Problem("/webhook", SealingUnset.code, detail)])
        try:
            target_of(webhook.url, self.egress)
        except TargetRefused as refused:
            raise InvalidRequest([Problem("/webhook/url", refused.code, str(refused))]) from None
        if signer_of(webhook.url, await self.endpoints.list(tenant), self.egress) is None:
            detail = "no endpoint of yours has this origin: register one, POST /v1/webhooks"
            raise InvalidRequest([Problem("/webhook/url", "origin_not_registered", detail)])


@asynccontextmanager
async def open_webhooks(settings: RoleSettings) -> AsyncGenerator[Webhooks]:
    """Open the stores, with their own connection pool. Raises SettingsError."""
    sealing, egress = SecretBox.of(settings.webhook_key), EgressRules.of(settings)
    async with aclosing(connect_async(settings.redis_url)) as redis:
        endpoints = Endpoints(redis, sealing)
        yield Webhooks(
            endpoints=endpoints,
            deliveries=Deliveries(redis),
            outbox=Outbox(redis, endpoints, egress),
            egress=egress,
            able=sealing.able,
            resolve=resolver(),
        )
