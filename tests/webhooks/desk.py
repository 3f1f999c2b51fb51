"""The desk: what tests of webhooks do, in their words. See conftest.py."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from jobs.contract.record import Image, JobError
from jobs.contract.request_parts import ENDINGS, EventType, JobWebhook, Output
from jobs.contract.spec import JobSpec
from jobs.ids import new_job_id
from jobs.store import keys
from jobs.store.job_store import JobStore
from jobs.store.keys import HashField
from jobs.store.scripts import worker_calls
from jobs.store.scripts.worker_calls import Claimed, ClaimRules, Ending
from jobs.webhooks.deliveries import Delivery
from jobs.webhooks.endpoints import Endpoint
from worker.courier.courier import Courier, Stores
from worker.courier.http_sender import WebhookSender

CANARY = "a prompt that must never leave"


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
        self, redis_url: str, redis: Redis, stores: Stores, sender: WebhookSender, *, now_s: float
    ) -> None:
        self.redis, self.stores, self.sender = redis, stores, sender
        self.redis_url = redis_url
        self.now_s = now_s
        self.jobs = JobStore(redis_url)
        self.courier = self.a_courier()

    def a_courier(self, **changes: Any) -> Courier:
        """A courier on the desk's clock, that draws the middle of every jitter."""
        known = {"chance": lambda: 0.5, "now": lambda: f"{self.now_s:.6f}"}
        sender = changes.pop("sender", self.sender)
        return Courier(self.stores, sender, **(known | changes))

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

    def catch_up(self) -> None:
        """Set the desk's clock by the world's: what the API wrote is due by Redis's."""
        self.now_s = time.time() + 1

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

    def succeed(self, *, tenant: str = "t", **spec: Any) -> str:
        """A job that ran to its end, by the worker's own scripts."""
        job_id = self.submit(tenant=tenant, **spec)
        self.succeed_claimed(self.claim(), tenant=tenant)
        return job_id

    def succeed_claimed(self, claimed: Claimed, *, tenant: str = "t") -> None:
        job_id = claimed.lease.job_id
        done = JobSpec.model_validate_json(claimed.fields[HashField.SPEC])
        images = [_image(tenant, job_id, done, k) for k in range(done.n)]
        metrics = {"denoise_ms": 12.5, "batch_size_mean": 4.0}
        fields = {
            HashField.IMAGES: worker_calls.as_json([i.model_dump() for i in images]),
            HashField.METRICS: worker_calls.as_json(metrics),
        }
        self._end(claimed, Ending(word="succeeded", rq_status="finished", result={}, fields=fields))

    def fail(self, *, tenant: str = "t") -> str:
        """A job that ran and failed."""
        job_id = self.submit(tenant=tenant)
        claimed = self.claim()
        error = JobError(code="degenerate_output", message=CANARY, retryable=False)
        fields = {HashField.ERROR: error.model_dump_json()}
        self._end(claimed, Ending(word="failed", rq_status="failed", result={}, fields=fields))
        return job_id

    def claim(self) -> Claimed:
        rules = ClaimRules(images=99, running=0, size_classes=frozenset())
        queues = keys.queue_names("demo")
        (claimed,) = self.jobs.run(
            worker_calls.claim("w", rules, queues=queues, execution_ids=["e1"])
        )
        return claimed

    def tell(self, claimed: Claimed, step: int, steps: int) -> None:
        """Progress, as a worker reports it."""
        self.jobs.run(worker_calls.progress([(claimed.lease, "denoising", step, steps)]))

    def _end(self, claimed: Claimed, ending: Ending) -> None:
        assert self.jobs.run(worker_calls.finish("w", claimed.lease, ending)) == "ok"


def _image(tenant: str, job_id: str, spec: JobSpec, index: int) -> Image:
    return Image(
        index=index,
        seed=spec.seeds[index],
        pixel_sha256="0" * 64,
        width=spec.width,
        height=spec.height,
        content_type="image/jpeg",
        bytes=10_000_000,
        key=keys.image_key(tenant, job_id, index, "jpg"),
    )
