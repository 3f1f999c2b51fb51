"""The desk: what tests of webhooks do, in their words. See conftest.py."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from jobs.ids import new_job_id
from jobs.spec import JobSpec, JobWebhook, Output
from jobs.store import JobStore
from jobs.webhooks.deliveries import Delivery
from jobs.webhooks.endpoints import Endpoint
from jobs.webhooks.events import ENDINGS, EventType
from worker.courier.courier import Courier, Stores
from worker.courier.sending import Sender

CANARY = "a prompt that must never leave"


class AnyPort(frozenset):
    """Every port: receivers in tests get free ones."""

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int)


def a_spec(**changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "model": "demo",
        "prompt": CANARY,
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 4.0,
        "seeds": (7,),
        "sampler": "euler",
        "output": Output(),
        "priority": "normal",
        "deadline_s": None,
        "retention_s": 3600,
        "reproducibility": "exact",
        "metadata": {},
    }
    return JobSpec.model_validate(values | changes)


class Desk:
    """Stores, a courier and a clock."""

    def __init__(
        self, redis_url: str, redis: Redis, stores: Stores, sender: Sender, *, now_s: float
    ) -> None:
        self.redis, self.stores, self.sender = redis, stores, sender
        self.redis_url = redis_url
        self.now_s = now_s
        self.jobs = JobStore(redis_url)
        self.courier = self.a_courier()

    def a_courier(self, **changes: Any) -> Courier:
        """A courier on the desk's clock, that draws the middle of every jitter."""
        known = {"chance": lambda: 0.5, "now": lambda: f"{self.now_s:.6f}"}
        return Courier(self.stores, self.sender, **(known | changes))

    async def register(
        self, url: str, *, tenant: str = "t", events: Sequence[EventType] = ENDINGS
    ) -> tuple[Endpoint, str]:
        return await self.stores.endpoints.add(tenant, url, events=events)

    def submit(self, *, tenant: str = "t", webhook: JobWebhook | None = None, **spec: Any) -> str:
        job_id = new_job_id()
        self.jobs.admit(a_spec(webhook=webhook, **spec), tenant=tenant, job_id=job_id)
        return job_id

    def job_ends(self, *, tenant: str = "t", webhook: JobWebhook | None = None) -> str:
        """A job that was sent and canceled: the shortest life that ends."""
        job_id = self.submit(tenant=tenant, webhook=webhook)
        self.jobs.cancel(job_id, tenant=tenant)
        return job_id

    async def deliver(self) -> None:
        """One round of the courier, to its end."""
        await self.courier.round()
        await self.courier.landed()

    async def deliveries(self, endpoint: Endpoint) -> list[Delivery]:
        found, _ = await self.stores.deliveries.list(endpoint.id, limit=100)
        return found

    async def only(self, endpoint: Endpoint) -> Delivery:
        """The endpoint's one delivery, with its log."""
        (one,) = await self.deliveries(endpoint)
        return await self.stores.deliveries.get(endpoint.id, one.id)

    async def endpoint(self, endpoint: Endpoint) -> Endpoint:
        return await self.stores.endpoints.get(endpoint.id, tenant=endpoint.tenant)

    async def put(self, endpoint: Endpoint) -> str:
        """A test event of its own, due now."""
        event_id = "msg_" + secrets.token_hex(16) + "00"
        await self.stores.outbox.put(
            endpoint, event_id, EventType.TEST, b'{"type":"webhook.test"}', now=f"{self.now_s:.6f}"
        )
        return event_id
