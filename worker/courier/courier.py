"""The courier's loop: fan out events, claim due deliveries, POST them, record each attempt.

Owns the number of attempts under way. Must not know HTTP (http_sender) or Lua (jobs/webhooks).
Invariant: endpoints that do not answer never hold more than half of the slots, so other endpoints
never wait for them; a fault in one delivery affects no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.contract.request_parts import EventType
from jobs.errors import SealBroken, StoreUnavailable
from jobs.tracing.spans import OFF, Tracing
from jobs.webhooks.deliveries import LEASE_S, Attempt, Claimed, Deliveries, Pool, Verdict
from jobs.webhooks.endpoints import Endpoints
from jobs.webhooks.outbox import MOST_AT_ONCE, Outbox
from jobs.webhooks.retry_schedule import retry_after_s, wait_s
from worker.courier.http_sender import Outcome, WebhookRequest, WebhookResponse, WebhookSender

log = logging.getLogger(__name__)
IDLE_S = 0.2  # between rounds when nothing is due: a first attempt starts well within 2 s
AWAY_S = 1.0  # between rounds while Redis is unavailable
SLOTS = 128  # attempts under way, of each pool: sockets, each up to 15 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The courier's stores in Redis: outbox, endpoints, deliveries."""

    outbox: Outbox
    endpoints: Endpoints
    deliveries: Deliveries


class Courier:
    """One courier. `now`: returns '' for Redis's clock, or a time that tests set."""

    def __init__(
        self,
        stores: Stores,
        sender: WebhookSender,
        *,
        chance: Callable[[], float] = random.random,
        now: Callable[[], str] = lambda: "",
        slots: int = SLOTS,
        tracing: Tracing = OFF,
    ) -> None:
        self._stores = stores
        self._sender = sender
        self._chance = chance
        self._now = now
        self._tracing = tracing
        self._free: dict[Pool, int] = {"proven": slots, "probes": slots}
        self._under_way: set[asyncio.Task[None]] = set()
        self._landed = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver webhooks until `stopping`; then wait for the attempts under way."""
        last_reason = ""
        while not stopping.is_set():
            try:
                busy = await self.round()
            except StoreUnavailable as error:
                if str(error) != last_reason:
                    last_reason = str(error)
                    log.warning("courier.store_away", extra={"reason": last_reason})
                await _first_of(stopping, within_s=AWAY_S)
                continue
            last_reason = ""
            if not busy:
                await _first_of(stopping, self._landed, within_s=IDLE_S)
        await self.landed()

    async def round(self) -> bool:
        """Fan out and claim once, and start the attempts. Return True if more is likely due."""
        self._landed.clear()
        spread = await self._stores.outbox.spread(now=self._now())
        free = dict(self._free)
        now_s, claimed = await self._stores.deliveries.claim(
            proven=free["proven"], probes=free["probes"], now=self._now()
        )
        for one in claimed:
            self._free[one.pool] -= 1
            task = asyncio.create_task(self._deliver(one, now_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return spread == MOST_AT_ONCE

    async def landed(self) -> None:
        """Wait for all attempts under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def _deliver(self, claimed: Claimed, now_s: float) -> None:
        """Attempt one delivery. A delivery without a recorded result is due after its lease."""
        try:
            await self._attempt(claimed, now_s)
        except Exception:
            log.exception("webhook.not_noted", extra=_words(claimed))
        finally:
            self._free[claimed.pool] += 1
            self._landed.set()

    async def _attempt(self, claimed: Claimed, now_s: float) -> None:
        started = time.monotonic()
        span = self._tracing.start(f"webhook {claimed.type}", "client", parent=claimed.trace)
        try:
            answer = await self._post(claimed, now_s)
        except Exception:
            # a receiver can make the library raise unknown errors: count them as a failed attempt
            log.exception("webhook.attempt_broken", extra=_words(claimed))
            answer = WebhookResponse(outcome=Outcome.BROKEN)
        span.note({"printworks.delivery": claimed.id, "printworks.attempt": claimed.attempts + 1})
        span.note({"http.response.status_code": answer.status} if answer.status else {})
        span.end(error=None if answer.outcome is Outcome.DELIVERED else answer.outcome.value)
        took_s = time.monotonic() - started
        retry_after = retry_after_s(answer.status or 0, answer.retry_after, now_s=now_s)
        wait = wait_s(claimed.attempts + 1, chance=self._chance(), retry_after_s=retry_after)
        if claimed.type == EventType.PROGRESS:
            wait = None  # by the next attempt the progress would be out of date
        attempt = Attempt(
            at=now_s,
            took_ms=round(took_s * 1000),
            outcome=answer.outcome,
            status=answer.status,
            answer=answer.text,
        )
        await self._settle(claimed, verdict_of(answer), attempt, wait, until=started + LEASE_S)

    async def _post(self, claimed: Claimed, now_s: float) -> WebhookResponse:
        try:
            secrets = self._stores.endpoints.open(claimed.endpoint, claimed.secrets, now_s)
        except SealBroken as broken:
            log.exception("webhook.secret_unreadable", extra=_words(claimed))
            return WebhookResponse(outcome=Outcome.UNSIGNED, text=broken.code)
        letter = WebhookRequest(
            url=claimed.url,
            event=claimed.event,
            body=claimed.body,
            secrets=tuple(secrets),
            timestamp_s=int(now_s),
        )
        return await self._sender.post(letter)

    async def _settle(
        self,
        claimed: Claimed,
        verdict: Verdict,
        attempt: Attempt,
        wait: float | None,
        *,
        until: float,
    ) -> None:
        """Record an attempt, retrying during the lease: an unrecorded delivery is sent again."""
        while True:
            try:
                settled = await self._stores.deliveries.settle(
                    claimed, verdict, attempt, wait_s=wait, now=self._now()
                )
            except StoreUnavailable:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(AWAY_S)
                continue
            words = _words(claimed) | {"outcome": attempt.outcome, "state": settled.state}
            log.info("webhook.attempted", extra=words)
            if settled.disabled:
                log.warning("webhook.disabled", extra=words | {"reason": settled.disabled})
            return


def verdict_of(answer: WebhookResponse) -> Verdict:
    """Return the delivery's verdict for an attempt's response."""
    if answer.outcome is Outcome.DELIVERED:
        return "delivered"
    return "gone" if answer.outcome is Outcome.GONE else "failed"


def _words(claimed: Claimed) -> dict[str, str | int]:
    return {"endpoint": claimed.endpoint, "delivery": claimed.id, "attempt": claimed.attempts + 1}


async def _first_of(*events: asyncio.Event, within_s: float) -> None:
    """Wait until one of `events` is set, `within_s` at most."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
